"""Hidden suite of 3.5 Dropout Regularization."""

import math

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from fixtures import binding, metrics
from fixtures.training import predict
from fixtures.weights import load_in_order
from grader.checks import assert_close, assert_fast, assert_gap_closed, assert_raises, assert_shape, expect
from grader.probes import modes_of

LENGTH, HIDDEN = 11, 24

# Where chance decides (shares of dropped elements), a right answer may stray by this many standard deviations: a false alarm
# once in 5e8 comparisons, while a wrong share (0.3 for 0.7) is off by forty and more.
SIGMAS = 6


# Probes: run beside the submission, know no answer.


def dropped(exercise, p, x):
    layer, given = exercise.Dropout(p), x.clone()
    answer = {"train": layer.train()(x), "eval": layer.eval()(x)}
    return {**answer, "back in train": layer.train()(x), "input changed": not torch.equal(x, given)}


def dropped_slice(exercise, p, x):
    return dropped(exercise, p, x.mT[::2])


def many_masks(exercise, p, calls):
    layer, ones = exercise.Dropout(p).train(), torch.ones(2, 2)
    return torch.stack([layer(ones) for _ in range(calls)])


def masks_at_global_seeds(exercise, x, seeds):
    layer, answers = exercise.Dropout(0.5).train(), []
    for seed in seeds:
        torch.manual_seed(seed)
        answers.append(layer(x))
    return answers


def dropout_functions_called(exercise, x):
    called = []

    class Recorder(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            name = getattr(func, "__name__", str(func))
            if "dropout" in name.lower():
                called.append(name)
            return func(*args, **(kwargs or {}))

    with Recorder():
        for p in (0.3, 1.0):
            exercise.Dropout(p).train()(x)
    return sorted(set(called))


def parameter_shapes(exercise, *sizes):
    return [tuple(p.shape) for p in exercise.BindingMLP(*sizes).parameters()]


def parameter_shapes_by_keyword(exercise):
    return [tuple(p.shape) for p in exercise.BindingMLP(dropout=0.1, hidden=6, length=5).parameters()]


def build(exercise, weights, dropout):
    hidden, columns = weights[0].shape
    model = exercise.BindingMLP(columns // 4, hidden, dropout).to(weights[0].dtype)
    load_in_order(model, weights)
    return model


def logits(exercise, weights, x, dropout, train):
    return build(exercise, weights, dropout).train(train)(x)


def logits_of_strided(exercise, weights, x, dropout):
    return build(exercise, weights, dropout).eval()(x.mT)


def two_valued(exercise, kind, statistics, x, samples):
    """mc_dropout of a model with one dropped element per row, behind a BatchNorm whose running statistics are far from x."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            mean, variance, self.slope, self.bias, p = statistics
            self.norm = nn.BatchNorm1d(1, affine=False)
            self.norm.running_mean.fill_(mean)
            self.norm.running_var.fill_(variance)
            self.drop = {"your Dropout": exercise.Dropout, "nn.Dropout": nn.Dropout, "nn.Dropout1d": nn.Dropout1d}[
                kind
            ](p)

        def forward(self, x):
            return (self.slope * self.drop(self.norm(x)[:, :, None]) + self.bias).flatten()

    mean, std = exercise.mc_dropout(Net(), x, samples=samples, generator=torch.Generator().manual_seed(3))
    return {"mean": mean, "std": std}


def mc_of_binding_mlp(exercise, weights, x, dropout):
    model = build(exercise, weights, dropout)
    mean, std = exercise.mc_dropout(model, x, samples=9, generator=torch.Generator().manual_seed(4))
    return {"mean": mean, "std": std}


def snapshot(model):
    return {
        "the modes of the submodules (True: train)": modes_of(model),
        "parameters and buffers": {name: value.clone() for name, value in model.state_dict().items()},
        "the gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "the global random stream": torch.get_rng_state(),
        "whether graphs are built": torch.is_grad_enabled(),
    }


def around_mc_dropout(exercise, x, fail):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.BatchNorm1d(x.shape[1]), nn.Linear(x.shape[1], 6), exercise.Dropout(0.5))
            self.frozen = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5))
            self.last = nn.Linear(6, 1)
            self.fails = False

        def forward(self, x):
            if self.fails:
                raise LookupError("a model that fails")
            return self.last(self.frozen(self.first(x)))[:, 0]

    model = Net().train()
    model(x).square().sum().backward()
    model.frozen.eval()
    model.fails = fail
    before, raised = snapshot(model), False
    try:
        exercise.mc_dropout(model, x, samples=3, generator=torch.Generator().manual_seed(5))
    except LookupError:
        raised = True
    return {"before": before, "after": snapshot(model), "raised": raised}


def mc_with_generators(exercise, x, seeds):
    model = nn.Sequential(nn.Linear(x.shape[1], 6), nn.Dropout(0.5), nn.Linear(6, 1), nn.Flatten(0))
    return [
        exercise.mc_dropout(model, x, samples=4, generator=torch.Generator().manual_seed(seed))[0] for seed in seeds
    ]


def trained_weights(exercise, train, seeds):
    stream, weights, losses = torch.get_rng_state(), [], []
    for seed in seeds:
        model, history = exercise.fit_binding(
            train, dropout=0.5, epochs=3, generator=torch.Generator().manual_seed(seed)
        )
        weights.append([p.detach() for p in model.parameters()])
        losses.append(list(history.train_loss))
    return {"weights": weights, "losses": losses, "stream": [stream, torch.get_rng_state()]}


def trained_without_dropout(exercise, train):
    model, _ = exercise.fit_binding(train, dropout=0.0, epochs=1, generator=torch.Generator().manual_seed(6))
    x = train[0]
    return {"train": model.train()(x), "eval": model.eval()(x)}


def build_dropout(exercise, p):
    exercise.Dropout(p)


def build_binding_mlp(exercise, length, hidden, dropout):
    exercise.BindingMLP(length, hidden, dropout)


def forward_only(exercise, length, x):
    exercise.BindingMLP(length, 8)(x)


def mc_of_no_samples(exercise, x, samples):
    exercise.mc_dropout(nn.Sequential(nn.Linear(x.shape[1], 1), nn.Flatten(0)), x, samples=samples)


def fit_of_no_epochs(exercise, train):
    exercise.fit_binding(train, epochs=0)


def dropout_gradient(exercise, p, x, cotangent, train):
    x = x.clone().requires_grad_()
    output = exercise.Dropout(p).train(train)(x * 1.0)  # not a leaf, as behind a layer
    (gradient,) = torch.autograd.grad((output * cotangent).sum() + 0.0 * x.sum(), x)
    return {"output": output, "gradient": gradient}


def parameter_gradients(exercise, weights, x, cotangent, dropout):
    model = build(exercise, weights, dropout).train()
    output = (model(x) * cotangent).sum()
    return torch.autograd.grad(output, list(model.parameters()), allow_unused=True, materialize_grads=True)


def mc_with_tracked_input(exercise, weights, x):
    model = nn.Sequential(nn.Flatten(), nn.Linear(weights[0].shape[1], len(weights[0])), nn.Dropout(0.0))
    model.extend([nn.ReLU(), nn.Linear(len(weights[0]), 1), nn.Flatten(0)])
    load_in_order(model, weights)
    mean, std = exercise.mc_dropout(model, x.requires_grad_(), samples=3)
    learns = [p.requires_grad for p in model.parameters()]
    return {"mean": mean, "std": std, "graph": mean.requires_grad or std.requires_grad, "learns": learns}


def averaged_weights(exercise, train, p, steps):
    """Gradient descent on a linear model behind the dropout; the mean of the iterates after the first third."""
    x, y = train
    layer = exercise.Dropout(p).train()
    weights = torch.zeros(x.shape[1], requires_grad=True)
    total, losses = torch.zeros_like(weights), []
    for step in range(steps):
        loss = (layer(x) @ weights - y).square().mean()
        (gradient,) = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            weights -= 0.1 * gradient
        if step >= steps // 3:
            total += weights.detach()
        losses.append(loss.item())
    return {"weights": total / (steps - steps // 3), "losses": losses}


def trained_predictions(exercise, train, test_inputs, seed):
    rng = torch.Generator().manual_seed(seed)
    model, history = exercise.fit_binding(train, generator=rng)
    mean, std = exercise.mc_dropout(model, test_inputs, generator=rng)
    return {"logits": predict(model, test_inputs), "mean": mean, "std": std, "losses": list(history.train_loss)}


def forward_backward(exercise, p, x, cotangent):
    """The mask is the submission's own; the largest and the smallest factor of each row do not depend on it."""
    x = x.requires_grad_()
    output = exercise.Dropout(p).train()(x)
    output.backward(cotangent)
    factor, slope = output.detach() / x.detach(), x.grad / cotangent
    return [factor.amax(1), factor.amin(1), slope.amax(1), slope.amin(1)]


def mc_of_certain_model(exercise, weights, x):
    """A model whose dropout drops everything, so that its answer shows whether dropout was active and does not vary."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            hidden, columns = weights[0].shape
            self.first, self.drop = nn.Linear(columns, hidden), nn.Dropout(1.0)
            self.second, self.last = nn.Linear(hidden, hidden), nn.Linear(hidden, 1)

        def forward(self, x):
            h = self.first(x.flatten(1)).relu()
            return self.last((h + self.second(self.drop(h))).relu())[:, 0]

    model = Net()
    load_in_order(model, weights)
    return exercise.mc_dropout(model, x, samples=50, generator=torch.Generator().manual_seed(7))[0]


# Inputs: drawn on the trusted side from the seed.


def randn(generator, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=generator, dtype=dtype)


def away_from_zero(generator, *shape, dtype=torch.float32):
    """Numbers in +-[0.5, 2.5], so that an output of 0 means "dropped"."""
    x = 4 * torch.rand(shape, generator=generator, dtype=dtype) - 2
    return x + x.sign() * 0.5 + (x == 0)


def dna(generator, batch, length=LENGTH, dtype=torch.float32):
    tokens = torch.randint(4, (batch, length), generator=generator)
    return nn.functional.one_hot(tokens, 4).mT.to(dtype).contiguous()


def random_weights(generator, hidden=HIDDEN, columns=4 * LENGTH, dtype=torch.float32):
    """Six tensors at which about half of the hidden units and of the logits are negative."""
    shapes = [(hidden, columns), (hidden,), (hidden, hidden), (hidden,), (1, hidden), (1,)]
    scale = [2 / math.sqrt(LENGTH), 0.5, math.sqrt(2 / hidden), 0.5, math.sqrt(2 / hidden), 0.5]
    return [s * randn(generator, *shape, dtype=dtype) for s, shape in zip(scale, shapes, strict=True)]


def expected_logits(weights, x):
    first, first_bias, second, second_bias, last, last_bias = weights
    hidden = (x.flatten(1) @ first.mT + first_bias).relu()
    return ((hidden @ second.mT + second_bias).relu() @ last.mT + last_bias)[:, 0]


def assert_share(count, n, share, what, help=""):
    """``count`` of ``n`` is as often as coins with this probability say."""
    stray = SIGMAS * math.sqrt(n * share * (1 - share))
    expect(
        abs(count - n * share) <= stray,
        f"{what}: expected about {share:.3g} of {n} (give or take {stray / n:.2g}), got {count / n:.3g}",
        help,
    )


@pytest.mark.shapes(points=1)
def test_dropout_zeroes_or_rescales(student, generator):
    """In training an element is 0 or x/(1-p), p being the share of zeros; in eval mode it is x"""
    cases = [
        (0.3, (97, 101), torch.float32),
        (0.8, (2, 3, 5, 7), torch.float32),
        (0.5, (13,), torch.float64),
        (0, (5, 3), torch.float32),
        (1, (4, 6), torch.float32),
        (1.0, (1, 9), torch.float64),
        (0.25, (10, 14), "strided"),
    ]
    for p, shape, kind in cases:
        strided = kind == "strided"
        dtype = torch.float32 if strided else kind
        given = away_from_zero(generator, *shape, dtype=dtype)
        answer = student.run(dropped_slice if strided else dropped, p, given)
        x = given.mT[::2] if strided else given
        name = f"Dropout({p}) of {'a strided' if strided else 'an'} input of shape {tuple(x.shape)}"
        assert_close(
            answer["input changed"], False, what=f"{name}: whether the input was changed in place",
            help="x.mul_ and x[mask] = 0 write into the caller's tensor.",
        )  # fmt: skip
        outputs = {
            mode: assert_shape(answer[mode], x.shape, dtype=dtype, what=f"{name}, {mode} mode")
            for mode in ("train", "eval", "back in train")
        }
        assert_close(
            outputs["eval"], x, what=f"{name}, eval mode",
            help="In eval mode return x as it is: the division by 1-p in training makes any factor here superfluous.",
        )  # fmt: skip
        scale = 1 / (1 - p) if p < 1 else 0.0
        for mode in ("train", "back in train"):
            output = outputs[mode]
            assert_close(
                output, torch.where(output != 0, x * scale, 0.0), what=f"{name}, {mode}: the elements that are not 0",
                help="A kept element is divided by the probability of *keeping*, 1-p; nothing else is kept.",
            )  # fmt: skip
            zeros = int((output == 0).sum())
            if p in (0, 1):
                assert_close(zeros, int(p) * x.numel(), what=f"{name}, {mode}: number of zeros")
            else:
                assert_share(
                    zeros,
                    x.numel(),
                    p,
                    f"{name}, {mode}: share of zeros",
                    "p is the probability of *dropping* an element.",
                )


@pytest.mark.shapes(points=1)
def test_every_element_has_its_own_coin(student, generator):
    """Each element of each call tosses a coin of its own, from torch's global stream"""
    p, calls = 0.4, 4000
    outputs = assert_shape(
        student.run(many_masks, p, calls), (calls, 2, 2), what="4000 outputs for a 2 x 2 input of ones"
    )
    dropped_ = (outputs == 0).flatten(1)
    pattern = (dropped_ * torch.tensor([8, 4, 2, 1])).sum(1)
    counts = torch.bincount(pattern, minlength=16).tolist()
    for number, count in enumerate(counts):
        zeros = number.bit_count()
        drawn = format(number, "04b").replace("0", "o").replace("1", ".")
        assert_share(
            count, calls, p**zeros * (1 - p) ** (4 - zeros),
            f"frequency of the mask [{drawn[:2]} / {drawn[2:]}] (a dot is dropped) at p = {p}",
            "The mask needs the full shape of x: one coin per row, column or call makes elements fall together.",
        )  # fmt: skip
    deviation = dropped_.double() - p
    together = (deviation[1:] * deviation[:-1]).mean(0) / (p * (1 - p))
    expect(
        float(together.abs().max()) < SIGMAS / math.sqrt(calls - 1),
        f"the masks of two calls in a row are correlated: {together.abs().max():.2f}",
        "Draw the mask in forward, anew in each call.",
    )

    x = away_from_zero(generator, 7, 5, 3)
    first, second, third = student.run(masks_at_global_seeds, x, [11, 11, 12])
    assert_shape(first, (7, 5, 3), what="output after torch.manual_seed(11)")
    expect(bool((first == 0).any() and (first != 0).any()), "of 105 elements at p = 0.5, all or none were dropped")
    assert_close(
        second, first, what="output after torch.manual_seed(11), once more",
        help="Draw with torch's functions and without a generator of your own: the global stream decides.",
    )  # fmt: skip
    assert_shape(third, (7, 5, 3), what="output after torch.manual_seed(12)")
    expect(not torch.equal(third, first), "the masks after manual_seed(11) and manual_seed(12) are the same")


@pytest.mark.shapes(points=1)
def test_binding_mlp(student, generator):
    """BindingMLP is Linear-ReLU-Dropout-Linear-ReLU-Dropout-Linear of the flattened sequence"""
    for batch, dtype in ((7, torch.float32), (1, torch.float32), (3, torch.float64)):
        weights, x = random_weights(generator, dtype=dtype), dna(generator, batch, dtype=dtype)
        answer = assert_shape(
            student.run(logits, weights, x, 0.3, False), (batch,), dtype=dtype, what="logits, eval mode"
        )
        assert_close(
            answer, expected_logits(weights, x), what="logits in eval mode", reduction=4 * LENGTH,
            help="x.flatten(1); a ReLU after each hidden layer; nothing after the last; (batch,), not (batch, 1).",
        )  # fmt: skip
    weights, x = random_weights(generator), dna(generator, 5)
    answer = student.run(logits_of_strided, weights, x.mT.contiguous(), 0.3)
    assert_close(
        answer, expected_logits(weights, x), what="logits of a transposed view, eval mode", reduction=4 * LENGTH
    )

    # One unit per hidden layer, both positive: three logits are possible, whatever the masks.
    p, batch = 0.3, 3000
    shapes = [(1, 4 * LENGTH), (1,), (1, 1), (1,), (1, 1), (1,)]
    weights = [0.5 + torch.rand(shape, generator=generator) for shape in shapes]
    weights[4] = -weights[4]
    x = dna(generator, 1)
    first = float(x.flatten(1) @ weights[0].mT + weights[1])
    second, second_bias, last, last_bias = (float(w) for w in weights[2:])
    values = {
        "the second unit dropped": (last_bias, p),
        "only the first unit dropped": (last_bias + last * second_bias / (1 - p), p * (1 - p)),
        "no unit dropped": (last_bias + last * (second * first / (1 - p) + second_bias) / (1 - p), (1 - p) ** 2),
    }
    answer = student.run(logits, weights, x.expand(batch, -1, -1), p, True)
    assert_shape(answer, (batch,), what="logits in training")
    found = {name: int(((answer - value).abs() < 1e-4 * (1 + abs(value))).sum()) for name, (value, _) in values.items()}
    help_ = "Dropout(dropout) after each of the two ReLUs, and nowhere else: not on the sequence, not on the logit."
    expect(
        sum(found.values()) == batch,
        f"with one unit per hidden layer, {batch - sum(found.values())} of {batch} logits in training are none of the "
        "three that dropping hidden units can give",
        help_,
    )
    for name, (_, share) in values.items():
        assert_share(found[name], batch, share, f"logits in training with one unit per hidden layer, {name}", help_)


@pytest.mark.shapes(points=1)
def test_mc_dropout(student, generator):
    """mc_dropout is mean and deviation of the probability over masks, all else in eval mode"""
    batch, p, mean, variance = 45, 0.3, 3.0, 4.0
    bias = 0.2 + 0.2 * torch.rand((), generator=generator).item()
    slope = 1.4
    z = 0.5 + torch.rand(batch, 1, generator=generator)
    z[1::2] *= -1
    x = z * math.sqrt(variance) + mean
    z = (x - mean) / math.sqrt(variance + 1e-5)
    low, high = torch.tensor(bias).sigmoid(), (bias + slope * z[:, 0] / (1 - p)).sigmoid()
    cases = (("nn.Dropout", 7), ("nn.Dropout", 1), ("your Dropout", 7), ("nn.Dropout1d", 4))
    statistics = (mean, variance, slope, bias, p)
    answers = [
        student.run(two_valued, kind, statistics, x, samples) for kind, samples in cases
    ]  # all, for the diagnosis
    for (kind, samples), answer in zip(cases, answers, strict=True):
        what = f"mc_dropout, samples={samples}, on a model with {kind}"
        m = assert_shape(answer["mean"], (batch,), what=f"{what}: mean")
        s = assert_shape(
            answer["std"],
            (batch,),
            what=f"{what}: std",
            help="One sample has deviation 0: divide by samples (correction=0).",
        )
        # A sample is one of two probabilities, so `samples` times the mean tells how many were which: a whole number.
        kept = (m - low) / (high - low) * samples
        whole = kept.round().clamp(0, samples)
        expect(
            bool(((kept - whole).abs() < 1e-2).all()),  # float32 leaves 1e-5; a mean of logits is off by 0.1 and more
            f"{what}: the means are not means of {samples} probabilities with dropout on and the rest in eval mode",
            "Dropout modules in train mode, all others (here: BatchNorm) in eval mode; sigmoid first, then the mean.",
        )
        expected = (high - low).abs() * (whole * (samples - whole)).sqrt() / samples
        expect(
            bool(((s - expected).abs() < 2e-3).all()),  # room for a difference of squares; correction=1 is off by 0.01
            f"{what}: expected the deviations {expected[:3].tolist()}..., got {s[:3].tolist()}...",
            "The standard deviation over the samples of the probabilities, divided by `samples` (correction=0).",
        )
        if samples > 1:
            mixed = int(((whole > 0) & (whole < samples)).sum())
            expect(mixed > 0, f"{what}: all samples are equal", "Each sample draws masks of its own.")
            expect(len(whole[::2].unique()) > 1, f"{what}: all rows have the same masks")
        if kind == "nn.Dropout" and samples == 7:
            assert_share(
                int(whole.sum()), batch * samples, 1 - p, f"{what}: share of samples in which the element is kept"
            )

    weights, x = random_weights(generator), dna(generator, 6)
    certain = student.run(mc_of_binding_mlp, weights, x, 0.0)
    assert_close(
        certain["mean"],
        expected_logits(weights, x).sigmoid(),
        what="mean for BindingMLP(dropout=0)",
        reduction=4 * LENGTH,
    )
    s = assert_shape(
        certain["std"], (6,), what="std for BindingMLP(dropout=0)", help="Is it the root of a negative number?"
    )
    expect(bool((s.abs() < 1e-3).all()), f"std for BindingMLP(dropout=0): expected 0, got {float(s.abs().max()):.3g}")
    uncertain = student.run(mc_of_binding_mlp, weights, x, 0.5)
    s = assert_shape(uncertain["std"], (6,), what="std for BindingMLP(dropout=0.5)")
    expect(
        bool((s > 1e-3).all()), f"std for BindingMLP(dropout=0.5): some are 0: {s.tolist()}",
        "BindingMLP must hold its dropout as modules (your Dropout): mc_dropout finds no function calls.",
    )  # fmt: skip


@pytest.mark.shapes(points=1, structure=True)
def test_everything_is_as_before(student, generator):
    """mc_dropout and fit_binding are reproducible and leave everything as it was"""
    x = randn(generator, 8, 4)
    for fail in (False, True):
        answer = student.run(around_mc_dropout, x, fail)
        situation = "a model that raised" if fail else "mc_dropout"
        assert_close(answer["raised"], fail, what=f"whether an exception came out of mc_dropout ({situation})")
        for what, before in answer["before"].items():
            assert_close(
                answer["after"][what], before, what=f"after {situation}: {what}",
                help="Remember each submodule's mode and restore it in `finally`; draw inside `with seeded(generator):`.",
            )  # fmt: skip
    first, second, third = student.run(mc_with_generators, x, [1, 1, 2])
    assert_shape(first, (8,), what="mean of mc_dropout")
    assert_close(
        second, first, what="mc_dropout with a generator in the same state", help="Use `with seeded(generator):`."
    )
    assert_shape(third, (8,), what="mean of mc_dropout")
    expect(not torch.equal(third, first), "mc_dropout gives the same answer for two generators: does it use them?")

    train = (dna(generator, 70), torch.randint(2, (70,), generator=generator).float())
    answer = student.run(trained_weights, train, [1, 1, 2])
    (before, after), (first, second, third) = answer["stream"], answer["weights"]
    help_ = "Build and train inside `with seeded(generator):`; initial weights and dropout read the global stream."
    assert_close(
        [tuple(w.shape) for w in first[::2]], [(128, 44), (128, 128), (1, 128)], what="weights of fit_binding's model"
    )
    assert_close(second, first, what="weights of fit_binding with a generator in the same state", help=help_)
    expect(not torch.equal(third[0], first[0]), "fit_binding gives the same weights for two generators", help_)
    assert_close(after, before, what="the global random stream after fit_binding", help=help_)
    for losses in answer["losses"]:
        assert_close(len(losses), 3, what="epochs in history.train_loss after epochs=3")
        expect(
            all(type(loss) is float and math.isfinite(loss) for loss in losses), "history.train_loss: expected floats"
        )
    answer = student.run(trained_without_dropout, train)
    assert_close(
        answer["train"], answer["eval"], what="logits in train mode after fit_binding(dropout=0)",
        help="fit_binding must pass `dropout` on to the model.",
    )  # fmt: skip


@pytest.mark.shapes(points=1, structure=True)
def test_names_parameters_errors(student, generator):
    """Six parameters in forward order, a ValueError for bad input, a Dropout written from scratch"""
    called = student.run(dropout_functions_called, randn(generator, 6, 5))
    expect(
        called == [],
        f"your Dropout calls torch's {called}",
        "Here you write it yourself: random numbers, a comparison, a multiplication.",
    )
    for sizes in ((20, 128, 0.8), (7, 5, 0.5)):
        length, hidden, _ = sizes
        shapes = [(hidden, 4 * length), (hidden,), (hidden, hidden), (hidden,), (1, hidden), (1,)]
        assert_close(student.run(parameter_shapes, *sizes), shapes, what=f"parameter shapes of BindingMLP{sizes}")
    default = [(128, 80), (128,), (128, 128), (128,), (1, 128), (1,)]
    assert_close(student.run(parameter_shapes), default, what="parameter shapes of BindingMLP()")
    by_keyword = student.run(parameter_shapes_by_keyword)
    assert_close(
        by_keyword[0], (6, 20), what="weight of the first layer of BindingMLP(dropout=0.1, hidden=6, length=5)"
    )

    for p in (-0.1, 1.1, 2):
        assert_raises(student, ValueError, build_dropout, p, when=f"Dropout({p}) is built")
    for arguments in ((0, 8, 0.5), (20, 0, 0.5), (20, 8, 1.5), (20, 8, -0.2)):
        assert_raises(student, ValueError, build_binding_mlp, *arguments, when=f"BindingMLP{arguments} is built")
    for shape in ((5, 4, 19), (5, 20, 4), (4, 20), (5, 80), (5, 3, 20)):
        assert_raises(
            student, ValueError, forward_only, 20, torch.zeros(shape), when=f"x has shape {shape} and length is 20"
        )
    for samples in (0, -1):
        x = randn(generator, 3, 4)
        assert_raises(student, ValueError, mc_of_no_samples, x, samples, when=f"mc_dropout has samples={samples}")
    train = (dna(generator, 9), torch.ones(9))
    assert_raises(student, ValueError, fit_of_no_epochs, train, when="fit_binding has epochs=0")


@pytest.mark.gradients(points=1)
def test_gradient_passes_where_the_signal_passes(student, generator):
    """The gradient of Dropout is the cotangent times the factor that the element itself was given"""
    for p, shape, dtype, train in (
        (0.3, (9, 7, 5), torch.float32, True),
        (0.6, (31, 4), torch.float64, True),
        (0.0, (6, 5), torch.float32, True),
        (1.0, (5, 8), torch.float32, True),
        (0.5, (8, 3), torch.float32, False),
    ):
        x, cotangent = away_from_zero(generator, *shape, dtype=dtype), randn(generator, *shape, dtype=dtype)
        mode = "train" if train else "eval"
        answer = student.run(dropout_gradient, p, x, cotangent, train)
        output = assert_shape(answer["output"], shape, dtype=dtype, what=f"output of Dropout({p}), {mode} mode")
        scale = 1.0 if not train else 1 / (1 - p) if p < 1 else 0.0
        if 0 < p < 1 and train:
            zeros = int((output == 0).sum())
            expect(
                0 < zeros < output.numel(),
                f"Dropout({p}) of shape {shape} dropped {zeros} of {output.numel()} elements",
            )
        else:
            assert_close(output, x * scale, what=f"output of Dropout({p}), {mode} mode")
        gradient = assert_shape(
            answer["gradient"], shape, dtype=dtype, what=f"gradient behind Dropout({p}), {mode} mode",
            help="NaN at p=1: 0/0, or 0 times infinity behind torch.where.",
        )  # fmt: skip
        assert_close(
            gradient, torch.where(output != 0, cotangent * scale, 0.0), what=f"gradient behind Dropout({p}), {mode} mode",
            help="Exactly 0 where the output is 0, else cotangent/(1-p): the same mask forwards and backwards.",
        )  # fmt: skip


@pytest.mark.gradients(points=2)
def test_every_layer_receives_the_gradient_of_the_reference(student, reference, generator):
    """At equal weights all six gradients equal the reference's, without dropout and with everything dropped"""
    weights, x, cotangent = random_weights(generator), dna(generator, 9), randn(generator, 9)
    expected = reference.run(parameter_gradients, weights, x, cotangent, 0.0)
    expect(all(bool(g.abs().max() > 0) for g in expected), "the reference has a zero gradient: no check")
    assert_close(
        student.run(parameter_gradients, weights, x, cotangent, 0.0), expected,
        what="gradients of BindingMLP(dropout=0), parameter", reduction=9 * HIDDEN,
        help="With dropout=0 nothing may be dropped; None or zero: the graph was cut before this layer.",
    )  # fmt: skip
    assert_close(
        student.run(parameter_gradients, weights, x, cotangent, 1.0),
        (*(torch.zeros_like(w) for w in weights[:5]), cotangent.sum()[None]),
        what="gradients of BindingMLP(dropout=1), parameter", reduction=9,
        help="With dropout=1 only the last bias is left: all other gradients are 0, and none is NaN.",
    )  # fmt: skip


@pytest.mark.gradients(points=1)
def test_mc_dropout_without_graph(student, generator):
    """mc_dropout builds no graph, not even for inputs that ask for one, and freezes no parameter"""
    x = dna(generator, 5)
    weights = [randn(generator, 6, 4 * LENGTH), randn(generator, 6), randn(generator, 1, 6), randn(generator, 1)]
    answer = student.run(mc_with_tracked_input, weights, x)
    first, first_bias, last, last_bias = weights
    expected = ((x.flatten(1) @ first.mT + first_bias).relu() @ last.mT + last_bias)[:, 0].sigmoid()
    assert_close(answer["mean"], expected, what="mean for a model with nn.Dropout(0)", reduction=4 * LENGTH)
    assert_shape(answer["std"], (5,), what="std for a model with nn.Dropout(0)")
    expect(not answer["graph"], "the answers of mc_dropout carry a graph", "Draw the samples under torch.no_grad().")
    assert_close(answer["learns"], [True] * 4, what="requires_grad of the parameters after mc_dropout")


@pytest.mark.convergence(points=2)
def test_dropout_in_a_linear_model_is_ridge(student, run_seed, figures):
    """Trained behind Dropout, a linear model finds the ridge solution that theory predicts"""
    train, p = binding.linear_regression(run_seed), 0.4
    answer = student.run(averaged_weights, train, p, 1000)
    weights = assert_shape(
        answer["weights"], (train[0].shape[1],), what="weights of a linear model behind Dropout(0.4)"
    )
    x = train[0].double()
    ridge, ols = binding.ridge_of_dropout(*train, p), binding.ols(*train)

    def predictions_apart(one, other):
        return float((x @ (one - other)).square().mean().sqrt())

    distance = predictions_apart(weights.double(), ridge) / predictions_apart(ols, ridge)
    figures.curve("Squared error behind Dropout(0.4)", {"yours": answer["losses"][::10]})
    # In predictions, as a share of the way from ridge to least squares, 14 seeds: right 0.003..0.008; one half of the rows
    # 0.055..0.17; p = 0.5 instead 0.17..0.30; p and 1-p swapped 0.34..0.65; no dropout 0.99..1.00; no scaling 0.75..1.95.
    # (One mask per row 0.25..0.69, per column 0.01..0.05: that is for the checks of shapes.)
    expect(
        distance <= 0.03,
        f"the predictions are {distance:.3f} of the way from ridge to least squares away from ridge; at most 0.03 is allowed",
        "At 1: nothing is dropped. Elsewhere: the wrong share, or kept elements not divided by 1-p.",
    )


@pytest.mark.convergence(points=2)
def test_dropout_saves_a_large_network_from_memorising(student, run_seed, generator, figures):
    """The network does not memorise its probes, and on others the average over masks comes near the optimum"""
    task = binding.probes(run_seed, test=1500)
    seed = int(torch.randint(2**31, (), generator=generator))  # not the run's own: from that the labels can be drawn
    answer = student.run(trained_predictions, task.train, task.test_inputs, seed)
    rows = len(task.test_inputs)
    predicted = assert_shape(answer["logits"], (rows,), what="logits of held-out probes, eval mode")
    mean = assert_shape(answer["mean"], (rows,), what="mean of mc_dropout on held-out probes")
    expect(bool(((mean >= 0) & (mean <= 1)).all()), "means of mc_dropout outside [0, 1]", "Average probabilities.")
    figures.curve("Training loss", {"yours": answer["losses"]}, unit="nats", limit=task.optimum["log_loss"])
    chance, optimum = task.chance["log_loss"], task.optimum["log_loss"]
    assert_gap_closed(
        metrics.log_loss(predicted, task.test_targets), chance, optimum,
        # Right answers 0.35..0.80 on nearly every seed, but 0.04..0.17 on one of 106, whose 600 probes say little. No dropout
        # below -1.8; p = 0.5, or p and 1-p swapped, below -0.8: the bar lies between, however unlucky the draw.
        bar=-0.3,
        what="held-out log-loss in eval mode",
        help="Far worse than guessing: the network knows its 600 probes by heart. Is dropout active in training?",
    )  # fmt: skip
    assert_gap_closed(
        metrics.log_loss(mean.double().logit(eps=1e-7), task.test_targets), chance, optimum,
        bar=0.45,  # right answers 0.60..0.88 on 106 seeds; a single mask -0.31..0.43, which the next check sees, too
        what="held-out log-loss of mc_dropout",
        help="Average the probabilities of 50 passes, each with masks of its own.",
    )  # fmt: skip
    # Mean distance from 1/2; the network in eval mode minus the average over masks: 0.054..0.065 on 45 seeds.
    less_certain = float((predicted.sigmoid() - 0.5).abs().mean() - (mean - 0.5).abs().mean())
    expect(
        less_certain > 0.02,
        "the average over masks is as certain as the network without dropout",
        "Is dropout active in mc_dropout?",
    )


@pytest.mark.throughput(points=1)
def test_dropout_of_a_large_batch(student, reference, generator, figures):
    """Dropout of 8192 x 40 elements, forward and backward, within 4 times the reference's CPU time"""
    assert_fast(
        student,
        reference,
        forward_backward,
        lambda: (0.5, away_from_zero(generator, 8192, 40), away_from_zero(generator, 8192, 40)),
        bar=4,  # bernoulli_, torch.where, an autograd.Function 1.0..1.5x; a loop that draws each row's mask 9x, full loop 42x
        figures=figures,
        what="Dropout of 8192 x 40 elements",
        help="Draw the mask of all elements at once: no loop over rows.",
    )


@pytest.mark.throughput(points=1)
def test_mc_dropout_of_many_sequences(student, reference, generator, figures):
    """mc_dropout of 128 sequences with 50 samples within 5 times the reference's CPU time"""
    assert_fast(
        student,
        reference,
        mc_of_certain_model,
        lambda: (random_weights(generator, hidden=128), dna(generator, 128)),
        bar=5,  # samples along the batch 1.1x, sums instead of a stack 1.3x; a loop over samples and sequences 30x
        figures=figures,
        reduction=128,
        what="mc_dropout of 128 sequences with 50 samples",
        help="Loop over the samples or over the sequences, never over both.",
    )

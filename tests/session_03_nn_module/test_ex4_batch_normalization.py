"""Hidden suite of 3.4 Batch Normalization."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fixtures import histone, metrics
from fixtures.training import predict
from fixtures.weights import load_in_order
from grader.checks import (
    assert_close,
    assert_fast,
    assert_gap_closed,
    assert_gradcheck,
    assert_raises,
    assert_shape,
    expect,
    gap_closed,
)

FEATURES = 5
FORBIDDEN = ("batch_norm", "instance_norm", "group_norm", "layer_norm")
COMMON = {"with": [2, 3, 6, 7, 8, 9], "without": [0, 1, 2, 3, 4, 5]}  # places of the convolution's and linear weights


# Probes: run beside the submission, know no answer.


def training(exercise, weight, bias, batches, settings):
    """What a layer answers to one batch after the other in training, and what it remembers of them."""
    called = []

    class Recording(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            name = str(getattr(function, "__name__", function))
            if any(word in name for word in FORBIDDEN):
                called.append(name)
            return function(*args, **(kwargs or {}))

    layer = exercise.BatchNorm1d(len(weight), **settings).to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    with Recording():
        outputs = [layer(x) for x in batches]
        layer.eval()(batches[0])
    buffers = {name: buffer.clone() for name, buffer in sorted(layer.named_buffers())}
    layer.train()(1 * batches[0].clone().requires_grad_())
    tracked = [name for name, buffer in layer.named_buffers() if buffer.requires_grad]
    return {"outputs": outputs, "buffers": buffers, "with graph": tracked, "inputs": batches, "called": called}


def fresh_layer(exercise, features):
    layer = exercise.BatchNorm1d(features)
    return {
        "parameters": {name: p.requires_grad for name, p in sorted(layer.named_parameters())},
        "state": dict(sorted(layer.state_dict().items())),
    }


def evaluation(exercise, state, batches, eps):
    layer = exercise.BatchNorm1d(len(state["weight"]), eps=eps).to(state["weight"].dtype)
    layer.load_state_dict(state)
    layer.eval()
    outputs = [layer(x) for x in batches]
    return {"outputs": outputs, "state": dict(sorted(layer.state_dict().items()))}


def normalised(exercise, x):
    x = x.requires_grad_()
    output = exercise.BatchNorm1d(x.shape[1])(x)
    output[0].sum().backward()
    return {"output": output, "gradient": x.grad}


def build(exercise, weights, marks, bins, channels, batch_norm):
    model = exercise.HistoneCNN(marks, bins, channels, batch_norm=batch_norm).to(weights[0].dtype)
    load_in_order(model, weights)
    return model


def parameter_shapes(exercise, settings):
    return [tuple(p.shape) for p in exercise.HistoneCNN(**settings).parameters()]


def network_logits(exercise, weights, sizes, batch_norm, batches, held_out):
    model = build(exercise, weights, *sizes, batch_norm)
    trained = [model(x) for x in batches]
    model.eval()
    return {"training": trained, "eval": [model(x) for x in held_out]}


def untrained_pair(exercise, train, *settings):
    pair = exercise.compare_batch_norm(train, *settings, epochs=0)
    return {
        name: {"weights": list(pair[name][0].parameters()), "losses": list(pair[name][1].train_loss)}
        for name in ("with", "without")
    }


def comparison(exercise, train, valid, epochs, lr, seed):
    """Both trained networks, where they started, and the batches that they were shown in training mode."""
    starts, shown = {}, {}
    forward = exercise.HistoneCNN.forward

    def recording(network, x):
        if network.training:
            kind = len(list(network.parameters()))  # tells the two apart, also where one is a copy
            starts.setdefault(kind, [p.detach().clone() for p in network.parameters()])
            shown.setdefault(kind, []).append(x.detach().clone())
        return forward(network, x)

    exercise.HistoneCNN.forward = recording
    before = torch.get_rng_state()
    try:
        generator = torch.Generator().manual_seed(seed)
        pair = exercise.compare_batch_norm(train, valid, epochs=epochs, lr=lr, generator=generator)
    finally:
        exercise.HistoneCNN.forward = forward
    answer = {"global stream as before": torch.equal(torch.get_rng_state(), before)}
    for name in ("with", "without"):
        network, history = pair[name]
        kind = len(list(network.parameters()))
        answer[name] = {
            "start": starts.get(kind, []),
            "end": list(network.parameters()),
            "batches": shown.get(kind, []),
            "train_loss": list(history.train_loss),
            "valid_loss": list(history.valid_loss),
        }
    return answer


def construct_layer(exercise, features, settings):
    exercise.BatchNorm1d(features, **settings)


def layer_forward(exercise, x, in_eval):
    exercise.BatchNorm1d(FEATURES).train(not in_eval)(x)


def construct_network(exercise, *sizes):
    exercise.HistoneCNN(*sizes)


def network_forward(exercise, x, in_eval):
    exercise.HistoneCNN(5, 50, 6).train(not in_eval)(x)


def compare(exercise, train, epochs):
    exercise.compare_batch_norm(train, epochs=epochs)


def normalise(exercise, x, weight, bias):
    layer = exercise.BatchNorm1d(len(weight)).to(weight.dtype)
    return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))


def training_gradients(exercise, x, weight, bias, cotangent):
    x, weight, bias = (values.requires_grad_() for values in (x, weight, bias))
    output = normalise(exercise, x, weight, bias)
    return torch.autograd.grad(output, (x, weight, bias), cotangent)


def eval_gradients(exercise, state, earlier, x, cotangent):
    layer = exercise.BatchNorm1d(len(state["weight"])).to(x.dtype)
    layer.load_state_dict(state)
    earlier.requires_grad_()
    x.requires_grad_()
    layer(earlier)
    layer.eval()
    gradients = torch.autograd.grad(layer(x), (x, layer.weight, earlier), cotangent, allow_unused=True)
    return dict(zip(("x", "weight", "earlier batch"), gradients, strict=True))


def logits_and_gradients(exercise, weights, sizes, x, cotangent):
    model = build(exercise, weights, *sizes, True)
    logits = model(x)
    (logits * cotangent).sum().backward()
    return {"logits": logits, "gradients": [p.grad for p in model.parameters()]}


def trained_logits(exercise, train, valid, test_inputs, seed):
    pair = exercise.compare_batch_norm(train, valid, generator=torch.Generator().manual_seed(seed))
    return {
        name: {
            "logits": predict(pair[name][0], test_inputs),
            "train_loss": list(pair[name][1].train_loss),
            "valid_loss": list(pair[name][1].valid_loss),
        }
        for name in ("with", "without")
    }


def forward_backward(exercise, x, cotangent):
    x.requires_grad_()
    output = exercise.BatchNorm1d(x.shape[1])(x)
    (output * cotangent).sum().backward()
    return {"output": output, "gradient": x.grad}


# Inputs: drawn on the trusted side from the seed.


def randn(generator, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=generator, dtype=dtype)


def draw(generator, *shape, dtype=torch.float64):
    """Normal numbers; every channel (axis 1) has a mean and a standard deviation of its own."""
    std, mean = (values.view(-1, *[1] * (len(shape) - 2)) for values in randn(generator, 2, shape[1], dtype=dtype))
    return randn(generator, *shape, dtype=dtype) * (0.5 + std.abs()) + 2 * mean


def torchs_layer(weight, bias, **settings):
    layer = nn.BatchNorm1d(len(weight), **settings).to(weight.dtype)
    load_in_order(layer, [weight, bias])
    return layer


def torchs_network(weights, sizes, batch_norm):
    """The contract's architecture out of torch's layers."""
    marks, bins, channels = sizes
    norm = nn.BatchNorm1d if batch_norm else nn.Identity
    network = nn.Sequential(
        norm(marks), nn.Conv1d(marks, channels, 7, padding="same"), norm(channels), nn.ReLU(), nn.MaxPool1d(5),
        nn.Flatten(), nn.Linear(channels * (bins // 5), 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0),
    ).to(weights[0].dtype)  # fmt: skip
    load_in_order(network, weights)
    return network


def shapes_of(sizes, batch_norm):
    marks, bins, channels = sizes
    wide = channels * (bins // 5)
    common = [(channels, marks, 7), (channels,), (32, wide), (32,), (1, 32), (1,)]
    return [(marks,), (marks,), *common[:2], (channels,), (channels,), *common[2:]] if batch_norm else common


def random_weights(generator, sizes, batch_norm, dtype=torch.float64):
    """Weights at which about half of the hidden units are negative, and the logits are of order 1."""
    return [
        randn(generator, *shape, dtype=dtype) / math.sqrt(math.prod(shape[1:]) if len(shape) > 1 else 2)
        for shape in shapes_of(sizes, batch_norm)
    ]


def reads(generator, batch, bins=50):
    """Poisson counts at the five depths, 200-fold apart."""
    depth = torch.tensor(histone.DEPTH, dtype=torch.float64)[:, None]
    return torch.poisson(depth.expand(batch, 5, bins) * (1 + torch.rand(batch, 5, 1, generator=generator)), generator)


def places_of(batches, inputs):
    """Which rows of ``inputs`` each batch holds."""
    places = []
    for x in batches:
        same = (x.flatten(1)[:, None] == inputs.flatten(1)).all(dim=2)
        expect(
            bool(same.any(dim=1).all()),
            "a network in training mode is shown rows that are not rows of train",
            "Train on the raw counts of train, and call eval() before you look at valid.",
        )
        places.append(same.int().argmax(dim=1).tolist())
    return places


def replayed(start, sizes, batch_norm, batches, labels, lr):
    """The weights to which plain SGD leads from ``start`` over these batches."""
    network = torchs_network(start, sizes, batch_norm)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    for x, y in zip(batches, labels, strict=True):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(network(x), y).backward()
        optimizer.step()
    return [p.detach() for p in network.parameters()]


@pytest.mark.shapes(points=1)
def test_training(student, generator):
    """In training every channel is normalised by its batch, and the running buffers learn from it"""
    shapes = ((7, FEATURES), (6, FEATURES, 9), (1, FEATURES, 11), (13, FEATURES, 1), (3, FEATURES, 8))
    for dtype, settings in (
        (torch.float64, {}),
        (torch.float64, {"eps": 0.5, "momentum": 0.3}),
        (torch.float32, {"momentum": 1.0}),
    ):
        weight, bias = randn(generator, 2, FEATURES, dtype=dtype)
        batches = [draw(generator, *shape, dtype=dtype) for shape in shapes]
        batches[-1] = batches[-1].mT.contiguous().mT  # the same numbers, in another order in memory
        called = f"BatchNorm1d({', '.join(map(str, (FEATURES, *(f'{k}={v}' for k, v in settings.items()))))})"
        answer = student.run(training, weight, bias, batches, settings)
        expect(
            not answer["called"],
            f"your BatchNorm1d calls torch's {', '.join(dict.fromkeys(answer['called']))}",
            "Write it yourself, with means and variances.",
        )
        layer = torchs_layer(weight, bias, **settings)
        for number, (output, x) in enumerate(zip(answer["outputs"], batches, strict=True), start=1):
            what = f"output of {called} for batch {number}, of shape {tuple(x.shape)}"
            assert_shape(output, x.shape, dtype=dtype, what=what)
            assert_close(
                output, layer(x).detach(), what=what, reduction=x.numel() // FEATURES,
                help="(x - mean) / sqrt(var + eps) * weight + bias, with the batch's mean and biased variance per channel: "
                "over the batch, and over the length if there is one.",
            )  # fmt: skip
        assert_close(
            answer["buffers"], dict(sorted(layer.named_buffers())), what=f"buffers of {called} after {len(batches)} batches",
            reduction=100,
            help="(1 - momentum) * running + momentum * batch; running_var takes the unbiased variance.",
        )  # fmt: skip
        expect(
            not answer["with graph"],
            f"buffers that carry a graph: {', '.join(answer['with graph'])}",
            "Update the running buffers under torch.no_grad(), or from detached statistics.",
        )
        assert_close(answer["inputs"], batches, what="the inputs after the call", help="Do not change x in place.")


@pytest.mark.shapes(points=1)
def test_state_dict_and_eval(student, generator):
    """It loads nn.BatchNorm1d's state_dict, and eval mode normalises by the running buffers without moving them"""
    fresh = student.run(fresh_layer, FEATURES)
    assert_close(
        fresh["parameters"], {"bias": True, "weight": True}, what="parameters of BatchNorm1d (name: trainable)",
        help="Running statistics are buffers, not parameters: register_buffer.",
    )  # fmt: skip
    assert_close(
        fresh["state"], dict(sorted(nn.BatchNorm1d(FEATURES).state_dict().items())), what="state_dict of a new BatchNorm1d",
        help="A plain attribute is not in the state_dict: nn.Parameter for weight and bias, register_buffer for the rest.",
    )  # fmt: skip
    for dtype in (torch.float32, torch.float64):
        weight, bias = randn(generator, 2, FEATURES, dtype=dtype)
        layer = torchs_layer(weight, bias, eps=0.01)
        layer(draw(generator, 20, FEATURES, 3, dtype=dtype))
        state = layer.eval().state_dict()
        shapes = ((1, FEATURES), (9, FEATURES), (1, FEATURES, 1), (4, FEATURES, 7), (0, FEATURES, 3))
        batches = [draw(generator, *shape, dtype=dtype) for shape in shapes]
        answer = student.run(evaluation, dict(state), batches, 0.01)
        for output, x in zip(answer["outputs"], batches, strict=True):
            what = f"output in eval mode for x of shape {tuple(x.shape)}"
            assert_shape(output, x.shape, dtype=dtype, what=what)
            assert_close(
                output, layer(x).detach(), what=what,
                help="In eval mode mean and variance are running_mean and running_var; the batch has no say.",
            )  # fmt: skip
        assert_close(
            answer["state"], dict(sorted(state.items())), what="state_dict after predicting in eval mode",
            help="Only training may move the running buffers and the counter.",
        )  # fmt: skip


@pytest.mark.shapes(points=1)
def test_large_means_and_constant_channels(student, generator):
    """A mean of 1000 standard deviations costs no accuracy, and an empty library is no division by zero"""
    constant = draw(generator, 6, FEATURES, 4, dtype=torch.float32)
    constant[:, 1] = 0.0
    constant[:, 3] = 7.0
    for x, channels in (
        (
            1000 + randn(generator, 64, FEATURES, dtype=torch.float32),
            "channels with mean 1000 and standard deviation 1",
        ),
        (
            1000 + randn(generator, 16, FEATURES, 9, dtype=torch.float32),
            "channels with mean 1000 and standard deviation 1",
        ),
        (constant, "five channels of which two are constant"),
    ):
        answer = student.run(normalised, x)
        help = "Add eps under the root, so that neither the output nor its gradient divides by zero."
        output = assert_shape(answer["output"], x.shape, what=f"output for {channels}", help=help)
        assert_shape(answer["gradient"], x.shape, what=f"gradient for {channels}", help=help)
        error = float((output - nn.BatchNorm1d(FEATURES).double()(x.double()).detach()).abs().max())
        expect(
            error < 0.01,  # largest error on 10 seeds: right answers 1.4e-4, E[x^2] - E[x]^2 0.1 and more
            f"the output for {channels}, in float32, is off by up to {error:.2g}",
            "Is it E[x^2] - E[x]^2, a difference of two numbers near a million? Subtract the mean first, then square.",
        )


@pytest.mark.shapes(points=1)
def test_network(student, generator):
    """HistoneCNN's logits follow from its weights, with and without norms, in training and in eval mode"""
    assert_parameter_shapes(student.run(parameter_shapes, {}), (5, 50, 16), True, "HistoneCNN()")
    for sizes, dtype in (((5, 50, 16), torch.float32), ((3, 23, 6), torch.float64)):
        for batch_norm in (True, False):
            called = f"HistoneCNN{sizes} with batch_norm={batch_norm}"
            settings = dict(zip(("marks", "bins", "channels"), sizes, strict=True)) | {"batch_norm": batch_norm}
            assert_parameter_shapes(student.run(parameter_shapes, settings), sizes, batch_norm, called)
            weights = random_weights(generator, sizes, batch_norm, dtype)
            batches = [draw(generator, batch, *sizes[:2], dtype=dtype) for batch in (7, 1, 4)]
            held_out = [draw(generator, batch, *sizes[:2], dtype=dtype) for batch in (1, 6)]
            answer = student.run(network_logits, weights, sizes, batch_norm, batches, held_out)
            network = torchs_network(weights, sizes, batch_norm)
            for mode, inputs in (("training", batches), ("eval", held_out)):
                network.train(mode == "training")
                for output, x in zip(answer[mode], inputs, strict=True):
                    what = f"logits of {called} in {mode} mode for {len(x)} gene{'s' * (len(x) > 1)}"
                    assert_shape(output, (len(x),), dtype=dtype, what=what, help="One number per gene: squeeze(1).")
                    assert_close(
                        output, network(x).detach(), what=what, reduction=10_000,
                        help="[norm] - Conv1d - [norm] - ReLU - MaxPool1d(5) - Flatten - Linear - ReLU - Linear, logits out.",
                    )  # fmt: skip


def assert_parameter_shapes(got, sizes, batch_norm, what):
    expected = shapes_of(sizes, batch_norm)
    expect(
        got == expected,
        f"parameter shapes of {what}: expected {expected}, got {got}",
        "Norms at the input and between convolution and ReLU, or none at all; registered in that order; all biases stay.",
    )


@pytest.mark.shapes(points=1)
def test_fair_comparison(student, generator, seed):
    """Both networks start from the same weights, see the same batches, and are trained by plain SGD"""
    sizes, rows, epochs, lr = (3, 10, 16), 70, 2, 0.2
    train, valid = (
        (randn(generator, n, *sizes[:2], dtype=torch.float32), (torch.rand(n, generator=generator) < 0.5).float())
        for n in (rows, 9)
    )
    untrained = student.run(untrained_pair, train)
    assert_same_start(untrained["with"]["weights"], untrained["without"]["weights"], sizes, "with epochs=0")
    assert_close(untrained["with"]["losses"] + untrained["without"]["losses"], [], what="losses with epochs=0")

    answer = student.run(comparison, train, valid, epochs, lr, seed)
    shown = {name: places_of(answer[name]["batches"], train[0]) for name in COMMON}
    for name in COMMON:
        expect(
            [len(batch) for batch in shown[name]] == [64, 6] * epochs,
            f'{rows} genes, {epochs} epochs: "{name}" was trained on batches of {[len(batch) for batch in shown[name]]} genes',
            "Batches of 64, the last one of an epoch smaller, all of them in train mode.",
        )
        places = [row for batch in shown[name] for row in batch]
        first, second = places[:rows], places[rows:]
        expect(sorted(first) == sorted(second) == list(range(rows)), f'"{name}" does not see every gene once an epoch')
        expect(first != second, f'"{name}" sees the genes in the same order in every epoch', "Reshuffle every epoch.")
    expect(
        shown["with"] == shown["without"],
        "the two networks are trained on different batches",
        "Give each fit a generator of its own, both in the same state.",
    )
    assert_same_start(answer["with"]["start"], answer["without"]["start"], sizes, "before the first step")
    for name in COMMON:
        start, end = answer[name]["start"], answer[name]["end"]
        labels = [train[1][places] for places in shown[name]]
        expected = replayed(start, sizes, name == "with", answer[name]["batches"], labels, lr)
        moved = max(float((after - before).abs().max()) for after, before in zip(expected, start, strict=True))
        error = max(float((got - wanted).abs().max()) for got, wanted in zip(end, expected, strict=True))
        expect(
            # On 10 seeds right answers are off by 1e-6 of the way at most, by a little more where rounding switches a ReLU;
            # a weight decay of 0.01, a momentum, another rate, loss or optimizer by 0.07 and more.
            error < 0.01 * moved,
            f'"{name}": the largest step of plain SGD from its start over its batches is {moved:.3g}, and a returned weight '
            f"is {error:.3g} away from where SGD leads",
            "torch.optim.SGD(network.parameters(), lr=lr) on F.binary_cross_entropy_with_logits, nothing else.",
        )
        for losses in ("train_loss", "valid_loss"):
            values = answer[name][losses]
            fine = len(values) == epochs and all(type(value) is float and math.isfinite(value) for value in values)
            expect(fine, f'History.{losses} of "{name}": expected {epochs} floats, got {values}')
    again, other = (student.run(comparison, train, valid, epochs, lr, s) for s in (seed, seed + 1))
    assert_close(
        again, answer, what="a second call with the same state of the generator", help="Let it decide everything."
    )
    differs = any(bool((a != b).any()) for a, b in zip(other["with"]["start"], answer["with"]["start"], strict=True))
    expect(differs, "another generator gives the same initial weights", "Build within `with seeded(generator):`.")
    expect(
        answer["global stream as before"],
        "the global random stream is not as it was before the call",
        "Build within `with seeded(generator):`, and give fit a generator.",
    )


def assert_same_start(ours, theirs, sizes, when):
    for name, weights in (("with", ours), ("without", theirs)):
        assert_parameter_shapes([tuple(w.shape) for w in weights], sizes, name == "with", f'"{name}" {when}')
        expect(all(bool(w.isfinite().all()) for w in weights), f'a weight of "{name}" is not finite {when}')
    same = all(torch.equal(ours[i], theirs[j]) for i, j in zip(COMMON["with"], COMMON["without"], strict=True))
    expect(
        same,
        f"{when}, the convolution and linear weights of the two networks differ",
        "Build one network and copy its weights into the other.",
    )


@pytest.mark.shapes(points=1, structure=True)
def test_errors(student, generator):
    """Bad sizes, bad shapes and a single value per channel are ValueErrors"""
    for features, settings in ((0, {}), (-1, {}), (5, {"eps": -1e-5}), (5, {"momentum": 1.5}), (5, {"momentum": -0.1})):
        called = ", ".join([str(features), *(f"{name}={value}" for name, value in settings.items())])
        assert_raises(student, ValueError, construct_layer, features, settings, when=f"BatchNorm1d({called}) is built")
    for shape in ((1, 5), (1, 5, 1), (0, 5), (0, 5, 3)):
        assert_raises(
            student, ValueError, layer_forward, torch.zeros(shape), False, when=f"x has shape {shape} in training mode",
            help="Fewer than two values per channel have no variance.",
        )  # fmt: skip
    for in_eval in (False, True):
        for shape in ((8, 4), (8, 6), (8, 6, 5), (5,), (2, 5, 3, 4)):
            when = f"x has shape {shape}, features is 5, in {'eval' if in_eval else 'training'} mode"
            assert_raises(student, ValueError, layer_forward, randn(generator, *shape).float(), in_eval, when=when)
        for shape in ((3, 4, 50), (3, 5, 49), (3, 5, 51), (5, 50), (3, 1, 5, 50)):
            when = f"HistoneCNN with 5 marks and 50 bins is given x of shape {shape}"
            assert_raises(student, ValueError, network_forward, randn(generator, *shape).float(), in_eval, when=when)
    for sizes in ((0, 50, 16), (5, 4, 16), (5, 0, 16), (5, 50, 0)):
        assert_raises(student, ValueError, construct_network, *sizes, when=f"HistoneCNN{sizes} is built")
    train = randn(generator, 8, 5, 50).float(), torch.tensor([0.0, 1.0] * 4)
    assert_raises(student, ValueError, compare, train, -1, when="compare_batch_norm is called with epochs=-1")


@pytest.mark.gradients(points=1)
def test_finite_differences(student, generator):
    """In training the gradients in x, weight and bias are those of finite differences"""
    for shape in ((6, 3), (2, 3, 4)):
        x, (weight, bias) = draw(generator, *shape), randn(generator, 2, 3)
        expected = torchs_layer(weight, bias)(x).detach()
        assert_close(student.run(normalise, x, weight, bias), expected, what=f"output in training, x of shape {shape}")
        assert_gradcheck(
            student, normalise, [x, weight, bias], generator=generator,
            what=f"BatchNorm1d(3) in training, x of shape {shape} (inputs 0, 1, 2: x, weight, bias)",
            help="Mean and variance depend on x: only the running buffers are kept out of the graph.",
        )  # fmt: skip


@pytest.mark.gradients(points=1)
def test_batch_statistics_are_not_constants(student, generator):
    """The gradient in x sums to zero per channel, is orthogonal to the normalised x, and equals nn.BatchNorm1d's"""
    for shape in ((11, FEATURES), (4, FEATURES, 7)):
        x, cotangent = draw(generator, *shape), randn(generator, *shape)
        weight, bias = randn(generator, 2, FEATURES)
        answer = student.run(training_gradients, x, weight, bias, cotangent)
        gradient = assert_shape(answer[0], shape, dtype=torch.float64, what="gradient in x")
        axes = (0, 2)[: x.ndim - 1]
        hat = nn.BatchNorm1d(FEATURES, affine=False).double()(x)
        size, bar = float(gradient.abs().sum()), 1e-3  # exact but for eps = 1e-5 beside variances of 0.25 and more
        total, along = gradient.sum(axes).abs(), (gradient * hat).sum(axes).abs()
        expect(
            float(total.max()) <= bar * size,
            "adding a constant to a channel changes nothing, but the gradient in x has a part along it",
            "Is the mean detached?",
        )
        expect(
            float(along.max()) <= bar * size,
            "scaling a centred channel changes nothing, but the gradient in x has a part along it",
            "Is the variance detached?",
        )
        tracked = [values.clone().requires_grad_() for values in (x, weight, bias)]
        output = torch.func.functional_call(
            torchs_layer(weight, bias), dict(zip(("weight", "bias"), tracked[1:], strict=True)), (tracked[0],)
        )
        expected = torch.autograd.grad(output, tracked, cotangent)
        for got, wanted, name in zip(answer, expected, ("x", "weight", "bias"), strict=True):
            assert_close(got, wanted, what=f"gradient in {name}, x of shape {shape}")


@pytest.mark.gradients(points=1)
def test_eval_gradients(student, generator):
    """In eval mode the statistics are constants: the gradient in x is weight / sqrt(running_var + eps)"""
    weight, bias = randn(generator, 2, FEATURES)
    layer = torchs_layer(weight, bias)
    layer(draw(generator, 12, FEATURES))
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    earlier, x, cotangent = draw(generator, 8, FEATURES, 3), draw(generator, 6, FEATURES), randn(generator, 6, FEATURES)
    answer = student.run(eval_gradients, state, earlier, x, cotangent)
    layer(earlier)
    inverse = (layer.running_var + layer.eps).rsqrt()
    assert_close(answer["x"], cotangent * weight * inverse, what="gradient in x in eval mode")
    assert_close(
        answer["weight"],
        (cotangent * (x - layer.running_mean) * inverse).sum(dim=0),
        what="gradient in weight in eval mode",
    )
    expect(
        answer["earlier batch"] is None,
        "the gradient of a prediction in eval mode reaches back to an earlier training batch",
        "The running buffers must not carry a graph: update them under torch.no_grad().",
    )


@pytest.mark.gradients(points=1)
def test_invariance(student, generator):
    """In training the network does not see a mark's depth or offset, and the bias before a norm is idle"""
    sizes = (5, 50, 6)
    weights = random_weights(generator, sizes, True)
    x, cotangent = reads(generator, 9), randn(generator, 9)
    answer = student.run(logits_and_gradients, weights, sizes, x, cotangent)
    logits = assert_shape(answer["logits"], (9,), dtype=torch.float64, what="logits of 9 genes")
    scale = 100 ** torch.rand(5, 1, generator=generator, dtype=torch.float64)
    shift = 50 * randn(generator, 5, 1)
    moved = student.run(logits_and_gradients, weights, sizes, x * scale + shift, cotangent)["logits"]
    moved = assert_shape(moved, (9,), dtype=torch.float64, what="logits of 9 genes")
    change = float((moved - logits).abs().max())
    expect(
        change
        < 1e-2,  # eps = 1e-5 beside a variance of 0.15 and more: at most 1e-3 in 10 seeds; no norm at the input: 1 and more
        f"scaling each mark by 1 to 100 and shifting it changes the logits by up to {change:.3g}",
        "The first norm belongs at the input, before the convolution, over the marks.",
    )
    assert_close(logits, torchs_network(weights, sizes, True)(x).detach(), what="logits of 9 genes", reduction=1000)
    kernel, bias = answer["gradients"][2:4]
    kernel = assert_shape(kernel, (6, 5, 7), dtype=torch.float64, what="gradient of the convolution's weight")
    bias = assert_shape(bias, (6,), dtype=torch.float64, what="gradient of the convolution's bias")
    expect(
        float(bias.abs().max()) < 1e-9 * float(kernel.abs().max()),
        "the bias of the convolution has a gradient, although the norm behind it subtracts the mean",
        "The second norm belongs directly behind the convolution, and its mean must not be detached.",
    )


@pytest.mark.convergence(points=4)
def test_learns_from_raw_counts(student, run_seed, seed, figures):
    """Eight epochs of plain SGD on raw counts come close to the optimum with the norms, and do not without them"""
    task = histone.marks(run_seed)
    answer = student.run(trained_logits, task.train, task.valid, task.test_inputs, seed)
    figures.curve(
        "Training loss",
        {name: answer[name]["train_loss"] for name in COMMON},
        unit="nats",
        x_label="epoch",
        limit=task.optimum["log_loss"],
    )
    auroc = {}
    for name in COMMON:
        what = f'held-out logits of the network "{name}" norms'
        auroc[name] = metrics.auroc(assert_shape(answer[name]["logits"], (3000,), what=what), task.test_targets)
    figures.bars("Held-out AUROC", auroc, limit=task.optimum["auroc"], limit_label="optimum")
    scale = task.chance["auroc"], task.optimum["auroc"]
    share = assert_gap_closed(
        auroc["with"], *scale,
        bar=0.87,  # right answers 0.92..0.97 on 40 seeds; running buffers never updated 0.39..0.75
        what="held-out AUROC with norms",
        help="If it learns in training mode only: are the running buffers updated?",
    )  # fmt: skip
    behind = share - gap_closed(auroc["without"], *scale)
    expect(
        behind > 0.1,  # right answers 0.31..1.14 on 40 seeds; with norms in both networks 0
        f"the network without norms closes only {behind:.2f} less of the gap than the one with them; expected: more than 0.10",
        "Are there norms in both networks?",
    )


@pytest.mark.throughput(points=2)
def test_forward_and_backward_of_many_channels(student, reference, generator, figures):
    """512 channels, forward and backward, within 6 times the reference's CPU time"""
    shape = (16, 512, 4)
    assert_fast(
        student,
        reference,
        forward_backward,
        lambda: (draw(generator, *shape, dtype=torch.float32), randn(generator, *shape, dtype=torch.float32)),
        bar=6,  # other right answers 0.7..1.2x; a loop over the channels 20x
        figures=figures,
        reduction=100,
        what="forward and backward of 512 channels",
        help="Mean and variance take a tuple of axes: no loop over channels.",
    )

"""Hidden suite of 3.3 Custom nn.Module."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fixtures import metrics, splice
from fixtures.dna import one_hot_tokens
from fixtures.weights import load_in_order
from grader.checks import (
    assert_close,
    assert_fast,
    assert_gap_closed,
    assert_gradcheck,
    assert_raises,
    assert_shape,
    expect,
)

GAINS = {"relu": math.sqrt(2), "tanh": 5 / 3, "sigmoid": 1.0}
FUNCTIONS = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
NETS = 20  # what one start does by chance is averaged over so many


# Probes: run beside the submission, know no answer.


def dense_parts(exercise, in_features, out_features):
    layer = exercise.Dense(in_features, out_features)
    return {
        "parameters": {name: tuple(p.shape) for name, p in layer.named_parameters()},
        "dtypes": [p.dtype for p in layer.parameters()],
        "trainable": [p.requires_grad for p in layer.parameters()],
        "nn.Linear inside": any(isinstance(part, nn.Linear) for part in layer.modules()),
        "repr": repr(layer),
    }


def dense(exercise, weight, bias):
    layer = exercise.Dense(weight.shape[1], weight.shape[0]).to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def dense_output(exercise, x, weight, bias):
    return dense(exercise, weight, bias)(x)


def dense_as_function(exercise, x, weight, bias):
    layer = exercise.Dense(weight.shape[1], weight.shape[0])
    return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))


def dense_gradients(exercise, x, weight, bias, cotangent):
    layer, x = dense(exercise, weight, bias), x.clone().requires_grad_()
    (layer(x) * cotangent).sum().backward()
    return [x.grad, layer.weight.grad, layer.bias.grad]


def dense_start(exercise, in_features, out_features, gain, seed):
    layer = exercise.Dense(in_features, out_features, gain=gain, generator=torch.Generator().manual_seed(seed))
    return [layer.weight, layer.bias]


def signal(exercise, x, gain, depth, seeds):
    """Mean squares behind the first and behind the last ReLU of `depth` fresh layers, one row for each seed."""
    rows = []
    for seed in seeds:
        generator, h = torch.Generator().manual_seed(seed), x.double()
        squares = []
        for _ in range(depth):
            layer = exercise.Dense(x.shape[1], x.shape[1], gain=gain, generator=generator).double()
            with torch.no_grad():
                h = layer(h).relu()
            squares.append(h.square().mean())
        rows.append(torch.stack([squares[0], squares[-1]]))
    return torch.stack(rows)


def net_parts(exercise, length, hidden, depth):
    net = exercise.DonorNet(length, hidden, depth)
    kinds = [type(part) for part in net.modules()]
    return {
        "parameters": [tuple(p.shape) for p in net.parameters()],
        "Dense layers": sum(issubclass(kind, exercise.Dense) for kind in kinds),
        "nn.Linear layers": sum(issubclass(kind, nn.Linear) for kind in kinds),
        "buffer background": dict(net.named_buffers()).get("background"),
        "background is saved": "background" in net.state_dict(),
        "background after .double()": net.double().background.dtype,
    }


def default_net(exercise):
    return [tuple(p.shape) for p in exercise.DonorNet().parameters()]


def round_trip(exercise, x):
    first, second = exercise.DonorNet(x.shape[2], 10, 3), exercise.DonorNet(x.shape[2], 10, 3)
    second.load_state_dict(first.state_dict(), strict=True)
    return {"parameters": list(first.parameters()), "saved": first(x), "loaded": second(x)}


def net(exercise, weights, length, activation):
    made = exercise.DonorNet(length, len(weights[0]), len(weights) // 2, activation=activation).to(weights[0].dtype)
    load_in_order(made, weights)
    return made


def net_logits(exercise, weights, x, activation, background):
    made, given = net(exercise, weights, x.shape[2], activation), x.clone(memory_format=torch.preserve_format)
    if background is not None:
        with torch.no_grad():
            made.background.copy_(background)
    return {"logits": made(given), "input changed": not torch.equal(given, x)}


def net_gradients(exercise, weights, x, labels, activation):
    made = net(exercise, weights, x.shape[2], activation)
    F.binary_cross_entropy_with_logits(made(x), labels).backward()
    return {"parameters": [p.grad for p in made.parameters()], "background": made.background.grad}


def fresh_gradient_sizes(exercise, x, labels, seed):
    made = exercise.DonorNet(length=x.shape[2], generator=torch.Generator().manual_seed(seed))
    F.binary_cross_entropy_with_logits(made(x), labels).backward()
    sizes = [None if p.grad is None else p.grad.abs().max().item() for p in made.parameters()]
    return {"sizes": sizes, "background": made.background.requires_grad}


def net_start(exercise, activation, seeds):
    """Mean squares of the weights, one row for each seed, one column for each layer."""
    rows = []
    for seed in seeds:
        made = exercise.DonorNet(activation=activation, generator=torch.Generator().manual_seed(seed))
        rows.append(torch.stack([p.square().mean() for p in made.parameters() if p.ndim == 2]))
    return torch.stack(rows)


def input_gradient_norms(exercise, x, seeds):
    """|d logit / d x|, one row for each seed, one column for each sequence."""
    rows = []
    for seed in seeds:
        made, tracked = exercise.DonorNet(generator=torch.Generator().manual_seed(seed)), x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(made(tracked).sum(), tracked)
        rows.append(gradient.flatten(1).norm(dim=1))
    return torch.stack(rows)


def weights_by_generator(exercise, seed, other):
    def dense(generator):
        return exercise.Dense(7, 5, generator=generator).weight

    def net(generator):
        made = exercise.DonorNet(5, 6, 5, generator=generator)
        return [p for p in made.parameters() if p.ndim == 2]

    at = torch.Generator().manual_seed
    before = torch.get_rng_state()
    answer = {
        "Dense": [dense(at(seed)), dense(at(seed)), dense(at(other))],
        "DonorNet": [net(at(seed)), net(at(seed)), net(at(other))],
        "global stream untouched": torch.equal(torch.get_rng_state(), before),
    }
    torch.manual_seed(seed)
    first, second = dense(None), dense(None)
    torch.manual_seed(seed)
    return {**answer, "without generator": [first, dense(None), second]}


def build_dense(exercise, in_features, out_features, gain):
    exercise.Dense(in_features, out_features, gain=gain)


def call_dense(exercise, in_features, x):
    exercise.Dense(in_features, 3)(x)


def build_net(exercise, length, hidden, depth, activation):
    exercise.DonorNet(length, hidden, depth, activation=activation)


def call_net(exercise, length, x):
    exercise.DonorNet(length, 6, 3)(x)


def trained_logits(exercise, train, test_inputs, steps, seed):
    x, y = train
    made = exercise.DonorNet(x.shape[2], generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    losses = []
    for _ in range(steps):
        rows = torch.randint(len(x), (64,))
        loss = F.binary_cross_entropy_with_logits(made(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        return {"logits": made(test_inputs), "losses": losses}


def forward_backward(exercise, x, weight, bias, times):
    layer, x, output = dense(exercise, weight, bias), x.clone().requires_grad_(), 0.0
    for _ in range(times):
        output = layer(x)
        output.square().mean().backward()
    return {"sums": output.sum(dim=1), "weight": layer.weight.grad, "bias": layer.bias.grad, "x": x.grad.sum(dim=1)}


# Inputs and expectations: made on the trusted side from the seed.


def randn(generator, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=generator, dtype=dtype)


def draw_seeds(generator, count):
    return torch.randint(2**31, (count,), generator=generator).tolist()


def bases(generator, batch, length, *, unknown=False, dtype=torch.float32):
    """One-hot DNA; with `unknown`, a fifth of the bases is N, and so is all of the first sequence."""
    tokens = torch.randint(5 if unknown else 4, (batch, length), generator=generator)
    if unknown:
        tokens[0] = 4
    return one_hot_tokens(tokens).to(dtype)


def net_shapes(length, hidden, depth):
    sizes = [4 * length] + [hidden] * (depth - 1) + [1]
    return [shape for n, m in pairwise(sizes) for shape in ((m, n), (m,))]


def random_weights(generator, length, hidden, depth, dtype=torch.float32):
    """Weights that carry a signal through any of the three activations, and biases that are not zero."""
    return [
        randn(generator, *shape, dtype=dtype) * (1.5 / math.sqrt(shape[1]) if len(shape) > 1 else 0.4)
        for shape in net_shapes(length, hidden, depth)
    ]


def expected_logits(weights, x, activation="relu", background=None):
    frequencies = torch.full((4, 1), 0.25, dtype=x.dtype) if background is None else background
    h = torch.where(x.sum(dim=1, keepdim=True) > 0, x - frequencies, 0.0).flatten(1)
    *hidden, (last, last_bias) = zip(weights[::2], weights[1::2], strict=True)
    for weight, bias in hidden:
        h = FUNCTIONS[activation](h @ weight.mT + bias)
    return (h @ last.mT + last_bias)[:, 0]


def assert_shapes(tensors, shapes, *, what):
    assert_close(len(tensors), len(shapes), what=f"number of {what}")
    return [assert_shape(tensor, shape, what=what) for tensor, shape in zip(tensors, shapes, strict=True)]


def geometric_mean(values):
    return values.double().log().mean().exp().item()


@pytest.mark.shapes(points=1, structure=True)
def test_dense_registers_weight_and_bias(student):
    """Dense holds the parameters weight (out, in) and bias (out,), no nn.Linear, and prints its sizes"""
    answer = student.run(dense_parts, 36, 64)
    what = "Dense(36, 64)"
    assert_close(
        answer["parameters"], {"weight": (64, 36), "bias": (64,)}, what=f"named_parameters() of {what}",
        help="Assign an nn.Parameter of shape (out, in) to self.weight, then one of shape (out,) to self.bias.",
    )  # fmt: skip
    assert_close(answer["dtypes"], [torch.float32] * 2, what=f"dtypes of the parameters of {what}")
    assert_close(answer["trainable"], [True] * 2, what=f"requires_grad of the parameters of {what}")
    expect(not answer["nn.Linear inside"], f"{what} is or contains an nn.Linear", "Write the layer from nn.Parameter.")
    shown, wanted = str(answer["repr"])[:200], "in_features=36, out_features=64"
    expect(
        wanted in shown, f"repr of {what}: expected {wanted!r} within it, got {shown!r}", "Return it from extra_repr."
    )


@pytest.mark.shapes(points=1)
def test_dense_is_affine_over_the_last_axis(student, generator):
    """Dense computes x @ weight.mT + bias over the last axis, for any number of leading axes and both float types"""
    weight, bias = randn(generator, 5, 7), randn(generator, 5)
    inputs = {
        "of shape (7,)": randn(generator, 7),
        "of shape (3, 7)": randn(generator, 3, 7),
        "of shape (1, 7)": randn(generator, 1, 7),
        "of shape (2, 3, 4, 7)": randn(generator, 2, 3, 4, 7),
        "of shape (0, 7)": torch.zeros(0, 7),
        "of shape (6, 7), not contiguous": randn(generator, 7, 6).mT,
        "of shape (4, 7), float64": randn(generator, 4, 7, dtype=torch.float64),
    }
    for name, x in inputs.items():
        w, b = weight.to(x.dtype), bias.to(x.dtype)
        answer = student.run(dense_output, x, w, b)
        assert_shape(answer, (*x.shape[:-1], 5), dtype=x.dtype, what=f"output of Dense(7, 5) for x {name}")
        assert_close(
            answer,
            x @ w.mT + b,
            what=f"output for x {name}",
            help="Every output is a row of weight times x, plus bias.",
        )


@pytest.mark.shapes(points=1)
def test_donor_net_registers_layers_and_background(student, generator):
    """DonorNet registers depth Dense layers in forward order and the buffer background; its state can be saved and loaded"""
    for length, hidden, depth in ((9, 12, 8), (5, 7, 2)):
        what = f"DonorNet({length}, {hidden}, {depth})"
        answer = student.run(net_parts, length, hidden, depth)
        assert_close(
            answer["parameters"], net_shapes(length, hidden, depth), what=f"parameter shapes of {what}",
            help="A plain Python list hides its layers: use nn.ModuleList or nn.Sequential. "
            "A layer used twice counts once. The background is no parameter.",
        )  # fmt: skip
        assert_close(answer["Dense layers"], depth, what=f"number of Dense layers in {what}")
        assert_close(answer["nn.Linear layers"], 0, what=f"number of nn.Linear layers in {what}")
        keep = 'self.register_buffer("background", ...) keeps a constant beside the parameters.'
        assert_close(
            answer["buffer background"], torch.full((4, 1), 0.25), what=f"buffer background of {what}", help=keep
        )
        expect(answer["background is saved"] is True, f"state_dict() of {what} has no background", keep)
        assert_close(
            answer["background after .double()"], torch.float64, what="dtype of background after .double()", help=keep
        )
    assert_close(student.run(default_net), net_shapes(9, 64, 8), what="parameter shapes of DonorNet()")
    x = bases(generator, 5, 7)
    answer = student.run(round_trip, x)
    weights = assert_shapes(answer["parameters"], net_shapes(7, 10, 3), what="parameters of DonorNet(7, 10, 3)")
    saved = assert_shape(answer["saved"], (5,), what="logits of DonorNet(7, 10, 3)")
    assert_close(answer["loaded"], saved, what="logits after load_state_dict(state_dict()) into a second network")
    assert_close(
        saved, expected_logits(weights, x), what="logits, from the parameters in their order", reduction=3 * 28,
        help="Register the layers in the order of the forward pass.",
    )  # fmt: skip


@pytest.mark.shapes(points=1)
def test_logits_follow_from_weights_and_background(student, generator):
    """The logits follow from weights, activation and background; an N contributes nothing"""
    cases = (  # batch, length, hidden, depth
        (6, 9, 10, 4, "relu", torch.float32),
        (1, 5, 7, 2, "tanh", torch.float32),
        (3, 11, 8, 3, "sigmoid", torch.float64),
    )
    for batch, length, hidden, depth, activation, dtype in cases:
        weights = random_weights(generator, length, hidden, depth, dtype)
        x = bases(generator, batch, length, dtype=dtype)
        what = f"logits (batch of {batch}, depth {depth}, {activation})"
        answer = student.run(net_logits, weights, x, activation, None)
        assert_close(
            assert_shape(answer["logits"], (batch,), dtype=dtype, what=what),
            expected_logits(weights, x, activation),
            what=what,
            reduction=4 * length * depth,
            help="Subtract the background, flatten(1), an activation between the layers, nothing after the last.",
        )
    weights = random_weights(generator, 7, 10, 4)
    strided = bases(generator, 5, 7).mT.contiguous().mT  # what F.one_hot(tokens).mT looks like
    answer = student.run(net_logits, weights, strided, "relu", None)
    assert_close(
        answer["logits"], expected_logits(weights, strided), what="logits of an x that is not contiguous", reduction=112
    )
    expect(answer["input changed"] is False, "forward changes its input", "Make a new tensor: x - ..., not x -= ...")
    empty = student.run(net_logits, weights, torch.zeros(0, 4, 7), "relu", None)
    assert_shape(empty["logits"], (0,), what="logits of an empty batch")

    x = bases(generator, 8, 7, unknown=True)
    other = torch.rand(4, 1, generator=generator)
    for background, name in ((None, "the usual background"), (other, "another background")):
        answer = student.run(net_logits, weights, x, "relu", background)
        assert_close(
            assert_shape(answer["logits"], (8,), what="logits of sequences with N"),
            expected_logits(weights, x, background=background),
            what=f"logits of sequences with N, {name}",
            reduction=112,
            help="Subtract self.background from the columns of known bases only: the column of an N stays zero.",
        )


@pytest.mark.shapes(points=1, structure=True)
def test_generator_decides_the_weights(student, generator):
    """The generator alone decides the weights, differently for every layer; the global random stream is left alone"""
    answer = student.run(weights_by_generator, *draw_seeds(generator, 2))
    one, again, other = (assert_shape(weight, (5, 7), what="weight of Dense(7, 5)") for weight in answer["Dense"])
    assert_close(
        again, one, what="weight of Dense, same generator state", help="Pass generator= on to the random function."
    )
    expect(not torch.equal(other, one), "Dense has the same weight for another generator", "Let the generator draw it.")
    shapes = net_shapes(5, 6, 5)[::2]
    one, again, other = (assert_shapes(net, shapes, what="weights of DonorNet(5, 6, 5)") for net in answer["DonorNet"])
    assert_close(
        again, one, what="weights of DonorNet, same generator state", help="Pass the generator on to every layer."
    )
    for i, (a, b) in enumerate(zip(one, other, strict=True)):
        expect(not torch.equal(a, b), f"weight {i} of DonorNet is the same for another generator")
    for a, b in pairwise(one[1:-1]):
        expect(
            not torch.equal(a, b),
            "two hidden layers of DonorNet start with the same weights",
            "Do not seed anew per layer.",
        )
    expect(
        answer["global stream untouched"] is True,
        "building with a generator moved torch's global random stream",
        "No torch.manual_seed, and no random function without generator=.",
    )
    first, again, second = (
        assert_shape(weight, (5, 7), what="weight of Dense(7, 5)") for weight in answer["without generator"]
    )
    assert_close(again, first, what="weight of Dense without generator, after the same torch.manual_seed")
    expect(
        not torch.equal(first, second),
        "two Dense layers in a row have the same weight",
        "Do not seed inside of __init__.",
    )


@pytest.mark.shapes(points=1, structure=True)
def test_errors(student, generator):
    """Bad sizes, gains, activations and shapes are ValueErrors"""
    for sizes in ((0, 4, 1.0), (3, 0, 1.0), (-1, 4, 1.0), (3, 4, 0.0), (3, 4, -2.0)):
        called = "Dense({}, {}, gain={})".format(*sizes)
        assert_raises(student, ValueError, build_dense, *sizes, when=f"{called} is built")
    for shape in ((5, 6), (5, 8), (7, 5), (2, 7, 1)):
        when = f"Dense(7, 3) is called with x of shape {shape}"
        assert_raises(student, ValueError, call_dense, 7, randn(generator, *shape), when=when)
    for sizes in ((0, 4, 3, "relu"), (9, 0, 3, "relu"), (9, 4, 1, "tanh"), (9, 4, 3, "leaky_relu"), (9, 4, 3, "")):
        called = "DonorNet({}, {}, {}, activation={!r})".format(*sizes)
        assert_raises(student, ValueError, build_net, *sizes, when=f"{called} is built")
    for shape in ((5, 7, 4), (5, 4, 8), (5, 3, 7), (4, 7), (5, 28)):
        when = f"DonorNet(length=7) is called with x of shape {shape}"
        assert_raises(student, ValueError, call_net, 7, randn(generator, *shape), when=when)


@pytest.mark.gradients(points=1)
def test_gradients_of_dense(student, generator):
    """x, weight and bias of Dense receive the gradients of an affine map"""
    x, weight, bias = (randn(generator, *shape, dtype=torch.float64) for shape in ((2, 3, 7), (5, 7), (5,)))
    cotangent = randn(generator, 2, 3, 5, dtype=torch.float64)
    rows, directions = x.flatten(0, 1), cotangent.flatten(0, 1)
    assert_close(
        student.run(dense_gradients, x, weight, bias, cotangent),
        [cotangent @ weight, directions.mT @ rows, directions.sum(dim=0)],
        what="gradients of x, weight and bias",
        help="None means that the graph was cut: a .data, a detach, a no_grad, or no nn.Parameter.",
    )
    small = [x[0, :2], weight[:3], bias[:3]]
    assert_gradcheck(student, dense_as_function, small, generator=generator, what="Dense at given weights")


@pytest.mark.gradients(points=1)
def test_every_layer_of_donor_net_learns(student, reference, generator):
    """At equal weights all gradients equal the reference's, at a fresh start none is zero, and the background gets none"""
    x, labels = bases(generator, 48, 9, unknown=True), torch.randint(2, (48,), generator=generator).float()
    for activation, depth in (("relu", 5), ("tanh", 3)):
        # float64: a rounding error in float32 would now and then put a unit on the other side of the ReLU's kink.
        inputs = random_weights(generator, 9, 24, depth, torch.float64), x.double(), labels.double(), activation
        assert_close(
            student.run(net_gradients, *inputs),
            reference.run(net_gradients, *inputs),
            what=f"gradients, depth {depth}, {activation}",
            reduction=48 * depth,
            help="Zero or None means that the graph was cut above this layer. The background is a buffer.",
        )
    answer = student.run(fresh_gradient_sizes, x, labels, *draw_seeds(generator, 1))
    sizes = answer["sizes"]
    assert_close(len(sizes), 16, what="number of gradients of DonorNet()")
    expect(
        all(isinstance(size, float) and size > 0 for size in sizes),
        f"largest entries of the {len(sizes)} gradients after a fresh start: {sizes}",
        "A zero: no signal passes the layers above (or below) it. Weights that are all zero, or far too small, do this.",
    )
    expect(answer["background"] is False, "background requires a gradient", "A constant is a buffer, not a parameter.")


@pytest.mark.gradients(points=1)
def test_start_of_dense_preserves_the_signal(student, generator):
    """Fresh weights have mean 0 and std gain / sqrt(in_features), biases are 0, and 30 layers carry a signal"""
    for in_features, out_features, gain in ((256, 512, 1.0), (384, 96, 2.5)):
        name = f"Dense({in_features}, {out_features}, gain={gain})"
        answer = student.run(dense_start, in_features, out_features, gain, *draw_seeds(generator, 1))
        weight = assert_shape(answer[0], (out_features, in_features), what=f"weight of {name}").double()
        std = gain / math.sqrt(in_features)
        # The standard error of the std is 0.2 % and 0.4 % for a normal, less for a uniform distribution: 7 of them and more.
        # Glorot's rule is off by 18 % and 26 %, fan-out by 29 % and 100 %, nn.Linear's default by 42 % at gain 1.
        expect(
            abs(weight.std().item() / std - 1) < 0.03,
            f"weight of {name}: expected a standard deviation of {std:.4g}, got {weight.std().item():.4g}",
            "gain / sqrt(in_features): each output sums over the inputs. Uniform on (-b, b) has std b / sqrt(3).",
        )
        standard_error = std / math.sqrt(weight.numel())
        expect(
            abs(weight.mean().item()) < 5 * standard_error,
            f"weight of {name}: expected a mean of 0, got {weight.mean().item():.4g} (standard error {standard_error:.2g})",
        )
        assert_close(answer[1], torch.zeros(out_features), what=f"bias of {name}", help="A bias starts at zero.")

    x = 3 * randn(generator, 16, 256)
    squares = student.run(signal, x, math.sqrt(2), 30, draw_seeds(generator, NETS))
    squares = assert_shape(squares, (NETS, 2), dtype=torch.float64, what="mean squares of 30 layers of 256")
    # A ReLU halves the second moment, its gain doubles it. Right answers on 10 seeds: 0.988..1.02 behind the first layer,
    # 0.53..1.06 from there to the last. nn.Linear's default 0.17 and 5e-4; Glorot's rule is right where layers are square.
    first = geometric_mean(squares[:, 0]) / x.square().mean().item()
    expect(
        0.9 < first < 1.1,
        f"a layer with gain sqrt(2) and its ReLU multiply the mean square of their input by {first:.3g} instead of 1",
        "Draw all weights independently, with std gain / sqrt(in_features).",
    )
    growth = geometric_mean(squares[:, 1] / squares[:, 0])
    expect(
        0.25 < growth < 4,
        f"30 layers with ReLU multiply the mean square of the signal by {growth:.3g} (allowed: 0.25 to 4)",
        "Draw all weights independently, with std gain / sqrt(in_features).",
    )


@pytest.mark.gradients(points=1)
def test_start_of_donor_net_preserves_the_gradient(student, generator):
    """Every layer of a fresh DonorNet has the gain of its activation, the last has gain 1, and d logit / dx is of size 1"""
    for activation, gain in GAINS.items():
        squares = student.run(net_start, activation, draw_seeds(generator, NETS))
        squares = assert_shape(squares, (NETS, 8), what="mean squares of the weights of 8 layers")
        fan_in = torch.tensor([36.0] + 7 * [64.0])
        ratio = (squares.mean(dim=0) * fan_in).sqrt() / torch.tensor(7 * [gain] + [1.0])
        # Standard errors: 2 % in the last layer (64 weights x 20 networks), below 0.4 % in the others. A wrong gain is off
        # by 29 % (1 for sqrt 2) and 15 % (sqrt 2 for 5/3) at least.
        for i, one in enumerate(ratio.tolist()):
            expect(
                abs(one - 1) < 0.1,
                f"{activation}: the weights of layer {i + 1} of 8 have {one:.3g} times the expected standard deviation",
                "nn.init.calculate_gain(activation) for the hidden layers, 1 for the last.",
            )
    norms = student.run(input_gradient_norms, bases(generator, 6, 9), draw_seeds(generator, NETS))
    norms = assert_shape(norms, (NETS, 6), what="|d logit / d x| of 6 sequences")
    size = geometric_mean(norms)
    # Theory: 1 for the root mean square of wide networks; the geometric mean is lower. Right answers on 10 seeds 0.68..0.96.
    # nn.Linear's default 7e-4, std 0.01 1e-9, std 1 1e7, gain 1 instead of sqrt(2) 0.07, fan-out 4..5, no activation 8..10.
    expect(
        0.4 < size < 2.5,
        f"|d logit / d x| of a fresh network is {size:.3g} (allowed: 0.4 to 2.5)",
        "Each layer must keep the size of the signal: std gain / sqrt(in_features).",
    )


@pytest.mark.convergence(points=4)
def test_plain_sgd_moves_eight_layers(student, run_seed, generator, figures):
    """600 steps of plain SGD find the pairs of bases that no weight matrix sees"""
    task = splice.donors(run_seed)
    answer = student.run(trained_logits, task.train, task.test_inputs, 600, *draw_seeds(generator, 1))
    predicted = assert_shape(
        answer["logits"], (len(task.test_inputs),), what="logits of held-out sites",
        help="NaN: the network exploded. Is its start too large? Is there an activation between the layers?",
    )  # fmt: skip
    figures.curve("Training loss", {"yours": answer["losses"]}, unit="nats", limit=task.optimum["log_loss"])
    assert_gap_closed(
        metrics.auroc(predicted, task.test_targets),
        task.chance["auroc"],
        task.optimum["auroc"],
        bar=0.70,  # right answers 0.86..0.95; nn.Linear's default start 0.02..0.42; std 0.01, std 1, no activation < 0.07
        what="held-out AUROC",
        help="Near 0: does the signal reach the last layer (initial std), and is there an activation between the layers?",
    )


@pytest.mark.throughput(points=2)
def test_dense_on_a_large_batch(student, reference, generator, figures):
    """Dense(36, 64) on 4096 rows, forward and backward, within 2.5 times the reference's CPU time"""
    assert_fast(
        student,
        reference,
        forward_backward,
        lambda: (randn(generator, 4096, 36), randn(generator, 64, 36), randn(generator, 64), 5),
        bar=2.5,  # right answers 0.7..1.3 here; a loop over outputs 5..11, over rows 33..54, broadcast and sum 24..38
        figures=figures,
        reduction=4096,
        what="Dense on 4096 rows, forward and backward",
        help="One matrix product: no loop over rows or outputs, no tensor of rows x outputs x inputs.",
    )

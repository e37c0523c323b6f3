"""Hidden suite of 3.6 Multi-task Learning."""

import math

import pytest
import torch
import torch.nn.functional as F

from fixtures import metrics, multitask
from fixtures.dna import one_hot_tokens
from fixtures.weights import load_in_order
from grader.checks import (
    Failure,
    assert_close,
    assert_fast,
    assert_gap_closed,
    assert_raises,
    assert_shape,
    describe,
    expect,
)

CHANNELS, WIDTH, HIDDEN, TISSUES = 6, 5, 7, 3
PARTS = ("trunk", "expression_head", "tissue_head")
MISSING = -100


# Probes: run beside the submission, know no answer.


def structure(exercise, sizes, x):
    net = exercise.MultiTaskNet(*sizes).eval()
    calls = {}

    def count(module, *_):
        calls[module] = calls.get(module, 0) + 1

    for module in net.modules():
        if list(module.parameters(recurse=False)):  # modules without parameters may be shared
            module.register_forward_hook(count)
    net(x)
    return {
        "shapes": {part: [tuple(p.shape) for p in getattr(net, part).parameters()] for part in PARTS},
        "statistics": [tuple(b.shape) for b in net.trunk.buffers() if b.is_floating_point()],
        "all": len(list(net.parameters())),
        "calls": max([calls.get(module, 0) for module in net.trunk.modules()]),
    }


def built_by_keyword(exercise):
    net = exercise.MultiTaskNet(channels=2, width=3, hidden=4, tissues=5)
    return [tuple(p.shape) for p in net.tissue_head.parameters()]


def new_loss(exercise):
    return dict(exercise.UncertaintyWeightedLoss().named_parameters())


def build(exercise, weights):
    conv, linear, tissue = weights["trunk"][0], weights["trunk"][4], weights["tissue_head"][0]
    net = exercise.MultiTaskNet(len(conv), conv.shape[2], len(linear), len(tissue)).to(conv.dtype)
    for part in PARTS:
        load_in_order(getattr(net, part), weights[part])
    statistics = [b for b in net.trunk.buffers() if b.is_floating_point()]
    with torch.no_grad():
        for buffer, value in zip(statistics, weights["statistics"], strict=False):
            buffer.copy_(value)
    return net


def outputs_and_features(exercise, weights, x, training):
    net = build(exercise, weights).train(training)
    outputs = net(x)
    return {"outputs": outputs, "features": net.trunk(x)}


def weight_gradients(exercise, weights, x, cotangents, training):
    net = build(exercise, weights).train(training)
    expression, tissue = net(x)
    ((expression * cotangents[0]).sum() + (tissue * cotangents[1]).sum()).backward()
    return {part: [p.grad for p in getattr(net, part).parameters()] for part in PARTS}


def randomised(net):
    """Weights that do not depend on the initialisation."""
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(std=0.3)
    return net.eval()


def loss_at(exercise, log_variance):
    loss = exercise.UncertaintyWeightedLoss().to(log_variance.dtype)
    with torch.no_grad():
        loss.log_variance.copy_(log_variance)
    return loss


def losses(exercise, x, tissues, log_variance, cases):
    net = randomised(exercise.MultiTaskNet(tissues=tissues).to(x.dtype))
    loss = loss_at(exercise, log_variance)
    outputs = net(x)
    values = [loss(outputs, expression, tissue) for expression, tissue in cases]
    return {"outputs": outputs, "losses": values, "targets": cases}


def loss_of(exercise, outputs, expression, tissue):
    return exercise.UncertaintyWeightedLoss()(outputs, expression, tissue)


def log_variance_gradients(exercise, x, log_variance, cases):
    net = randomised(exercise.MultiTaskNet().to(x.dtype))
    loss = loss_at(exercise, log_variance)
    outputs = net(x)
    gradients = []
    for expression, tissue in cases:
        loss.zero_grad()
        loss(outputs, expression, tissue).backward(retain_graph=True)
        gradients.append(none_is_zero(loss.log_variance))
    return {"outputs": outputs, "gradients": gradients}


def log_variance_gradient(exercise, outputs, expression, tissue, log_variance):
    loss = loss_at(exercise, log_variance)
    loss(outputs, expression, tissue).backward()
    return none_is_zero(loss.log_variance)


def none_is_zero(parameter):
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()


def task_gradients(exercise, x, cases):
    """Gradients of net and input for every (log_variance, expression, tissue), all at the same weights."""
    net = randomised(exercise.MultiTaskNet().to(x.dtype))
    x.requires_grad_()
    found = []
    for log_variance, expression, tissue in cases:
        net.zero_grad()
        x.grad = None
        loss_at(exercise, log_variance)(net(x), expression, tissue).backward()
        gradients = {part: [none_is_zero(p) for p in getattr(net, part).parameters()] for part in PARTS}
        found.append({**gradients, "x": none_is_zero(x)})
    return found


def build_net(exercise, *sizes):
    exercise.MultiTaskNet(*sizes)


def net_on(exercise, x):
    exercise.MultiTaskNet()(x)


def fit_with(exercise, train, options):
    exercise.fit_multitask(train, generator=torch.Generator().manual_seed(0), **options)


def small_fits(exercise, train):
    """Two fits with the same generator but another global stream, one with another generator, one with none."""
    fits = {}
    for name, seed, stream in (("first", 7, 1), ("second", 7, 2), ("other", 8, 1)):
        torch.manual_seed(stream)
        before = torch.get_rng_state()
        generator = torch.Generator().manual_seed(seed)
        net, loss, history = exercise.fit_multitask(train, epochs=2, batch_size=32, generator=generator)
        fits[name] = {
            "weights": [*net.parameters(), *loss.parameters()],
            "untouched": torch.equal(before, torch.get_rng_state()),
            "train_loss": history.train_loss,
            "lr": history.lr,
        }
    exercise.fit_multitask(train, epochs=1)
    return {"fits": fits, "train": train}


def trained(exercise, train, inputs, options):
    net, loss, history = exercise.fit_multitask(train, generator=torch.Generator().manual_seed(0), **options)
    net.eval()
    with torch.no_grad():
        return {"outputs": net(inputs), "log_variance": loss.log_variance, "train_loss": history.train_loss}


def net_forward_backward(exercise, weights, x):
    net = build(exercise, weights).eval()
    expression, tissue = net(x)
    (expression.square().mean() + tissue.square().mean()).backward()
    return {"expression": expression, "tissue": tissue, "gradient": none_is_zero(next(net.trunk.parameters()))}


def loss_forward_backward(exercise, weights, x, expression, tissue):
    net, loss = build(exercise, weights).eval(), exercise.UncertaintyWeightedLoss()
    outputs = net(x)
    value = loss(outputs, expression, tissue)
    value.backward()
    return {"expression": outputs[0], "loss": value, "gradient": none_is_zero(loss.log_variance)}


# Inputs: drawn on the trusted side from the seed.


def randn(generator, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=generator, dtype=dtype)


def dna(generator, batch, length, dtype=torch.float32):
    """One-hot DNA with a few N."""
    tokens = torch.randint(4, (batch, length), generator=generator)
    return one_hot_tokens(tokens.where(torch.rand(batch, length, generator=generator) > 0.05, 4)).to(dtype)


def random_weights(generator, channels=CHANNELS, width=WIDTH, hidden=HIDDEN, tissues=TISSUES, dtype=torch.float32):
    """Weights of each part, in order, and running mean and variance of the normalisation."""

    def drawn(*shape):
        return randn(generator, *shape, dtype=dtype) / math.sqrt(max(1, math.prod(shape[1:])))

    return {
        "trunk": [
            *(drawn(channels, 4, width), drawn(channels)),
            *(1 + 0.3 * drawn(channels), 0.5 * drawn(channels)),
            *(drawn(hidden, 2 * channels), drawn(hidden)),
        ],
        "expression_head": [drawn(1, hidden), drawn(1)],
        "tissue_head": [drawn(tissues, hidden), drawn(tissues)],
        "statistics": [0.5 * drawn(channels), 0.5 + drawn(channels).square()],
    }


def log_variances(generator, dtype):
    """Two that differ, both positive: then every term of the loss is, and none cancels another."""
    return torch.tensor([0.3, 0.9], dtype=dtype) + 0.4 * torch.rand(2, generator=generator, dtype=dtype)


def labels(generator, expressed, annotated, batch, tissues=TISSUES, dtype=torch.float32):
    """Targets of which only the rows `expressed` have an expression, and only `annotated` a tissue."""
    expression = torch.full((batch,), torch.nan, dtype=dtype)
    expression[expressed] = 2 * randn(generator, len(expressed), dtype=dtype)
    tissue = torch.full((batch,), MISSING)
    tissue[annotated] = torch.randint(tissues, (len(annotated),), generator=generator)
    return expression, tissue


PATTERNS = {  # which of 9 rows have an expression, which a tissue
    "every label is there": (range(9), range(9)),
    "some labels are missing": ([0, 2, 3, 4, 8], [2, 3, 7]),
    "no row has both labels": ([1, 6], [0, 3, 4, 5, 8]),
    "one label of each kind is there": ([5], [5]),
    "no tissue is there": ([1, 2, 3, 8], []),
    "no expression is there": ([], [0, 7]),
    "no label is there": ([], []),
}


# Expectations: the contract, written once more.


def expected_features(weights, x, training=False):
    conv, conv_bias, scale, shift, linear, linear_bias = weights["trunk"]
    mean, variance = (value.clone() for value in weights["statistics"])
    motifs = F.conv1d(x, conv, conv_bias, padding="same")
    found = F.adaptive_max_pool1d(F.batch_norm(motifs, mean, variance, scale, shift, training).relu(), 2)
    return F.linear(found.flatten(1), linear, linear_bias).relu()


def expected_outputs(weights, x, training=False):
    features = expected_features(weights, x, training)
    expression = F.linear(features, *weights["expression_head"])[:, 0]
    return expression, F.linear(features, *weights["tissue_head"])


def task_means(outputs, expression, tissue):
    """MSE and cross-entropy over the observed labels, None where there are none."""
    measured, annotated = ~expression.isnan(), tissue != MISSING
    mse = (outputs[0][measured] - expression[measured]).square().mean() if measured.any() else None
    ce = F.cross_entropy(outputs[1][annotated], tissue[annotated]) if annotated.any() else None
    return mse, ce


def expected_loss(outputs, expression, tissue, log_variance):
    mse, ce = task_means(outputs, expression, tissue)
    loss = torch.zeros((), dtype=log_variance.dtype)
    if mse is not None:
        loss = loss + mse / (2 * log_variance[0].exp()) + log_variance[0] / 2
    if ce is not None:
        loss = loss + ce / log_variance[1].exp() + log_variance[1] / 2
    return loss


def assert_outputs(outputs, batch, tissues=TISSUES, *, dtype=torch.float32, what="the net's answer"):
    """Expression and logits, once they are a pair of the right shapes."""
    if type(outputs) not in (tuple, list) or len(outputs) != 2:
        raise Failure(f"{what}: expected a pair (expression, tissue logits), got {describe(outputs)}")
    expression = assert_shape(
        outputs[0], (batch,), dtype=dtype, what=f"{what}, expression",
        help="squeeze(1) turns (batch, 1) into (batch,); squeeze() would also drop the axis of a batch of one.",
    )  # fmt: skip
    return expression, assert_shape(outputs[1], (batch, tissues), dtype=dtype, what=f"{what}, tissue logits")


def assert_distinct_outputs(outputs, batch, tissues=TISSUES, *, dtype=torch.float32):
    """As `assert_outputs`; what follows is about the loss of these answers, so any net will do that tells rows apart."""
    expression, logits = assert_outputs(outputs, batch, tissues, dtype=dtype)
    rows = torch.cat([expression[:, None], logits], dim=1)
    expect(len(rows.unique(dim=0)) == batch, "different sequences get the same answer from the net")
    return expression, logits


@pytest.mark.shapes(points=1, structure=True)
def test_one_trunk_and_two_heads(student, generator):
    """One trunk that runs once, two linear heads, and two log-variances that start at zero"""
    for sizes in ((16, 9, 32, 3), (CHANNELS, WIDTH, HIDDEN, 5)):
        channels, width, hidden, tissues = sizes
        built = f"MultiTaskNet{sizes}"
        answer = student.run(structure, sizes, dna(generator, 4, 21))
        trunk = [(channels, 4, width), *3 * [(channels,)], (hidden, 2 * channels), (hidden,)]
        expected = {
            "trunk": trunk,
            "expression_head": [(1, hidden), (1,)],
            "tissue_head": [(tissues, hidden), (tissues,)],
        }
        assert_close(
            answer["shapes"], expected, what=f"parameter shapes of {built}",
            help="Trunk: weight and bias of the convolution, the normalisation, the linear layer. Two values per channel.",
        )  # fmt: skip
        assert_close(answer["statistics"], 2 * [(channels,)], what=f"running mean and variance in the trunk of {built}")
        assert_close(
            answer["all"], 10, what=f"number of parameters of {built}",
            help="Six in the trunk, two in each head, nothing else: the heads share *one* trunk.",
        )  # fmt: skip
        assert_close(
            answer["calls"], 1, what="times that the trunk runs in one forward pass",
            help="Compute the features once, and give the same tensor to both heads.",
        )  # fmt: skip
    assert_close(student.run(built_by_keyword), [(5, 4), (5,)], what="tissue_head, built with keyword arguments")
    assert_close(
        student.run(new_loss), {"log_variance": torch.zeros(2)}, what="parameters of a new UncertaintyWeightedLoss",
        help="One nn.Parameter, log_variance, two zeros: a variance of 1 for each task.",
    )  # fmt: skip


@pytest.mark.shapes(points=1)
def test_outputs_follow_from_the_weights(student, generator):
    """Features, expression and logits follow from the weights, for short and odd lengths, one sequence, both float types"""
    for batch, length, tissues, training, dtype in (
        (7, 80, 3, False, torch.float32),
        (5, 79, 3, True, torch.float32),
        (1, 2, 5, False, torch.float32),
        (1, 23, 2, True, torch.float32),
        (6, 12, 3, False, torch.float64),
    ):
        weights, x = random_weights(generator, tissues=tissues, dtype=dtype), dna(generator, batch, length, dtype)
        answer = student.run(outputs_and_features, weights, x, training)
        what = f"{'train' if training else 'eval'} mode, length {length}"
        features = assert_shape(answer["features"], (batch, HIDDEN), dtype=dtype, what=f"{what}, features of the trunk")
        got = assert_outputs(answer["outputs"], batch, tissues, dtype=dtype, what=what)
        # In train mode float32 loses about a digit to the division by the batch's own standard deviation.
        sums = 1000 if training else 100
        assert_close(
            features, expected_features(weights, x, training), what=f"{what}, features", reduction=sums,
            help="Convolution, BatchNorm1d, ReLU, AdaptiveMaxPool1d(2), Flatten, Linear, ReLU: in this order.",
        )  # fmt: skip
        expression, logits = expected_outputs(weights, x, training)
        assert_close(got[0], expression, what=f"{what}, expression", reduction=sums)
        assert_close(got[1], logits, what=f"{what}, tissue logits", reduction=sums, help="Logits: no softmax.")
    strided = dna(generator, 31, 9).permute(2, 1, 0)  # (9, 4, 31), not contiguous
    answer = student.run(outputs_and_features, weights := random_weights(generator), strided, False)
    assert_close(tuple(assert_outputs(answer["outputs"], 9)), expected_outputs(weights, strided), what="strided input")


@pytest.mark.shapes(points=2)
def test_loss_for_every_pattern_of_missing_labels(student, generator):
    """The loss is right for every pattern of missing labels, and leaves the targets alone"""
    for dtype, tissues in ((torch.float32, 3), (torch.float64, 5)):
        x = dna(generator, 9, 17, dtype)
        log_variance = log_variances(generator, dtype)
        cases = [labels(generator, a, b, 9, tissues, dtype) for a, b in PATTERNS.values()]
        order = torch.randperm(9, generator=generator)
        answer = student.run(losses, x, tissues, log_variance, cases)
        outputs = assert_distinct_outputs(answer["outputs"], 9, tissues, dtype=dtype)
        for pattern, got, (expression, tissue) in zip(PATTERNS, answer["losses"], cases, strict=True):
            assert_close(
                got, expected_loss(outputs, expression, tissue, log_variance),
                what=f"the loss when {pattern}",
                help="Each mean is over the observed labels of its own task; a task without labels adds nothing at all.",
            )  # fmt: skip
        assert_close(
            answer["targets"], cases, what="the targets after the call",
            help="The loss writes into its targets: use torch.where or indexing, which make new tensors.",
        )  # fmt: skip
        expression, tissue = cases[1]
        permuted = tuple(part[order] for part in outputs)
        assert_close(
            student.run(loss_of, permuted, expression[order], tissue[order]),
            expected_loss(outputs, expression, tissue, torch.zeros(2, dtype=dtype)),
            what="the loss at log-variances of zero, rows permuted",
        )


@pytest.mark.shapes(points=1, structure=True)
def test_errors(student, generator):
    """Bad sizes, shapes and tissues are ValueErrors"""
    for sizes in ((0, 9, 32, 3), (16, 0, 32, 3), (16, 9, 0, 3), (16, 9, 32, 0), (16, 9, -1, 3)):
        assert_raises(student, ValueError, build_net, *sizes, when=f"MultiTaskNet{sizes} is built")
    for shape in ((4, 20), (2, 5, 20), (2, 20, 4), (1, 2, 4, 20)):
        assert_raises(student, ValueError, net_on, randn(generator, *shape), when=f"x has shape {shape}")
    expression, tissue = randn(generator, 4), torch.tensor([0, 2, MISSING, 1])
    outputs = randn(generator, 4), randn(generator, 4, TISSUES)
    for bad in (TISSUES, -1, 255):
        tissues = torch.tensor([0, 1, bad, 2])
        assert_raises(
            student,
            ValueError,
            loss_of,
            outputs,
            expression,
            tissues,
            when=f"a tissue is {bad}, and there are {TISSUES}",
        )
    column = outputs[0][:, None], outputs[1]
    for what, *inputs in (
        ("the predicted expression is (4, 1)", column, expression, tissue),
        ("predicted and measured expression are (4, 1)", column, expression[:, None], tissue),
        ("the measured expression is (4, 1)", outputs, expression[:, None], tissue),
        ("expression has 1 row and the net's answer has 4", outputs, expression[:1], tissue),
        ("tissue has 3 rows and the net's answer has 4", outputs, expression, tissue[:3]),
        ("tissue is (4, 1)", outputs, expression, tissue[:, None]),
    ):
        assert_raises(
            student, ValueError, loss_of, *inputs, when=what, help="Nothing may broadcast: compare the shapes first."
        )
    train = dna(generator, 6, 12), randn(generator, 6), torch.zeros(6, dtype=torch.int64)
    for options in ({"epochs": 0}, {"batch_size": 0}):
        assert_raises(student, ValueError, fit_with, train, options, when=f"fit_multitask gets {options}")
    assert_raises(
        student, ValueError, fit_with, (*train[:2], train[2][:5]), {}, when="train holds 6 sequences and 5 tissues"
    )


@pytest.mark.shapes(points=1, structure=True)
def test_training_is_reproducible(student, generator):
    """Training depends on its generator alone, changes no input, and reports one loss and one rate per epoch"""
    x = dna(generator, 70, 20)
    expression, tissue = labels(generator, range(0, 70, 4), range(1, 70, 3), 70)
    answer = student.run(small_fits, (x, expression, tissue))
    first, second, other = answer["fits"].values()
    seeded_help = "Build and train inside of `with seeded(generator):`."
    expect(
        all(one["untouched"] for one in (first, second, other)), "torch's global random stream has moved", seeded_help
    )
    assert_close(
        second["weights"], first["weights"], what="weights for the same state of the generator", help=seeded_help
    )
    expect(
        not all(map(torch.equal, other["weights"], first["weights"])),
        "another state of the generator gives the same weights",
        seeded_help,
    )
    assert_close(
        answer["train"],
        (x, expression, tissue),
        what="train after the call",
        help="The function writes into its inputs.",
    )
    for name in ("train_loss", "lr"):
        values = first[name]
        expect(
            isinstance(values, list)
            and [type(v) for v in values] == [float, float]
            and all(map(math.isfinite, values)),
            f"history.{name} after 2 epochs: expected two floats, got {describe(values)}",
            "Append once per epoch; loss.item() is a float without a graph.",
        )


@pytest.mark.gradients(points=1)
def test_weights_receive_the_gradient_of_the_contract(student, generator):
    """At equal weights every parameter of the net receives the right gradient, in train mode and in eval mode"""
    for training in (True, False):
        weights = random_weights(generator, dtype=torch.float64)
        x = dna(generator, 8, 30, torch.float64)
        cotangents = randn(generator, 8, dtype=torch.float64), randn(generator, 8, TISSUES, dtype=torch.float64)
        tracked = {part: [w.clone().requires_grad_() for w in weights[part]] for part in PARTS}
        outputs = expected_outputs({**weights, **tracked}, x, training)
        wanted = torch.autograd.grad(outputs, [w for part in PARTS for w in tracked[part]], cotangents)
        expected = {part: list(wanted[i:j]) for part, i, j in zip(PARTS, (0, 6, 8), (6, 8, 10), strict=True)}
        if training:  # the batch mean takes the convolution's bias away again: its gradient is rounding
            expected["trunk"][1] = torch.zeros_like(expected["trunk"][1])
        got = student.run(weight_gradients, weights, x, cotangents, training)
        expect(isinstance(got, dict) and list(got) == list(PARTS), "no gradients came back")
        what = f"gradients in {'train' if training else 'eval'} mode"
        if training:
            bias = assert_shape(
                got["trunk"][1], (CHANNELS,), dtype=torch.float64, what=f"{what}, bias of the convolution"
            )
            expect(
                bool((bias.abs() < 1e-9).all()),
                "the convolution's bias has a gradient in train mode: no batch statistics",
            )
            got["trunk"][1] = torch.zeros_like(bias)
        assert_close(
            got, expected, what=what, reduction=1000,
            help="None or zero means that the graph is cut before this layer: a detach, a no_grad, an .item().",
        )  # fmt: skip


@pytest.mark.gradients(points=1)
def test_gradient_of_the_log_variances(student, generator):
    """The log-variances receive (1 - exp(-s0) MSE) / 2 and 1/2 - exp(-s1) CE, and 0 from a task without labels"""
    x = dna(generator, 9, 17, torch.float64)
    log_variance = log_variances(generator, torch.float64)
    cases = [labels(generator, a, b, 9, dtype=torch.float64) for a, b in PATTERNS.values()]
    answer = student.run(log_variance_gradients, x, log_variance, cases)
    outputs = assert_distinct_outputs(answer["outputs"], 9, dtype=torch.float64)
    for pattern, got, (expression, tissue) in zip(PATTERNS, answer["gradients"], cases, strict=True):
        mse, ce = task_means(outputs, expression, tissue)
        weight = (-log_variance).exp()
        expected = torch.zeros(2, dtype=torch.float64)
        if mse is not None:
            expected[0] = (1 - weight[0] * mse) / 2
        if ce is not None:
            expected[1] = 0.5 - weight[1] * ce
        assert_close(
            got, expected, what=f"gradient of log_variance when {pattern}",
            help="The derivative of 1/2 exp(-s) MSE + 1/2 s, and of exp(-s) CE + 1/2 s; nothing for a task without labels.",
        )  # fmt: skip
    expression, tissue = cases[1]
    mse, ce = task_means(outputs, expression, tissue)
    stationary = torch.stack([mse.log(), (2 * ce).log()])
    at_rest = student.run(log_variance_gradient, outputs, expression, tissue, stationary)
    assert_shape(at_rest, (2,), dtype=torch.float64, what="gradient of log_variance")
    expect(
        bool((at_rest.abs() < 1e-9).all()),
        f"at s0 = ln MSE and s1 = ln(2 CE) the log-variances should be at rest, their gradient is {at_rest.tolist()}",
    )


@pytest.mark.gradients(points=1)
def test_each_label_teaches_its_head_and_the_trunk(student, generator):
    """The gradient of the trunk is the weighted sum of both tasks' gradients, that of a head comes from its own task"""
    x, log_variance = dna(generator, 9, 17, torch.float64), log_variances(generator, torch.float64)
    expression, tissue = labels(generator, [0, 2, 3, 4, 8], [1, 2, 3, 5, 6, 7], 9, dtype=torch.float64)
    at_zero, no_tissue = torch.zeros(2, dtype=torch.float64), torch.full_like(tissue, MISSING)
    no_expression = torch.full_like(expression, torch.nan)
    cases = [(log_variance, expression, tissue), (at_zero, expression, no_tissue), (at_zero, no_expression, tissue)]
    both, first, second = (as_gradients(one) for one in student.run(task_gradients, x, cases))
    for name, alone in (("expression", first), ("tissue", second)):
        expect(
            all(bool((g != 0).any()) for g in alone["trunk"]),
            f"the {name} labels give some layer of the trunk no gradient",
            "Neither task may be detached from the trunk.",
        )
    for name, alone in (("tissue_head", first), ("expression_head", second)):
        expect(
            all(bool((g == 0).all()) for g in alone[name]), f"{name} receives a gradient from the other task's labels"
        )
    weight = (-log_variance).exp()
    for part in (*PARTS, "x"):
        expected = [weight[0] * a + weight[1] * b for a, b in zip(first[part], second[part], strict=True)]
        assert_close(
            both[part], expected, what=f"gradient of {part} with both tasks, from those of each task",
            help="exp(-s) weights the whole gradient of its task, and 1/2 s adds nothing to it.",
        )  # fmt: skip
    expect(
        all(bool((row != 0).any()) for row in both["x"][0]),
        "every sequence has a label, but some of them have no influence on the loss",
    )


def as_gradients(answer):
    """Gradients of the parts and of the input, once they are tensors of the right shapes."""
    shapes = {
        "trunk": [(16, 4, 9), (16,), (16,), (16,), (32, 32), (32,)],
        "expression_head": [(1, 32), (1,)],
        "tissue_head": [(3, 32), (3,)],
    }
    for part, expected in shapes.items():
        expect(
            len(answer[part]) == len(expected), f"{part} has {len(answer[part])} parameters instead of {len(expected)}"
        )
        for got, shape in zip(answer[part], expected, strict=True):
            assert_shape(got, shape, dtype=torch.float64, what=f"a gradient of {part}")
    return {**answer, "x": [answer["x"]]}


@pytest.mark.gradients(points=1)
def test_unlabelled_sequences_contribute_nothing(student, generator):
    """In eval mode a sequence contributes exactly when it has a label; without any label all gradients are zero"""
    x, log_variance = dna(generator, 9, 17, torch.float64), log_variances(generator, torch.float64)
    expressed, annotated = [0, 2, 8], [2, 3, 7]
    cases = [
        (log_variance, *labels(generator, a, b, 9, dtype=torch.float64)) for a, b in ((expressed, annotated), ([], []))
    ]
    some, none = (as_gradients(one) for one in student.run(task_gradients, x, cases))
    influence = some["x"][0].abs().amax(dim=(1, 2))
    labelled = torch.tensor([row in {*expressed, *annotated} for row in range(9)])
    expect(bool((influence[~labelled] == 0).all()), "sequences without any label have an influence on the loss")
    expect(bool((influence[labelled] > 0).all()), "sequences with a label have no influence on the loss")
    for part, gradients in none.items():
        expect(
            all(bool((g == 0).all()) for g in gradients),
            f"no label is there, but {part} receives a gradient",
            "A batch without labels must change nothing.",
        )


@pytest.mark.convergence(points=3)
def test_learns_both_tasks_from_a_quarter_of_the_labels(student, run_seed, figures):
    """From a quarter of the labels, both predictions close a good part of their gap between chance and optimum"""
    task = multitask.enhancers(run_seed)
    answer = student.run(trained, task.train, task.test_inputs, {})
    expression, logits = assert_outputs(answer["outputs"], len(task.test_inputs), what="held-out predictions")
    if isinstance(answer["train_loss"], list):
        figures.curve("Training loss", {"yours": answer["train_loss"]})
    assert_gap_closed(
        metrics.mse(expression, task.test_expression),
        task.chance["mse"],
        task.optimum["mse"],
        bar=0.25,  # right answers 0.44..0.82 on 38 seeds; shuffled apart -0.03..0; missing counted as zero below -1
        what="held-out mean squared error of the expression",
        help="Below 0: are missing labels counted as zeros? At 0: do sequences and labels still belong together?",
    )
    assert_gap_closed(
        metrics.log_loss(logits, task.test_tissue),
        task.chance["cross_entropy"],
        task.optimum["cross_entropy"],
        bar=0.57,  # right answers 0.69..0.95 on 38 seeds; softmax in the head, or trunk detached, 0.24..0.46; no tissue < 0.05
        what="held-out cross-entropy of the tissue",
        help="Near a half: is there a softmax in the head? Lower: do the tissue labels reach the trunk?",
    )


@pytest.mark.convergence(points=1)
def test_training_moves_the_log_variances(student, run_seed):
    """One epoch of training moves both log-variances away from zero"""
    task = multitask.enhancers(run_seed, n=640, test=20)
    answer = student.run(trained, task.train, task.test_inputs, {"epochs": 1})
    assert_distinct_outputs(answer["outputs"], 20)
    log_variance = assert_shape(answer["log_variance"], (2,), what="log_variance after training")
    expect(
        bool((log_variance != 0).all()),
        f"log_variance after one epoch: {log_variance.tolist()}, as at the start",
        "The loss is a module with a parameter: the optimizer needs net.parameters() *and* loss_fn.parameters().",
    )


@pytest.mark.throughput(points=1)
def test_net_takes_the_whole_batch_at_once(student, reference, generator, figures):
    """The net reads 800 sequences, forward and backward, within 5 times the reference's CPU time"""
    assert_fast(
        student,
        reference,
        net_forward_backward,
        lambda: (random_weights(generator, 16, 9, 32), dna(generator, 800, 20)),
        bar=5,  # right answers 0.9..1.1, the trunk twice 1.7; a loop over the sequences 20
        figures=figures,
        reduction=800 * 20,
        what="forward and backward of 800 sequences",
        help="A layer takes the whole batch at once: no loop over sequences.",
    )


@pytest.mark.throughput(points=1)
def test_loss_takes_the_whole_batch_at_once(student, reference, generator, figures):
    """Net and loss of 2000 short sequences, forward and backward, within 5 times the reference's CPU time"""

    def fresh():
        observed = [torch.rand(2000, generator=generator) < 0.5 for _ in range(2)]
        targets = labels(generator, *(mask.nonzero()[:, 0] for mask in observed), 2000)
        return random_weights(generator), dna(generator, 2000, 3), *targets

    assert_fast(
        student,
        reference,
        loss_forward_backward,
        fresh,
        bar=5,  # right answers 0.9..1.1; a loop over the rows 19..23
        figures=figures,
        reduction=2000 * 3,
        what="net and loss of 2000 sequences",
        help="A mask selects all observed labels at once: no loop over rows.",
    )

"""Hidden suite of 3.1 Basic MLP."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fixtures import metrics, variants
from fixtures.weights import load_in_order
from grader.checks import assert_close, assert_fast, assert_gap_closed, assert_raises, assert_shape, expect
from grader.probes import modes_of

FEATURES, HIDDEN, CLASSES = 12, 32, 3


# Probes: run beside the submission, know no answer.


def parameter_shapes(exercise, features, hidden, classes):
    return [tuple(p.shape) for p in exercise.BasicMLP(features, hidden, classes).parameters()]


def built_by_keyword(exercise):
    return len(list(exercise.BasicMLP(in_features=4, hidden=6, classes=2).parameters()))


def build(exercise, weights):
    first, last = weights[0], weights[-1]
    model = exercise.BasicMLP(first.shape[1], first.shape[0], last.shape[0]).to(first.dtype)
    load_in_order(model, weights)
    return model


def logits(exercise, weights, x):
    return build(exercise, weights)(x)


def parameter_gradients(exercise, weights, x, cotangent):
    model = build(exercise, weights)
    (model(x) * cotangent).sum().backward()
    return [p.grad for p in model.parameters()]


def cross_entropy_gradients(exercise, weights, x, labels):
    model = build(exercise, weights)
    F.cross_entropy(model(x), labels).backward()
    return [p.grad for p in model.parameters()]


def row_gradient(exercise, weights, x, row):
    x = x.clone().requires_grad_()
    build(exercise, weights)(x)[row].sum().backward()
    return x.grad


def forward_only(exercise, features, x):
    exercise.BasicMLP(features, 8, 3)(x)


def construct(exercise, *sizes):
    exercise.BasicMLP(*sizes)


def probabilities(exercise, weights, x, shift):
    model = build(exercise, weights)
    with torch.no_grad():
        list(model.parameters())[-1].add_(shift)
    result = exercise.predict_proba(model, x)
    return {"values": result, "graph": result.requires_grad}


def modes_around_predict_proba(exercise, x, fail):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(x.shape[1], 6), nn.Dropout(0.5), nn.Linear(6, 3))

        def forward(self, x):
            if fail:
                raise LookupError("a model that fails")
            return self.body(x)

    model = Net()
    model.body[1].eval()  # frozen by hand
    before = modes_of(model)
    if fail:
        try:
            exercise.predict_proba(model, x)
        except LookupError:
            return {"before": before, "after": modes_of(model)}
        return {"before": before, "after": "no exception"}
    first, second = exercise.predict_proba(model.train(), x), exercise.predict_proba(model, x)
    model.body[1].eval()
    exercise.predict_proba(model, x)
    return {"before": before, "after": modes_of(model), "first": first, "second": second}


def trained_logits(exercise, train, test_inputs, steps):
    x, y = train
    model = exercise.BasicMLP(x.shape[1], 64, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    losses = []
    for _ in range(steps):
        rows = torch.randint(len(x), (64,))
        loss = F.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    with torch.no_grad():
        return {"logits": model(test_inputs), "losses": losses}


def forward_backward(exercise, weights, x):
    model = build(exercise, weights)
    output = model(x)
    output.square().mean().backward()
    return {"logits": output, "gradient": next(model.parameters()).grad}


# Inputs: drawn on the trusted side from the seed.


def random_weights(generator, features=FEATURES, hidden=HIDDEN, classes=CLASSES, dtype=torch.float32):
    """Six tensors at which about half of the hidden units and of the logits are negative."""
    shapes = [(hidden, features), (hidden,), (hidden, hidden), (hidden,), (classes, hidden), (classes,)]
    return [
        torch.randn(shape, generator=generator, dtype=dtype) / math.sqrt(shape[-1] if len(shape) > 1 else 4)
        for shape in shapes
    ]


def expected_logits(weights, x):
    first, first_bias, second, second_bias, last, last_bias = weights
    hidden = (x @ first.mT + first_bias).relu()
    return (hidden @ second.mT + second_bias).relu() @ last.mT + last_bias


def randn(generator, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=generator, dtype=dtype)


@pytest.mark.shapes(points=1, structure=True)
def test_six_parameters_in_forward_order(student):
    """Six parameters of the right shapes, in the order of the forward pass"""
    for features, hidden, classes in ((12, 32, 3), (5, 7, 2)):
        expected = [(hidden, features), (hidden,), (hidden, hidden), (hidden,), (classes, hidden), (classes,)]
        assert_close(
            student.run(parameter_shapes, features, hidden, classes),
            expected,
            what=f"parameter shapes of BasicMLP({features}, {hidden}, {classes})",
            help="Layers kept in a plain Python list are invisible to parameters(), and one layer used twice counts once.",
        )
    assert_close(student.run(built_by_keyword), 6, what="number of parameters, built with keyword arguments")


@pytest.mark.shapes(points=2)
def test_logits_follow_from_the_weights(student, generator):
    """The logits are Linear-ReLU-Linear-ReLU-Linear of the input, for every batch size and both float types"""
    for batch, classes, dtype in ((7, 3, torch.float32), (1, 5, torch.float32), (4, 2, torch.float64)):
        weights = random_weights(generator, classes=classes, dtype=dtype)
        x = 2 * randn(generator, batch, FEATURES, dtype=dtype)
        answer = assert_shape(student.run(logits, weights, x), (batch, classes), dtype=dtype, what="logits")
        assert_close(
            answer,
            expected_logits(weights, x),
            what="logits",
            reduction=HIDDEN,
            help="A ReLU after each *hidden* layer, nothing after the last: no ReLU, no softmax.",
        )
    strided = randn(generator, FEATURES, 6).mT  # not contiguous
    assert_close(student.run(logits, weights := random_weights(generator), strided), expected_logits(weights, strided))
    empty = student.run(logits, weights, torch.zeros(0, FEATURES))
    assert_shape(empty, (0, CLASSES), what="logits of an empty batch")


@pytest.mark.shapes(points=1)
def test_predict_proba(student, generator):
    """predict_proba is the softmax of the logits over the classes, without a graph"""
    weights, x = random_weights(generator), 2 * randn(generator, 5, FEATURES)
    answer = student.run(probabilities, weights, x, 0.0)
    values = assert_shape(answer["values"], (5, CLASSES), what="probabilities")
    expected = expected_logits(weights, x).softmax(dim=1)
    assert_close(values, expected, what="probabilities", reduction=HIDDEN, help="Softmax over the classes: dim=1.")
    expect(not answer["graph"], "the probabilities carry a graph", "Predict under torch.no_grad().")
    shifted = student.run(probabilities, weights, x, 80.0)["values"]
    assert_close(
        shifted, expected, what="probabilities after adding 80 to every logit", reduction=10_000,
        help="Use Tensor.softmax, which subtracts the largest logit before it exponentiates.",
    )  # fmt: skip


@pytest.mark.shapes(points=1, structure=True)
def test_predict_proba_restores_every_mode(student, generator):
    """predict_proba predicts in eval mode and restores the mode of every submodule"""
    x = randn(generator, 6, 4)
    answer = student.run(modes_around_predict_proba, x, False)
    assert_shape(answer["first"], (6, 3), what="probabilities of a model with dropout")
    assert_close(
        answer["second"], answer["first"], what="probabilities of a model with dropout, second call",
        help="Dropout was active: call model.eval() before predicting.",
    )  # fmt: skip
    assert_close(
        answer["after"], answer["before"], what="modes of the submodules (True: train)",
        help="model.train() would also wake a part that was frozen in eval mode: remember each submodule's own mode.",
    )  # fmt: skip
    failing = student.run(modes_around_predict_proba, x, True)
    assert_close(
        failing["after"],
        failing["before"],
        what="modes after a model that raised",
        help="Restore the modes in `finally`.",
    )


@pytest.mark.shapes(points=1, structure=True)
def test_errors(student, generator):
    """Bad sizes and bad shapes are ValueErrors"""
    for sizes in ((0, 8, 3), (12, 0, 3), (12, 8, 0), (12, 8, -1)):
        assert_raises(student, ValueError, construct, *sizes, when=f"BasicMLP{sizes} is built")
    for shape in ((5, 11), (5, 13), (12,), (2, 5, 12)):
        assert_raises(
            student,
            ValueError,
            forward_only,
            12,
            randn(generator, *shape),
            when=f"x has shape {shape} and in_features is 12",
        )


@pytest.mark.gradients(points=2)
def test_every_layer_receives_the_gradient_of_the_reference(student, reference, generator):
    """At equal weights all six gradients equal the reference's, for a random cotangent"""
    # float64: a rounding error in float32 would now and then put a unit on the other side of the ReLU's kink.
    weights = random_weights(generator, dtype=torch.float64)
    x, cotangent = (randn(generator, 9, size, dtype=torch.float64) for size in (FEATURES, CLASSES))
    expected = reference.run(parameter_gradients, weights, x, cotangent)
    expect(all(bool(g.abs().max() > 0) for g in expected), "the reference has a zero gradient: no check")
    assert_close(
        student.run(parameter_gradients, weights, x, cotangent),
        expected,
        what="gradients of the six parameters",
        reduction=HIDDEN,
        help="None or zero means that the graph was cut before this layer: a detach, a no_grad, an .item().",
    )


@pytest.mark.gradients(points=1)
def test_gradient_of_the_last_bias_is_softmax_minus_one_hot(student, generator):
    """Under cross-entropy the last bias receives the batch mean of softmax minus one-hot"""
    weights, x = random_weights(generator), 2 * randn(generator, 8, FEATURES)
    labels = torch.randint(CLASSES, (8,), generator=generator)
    gradients = student.run(cross_entropy_gradients, weights, x, labels)
    one_hot = F.one_hot(labels, CLASSES)
    expected = (expected_logits(weights, x).softmax(dim=1) - one_hot).mean(dim=0)
    assert_close(
        gradients[-1], expected, what="gradient of the last bias", reduction=HIDDEN,
        help="F.cross_entropy applies the softmax itself: give it logits.",
    )  # fmt: skip


@pytest.mark.gradients(points=1)
def test_rows_do_not_mix(student, generator):
    """The logits of one variant depend on that variant alone"""
    weights = random_weights(generator, dtype=torch.float64)
    x = randn(generator, 6, FEATURES, dtype=torch.float64)
    answer = student.run(row_gradient, weights, x, 4)
    gradient = assert_shape(answer, (6, FEATURES), dtype=torch.float64, what="gradient of row 4's logits")
    others = gradient[[0, 1, 2, 3, 5]]
    expect(
        bool((others == 0).all()),
        "the logits of row 4 change with other rows of the batch",
        "Nothing may sum over rows.",
    )
    tracked = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(expected_logits(weights, tracked)[4].sum(), tracked)
    assert_close(gradient, expected, what="gradient of row 4's logits in x", reduction=HIDDEN)


@pytest.mark.convergence(points=4)
def test_learns_what_no_linear_model_can(student, run_seed, figures):
    """400 training steps close most of the gap between guessing and the best possible log-loss"""
    task = variants.opposite_clusters(run_seed)
    answer = student.run(trained_logits, task.train, task.test_inputs, 400)
    predicted = assert_shape(answer["logits"], (len(task.test_inputs), 3), what="logits of held-out variants")
    figures.curve("Training loss", {"yours": answer["losses"]}, unit="nats", limit=task.optimum["log_loss"])
    assert_gap_closed(
        metrics.log_loss(predicted, task.test_targets),
        task.chance["log_loss"],
        task.optimum["log_loss"],
        bar=0.88,  # right answers 0.943..0.971 on 10 seeds; a softmax inside 0.49..0.52; no activation below 0.01
        what="held-out log-loss",
        help="Near 0: is there an activation between the layers? Near a half: is the softmax applied twice?",
    )


@pytest.mark.throughput(points=2)
def test_forward_and_backward_of_a_large_batch(student, reference, generator, figures):
    """2048 variants, forward and backward, within 4 times the reference's CPU time"""
    assert_fast(
        student,
        reference,
        forward_backward,
        lambda: (random_weights(generator, hidden=64), randn(generator, 2048, FEATURES)),
        bar=4,  # computing everything twice 1.4x; a loop over the rows 145x
        figures=figures,
        reduction=2048 * 3,
        what="forward and backward of 2048 variants",
        help="A layer takes the whole batch at once: no loop over rows.",
    )

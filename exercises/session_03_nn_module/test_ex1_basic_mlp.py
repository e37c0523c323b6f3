"""Visible checks of 3.1: run `pytest test_ex1_basic_mlp.py` as often as you like. The hidden suite checks more."""

import pytest
import torch
import torch.nn.functional as F

from fixtures import metrics, variants
from grader.checks import assert_close, assert_gap_closed, assert_raises, assert_shape, expect


def parameter_shapes(exercise):
    return [tuple(p.shape) for p in exercise.BasicMLP(in_features=12, hidden=32, classes=3).parameters()]


def logits(exercise, x):
    return exercise.BasicMLP(12, 32, 3)(x)


def probabilities(exercise, x):
    return exercise.predict_proba(exercise.BasicMLP(12, 32, 3), x)


def too_few_columns(exercise):
    exercise.BasicMLP(12, 32, 3)(torch.zeros(5, 11))


def gradient_sizes(exercise, x, labels):
    model = exercise.BasicMLP(12, 32, 3)
    F.cross_entropy(model(x), labels).backward()
    return [p.grad.abs().sum().item() for p in model.parameters()]


def trained_logits(exercise, train, test_inputs):
    x, y = train
    model = exercise.BasicMLP(12, 64, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(400):
        rows = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        return model(test_inputs)


def large_batch(exercise, x):
    model = exercise.BasicMLP(12, 64, 3)
    model(x).square().mean().backward()


@pytest.mark.shapes
def test_parameters(student):
    """Six parameters of the right shapes, in the order of the forward pass"""
    expected = [(32, 12), (32,), (32, 32), (32,), (3, 32), (3,)]
    assert_close(student.run(parameter_shapes), expected, what="parameter shapes of BasicMLP(12, 32, 3)")


@pytest.mark.shapes
def test_logits(student, generator):
    """One row of logits per variant; some of them negative"""
    x = 3 * torch.randn(50, 12, generator=generator)
    answer = assert_shape(student.run(logits, x), (50, 3), what="BasicMLP(12, 32, 3)(x) for x of shape (50, 12)")
    expect(
        bool((answer < 0).any()),
        "no logit is negative",
        "Nothing may follow the last linear layer: no ReLU, no softmax.",
    )


@pytest.mark.shapes
def test_probabilities(student, generator):
    """The probabilities of every variant sum to 1"""
    answer = assert_shape(
        student.run(probabilities, torch.randn(7, 12, generator=generator)), (7, 3), what="probabilities"
    )
    assert_close(answer.sum(dim=1), torch.ones(7), what="sums of the rows")


@pytest.mark.shapes
def test_error(student):
    """Eleven columns instead of twelve are a ValueError"""
    assert_raises(student, ValueError, too_few_columns, when="x has 11 columns and in_features is 12")


@pytest.mark.gradients
def test_every_layer_learns(student, generator):
    """All six parameters receive a gradient"""
    x, labels = torch.randn(64, 12, generator=generator), torch.randint(3, (64,), generator=generator)
    sizes = student.run(gradient_sizes, x, labels)
    expect(
        all(size > 0 for size in sizes), f"sizes of the six gradients: {sizes}", "A zero: the graph is cut behind it."
    )


@pytest.mark.convergence
def test_learns_what_no_linear_model_can(student):
    """400 training steps close most of the gap between guessing and the best possible log-loss"""
    task = variants.opposite_clusters(0)
    predicted = assert_shape(student.run(trained_logits, task.train, task.test_inputs), (3000, 3), what="logits")
    loss = metrics.log_loss(predicted, task.test_targets)
    assert_gap_closed(loss, task.chance["log_loss"], task.optimum["log_loss"], bar=0.85, what="held-out log-loss")


@pytest.mark.throughput
def test_takes_the_whole_batch_at_once(student, generator):
    """2048 variants take far less than 64 times the CPU time of 32"""
    small = min(student.timed(large_batch, torch.randn(32, 12, generator=generator))[1] for _ in range(5))
    large = min(student.timed(large_batch, torch.randn(2048, 12, generator=generator))[1] for _ in range(5))
    expect(large < 30 * small, f"2048 rows take {large / small:.0f} times as long as 32", "Do not loop over the rows.")

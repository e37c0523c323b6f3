"""Visible checks of 3.6: run `pytest test_ex6_multitask.py` as often as you like. The hidden suite checks more."""

import pytest
import torch
import torch.nn.functional as F

from fixtures import metrics, multitask
from fixtures.dna import one_hot
from grader.checks import assert_close, assert_gap_closed, assert_raises, assert_shape, expect


def head_shapes(exercise):
    net = exercise.MultiTaskNet(channels=6, width=5, hidden=7, tissues=3)
    parts = {"trunk": net.trunk, "expression_head": net.expression_head, "tissue_head": net.tissue_head}
    return {name: [tuple(p.shape) for p in part.parameters()] for name, part in parts.items()}


def net_outputs(exercise, x):
    return exercise.MultiTaskNet().eval()(x)


def loss_and_gradient(exercise, outputs, expression, tissue):
    loss_fn = exercise.UncertaintyWeightedLoss()
    loss = loss_fn(outputs, expression, tissue)
    loss.backward()
    return {"loss": loss, "gradient": loss_fn.log_variance.grad}


def loss_of(exercise, outputs, expression, tissue):
    return exercise.UncertaintyWeightedLoss()(outputs, expression, tissue)


def trunk_gradient_sizes(exercise, x, expression, tissue):
    net = exercise.MultiTaskNet().eval()
    exercise.UncertaintyWeightedLoss()(net(x), expression, tissue).backward()
    return [0.0 if p.grad is None else p.grad.abs().sum().item() for p in net.trunk.parameters()]


def fitted(exercise, train, test_inputs):
    net, loss, _ = exercise.fit_multitask(train, generator=torch.Generator().manual_seed(0))
    net.eval()
    with torch.no_grad():
        return {"outputs": net(test_inputs), "log_variance": loss.log_variance}


def many_losses(exercise, outputs, expression, tissue):
    for _ in range(10):
        exercise.UncertaintyWeightedLoss()(outputs, expression, tissue)


def targets(generator, batch):
    """Outputs of some net for this many sequences, and labels that are all there."""
    outputs = torch.randn(batch, generator=generator), torch.randn(batch, 3, generator=generator)
    return outputs, torch.randn(batch, generator=generator), torch.randint(3, (batch,), generator=generator)


@pytest.mark.shapes
def test_trunk_and_heads(student):
    """One trunk with six parameters, two linear heads"""
    expected = {
        "trunk": [(6, 4, 5), (6,), (6,), (6,), (7, 12), (7,)],
        "expression_head": [(1, 7), (1,)],
        "tissue_head": [(3, 7), (3,)],
    }
    assert_close(student.run(head_shapes), expected, what="parameter shapes of MultiTaskNet(6, 5, 7, 3)")


@pytest.mark.shapes
def test_outputs(student):
    """One expression and one row of logits per sequence, also for a batch of one"""
    for sequences in (["GATTACAGATTACA"], ["ACGTACGTA", "GGGGGCCCC", "TTTTNNNNA"]):
        batch = len(sequences)
        outputs = student.run(net_outputs, one_hot(sequences))
        expect(isinstance(outputs, tuple) and len(outputs) == 2, "the net returns a pair: expression, tissue logits")
        assert_shape(outputs[0], (batch,), what=f"expression of {batch} sequence(s)", help="squeeze(1), not squeeze().")
        assert_shape(outputs[1], (batch, 3), what=f"tissue logits of {batch} sequence(s)")


@pytest.mark.shapes
def test_loss_with_every_label(student, generator):
    """At log-variances of zero the loss is half of the squared error plus the cross-entropy"""
    outputs, expression, tissue = targets(generator, 6)
    expected = F.mse_loss(outputs[0], expression) / 2 + F.cross_entropy(outputs[1], tissue)
    assert_close(student.run(loss_of, outputs, expression, tissue), expected, what="the loss")


@pytest.mark.shapes
def test_loss_with_missing_labels(student, generator):
    """A missing label counts for nothing, neither in the sum nor in the number of labels"""
    outputs, expression, tissue = targets(generator, 6)
    expected = F.mse_loss(outputs[0][:4], expression[:4]) / 2 + F.cross_entropy(outputs[1][1:], tissue[1:])
    expression[4:], tissue[:1] = torch.nan, -100
    assert_close(
        student.run(loss_of, outputs, expression, tissue),
        expected,
        what="the loss of 4 expressions and 5 tissues",
        help="NaN times 0 is NaN. Each mean has a denominator of its own.",
    )


@pytest.mark.shapes
def test_error(student, generator):
    """A tissue that does not exist is a ValueError"""
    outputs, expression, tissue = targets(generator, 6)
    tissue[2] = 3
    assert_raises(
        student, ValueError, loss_of, outputs, expression, tissue, when="a tissue is 3, and there are 0, 1 and 2"
    )


@pytest.mark.gradients
def test_gradient_of_the_log_variances(student, generator):
    """The derivative by each log-variance, at zero; a task without labels leaves its own alone"""
    outputs, expression, tissue = targets(generator, 6)
    mse, ce = F.mse_loss(outputs[0], expression), F.cross_entropy(outputs[1], tissue)
    answer = student.run(loss_and_gradient, outputs, expression, tissue)
    assert_close(answer["gradient"], torch.stack([(1 - mse) / 2, 0.5 - ce]), what="gradient of log_variance")
    answer = student.run(loss_and_gradient, outputs, expression, torch.full_like(tissue, -100))
    assert_close(answer["loss"], mse / 2, what="the loss without a tissue", help="A mean over nothing is NaN.")
    assert_close(answer["gradient"], torch.stack([(1 - mse) / 2, 0 * mse]), what="gradient without a tissue")


@pytest.mark.gradients
def test_both_tasks_teach_the_trunk(student, generator):
    """Expression labels alone, or tissue labels alone, give every layer of the trunk a gradient"""
    x = one_hot(["ACGTACGTAACC", "GGGGGCCCCATA", "TTTTACGTAGCA", "CAGTCATGACTG"])
    _, expression, tissue = targets(generator, 4)
    for name, *labels in (
        ("expression", expression, torch.full_like(tissue, -100)),
        ("tissue", torch.full_like(expression, torch.nan), tissue),
    ):
        sizes = student.run(trunk_gradient_sizes, x, *labels)
        expect(
            all(size > 0 for size in sizes),
            f"gradients of the trunk from {name} labels alone: {sizes}",
            "A zero or NaN?",
        )


@pytest.mark.convergence
def test_learns_both_tasks(student):
    """From a quarter of the labels, both predictions close a good part of the gap between guessing and the best possible"""
    task = multitask.enhancers(0)
    answer = student.run(fitted, task.train, task.test_inputs)
    expression = assert_shape(answer["outputs"][0], (2000,), what="predicted expression")
    logits = assert_shape(answer["outputs"][1], (2000, 3), what="tissue logits")
    mse, cross_entropy = metrics.mse(expression, task.test_expression), metrics.log_loss(logits, task.test_tissue)
    assert_gap_closed(mse, task.chance["mse"], task.optimum["mse"], bar=0.25, what="held-out mean squared error")
    assert_gap_closed(
        cross_entropy,
        task.chance["cross_entropy"],
        task.optimum["cross_entropy"],
        bar=0.57,
        what="held-out cross-entropy",
    )
    expect(bool((answer["log_variance"] != 0).all()), "log_variance is still zero", "Does the optimizer hold it?")


@pytest.mark.throughput
def test_loss_takes_the_whole_batch_at_once(student, generator):
    """The loss of 3200 sequences takes far less than 100 times the CPU time of 32"""
    small = min(student.timed(many_losses, *targets(generator, 32))[1] for _ in range(5))
    large = min(student.timed(many_losses, *targets(generator, 3200))[1] for _ in range(5))
    expect(large < 30 * small, f"3200 rows take {large / small:.0f} times as long as 32", "Do not loop over the rows.")

"""Visible checks of 3.4: run `pytest test_ex4_batch_normalization.py` as often as you like. The hidden suite checks more."""

import pytest
import torch

from fixtures import histone, metrics
from fixtures.training import predict
from grader.checks import assert_close, assert_gap_closed, assert_raises, assert_shape, expect


def names(exercise):
    layer = exercise.BatchNorm1d(4)
    return {
        "parameters": sorted(name for name, _ in layer.named_parameters()),
        "buffers": sorted(name for name, _ in layer.named_buffers()),
    }


def one_batch(exercise, x):
    layer = exercise.BatchNorm1d(x.shape[1])
    output = layer(x)
    return {
        "output": output,
        "running_mean": layer.running_mean,
        "running_var": layer.running_var,
        "after, in eval mode": layer.eval()(x),
    }


def one_value(exercise):
    exercise.BatchNorm1d(4)(torch.zeros(1, 4))


def gradient(exercise, x, cotangent):
    x.requires_grad_()
    (exercise.BatchNorm1d(x.shape[1])(x) * cotangent).sum().backward()
    return x.grad


def network(exercise, batch_norm, x):
    model = exercise.HistoneCNN(batch_norm=batch_norm)
    return {"logits": model(x), "one": model(x[:1]), "parameters": sum(p.numel() for p in model.parameters())}


def untrained(exercise, train):
    pair = exercise.compare_batch_norm(train, epochs=0)
    return {name: [p for p in pair[name][0].parameters() if p.ndim > 1] for name in ("with", "without")}


def trained_logits(exercise, train, test_inputs):
    pair = exercise.compare_batch_norm(train, epochs=5, generator=torch.Generator().manual_seed(1))
    return {name: predict(pair[name][0], test_inputs) for name in ("with", "without")}


def forward_backward(exercise, x):
    exercise.BatchNorm1d(x.shape[1])(x.requires_grad_()).square().sum().backward()


@pytest.mark.shapes
def test_names(student):
    """Two parameters and three buffers, named as in nn.BatchNorm1d"""
    expected = {"parameters": ["bias", "weight"], "buffers": ["num_batches_tracked", "running_mean", "running_var"]}
    assert_close(student.run(names), expected, what="names in BatchNorm1d(4)")


@pytest.mark.shapes
def test_one_batch(student):
    """Two values, 1 and 3: mean 2, biased variance 1, unbiased variance 2"""
    answer = student.run(one_batch, torch.tensor([[1.0], [3.0]]))
    assert_close(answer["output"].round(decimals=3), torch.tensor([[-1.0], [1.0]]), what="output in training")
    assert_close(answer["running_mean"], torch.tensor([0.2]), what="running_mean, 0.9 * 0 + 0.1 * 2")
    assert_close(answer["running_var"], torch.tensor([1.1]), what="running_var, 0.9 * 1 + 0.1 * 2")
    expected = (torch.tensor([[1.0], [3.0]]) - 0.2) / (1.1 + 1e-5) ** 0.5
    assert_close(answer["after, in eval mode"], expected, what="output in eval mode, by the running buffers")


@pytest.mark.shapes
def test_three_dimensions(student, generator):
    """For (batch, features, length) each channel has mean 0 and variance 1 over batch and length"""
    x = 5 + 2 * torch.randn(8, 4, 9, generator=generator)
    output = assert_shape(student.run(one_batch, x)["output"], (8, 4, 9), what="output in training")
    means, variances = output.mean(dim=(0, 2)), output.var(dim=(0, 2), correction=0)
    expect(bool((means.abs() < 1e-5).all()), f"means of the four channels: {means.tolist()}")
    expect(bool(((variances - 1).abs() < 1e-3).all()), f"variances of the four channels: {variances.tolist()}")


@pytest.mark.shapes
def test_error(student):
    """One value per channel is a ValueError in training"""
    assert_raises(student, ValueError, one_value, when="x has shape (1, 4) in training mode")


@pytest.mark.shapes
def test_networks(student, generator):
    """One logit per gene; the norms add 2 x 5 + 2 x 16 parameters; the untrained pair shares its weights"""
    x = torch.poisson(3 * torch.ones(6, 5, 50), generator=generator)
    answers = {batch_norm: student.run(network, batch_norm, x) for batch_norm in (True, False)}
    for answer in answers.values():
        assert_shape(answer["logits"], (6,), what="logits of six genes")
        assert_shape(answer["one"], (1,), what="logits of one gene")
    more = answers[True]["parameters"] - answers[False]["parameters"]
    expect(more == 2 * 5 + 2 * 16, f"with norms there are {more} parameters more than without, expected 42")
    pair = student.run(untrained, (x, torch.tensor([0.0, 1.0] * 3)))
    assert_close(pair["with"], pair["without"], what="weights of convolution and linear layers, untrained")


@pytest.mark.gradients
def test_gradient_sums_to_zero(student, generator):
    """Adding a constant to a channel changes nothing, so its gradient sums to zero"""
    x, cotangent = torch.randn(2, 7, 4, generator=generator)
    answer = assert_shape(student.run(gradient, x, cotangent), (7, 4), what="gradient in x")
    sums = answer.sum(dim=0).abs()
    expect(
        bool((sums < 1e-4).all()), f"sums over the batch: {sums.tolist()}", "The mean depends on x: do not detach it."
    )
    expect(bool((answer.abs().sum(dim=0) > 1e-3).all()), "the gradient is zero itself")


@pytest.mark.convergence
def test_learns_from_raw_counts(student):
    """Five epochs on raw counts: with norms most of the gap is closed, without them much less"""
    task = histone.marks(0, test=1000)
    answer = student.run(trained_logits, task.train, task.test_inputs)
    auroc = {
        name: metrics.auroc(assert_shape(logits, (1000,), what="held-out logits"), task.test_targets)
        for name, logits in answer.items()
    }
    chance, optimum = task.chance["auroc"], task.optimum["auroc"]
    assert_gap_closed(auroc["with"], chance, optimum, bar=0.8, what="held-out AUROC with norms")
    expect(auroc["without"] < auroc["with"], f"held-out AUROC: {auroc}", "Are there norms in both networks?")


@pytest.mark.throughput
def test_all_channels_at_once(student, generator):
    """512 channels take far less than 64 times the CPU time of 8"""
    few, many = (torch.randn(16, channels, 4, generator=generator) for channels in (8, 512))
    short = min(student.timed(forward_backward, few)[1] for _ in range(5))
    long = min(student.timed(forward_backward, many)[1] for _ in range(5))
    expect(long < 25 * short, f"512 channels take {long / short:.0f} times as long as 8", "Do not loop over channels.")

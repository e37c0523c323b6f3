"""Visible checks of 3.3: run `pytest test_ex3_custom_module.py` as often as you like. The hidden suite checks more."""

import pytest
import torch
import torch.nn.functional as F

from fixtures import metrics, splice
from fixtures.dna import one_hot
from grader.checks import assert_close, assert_gap_closed, assert_raises, assert_shape, expect


def parameter_shapes(exercise):
    return {name: tuple(p.shape) for name, p in exercise.Dense(36, 64).named_parameters()}


def affine_map(exercise, x):
    layer = exercise.Dense(x.shape[-1], 5)
    torch.nn.init.normal_(layer.bias)
    return {"yours": layer(x), "torch's": F.linear(x, layer.weight, layer.bias)}


def bad_size(exercise):
    exercise.Dense(0, 64)


def spread(exercise):
    weight = exercise.Dense(400, 100, gain=2.0).weight
    return weight.std().item()


def net_parts(exercise):
    net = exercise.DonorNet()
    background = dict(net.named_buffers()).get("background")
    return {"parameters": len(list(net.parameters())), "buffer background": background}


def logits(exercise, x):
    return exercise.DonorNet(length=x.shape[2])(x)


def unknown_bases(exercise, x):
    net = exercise.DonorNet(length=x.shape[2])
    before = net(x)
    net.background.copy_(torch.tensor([[0.4], [0.1], [0.1], [0.4]]))
    return {"before": before, "after": net(x)}


def gradient_sizes(exercise, x, labels):
    net = exercise.DonorNet(length=x.shape[2])
    F.binary_cross_entropy_with_logits(net(x), labels).backward()
    return [0.0 if p.grad is None else p.grad.abs().max().item() for p in net.parameters()]


def trained_logits(exercise, train, test_inputs):
    x, y = train
    net = exercise.DonorNet(length=9)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(600):
        rows = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(net(x[rows]), y[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        return net(test_inputs)


def work(exercise, x):
    exercise.Dense(36, 64)(x).square().mean().backward()


def work_of_torch(exercise, x):
    torch.nn.Linear(36, 64)(x).square().mean().backward()


@pytest.mark.shapes
def test_dense(student, generator):
    """Dense registers weight and bias, and computes what F.linear computes"""
    expected = {"weight": (64, 36), "bias": (64,)}
    assert_close(student.run(parameter_shapes), expected, what="named_parameters() of Dense(36, 64)")
    for shape in ((7,), (3, 7), (2, 3, 7)):
        answer = student.run(affine_map, torch.randn(shape, generator=generator))
        assert_close(answer["yours"], answer["torch's"], what=f"output of Dense(7, 5) for x of shape {shape}")


@pytest.mark.shapes
def test_error(student):
    """A size of 0 is a ValueError"""
    assert_raises(student, ValueError, bad_size, when="Dense(0, 64) is built")


@pytest.mark.shapes
def test_donor_net(student):
    """DonorNet has 16 parameters and a buffer, and gives one logit per site"""
    expected = {"parameters": 16, "buffer background": torch.full((4, 1), 0.25)}
    assert_close(
        student.run(net_parts),
        expected,
        what="DonorNet()",
        help="Layers in a plain list are not registered, nor is a plain tensor.",
    )
    for sites in (["CAGGTAAGT", "AAGGTGAGT", "TTGGCGCCA"], ["CAGGTAAGT"]):
        assert_shape(student.run(logits, one_hot(sites)), (len(sites),), what=f"logits of {len(sites)} sites")


@pytest.mark.shapes
def test_unknown_bases(student):
    """An N contributes nothing, whatever the background; a known base does"""
    answer = student.run(unknown_bases, one_hot(["NNNNNNNNN", "CAGGTAAGT"]))
    before, after = (assert_shape(answer[when], (2,), what="logits of two sites") for when in ("before", "after"))
    assert_close(after[0], before[0], what="logit of NNNNNNNNN after another background")
    expect(bool(before[1] != after[1]), "another background does not change the logit of CAGGTAAGT")


@pytest.mark.gradients
def test_start(student):
    """The weights of Dense(400, 100, gain=2) start with a standard deviation near 2 / sqrt(400) = 0.1"""
    std = student.run(spread)
    expect(
        0.095 < std < 0.105, f"the standard deviation is {std:.4g}", "How does the variance of a sum of n terms grow?"
    )


@pytest.mark.gradients
def test_every_layer_learns(student, generator):
    """All 16 parameters of DonorNet receive a gradient"""
    x, labels = one_hot(["CAGGTAAGT", "AAGGTGAGT", "TTGGCGCCA", "NNGGTACGN"]), torch.tensor([1.0, 1.0, 0.0, 1.0])
    sizes = student.run(gradient_sizes, x, labels)
    expect(
        len(sizes) == 16 and min(sizes) > 0, f"largest entries of the gradients: {sizes}", "0: no signal gets there."
    )


@pytest.mark.convergence
def test_plain_sgd_moves_eight_layers(student):
    """600 steps of plain SGD find the pairs of bases that no weight matrix sees"""
    task = splice.donors(0)
    predicted = assert_shape(student.run(trained_logits, task.train, task.test_inputs), (4000,), what="logits")
    auroc = metrics.auroc(predicted, task.test_targets)
    assert_gap_closed(auroc, task.chance["auroc"], task.optimum["auroc"], bar=0.7, what="held-out AUROC")


@pytest.mark.throughput
def test_as_fast_as_torch(student, generator):
    """Dense on 4096 rows takes less than 4 times the CPU time of nn.Linear"""
    x = torch.randn(4096, 36, generator=generator)
    yours = min(student.timed(work, x)[1] for _ in range(7))
    torchs = min(student.timed(work_of_torch, x)[1] for _ in range(7))
    expect(
        yours < 4 * torchs,
        f"Dense takes {yours / torchs:.1f} times as long as nn.Linear",
        "One matrix product, no loop.",
    )

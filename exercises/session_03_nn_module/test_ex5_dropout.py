"""Visible checks of 3.5: run `pytest test_ex5_dropout.py` as often as you like. The hidden suite checks more."""

import pytest
import torch
from torch import nn

from fixtures import binding, metrics
from fixtures.training import predict
from grader.checks import assert_close, assert_gap_closed, assert_raises, assert_shape, expect


def dropped(exercise, p, x, train):
    return exercise.Dropout(p).train(train)(x)


def too_probable(exercise):
    exercise.Dropout(1.5)


def parameter_shapes(exercise):
    return [tuple(p.shape) for p in exercise.BindingMLP(length=20, hidden=128, dropout=0.8).parameters()]


def logits_in_both_modes(exercise, x):
    model = exercise.BindingMLP(length=20, hidden=32, dropout=0.5)
    return {"train": [model.train()(x), model(x)], "eval": [model.eval()(x), model(x)]}


def mc_dropout(exercise, x, samples):
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(80, 32), nn.ReLU(), exercise.Dropout(0.5), nn.Linear(32, 1), nn.Flatten(0)
    )
    return exercise.mc_dropout(model, x, samples=samples)


def dropout_gradient(exercise, x):
    x = x.requires_grad_()
    output = exercise.Dropout(0.5).train()(x)
    output.sum().backward()
    return {"output": output, "gradient": x.grad}


def trained_predictions(exercise, train, test_inputs):
    generator = torch.Generator().manual_seed(0)
    model, _ = exercise.fit_binding(train, generator=generator)
    mean, _ = exercise.mc_dropout(model, test_inputs, generator=generator)
    return {"logits": predict(model, test_inputs), "mean": mean}


def large_batch(exercise, x):
    exercise.Dropout(0.5).train()(x.requires_grad_()).sum().backward()


def random_dna(generator, batch):
    return nn.functional.one_hot(torch.randint(4, (batch, 20), generator=generator), 4).mT.float()


@pytest.mark.shapes
def test_dropout(student, generator):
    """Training keeps the mean of a large input and drops the share p; eval mode changes nothing"""
    x = 1 + torch.rand(400, 250, generator=generator)
    output = assert_shape(student.run(dropped, 0.3, x, True), (400, 250), what="Dropout(0.3)(x) in training")
    share = (output == 0).double().mean().item()
    expect(
        abs(share - 0.3) < 0.02,
        f"share of zeros: expected about 0.3, got {share:.3f}",
        "p is the share that is *dropped*.",
    )
    ratio = (output.mean() / x.mean()).item()
    expect(abs(ratio - 1) < 0.02, f"mean of the output: expected that of the input, got {ratio:.3f} of it", "Rescale.")
    assert_close(student.run(dropped, 0.3, x, False), x, what="Dropout(0.3)(x) in eval mode")


@pytest.mark.shapes
def test_error(student):
    """A probability above 1 is a ValueError"""
    assert_raises(student, ValueError, too_probable, when="Dropout(1.5) is built")


@pytest.mark.shapes
def test_binding_mlp(student, generator):
    """BindingMLP has six parameters; its logits vary in training, and do not in eval mode"""
    expected = [(128, 80), (128,), (128, 128), (128,), (1, 128), (1,)]
    assert_close(student.run(parameter_shapes), expected, what="parameter shapes of BindingMLP(20, 128, 0.8)")
    answer = student.run(logits_in_both_modes, random_dna(generator, 9))
    for mode, (first, second) in answer.items():
        assert_shape(first, (9,), what=f"logits of 9 sequences in {mode} mode")
        assert_shape(second, (9,), what=f"logits of 9 sequences in {mode} mode")
        same = torch.equal(first, second)
        expect(same == (mode == "eval"), f"in {mode} mode, two calls give {'the same' if same else 'different'} logits")


@pytest.mark.shapes
def test_mc_dropout(student, generator):
    """mc_dropout gives a probability and a deviation for each sequence"""
    x = random_dna(generator, 9)
    for samples in (20, 1):
        mean, std = student.run(mc_dropout, x, samples)
        assert_shape(mean, (9,), what=f"mean of {samples} samples")
        assert_shape(
            std, (9,), what=f"std of {samples} samples", help="One sample deviates by 0, not NaN: correction=0."
        )
        expect(bool(((mean > 0) & (mean < 1)).all()), "means outside (0, 1)", "Average probabilities, not logits.")
        deviates = bool((std > 1e-3).all())
        expect(
            deviates == (samples > 1), f"the deviations of {samples} samples are {std.tolist()}", "Is dropout active?"
        )


@pytest.mark.gradients
def test_gradient(student, generator):
    """What was dropped receives no gradient, what was kept does"""
    answer = student.run(dropout_gradient, 1 + torch.rand(30, 20, generator=generator))
    output = assert_shape(answer["output"], (30, 20), what="Dropout(0.5)(x) in training")
    gradient = assert_shape(answer["gradient"], (30, 20), what="gradient of its sum in x")
    expect(bool((output == 0).any() and (output != 0).any()), "of 600 elements, all or none were dropped")
    assert_close(
        gradient != 0, output != 0, what="where the gradient is not 0", help="The same mask forwards and backwards."
    )


@pytest.mark.convergence
def test_learns_from_600_probes(student):
    """The trained network does not memorise, and the average over masks closes half of the gap to the best log-loss"""
    task = binding.probes(0)
    answer = student.run(trained_predictions, task.train, task.test_inputs)
    chance, optimum = task.chance["log_loss"], task.optimum["log_loss"]
    predicted = assert_shape(answer["logits"], (3000,), what="logits of held-out probes")
    loss = metrics.log_loss(predicted, task.test_targets)
    assert_gap_closed(loss, chance, optimum, bar=0.0, what="held-out log-loss in eval mode")
    mean = assert_shape(answer["mean"], (3000,), what="mean of mc_dropout on held-out probes")
    expect(bool(((mean >= 0) & (mean <= 1)).all()), "means outside [0, 1]", "Average probabilities, not logits.")
    loss = metrics.log_loss(mean.double().logit(eps=1e-7), task.test_targets)
    assert_gap_closed(loss, chance, optimum, bar=0.5, what="held-out log-loss of mc_dropout")


@pytest.mark.throughput
def test_takes_the_whole_batch_at_once(student, generator):
    """8192 rows take far less than 64 times the CPU time of 128"""
    small = min(student.timed(large_batch, torch.rand(128, 40, generator=generator))[1] for _ in range(5))
    large = min(student.timed(large_batch, torch.rand(8192, 40, generator=generator))[1] for _ in range(5))
    expect(large < 40 * small, f"8192 rows take {large / small:.0f} times as long as 128", "Do not loop over the rows.")

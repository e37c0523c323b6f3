"""Visible checks of 3.2: run `pytest test_ex2_promoter_classifier.py` as often as you like. The hidden suite checks more."""

import pytest
import torch
import torch.nn.functional as F

from fixtures import metrics, promoters
from fixtures.dna import one_hot_tokens, random_sequences
from fixtures.training import predict
from grader.checks import assert_close, assert_gap_closed, assert_raises, assert_shape, expect

SHAPES = {"conv.weight": (16, 4, 11), "conv.bias": (16,), "head.weight": (1, 16), "head.bias": (1,)}


def parameter_shapes(exercise):
    return {name: tuple(exercise.PromoterCNN().get_parameter(name).shape) for name in SHAPES}


def logits(exercise, x):
    return exercise.PromoterCNN().eval()(x)


def logits_of_shifted(exercise, x, shifted):
    model = exercise.PromoterCNN().eval()
    return [model(x), model(shifted)]


def three_channels(exercise):
    exercise.PromoterCNN()(torch.zeros(2, 3, 50))


def gradient_sizes(exercise, x, labels):
    model = exercise.PromoterCNN(dropout=0.0)
    F.binary_cross_entropy_with_logits(model(x), labels).backward()
    return {name: model.get_parameter(name).grad.abs().sum().item() for name in SHAPES}


def fitted(exercise, train, test_inputs, seed):
    before = torch.get_rng_state()
    model, history = exercise.fit_promoter_cnn(train, generator=torch.Generator().manual_seed(seed))
    same = torch.equal(before, torch.get_rng_state())
    return {"logits": predict(model, test_inputs), "epochs": len(history.train_loss), "stream untouched": same}


def forward_backward(exercise, x):
    exercise.PromoterCNN()(x).square().mean().backward()


def sequences(generator, batch, length):
    return one_hot_tokens(random_sequences(batch, length, generator=generator))


@pytest.mark.shapes
def test_parameters(student):
    """The parameters of conv and head have the right shapes"""
    assert_close(student.run(parameter_shapes), SHAPES, what="parameter shapes of PromoterCNN()")


@pytest.mark.shapes
def test_logits(student, generator):
    """One logit per sequence, for any length and any batch"""
    for batch, length in ((3, 100), (1, 57), (5, 1)):
        x = sequences(generator, batch, length)
        assert_shape(student.run(logits, x), (batch,), what=f"logits of x of shape {tuple(x.shape)}")


@pytest.mark.shapes
def test_position_does_not_matter(student, generator):
    """Moving a sequence within a window of N leaves its logit as it was"""
    x = sequences(generator, 4, 40)
    early, late = F.pad(x, (15, 45)), F.pad(x, (30, 30))
    first, second = student.run(logits_of_shifted, early, late)
    assert_shape(first, (4,), what="logits")
    assert_close(second, first, what="logits after the shift", help="Is the maximum taken over all positions?")


@pytest.mark.shapes
def test_error(student):
    """Three channels instead of four are a ValueError"""
    assert_raises(student, ValueError, three_channels, when="x has 3 channels")


@pytest.mark.gradients
def test_everything_learns(student, generator):
    """All four parameters receive a gradient"""
    x, labels = sequences(generator, 32, 60), torch.tensor([0.0, 1.0] * 16)
    sizes = student.run(gradient_sizes, x, labels)
    expect(all(size > 0 for size in sizes.values()), f"sizes of the gradients: {sizes}", "A zero: the graph is cut.")


@pytest.mark.convergence
def test_finds_promoters(student):
    """Trained on 1500 sequences that are sorted by label, it ranks unseen promoters first"""
    task = promoters.two_motifs(0, n=1500, test=1000)
    order = task.train[1].argsort(descending=True)
    answer = student.run(fitted, (task.train[0][order], task.train[1][order]), task.test_inputs, 7)
    predicted = assert_shape(answer["logits"], (1000,), what="logits of unseen sequences")
    assert_gap_closed(
        metrics.auroc(predicted, task.test_targets), task.chance["auroc"], task.optimum["auroc"],
        bar=0.60, what="AUROC on unseen sequences", help="Are the rows shuffled, anew in each epoch?",
    )  # fmt: skip
    expect(
        answer["stream untouched"],
        "the global random stream has moved",
        "Build and train within `with seeded(generator):`.",
    )


@pytest.mark.throughput
def test_takes_the_whole_batch_at_once(student, generator):
    """256 sequences take far less than 64 times the CPU time of 4"""
    few = min(student.timed(forward_backward, sequences(generator, 4, 60))[1] for _ in range(5))
    many = min(student.timed(forward_backward, sequences(generator, 256, 60))[1] for _ in range(5))
    expect(
        many < 40 * few, f"256 sequences take {many / few:.0f} times as long as 4", "Do not loop over the sequences."
    )

"""Hidden suite of 3.2 Promoter Classifier."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from fixtures import metrics, promoters
from fixtures.dna import one_hot_tokens
from fixtures.training import predict
from grader.checks import assert_close, assert_fast, assert_gap_closed, assert_raises, assert_shape, expect

CHANNELS, WIDTH = 5, 7


# Probes: run beside the submission, know no answer.


def parameter_shapes(exercise, *sizes):
    model = exercise.PromoterCNN(*sizes)
    names = ("conv.weight", "conv.bias", "head.weight", "head.bias")
    shapes = {name: tuple(model.get_parameter(name).shape) for name in names}
    return shapes | {"numbers in all parameters": sum(p.numel() for p in model.parameters())}


def build(exercise, weights, dropout=0.0):
    channels, _, width = weights["conv.weight"].shape
    model = exercise.PromoterCNN(channels=channels, width=width, dropout=dropout).to(weights["conv.weight"].dtype)
    with torch.no_grad():
        for name, value in weights.items():
            model.get_parameter(name).copy_(value)
    return model


def logits(exercise, weights, x):
    return build(exercise, weights).eval()(x)


def logits_of_two_calls(exercise, weights, x, dropout, training):
    model = build(exercise, weights, dropout).train(training)
    return {"first": model(x), "second": model(x)}


def parameter_gradients(exercise, weights, x, cotangent):
    model = build(exercise, weights)
    (model(x) * cotangent).sum().backward()
    return {name: model.get_parameter(name).grad for name in weights}


def input_gradient(exercise, weights, x, cotangent):
    x = x.clone().requires_grad_()
    (build(exercise, weights)(x) * cotangent).sum().backward()
    return x.grad


def cross_entropy_gradients(exercise, weights, x, labels):
    model = build(exercise, weights)
    F.binary_cross_entropy_with_logits(model(x), labels).backward()
    return {name: model.get_parameter(name).grad for name in weights}


def weights_of(model):
    return {name: model.get_parameter(name) for name in ("conv.weight", "conv.bias", "head.weight", "head.bias")}


def trained_on(exercise, x, targets, seed):
    """The weights after training on each of several sets of labels, all from the same generator state."""
    result = []
    for labels in targets:
        generator = torch.Generator().manual_seed(seed)
        model, _ = exercise.fit_promoter_cnn((x, labels), epochs=3, batch_size=16, generator=generator)
        result.append(weights_of(model))
    return result


def trainings(exercise, train, seed, draws):
    """The weights after training with generators at ``seed`` from which ``draws`` numbers were drawn already."""
    result = []
    for number in draws:
        torch.rand(3)  # the global stream must not matter
        generator = torch.Generator().manual_seed(seed)
        torch.rand(number, generator=generator)
        model, _ = exercise.fit_promoter_cnn(train, epochs=2, batch_size=16, generator=generator)
        result.append(weights_of(model))
    return result


def side_effects(exercise, train, seed):
    before = torch.get_rng_state()
    exercise.fit_promoter_cnn(train, epochs=1, batch_size=16, generator=torch.Generator().manual_seed(seed))
    return {"stream before": before, "stream after": torch.get_rng_state(), "inputs": train[0], "labels": train[1]}


def history_of(exercise, train, valid, epochs, batch_size):
    model, history = exercise.fit_promoter_cnn(train, valid, epochs=epochs, batch_size=batch_size)
    result = {name: list(getattr(history, name)) for name in ("train_loss", "valid_loss", "lr")}
    if valid is not None:
        with torch.no_grad():
            result["logits"] = model.eval()(valid[0])
    return result


def construct(exercise, sizes):
    exercise.PromoterCNN(**sizes)


def default_forward(exercise, x):
    exercise.PromoterCNN()(x)


def fit_with(exercise, train, settings):
    exercise.fit_promoter_cnn(train, **settings)


def fitted_logits(exercise, train, test_inputs, seed):
    model, history = exercise.fit_promoter_cnn(train, generator=torch.Generator().manual_seed(seed))
    return {"logits": predict(model, test_inputs), "losses": [float(loss) for loss in history.train_loss]}


def forward_backward(exercise, weights, x):
    model = build(exercise, weights)
    output = model(x)
    output.square().mean().backward()
    # Not conv.weight.grad: which of two nearly equal windows is the maximum depends on rounding.
    return {"logits": output, "conv.bias": model.conv.bias.grad, "head.weight": model.head.weight.grad}


# Inputs: drawn on the trusted side from the seed.


def randn(generator, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=generator, dtype=dtype)


def random_weights(generator, channels=CHANNELS, width=WIDTH, dtype=torch.float32, silent=1):
    """Filters of which the first ``silent`` match nowhere, so that only the ReLU makes them 0."""
    bias = 0.2 * randn(generator, channels, dtype=dtype)
    bias[:silent] = -8.0
    return {
        "conv.weight": randn(generator, channels, 4, width, dtype=dtype) / math.sqrt(width),
        "conv.bias": bias,
        "head.weight": randn(generator, 1, channels, dtype=dtype),
        "head.bias": randn(generator, 1, dtype=dtype),
    }


def dna(generator, batch, length):
    return one_hot_tokens(torch.randint(4, (batch, length), generator=generator))


def soft_dna(generator, batch, length):
    """Probabilities of the bases, float64: no two windows are alike, so every maximum has one place."""
    return (2 * randn(generator, batch, 4, length, dtype=torch.float64)).softmax(dim=1)


def best_matches(weights, x):
    scores = F.conv1d(x, weights["conv.weight"], weights["conv.bias"], padding="same")
    return scores.clamp(min=0).amax(dim=2)


def expected_logits(weights, x):
    return best_matches(weights, x) @ weights["head.weight"][0] + weights["head.bias"]


def same(first, second):
    return {name: torch.equal(first[name], second[name]) for name in first}


@pytest.mark.shapes(points=1)
def test_logits_follow_from_conv_and_head(student, generator):
    """conv and head hold all weights, and the logits follow from them, for every length, batch size and float type"""
    for sizes, (channels, width) in (((), (16, 11)), ((5, 7), (5, 7))):
        expected = {
            "conv.weight": (channels, 4, width),
            "conv.bias": (channels,),
            "head.weight": (1, channels),
            "head.bias": (1,),
            "numbers in all parameters": channels * 4 * width + channels + channels + 1,
        }
        assert_close(
            student.run(parameter_shapes, *sizes),
            expected,
            what=f"parameter shapes of PromoterCNN{sizes}",
            help="self.conv slides `channels` filters along the sequence, self.head adds up one number per filter.",
        )
    soft = soft_dna(generator, 3, 33)
    unknown = dna(generator, 6, 20) * (torch.rand(6, 1, 20, generator=generator) < 0.7)
    inputs = {
        "of length 10": dna(generator, 7, 10),
        "of length 101": dna(generator, 8, 101),
        "of length 1": dna(generator, 9, 1),
        "alone in their batch": dna(generator, 1, 30),
        "with N": unknown,
        "that are not contiguous in memory": randn(generator, 6, 23, 4).mT,
        "in float64": soft,
    }
    for kind, x in inputs.items():
        weights = random_weights(generator, dtype=x.dtype)
        answer = assert_shape(
            student.run(logits, weights, x),
            x.shape[:1],
            dtype=x.dtype,
            what=f"logits of sequences {kind}",
            help="One logit per sequence: squeeze(1) of (batch, 1). A plain squeeze() would also remove a batch of one.",
        )
        assert_close(
            answer,
            expected_logits(weights, x),
            what=f"logits of sequences {kind}",
            help="conv with padding='same', ReLU, maximum over the positions, head; nothing after the head.",
        )
    empty = student.run(logits, random_weights(generator), torch.zeros(0, 4, 12))
    assert_shape(empty, (0,), what="logits of an empty batch")


@pytest.mark.shapes(points=1)
def test_position_does_not_matter(student, generator):
    """A sequence that is moved within N, or set into a longer window of N, keeps its logit"""
    weights, cores = random_weights(generator), dna(generator, 4, 20)
    # At least one filter's width of N on either side, so that no window is cut and one window sees nothing but N.
    windows = {50: (7, 12, 23), 71: (7, 30, 44)}
    expected = expected_logits(weights, F.pad(cores, (WIDTH, WIDTH)))
    for length, starts in windows.items():
        x = torch.cat([F.pad(cores, (start, length - 20 - start)) for start in starts])
        answer = assert_shape(student.run(logits, weights, x), (12,), what=f"logits of windows of {length}")
        assert_close(
            answer, expected.repeat(3), what=f"logits of sequences of 20 at several places in a window of {length}",
            help="The question is whether a motif occurs, not where: take the maximum over all positions.",
        )  # fmt: skip


@pytest.mark.shapes(points=1)
def test_dropout(student, generator):
    """Dropout acts on the maxima in training, and not at all in eval mode"""
    p, rows, channels = 0.25, 600, 3
    weights = random_weights(generator, channels=channels, silent=0)
    weights["conv.bias"] += 2.0  # each filter has a maximum that can be seen to be dropped
    x = dna(generator, 1, 40)
    matches = best_matches(weights, x)[0]
    expect(bool((matches > 0).all()), "a filter is silent: no check")

    answer = student.run(logits_of_two_calls, weights, x.expand(rows, -1, -1), p, False)
    for call in ("first", "second"):
        assert_shape(answer[call], (rows,), what="logits in eval mode")
        assert_close(
            answer[call], expected_logits(weights, x).expand(rows), what="logits in eval mode, dropout=0.25",
            help="nn.Dropout follows the mode by itself; F.dropout needs training=self.training.",
        )  # fmt: skip

    answer = student.run(logits_of_two_calls, weights, x.expand(rows, -1, -1), p, True)
    masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=channels)))
    possible = (masks / (1 - p) * matches) @ weights["head.weight"][0] + weights["head.bias"]
    for call in ("first", "second"):
        drawn = assert_shape(answer[call], (rows,), what="logits in train mode")
        distance, which = (drawn[:, None] - possible).abs().min(dim=1)
        expect(
            bool((distance < 1e-5 * possible.abs().max()).all()),
            f"in train mode, {int((distance >= 1e-5 * possible.abs().max()).sum())} of {rows} logits are none of the "
            f"{len(possible)} that come from setting some maxima to 0 and dividing the others by 1 - dropout",
            "Apply nn.Dropout(dropout) after the maximum over the positions and before the head.",
        )
        dropped = 1 - masks[which].mean().item()
        # The share of 1800 draws has a standard deviation of .0102; six of them.
        expect(
            abs(dropped - p) < 0.062,
            f"with dropout={p}, expected about {p:.0%} of the maxima to be dropped in training, got {dropped:.1%}",
            "`dropout` is the probability of dropping; every maximum of every sequence has a draw of its own.",
        )
    expect(
        not torch.equal(answer["first"], answer["second"]),
        "in train mode, two calls drop the same maxima",
        "Draw anew.",
    )


@pytest.mark.shapes(points=1, structure=True)
def test_history(student, generator):
    """The history has one loss and one rate per epoch, and valid_loss is measured in eval mode"""
    train = dna(generator, 33, 40), torch.arange(33.0) % 2  # the last of three batches has one row
    valid = dna(generator, 32, 40), (torch.arange(32.0) < 16).float()
    for epochs, validation in ((2, None), (4, valid)):
        answer = student.run(history_of, train, validation, epochs, 16)
        lengths = {"train_loss": epochs, "valid_loss": 0 if validation is None else epochs, "lr": epochs}
        assert_close(
            {name: len(answer[name]) for name in lengths},
            lengths,
            what=f"lengths of the history's lists, {epochs} epochs, validation data: {'no' if validation is None else 'yes'}",
        )
        for name in lengths:
            finite = all(isinstance(value, float) and math.isfinite(value) for value in answer[name])
            expect(
                finite, f"{name}: expected finite floats, got {answer[name]}", "loss.item() makes a float of a tensor."
            )
    final = assert_shape(answer["logits"], (32,), what="logits of the validation rows")
    loss = metrics.log_loss(final, valid[1])
    # Whichever epoch's weights are kept, their loss was noted at the time. 1e-4: float32, and means of means.
    expect(
        any(abs(noted - loss) < 1e-4 for noted in answer["valid_loss"]),
        f"the network's log-loss on the validation rows is {loss:.4f}, but valid_loss is "
        f"{[round(noted, 4) for noted in answer['valid_loss']]}",
        "Validate after each epoch, in eval mode (no dropout), with the mean over all rows.",
    )


@pytest.mark.shapes(points=1, structure=True)
def test_the_generator_decides(student, seed, generator):
    """The generator's state decides the network, bit for bit, and nothing else changes"""
    train = dna(generator, 40, 30), (torch.rand(40, generator=generator) < 0.5).float()
    first, again, other = student.run(trainings, train, seed % 2**31, [0, 0, 1])
    differing = [name for name, equal in same(first, again).items() if not equal]
    expect(
        not differing,
        f"two trainings from the same generator state differ in {', '.join(differing)}",
        "Build and train inside `with seeded(generator):`, so that weights, order and dropout follow the generator.",
    )
    expect(
        not all(same(first, other).values()),
        "two trainings from different states of the generator give the same network",
        "The seed must come from the generator's state: seeded(generator) draws it.",
    )
    answer = student.run(side_effects, train, seed % 2**31)
    expect(
        torch.equal(answer["stream before"], answer["stream after"]),
        "the global random stream is not where it was before the call",
        "`with seeded(generator):` puts it back; torch.manual_seed alone does not.",
    )
    assert_close((answer["inputs"], answer["labels"]), train, what="the training data after the call")


@pytest.mark.shapes(points=1, structure=True)
def test_errors(student, generator):
    """Bad sizes and bad shapes are ValueErrors"""
    for sizes in ({"channels": 0}, {"width": 0}, {"channels": -1}, {"dropout": -0.1}, {"dropout": 1.5}):
        call = ", ".join(f"{name}={value}" for name, value in sizes.items())
        assert_raises(student, ValueError, construct, sizes, when=f"PromoterCNN({call}) is built")
    for shape in ((4, 30), (3, 5, 30), (3, 30, 4), (2, 3, 4, 30), (3, 4, 0)):
        assert_raises(
            student, ValueError, default_forward, randn(generator, *shape), when=f"x has shape {shape}",
            help="Expected are three axes, (batch, 4, length), and a length of at least 1.",
        )  # fmt: skip
    train = dna(generator, 6, 20), torch.arange(6.0) % 2
    for settings in ({"epochs": 0}, {"batch_size": 0}):
        call = ", ".join(f"{name}={value}" for name, value in settings.items())
        assert_raises(student, ValueError, fit_with, train, settings, when=f"fit_promoter_cnn is called with {call}")


@pytest.mark.gradients(points=2)
def test_every_weight_receives_the_gradient_of_the_reference(student, reference, generator):
    """At equal weights all gradients equal the reference's, for a random cotangent"""
    weights, x = random_weights(generator, dtype=torch.float64), soft_dna(generator, 9, 23)
    cotangent = randn(generator, 9, dtype=torch.float64)
    expected = reference.run(parameter_gradients, weights, x, cotangent)
    expect(all(bool(g.abs().max() > 0) for g in expected.values()), "the reference has a zero gradient: no check")
    assert_close(
        student.run(parameter_gradients, weights, x, cotangent),
        expected,
        what="gradient",
        help="None or zero means that the graph was cut before this layer: a detach, a no_grad, an .item().",
    )


@pytest.mark.gradients(points=1)
def test_only_the_best_matches_matter(student, generator):
    """A base has a gradient only where a filter matches best"""
    weights, x = random_weights(generator, dtype=torch.float64), soft_dna(generator, 6, 91)
    cotangent = randn(generator, 6, dtype=torch.float64)
    gradient = assert_shape(
        student.run(input_gradient, weights, x, cotangent), x.shape, dtype=torch.float64, what="gradient in x"
    )
    most, touched = CHANNELS * WIDTH, int((gradient != 0).any(dim=1).sum(dim=1).max())
    expect(
        touched <= most,
        f"{touched} of 91 positions of a sequence have a gradient; {CHANNELS} filters of width {WIDTH} can touch {most}",
        "A maximum passes its gradient on to one window per filter, a mean to all of them.",
    )
    tracked = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad((expected_logits(weights, tracked) * cotangent).sum(), tracked)
    assert_close(gradient, expected, what="gradient in x", help="Maximum over the positions, after the ReLU or before.")


@pytest.mark.gradients(points=1)
def test_filters_and_head_learn_from_the_labels(student, seed, generator):
    """Under binary cross-entropy the last bias receives the mean of sigmoid minus label; fit_promoter_cnn trains all"""
    weights, x = random_weights(generator, dtype=torch.float64), soft_dna(generator, 8, 23)
    labels = (torch.rand(8, generator=generator) < 0.5).double()
    gradients = student.run(cross_entropy_gradients, weights, x, labels)
    expected = (expected_logits(weights, x).sigmoid() - labels).mean().reshape(1)
    assert_close(
        gradients["head.bias"], expected, what="gradient of head.bias under binary_cross_entropy_with_logits",
        help="The loss applies the sigmoid itself: give it logits.",
    )  # fmt: skip
    x, labels = dna(generator, 48, 30), (torch.rand(48, generator=generator) < 0.5).float()
    one, other = student.run(trained_on, x, [labels, 1 - labels], seed % 2**31)
    untouched = [name for name, equal in same(one, other).items() if equal]
    expect(
        not untouched,
        f"after fit_promoter_cnn, {', '.join(untouched)} is the same whatever the labels were",
        "Give all parameters of the model to the optimizer, and let no detach or no_grad cut the graph.",
    )


@pytest.mark.convergence(points=4)
def test_finds_promoters(student, run_seed, seed, figures):
    """Trained on rows sorted by label, it ranks unseen promoters first, and its logits are calibrated"""
    task = promoters.two_motifs(run_seed)
    x, y = task.train
    order = y.argsort(descending=True, stable=True)  # all promoters first: shuffling is up to fit_promoter_cnn
    answer = student.run(fitted_logits, (x[order], y[order]), task.test_inputs, seed)
    predicted = assert_shape(answer["logits"], (len(task.test_inputs),), what="logits of held-out sequences")
    figures.curve("Training loss", {"yours": answer["losses"]}, unit="nats", limit=task.optimum["log_loss"])
    assert_gap_closed(
        metrics.auroc(predicted, task.test_targets),
        task.chance["auroc"],
        task.optimum["auroc"],
        bar=0.70,  # right answers 0.81..0.94 on 23 seeds; flattened bases 0.28..0.39, the mean over positions 0.39..0.71
        what="held-out AUROC",
        help="Near 0: are the rows shuffled? Near a half: the mean over positions instead of the maximum?",
    )
    assert_gap_closed(
        metrics.log_loss(predicted, task.test_targets),
        task.chance["log_loss"],
        task.optimum["log_loss"],
        # Right answers 0.44..0.73; unshuffled 0..0.27, a sigmoid in forward 0.13..0.24, the mean over positions 0.09..0.31.
        # A flattened convolution reaches 0.21..0.39, a sigmoid in the loss alone 0.16..0.64: the checks of shapes own them.
        bar=0.36,
        what="held-out log-loss",
        help="The ranking is good, but not the logits: is a sigmoid applied twice, are the rows shuffled anew in every epoch?",
    )


@pytest.mark.throughput(points=2)
def test_forward_and_backward_of_many_and_of_long_sequences(student, reference, generator, figures):
    """Forward and backward of many sequences, and of long ones, within 6 times the reference's CPU time"""
    for batch, length, loop in ((1500, 15, "sequences"), (3, 1500, "positions")):

        def fresh(batch=batch, length=length):
            weights = random_weights(generator, channels=16, width=11, silent=0)
            weights["conv.bias"] += 1.0  # no maximum near the ReLU's kink
            return weights, dna(generator, batch, length)

        assert_fast(
            student,
            reference,
            forward_backward,
            fresh,
            bar=6,  # a loop over the filters 3.3..4.3x, im2col 1.1..2.2x; over the sequences 22x, the positions 23x
            figures=figures,
            reduction=batch * 16,
            what=f"forward and backward of {batch} sequences of {length} bases",
            help=f"Conv1d and amax take the whole batch at once: no loop over {loop}.",
        )

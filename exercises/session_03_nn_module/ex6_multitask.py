"""3.6 Multi-task Learning: what does this enhancer drive, and where?

**Task.** Write a network with one trunk and two heads that reads an enhancer and predicts the expression it drives *and* the
tissue it is active in, the loss that weights the two tasks by learned uncertainty, and the function that trains both from a
table in which most labels are missing.

**Why.** A reporter assay measures the expression of some enhancers, an atlas of open chromatin knows the tissue of others,
and few appear in both. Two separate models would each see their own labels only; a shared trunk learns its motifs from all of
them (Caruana 1997). Most models of regulatory DNA are built this way: Basset (Kelley et al. 2016), Enformer (Avsec et al.
2021), Malinois for reporter assays (Gosai et al. 2024). One question remains: how many squared log2 units are worth one nat
of cross-entropy? Kendall, Gal & Cipolla (2018) let the data answer: each task has a noise variance, learned with the weights.

**Contract.** DNA is one-hot, `(batch, 4, length)`; an N is a column of zeros. A missing expression is NaN, a missing tissue
is -100. Every sequence may have both labels, one, or none. The tissue head returns *logits*. All randomness comes from
`generator`. Bad input is a `ValueError` that names the argument, what came and what was expected.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fixtures.randomness import seeded
from fixtures.training import History

MISSING_TISSUE = -100  # what torch's own losses ignore by default; a missing expression is NaN


class MultiTaskNet(nn.Module):
    """One trunk that reads the sequence, two heads that read the trunk.

    Attributes, each of them a module:
        trunk: Conv1d (4 to `channels`, `width` wide, padding "same") - BatchNorm1d - ReLU - AdaptiveMaxPool1d to 2 values per
            channel - Flatten - Linear to `hidden` - ReLU. `(batch, 4, length)` -> features `(batch, hidden)`. Its parameters
            are registered in this order: weight and bias of the convolution, of the normalisation, of the linear layer.
        expression_head: Linear, `hidden` to 1.
        tissue_head: Linear, `hidden` to `tissues`.

    Nothing else has parameters. Two pooled values per channel, and not one, tell in which half a motif lies.

    >>> expression, tissue = MultiTaskNet().eval()(torch.zeros(5, 4, 80))
    >>> expression.shape, tissue.shape
    (torch.Size([5]), torch.Size([5, 3]))

    Args:
        channels: number of motif detectors.
        width: bases that a detector sees.
        hidden: number of features that the heads share.
        tissues: number of tissues.

    Raises:
        ValueError: a size is smaller than 1.
    """

    def __init__(self, channels: int = 16, width: int = 9, hidden: int = 32, tissues: int = 3):
        super().__init__()
        # YOUR CODE HERE
        raise NotImplementedError

    def forward(
        self, x: Float[Tensor, "batch 4 length"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch tissues"]]:
        """Expression in log2 units, and the logits of the tissues. The trunk runs once for both.

        Args:
            x: one-hot DNA, any length from 2 on.

        Raises:
            ValueError: `x` is not 3-D, or does not have 4 channels.
        """
        # YOUR CODE HERE
        raise NotImplementedError


class UncertaintyWeightedLoss(nn.Module):
    """Mean squared error and cross-entropy, each weighted by a noise variance that is learned (Kendall, Gal & Cipolla 2018).

    With s = `log_variance`, the loss is the sum of

        expression:  1/2 exp(-s[0]) MSE + 1/2 s[0]
        tissue:          exp(-s[1]) CE  + 1/2 s[1]

    where MSE and CE (`F.cross_entropy`, in nats) are means over the *observed* labels of their own task. A task without any
    label in the batch drops out entirely, its 1/2 s included. The first line is the negative log-likelihood of a normal
    distribution with variance exp(s[0]), up to a constant: a noisy task gets a small weight, and 1/2 s is the price of
    calling it noisy. The logarithm keeps the variance positive, whatever the optimizer does.

    Attributes:
        log_variance: the only parameter, shape (2,): expression, tissue. It starts at zero.
    """

    def __init__(self):
        super().__init__()
        # YOUR CODE HERE
        raise NotImplementedError

    def forward(
        self,
        outputs: tuple[Float[Tensor, "batch"], Float[Tensor, "batch tissues"]],
        expression: Float[Tensor, "batch"],
        tissue: Int64[Tensor, "batch"],
    ) -> Float[Tensor, ""]:
        """The loss of one batch, 0-dimensional, in the dtype of the outputs; the targets are left as they are.

        When no label is there the loss is 0, and `backward()` works and gives every parameter a zero gradient, or none.

        >>> outputs = torch.tensor([1.0, 5.0]), torch.zeros(2, 3)
        >>> UncertaintyWeightedLoss()(outputs, torch.tensor([3.0, torch.nan]), torch.tensor([-100, -100])).item()
        2.0

        Args:
            outputs: what `MultiTaskNet` returns.
            expression: log2 units, NaN where it is missing.
            tissue: 0..tissues-1, or -100 where it is missing.

        Raises:
            ValueError: the shapes do not match (nothing broadcasts), or a tissue is neither -100 nor in 0..tissues-1.
        """
        # YOUR CODE HERE
        raise NotImplementedError


def fit_multitask(
    train: tuple[Float[Tensor, "n 4 length"], Float[Tensor, "n"], Int64[Tensor, "n"]],
    *,
    epochs: int = 11,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
) -> tuple[MultiTaskNet, UncertaintyWeightedLoss, History]:
    """Train a `MultiTaskNet` with its default sizes, and with it the two log-variances.

    Recommended: AdamW over the parameters of the net *and* of the loss, shuffled mini-batches, and a one-cycle schedule up to
    a learning rate of 1e-2, stepped after every batch. The same state of `generator` gives the same result, bit for bit, and
    torch's global random stream is left as it was (`fixtures.randomness.seeded`). With the default settings, on
    `fixtures.multitask.enhancers`, the held-out squared error of the expression closes at least 0.25, and the cross-entropy
    of the tissue at least 0.57 of the gap between the best constant answer and the best possible one. The recommended settings
    reach about 0.75 and 0.9; at a constant learning rate the last weights are noisy, and now and then fall short.

    Args:
        train: sequences, expression (NaN = missing), tissue (-100 = missing).
        epochs: passes over the sequences.
        batch_size: sequences per step.
        generator: decides the initial weights and the order of the sequences.

    Returns:
        The trained net, the loss with its log-variances, and a history with `train_loss` (the mean of the epoch's losses) and
        `lr`, one float per epoch.

    Raises:
        ValueError: `epochs` or `batch_size` is smaller than 1, or the parts of `train` differ in length.
    """
    x, expression, tissue = train
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be at least 1, got {epochs} and {batch_size}")
    if not len(x) == len(expression) == len(tissue):
        raise ValueError(f"train must have equally long parts, got {len(x)}, {len(expression)} and {len(tissue)}")

    history = History(best_epoch=epochs - 1)
    with seeded(generator):
        net, loss_fn = MultiTaskNet(), UncertaintyWeightedLoss()
        # YOUR CODE HERE
        raise NotImplementedError
    return net, loss_fn, history

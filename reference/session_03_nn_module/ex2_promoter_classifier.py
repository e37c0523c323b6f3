"""3.2 Promoter Classifier: is there a promoter, anywhere in the window?

**Task.** Write a convolutional network that tells promoters from background by two motifs that can lie anywhere in the window,
and the function that trains it.

**Why.** At many promoters the transcription machinery recognises short words, among them the TATA box, some 25 bases upstream
of the transcription start, and the initiator, at the start itself. A filter of a convolution is a position weight matrix that
is learned instead of counted, and the maximum over all positions asks whether its motif occurs, not where. CNNProm (Umarov &
Solovyev 2017) and DeePromoter (Oubounyt et al. 2019) find promoters with convolutions. The windows here are simulated: two
words per data set, 85 % conserved, always 25 bases apart, in a background of independent bases.

**Contract.** Sequences are one-hot `(batch, 4, length)`, outputs are *logits* `(batch,)` of the same dtype. Bad input is a
`ValueError` that names the argument, what came and what was expected.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fixtures.randomness import seeded
from fixtures.training import History, fit


class PromoterCNN(nn.Module):
    """Conv1d - ReLU - maximum over all positions - Dropout - Linear.

    The convolution `conv` has `channels` filters of `width` bases and `padding="same"` (zeros, so beyond the ends it sees N).
    Dropout acts on the maxima, one per filter, in training only. The linear layer `head` adds them up to one logit. The
    weights and biases of `conv` and `head` are the only parameters:

    `conv.weight (channels, 4, width)`, `conv.bias (channels,)`, `head.weight (1, channels)`, `head.bias (1,)`.

    >>> PromoterCNN()(torch.zeros(5, 4, 100)).shape
    torch.Size([5])

    Args:
        channels: number of filters.
        width: bases that a filter looks at, an odd number.
        dropout: probability of dropping a maximum.

    Raises:
        ValueError: `channels` or `width` is smaller than 1, or `dropout` is not between 0 and 1.
    """

    def __init__(self, channels: int = 16, width: int = 11, dropout: float = 0.2):
        super().__init__()
        ### BEGIN SOLUTION
        for name, size in (("channels", channels), ("width", width)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must lie between 0 and 1, got {dropout}")
        self.conv = nn.Conv1d(4, channels, width, padding="same")
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, 1)
        ### END SOLUTION

    def forward(self, x: Float[Tensor, "batch 4 length"]) -> Float[Tensor, "batch"]:
        """Logit of "promoter" for every sequence.

        Args:
            x: sequences of any length from 1, shorter than a filter too. The batch may be empty. A column need not be one-hot:
                it can be zero (N) or hold probabilities.

        Raises:
            ValueError: `x` is not 3-D, does not have 4 channels, or has length 0.
        """
        ### BEGIN SOLUTION
        if x.ndim != 3 or x.shape[1] != 4 or x.shape[2] < 1:
            raise ValueError(f"x must be (batch, 4, length) with length at least 1, got {tuple(x.shape)}")
        best_match = self.conv(x).relu().amax(dim=2)
        return self.head(self.dropout(best_match)).squeeze(1)
        ### END SOLUTION


def fit_promoter_cnn(
    train: tuple[Float[Tensor, "n 4 length"], Float[Tensor, "n"]],
    valid: tuple[Float[Tensor, "m 4 length"], Float[Tensor, "m"]] | None = None,
    *,
    epochs: int = 15,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
) -> tuple[PromoterCNN, History]:
    """Build a `PromoterCNN()` and train it to tell promoters (label 1.0) from background (0.0).

    The loss is the mean binary cross-entropy. The rest of the recipe is yours. Recommended: AdamW with weight decay 1e-2 and a
    one-cycle schedule to a learning rate of 1e-2 that moves after every batch. `fixtures.training.fit` is a loop without a
    schedule: `optimizer.register_step_post_hook` can add one, and with a constant rate of 5e-3 the loop is enough as it is.

    With the default epochs and batch size, 3000 sequences of 100 bases must suffice: on unseen ones, the AUROC comes at least
    70 % of the way from guessing to the best possible classifier, the log-loss (which also wants calibrated logits) 36 %.

    Args:
        train: sequences and labels, in any order, possibly all promoters first; they stay as they are.
        valid: the same from other regions, to look at after every epoch, in eval mode; the weights do not learn from it.
        epochs: passes over the training rows.
        batch_size: rows per step; the last batch of an epoch may be smaller, down to a single row.
        generator: decides the initial weights, the order of the rows and the dropout. The same state of it gives the same
            network, bit for bit, another state another network, and the global random stream stays as it was
            (`fixtures.randomness.seeded`). None reads the global stream.

    Returns:
        The network, and a history with one `train_loss` and one `lr` per epoch; with `valid` also one `valid_loss`, the mean
        over all of its rows.

    Raises:
        ValueError: `epochs` or `batch_size` is smaller than 1.
    """
    ### BEGIN SOLUTION
    for name, number in (("epochs", epochs), ("batch_size", batch_size)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    steps = epochs * math.ceil(len(train[0]) / batch_size)
    with seeded(generator):
        model = PromoterCNN()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
        # fit() knows nothing of schedules, so the optimizer calls this one itself, after each of its steps.
        optimizer.register_step_post_hook(lambda *_: schedule.step())
        history = fit(
            model,
            train,
            valid,
            loss_fn=F.binary_cross_entropy_with_logits,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=batch_size,
        )
    return model, history
    ### END SOLUTION

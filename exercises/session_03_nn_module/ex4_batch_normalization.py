"""3.4 Batch Normalization: five histone marks, sequenced to five depths.

**Task.** Write BatchNorm1d, put it into a convolutional network that tells highly from lowly expressed genes by their histone
marks, and train that network and its twin without normalisation side by side, fairly.

**Why.** Each histone mark is a sequencing library of its own: one bin holds 30 reads of H3K4me3 and one read in seven bins of
H3K9me3. Nothing about the biology says that the deepest library matters most, but raw counts tell the network just that, and
gradient descent crawls or diverges. DeepChrome (Singh et al. 2016) predicts expression from such counts; batch normalisation
(Ioffe & Szegedy 2015) brings every channel to mean 0 and variance 1, at the input and between the layers.

**Contract.** A channel is axis 1: inputs are `(batch, features)` or `(batch, features, length)`, and a channel's statistics run
over everything else. In your BatchNorm1d, torch's own normalisations (batch, instance, group, layer norm) are not called;
everything else of torch is allowed. In HistoneCNN you may use your BatchNorm1d or `nn.BatchNorm1d`. Outputs have the dtype of
the input, inputs stay as they are. Bad input is a `ValueError` that names the argument, what came and what was expected.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fixtures.randomness import seeded
from fixtures.training import History, fit


class BatchNorm1d(nn.Module):
    """Every channel to mean 0 and variance 1, then scaled by `weight` and shifted by `bias` (Ioffe & Szegedy 2015).

    `y = (x - mean) / sqrt(var + eps) * weight + bias`, channel by channel.

    Names as in `nn.BatchNorm1d`, so that each loads the other's `state_dict`: parameters `weight` (starts as ones) and `bias`
    (zeros), both `(features,)`; buffers `running_mean` (zeros) and `running_var` (ones), both `(features,)`, and
    `num_batches_tracked`, an int64 0 without dimensions.

    >>> BatchNorm1d(1)(torch.tensor([[1.0], [3.0]])).round(decimals=3).tolist()  # mean 2, biased variance 1
    [[-1.0], [1.0]]

    Args:
        features: number of channels.
        eps: added to the variance, within the root, so that a constant channel does not divide by zero.
        momentum: the share of the *new* batch in the running buffers.

    Raises:
        ValueError: `features` is smaller than 1, `eps` is negative, `momentum` lies outside [0, 1].
    """

    def __init__(self, features: int, *, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        # YOUR CODE HERE
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "batch features *length"]) -> Float[Tensor, "batch features *length"]:
        """Normalise by the batch (training) or by what was learned from all batches (eval).

        Training: `mean` and `var` are those of the batch, `var` *biased* (divided by the number n of values per channel), and
        the gradient flows through both. Then `running = (1 - momentum) * running + momentum * batch` for both buffers, with
        the *unbiased* variance (divided by n - 1), and the counter rises by 1. The buffers carry no graph.

        Eval: `mean` and `var` are the running buffers, which stay as they are. Rows do not influence each other.

        In float32 the output is right to 0.01 also where a channel's mean is 1000 times its standard deviation, which
        E[x^2] - E[x]^2 is not. A constant channel becomes `bias`, and its gradient stays finite.

        Args:
            x: `(batch, features)` or `(batch, features, length)`.

        Raises:
            ValueError: `x` is neither 2-D nor 3-D, has another number of channels, or, in training only, has fewer than two
                values per channel (a single one has no variance).
        """
        # YOUR CODE HERE
        raise NotImplementedError


class HistoneCNN(nn.Module):
    """[norm] - Conv1d - [norm] - ReLU - MaxPool1d - Flatten - Linear - ReLU - Linear.

    The convolution is 7 bins wide with `padding="same"`, the pooling takes maxima over 5 bins (a rest of fewer is dropped),
    the hidden linear layer has 32 units, the last one 1. The norms are over the marks and over the channels; without
    `batch_norm` both are identities. All biases are kept in both cases: the networks differ in the norms' parameters only.
    The parameters are registered in the order of the forward pass, each weight before its bias.

    >>> HistoneCNN()(torch.zeros(3, 5, 50)).shape
    torch.Size([3])

    Args:
        marks: number of histone marks.
        bins: number of bins along the gene.
        channels: number of channels of the convolution.
        batch_norm: whether the two norms are there.

    Raises:
        ValueError: `marks` or `channels` is smaller than 1, or `bins` smaller than 5.
    """

    def __init__(self, marks: int = 5, bins: int = 50, channels: int = 16, *, batch_norm: bool = True):
        super().__init__()
        # YOUR CODE HERE
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "batch marks bins"]) -> Float[Tensor, "batch"]:
        """Logit of "highly expressed" for every gene.

        Args:
            x: read counts, `(batch, marks, bins)`.

        Raises:
            ValueError: `x` is not 3-D, or does not have `marks` marks and `bins` bins.
        """
        # YOUR CODE HERE
        raise NotImplementedError


def compare_batch_norm(
    train: tuple[Float[Tensor, "n marks bins"], Float[Tensor, "n"]],
    valid: tuple[Float[Tensor, "m marks bins"], Float[Tensor, "m"]] | None = None,
    *,
    epochs: int = 8,
    lr: float = 0.05,
    generator: torch.Generator | None = None,
) -> dict[str, tuple[HistoneCNN, History]]:
    """Train HistoneCNN with and without batch normalisation; nothing else differs between the two.

    Both have the marks and bins of `train` and 16 channels, start from the same weights of convolution and linear layers, and
    see the same batches in the same order: 64 rows each (the last one of an epoch may have fewer), every row once an epoch,
    reshuffled every epoch. They are trained by plain SGD (no momentum, no decay) on the mean binary cross-entropy with
    logits; `fixtures.training.fit` is a loop that does this.

    Args:
        train: raw read counts `(n, marks, bins)`, and labels `(n,)`, 1.0 = highly expressed.
        valid: the same for other genes, looked at once an epoch; the histories then have a `valid_loss`.
        epochs: passes over the training rows; 0 returns the untrained pair with empty histories.
        lr: learning rate.
        generator: decides the initial weights and the order of the batches: the same state gives the same result, and the
            global random stream stays as it was. None reads the global stream.

    Returns:
        `{"with": (network, history), "without": (network, history)}`.

    Raises:
        ValueError: `epochs` is negative.
    """
    # YOUR CODE HERE
    raise NotImplementedError

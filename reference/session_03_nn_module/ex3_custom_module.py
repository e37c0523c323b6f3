"""3.3 Custom nn.Module: a layer of your own, and eight of them that learn

**Task.** Write `Dense`, the fully connected layer, from `nn.Parameter`, and stack it into `DonorNet`, a deep network that
tells splice donor sites from decoys.

**Why.** At a splice donor site the bases depend on one another (MaxEntScan, Yeo & Burge 2004). Here a true site and a decoy
have the *same* base frequencies at every position, so a position weight matrix is at chance; a deep network can find the
pairs. Whether plain SGD can train it is decided before the first step: a layer that halves the signal looks harmless, eight
of them divide it by 256. Initial weights of the right size carry the signal through any depth (Glorot & Bengio 2010,
He et al. 2015).

**Contract.** Neither module contains an `nn.Linear`; every function of torch is allowed. Parameters are registered in the
order of the forward pass: weight and bias of the first layer, of the second, and so on. Outputs have the dtype of the
parameters, inputs may be empty or not contiguous and are not changed. Random numbers come from `generator` alone, so that
the same state gives the same weights; without one they come from torch's global stream, which nobody seeds here. Bad input
is a `ValueError` that names the argument, what came and what was expected.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


class Dense(nn.Module):
    """`x @ weight.mT + bias` over the last axis: what `nn.Linear` computes, with a start that you choose.

    Parameters: `weight` `(out_features, in_features)`, drawn independently from a normal or a uniform distribution with mean
    0 and standard deviation `gain / sqrt(in_features)`; `bias` `(out_features,)`, zeros.

    >>> Dense(36, 64)
    Dense(in_features=36, out_features=64)

    Args:
        in_features: size of the last axis of the input.
        out_features: size of the last axis of the output.
        gain: makes up for what the following activation takes away, see `nn.init.calculate_gain`.
        generator: source of the random numbers; None: torch's global stream.

    Raises:
        ValueError: a size is smaller than 1, or `gain` is not positive.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        gain: float = 1.0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        ### BEGIN SOLUTION
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if gain <= 0:
            raise ValueError(f"gain must be positive, got {gain}")
        self.in_features = in_features
        self.out_features = out_features
        std = gain / math.sqrt(in_features)
        self.weight = nn.Parameter(std * torch.randn(out_features, in_features, generator=generator))
        self.bias = nn.Parameter(torch.zeros(out_features))
        ### END SOLUTION

    def forward(self, x: Float[Tensor, "*batch in_features"]) -> Float[Tensor, "*batch out_features"]:
        """The affine map, for any number of leading axes: none, one or several.

        Raises:
            ValueError: the last axis of `x` does not have size `in_features`.
        """
        ### BEGIN SOLUTION
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"x must be (..., {self.in_features}), got {tuple(x.shape)}")
        return x @ self.weight.mT + self.bias
        ### END SOLUTION

    def extra_repr(self) -> str:
        """What `print(layer)` shows between the brackets: `in_features=36, out_features=64`."""
        ### BEGIN SOLUTION
        return f"in_features={self.in_features}, out_features={self.out_features}"
        ### END SOLUTION


class DonorNet(nn.Module):
    """`depth` Dense layers, the last one to a single logit, with an activation between each two of them.

    The hidden layers are `hidden` wide and have the gain `nn.init.calculate_gain(activation)`; the last layer, which no
    activation follows, has gain 1. Buffer: `background` `(4, 1)`, the expected base frequencies, 0.25 each; it is saved
    with the weights but never trained.

    >>> from fixtures.dna import one_hot
    >>> DonorNet(length=9)(one_hot(["CAGGTAAGT", "NNGGTGAGN"])).shape
    torch.Size([2])

    Args:
        length: bases per site.
        hidden: width of the hidden layers.
        depth: number of Dense layers.
        activation: "relu", "tanh" or "sigmoid".
        generator: source of the random numbers of all layers; None: torch's global stream.

    Raises:
        ValueError: `length` or `hidden` is smaller than 1, `depth` smaller than 2, or `activation` unknown.
    """

    def __init__(
        self,
        length: int = 9,
        hidden: int = 64,
        depth: int = 8,
        *,
        activation: str = "relu",
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        for name, size, least in (("length", length, 1), ("hidden", hidden, 1), ("depth", depth, 2)):
            if size < least:
                raise ValueError(f"{name} must be at least {least}, got {size}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {list(ACTIVATIONS)}, got {activation!r}")
        self.length = length
        # The expected base frequencies: a constant that is saved and moved with the weights.
        ### BEGIN SOLUTION
        self.register_buffer("background", torch.full((4, 1), 0.25))
        ### END SOLUTION
        # The layers, the activations between them.
        ### BEGIN SOLUTION
        gain = nn.init.calculate_gain(activation)
        layers = []
        width = 4 * length
        for _ in range(depth - 1):
            layers += [Dense(width, hidden, gain=gain, generator=generator), ACTIVATIONS[activation]()]
            width = hidden
        self.layers = nn.Sequential(*layers, Dense(width, 1, generator=generator))
        ### END SOLUTION

    def forward(self, x: Float[Tensor, "batch 4 length"]) -> Float[Tensor, "batch"]:
        """Logits: positive for "donor site".

        `self.background` is subtracted from the column of every known base, while the column of an N stays zero: an unknown
        base is no evidence. The first layer reads `flatten(1)` of the result: A at every position, then C, G, T.

        Args:
            x: one-hot columns; an N is a column of zeros.

        Raises:
            ValueError: `x` is not `(batch, 4, length)`.
        """
        if x.ndim != 3 or x.shape[1:] != (4, self.length):
            raise ValueError(f"x must be (batch, 4, {self.length}), got {tuple(x.shape)}")
        ### BEGIN SOLUTION
        known = x.sum(dim=1, keepdim=True)
        evidence = x - self.background * known
        return self.layers(evidence.flatten(1)).squeeze(1)
        ### END SOLUTION

"""3.5 Dropout Regularization: a large network, 600 probes, and how not to memorise them.

**Task.** Write dropout yourself, train a binding model with it, and keep it switched on at prediction time, so that one
network answers like the average of many (Monte Carlo dropout).

**Why.** Protein-binding microarrays and SELEX measure which DNA a protein binds. Often there are fewer measured probes than
weights: the network below has 27,000 of them for 600 probes, and without dropout it learns the probes by heart. DeepBind
(Alipanahi et al. 2015) is regularised by dropout. The probes here are simulated: bound with a probability that depends on the
summed energies of ten bases (real ones are bound at any offset, on either strand).

**Contract.** Sequences are one-hot `(batch, 4, length)`, outputs of the network are *logits* `(batch,)` of the same dtype. Bad
input is a `ValueError` that names the argument, what came and what was expected. `Dropout` is written from scratch: no dropout
function of torch is called in it (in `BindingMLP`, use your `Dropout`). Random numbers come from torch's global stream; the
functions that take a `generator` let it decide that stream, and leave the stream as it was (`fixtures.randomness.seeded`).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fixtures.randomness import seeded
from fixtures.training import History, fit


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014): noise in training, nothing in eval mode.

    In training every *element* is set to 0 with probability `p`, independently of all others and anew in each call; what is
    kept is divided by `1 - p`, so that the expected output is the input. With `p=0` nothing is dropped, with `p=1` everything:
    zeros, and zero gradients. In eval mode the output equals the input.

    >>> Dropout(p=0.5).eval()(torch.tensor([1.0, 2.0, 3.0]))
    tensor([1., 2., 3.])

    Args:
        p: probability of *dropping* an element, from 0 to 1, both included.

    Raises:
        ValueError: `p` is below 0 or above 1.
    """

    def __init__(self, p: float = 0.5):
        super().__init__()
        ### BEGIN SOLUTION
        if not 0 <= p <= 1:
            raise ValueError(f"p must lie between 0 and 1, got {p}")
        self.p = p
        ### END SOLUTION

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """`x` with dropped elements (train mode), or equal to `x` (eval mode); `x` itself is not changed.

        Args:
            x: floating-point numbers of any shape. The same state of the global random stream gives the same mask.
        """
        ### BEGIN SOLUTION
        if not self.training:
            return x
        keep = 1 - self.p
        kept = torch.rand_like(x) < keep
        return x * kept * (1 / keep if keep > 0 else 0.0)  # p=1: 0/0 would be NaN
        ### END SOLUTION


class BindingMLP(nn.Module):
    """Flatten - Linear - ReLU - Dropout - Linear - ReLU - Dropout - Linear: is this sequence bound?

    Both hidden layers are `hidden` wide, and both are followed by `Dropout(dropout)`; nothing follows the last layer. The
    parameters are registered in the order of the forward pass: weight and bias of the first layer, of the second, of the third;
    they start as `nn.Linear` initialises them.

    >>> BindingMLP(length=20)(torch.zeros(5, 4, 20)).shape
    torch.Size([5])

    Args:
        length: bases per sequence.
        hidden: width of both hidden layers.
        dropout: probability of dropping a hidden unit.

    Raises:
        ValueError: `length` or `hidden` is smaller than 1, or `dropout` is not between 0 and 1.
    """

    def __init__(self, length: int = 20, hidden: int = 128, dropout: float = 0.8):
        super().__init__()
        ### BEGIN SOLUTION
        for name, size in (("length", length), ("hidden", hidden)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.length = length
        self.net = nn.Sequential(
            nn.Linear(4 * length, hidden),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(hidden, 1),
        )
        ### END SOLUTION

    def forward(self, x: Float[Tensor, "batch 4 length"]) -> Float[Tensor, "batch"]:
        """Logits of "bound": real numbers, not probabilities.

        Args:
            x: one-hot DNA, flattened by `x.flatten(1)`: all positions of A, then of C, of G, of T.

        Raises:
            ValueError: `x` is not `(batch, 4, length)`.
        """
        ### BEGIN SOLUTION
        if x.ndim != 3 or x.shape[1:] != (4, self.length):
            raise ValueError(f"x must be (batch, 4, {self.length}), got {tuple(x.shape)}")
        return self.net(x.flatten(1)).squeeze(1)
        ### END SOLUTION


def fit_binding(
    train: tuple[Float[Tensor, "batch 4 length"], Float[Tensor, "batch"]],
    *,
    dropout: float = 0.8,
    epochs: int = 40,
    generator: torch.Generator | None = None,
) -> tuple[BindingMLP, History]:
    """Build a `BindingMLP` for these sequences (hidden 128) and train it.

    Adam at learning rate 1e-3, batches of 32, binary cross-entropy on the logits. `fixtures.training.fit` is the loop.

    Args:
        train: one-hot sequences, and labels 0.0 (unbound) or 1.0 (bound).
        dropout: passed on to the model.
        epochs: passes over the training data, at least 1.
        generator: decides initial weights, order of the rows and dropout: the same state gives the same network. The global
            random stream is then left as it was. `None`: the ordinary global stream is read.

    Returns:
        The trained model, and the history: `train_loss` has one float per epoch.

    Raises:
        ValueError: `epochs` is smaller than 1, or `dropout` is not between 0 and 1.
    """
    ### BEGIN SOLUTION
    with seeded(generator):
        model = BindingMLP(length=train[0].shape[2], dropout=dropout)
        history = fit(
            model,
            train,
            loss_fn=nn.BCEWithLogitsLoss(),
            optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
            epochs=epochs,
            batch_size=32,
        )
    return model, history
    ### END SOLUTION


def mc_dropout(
    model: nn.Module,
    x: Float[Tensor, "batch ..."],
    *,
    samples: int = 50,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Probability of "bound" averaged over dropout masks, and its spread (Gal & Ghahramani 2016).

    Every sample is `sigmoid(model(x))` with masks of its own: all *dropout modules* (your `Dropout`, and `nn.Dropout`,
    `nn.Dropout1d`, `nn.Dropout2d`, `nn.Dropout3d`) are in train mode, every other module, BatchNorm for one, is in eval mode.
    Afterwards the model is as before, also when it raised: the mode of each submodule, parameters, their `.grad`, buffers.

    Args:
        model: any module that maps `x` to logits `(batch,)`.
        x: its input, batch first.
        samples: how many masks, at least 1.
        generator: decides the masks: the same state gives the same answer. The global random stream is then left as it was.
            `None`: the ordinary global stream is read.

    Returns:
        Mean and standard deviation over the samples, both `(batch,)` and without a graph. The deviation is divided by `samples`
        (`correction=0`): 0 for a single sample, and for a model without randomness.

    Raises:
        ValueError: `samples` is smaller than 1.
    """
    ### BEGIN SOLUTION
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for module in model.modules():
        if isinstance(module, Dropout | nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
            module.train()
    try:
        with torch.no_grad(), seeded(generator):
            draws = torch.stack([model(x).sigmoid() for _ in range(samples)])
    finally:
        for module, mode in modes:
            module.training = mode
    return draws.mean(dim=0), draws.std(dim=0, correction=0)
    ### END SOLUTION

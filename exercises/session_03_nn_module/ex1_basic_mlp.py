"""3.1 Basic MLP: benign, loss of function, or gain of function?

**Task.** Write a perceptron with two hidden layers that assigns a missense variant to a class from its annotation scores,
and a function that turns its logits into class probabilities.

**Why.** Conservation, solvent accessibility and other scores of a disease variant are extreme in *either* direction: a gain
of function is not "more" or "less" of what a benign variant has. The class means coincide, so no linear model of the scores
can tell the classes apart, while one with hidden layers can. Meta-predictors of pathogenicity (MVP, Qi et al. 2021) and of
the direction of the effect (LoGoFunc, Stein et al. 2023) work on such scores.

**Contract.** Inputs are `(batch, in_features)`, outputs are *logits* `(batch, classes)` of the same dtype. Bad input is a
`ValueError` that names the argument, what came and what was expected.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class BasicMLP(nn.Module):
    """Linear - ReLU - Linear - ReLU - Linear.

    Both hidden layers are `hidden` wide. The parameters are registered in the order of the forward pass: weight and bias of
    the first layer, of the second, of the third.

    >>> BasicMLP(in_features=12, hidden=64, classes=3)(torch.zeros(5, 12)).shape
    torch.Size([5, 3])

    Args:
        in_features: number of annotation scores per variant.
        hidden: width of both hidden layers.
        classes: number of classes.

    Raises:
        ValueError: a size is smaller than 1.
    """

    def __init__(self, in_features: int, hidden: int, classes: int):
        super().__init__()
        # YOUR CODE HERE
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "batch in_features"]) -> Float[Tensor, "batch classes"]:
        """Logits: real numbers, not probabilities; the loss applies the softmax.

        Args:
            x: annotation scores, `(batch, in_features)`; the batch may be empty.

        Raises:
            ValueError: `x` is not 2-D, or does not have `in_features` columns.
        """
        # YOUR CODE HERE
        raise NotImplementedError


def predict_proba(model: nn.Module, x: Float[Tensor, "batch in_features"]) -> Float[Tensor, "batch classes"]:
    """Class probabilities: the softmax of the logits over the classes.

    The model predicts in eval mode and without building a graph. Afterwards *every submodule* is in the mode it was in
    before: a part that was frozen in eval mode stays frozen.

    Args:
        model: maps `(batch, in_features)` to logits `(batch, classes)`.
        x: annotation scores.

    Returns:
        Probabilities; every row sums to 1.
    """
    # YOUR CODE HERE
    raise NotImplementedError

"""Probes that many suites need. They run beside the submission and know no answer."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

Probe = Callable[..., Any]


def raised_by(exercise: ModuleType, call: Probe, *inputs: Any) -> dict[str, Any] | None:
    """What ``call(exercise, *inputs)`` raised: its type, the types it derives from, its message; None when nothing."""
    try:
        call(exercise, *inputs)
    except Exception as error:
        bases = [base.__name__ for base in type(error).__mro__]
        return {"type": type(error).__name__, "bases": bases, "message": str(error)[:500]}
    return None


def gradients_of(
    exercise: ModuleType, function: Probe, inputs: Sequence[Any], cotangent: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Gradients of ``(function(exercise, *inputs) * cotangent).sum()`` for every floating-point input.

    With ``cotangent`` None the output must be 0-dimensional. An input that the output does not depend on gives None.
    """
    tracked = [x.clone().requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]
    output = function(exercise, *tracked)
    wanted = [x for x in tracked if isinstance(x, Tensor) and x.requires_grad]
    return torch.autograd.grad(output, wanted, cotangent, allow_unused=True)


def values_at(exercise: ModuleType, function: Probe, points: Sequence[Sequence[Any]]) -> list[Tensor]:
    """``function(exercise, *point)`` at every point, without graph: what finite differences are made of."""
    with torch.no_grad():
        return [function(exercise, *point) for point in points]


def modes_of(module: nn.Module) -> list[bool]:
    """Train (True) or eval (False) mode of every submodule, in the order of ``modules()``."""
    return [part.training for part in module.modules()]

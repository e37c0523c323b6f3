"""Controls: answers whose verdict is known beforehand, so that the suite itself is on trial.

A control is written as a change of the reference, in ``tests/<session>/controls_<exercise>.py``::

    WRONG = [
        wrong(
            "softmax_in_forward", "shapes", "gradients", "convergence",
            says="Your forward returns probabilities; return logits and leave the softmax to the loss.",
            edit={"return self.net(x)": "return self.net(x).softmax(dim=1)"},
        ),
    ]
    RIGHT = [right("three_attributes", define='''class BasicMLP(nn.Module): ...''')]

``edit`` replaces text that must occur exactly once; ``define`` replaces the top-level definitions of the same names, and
puts new ones before the first definition. ``says`` is what a student reads whose answers equal the control's.
"""

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from grader.course import KINDS


class ControlError(Exception):
    """A control that cannot be made; one line with the place."""


@dataclass(frozen=True)
class Control:
    """An answer with a known verdict: ``loses`` names the kinds in which it must lose points (none: it is right)."""

    name: str
    loses: tuple[str, ...] = ()
    says: str = ""
    edit: tuple[tuple[str, str], ...] = ()
    define: str = ""

    def source(self, reference: str) -> str:
        """The control as a module.

        Raises:
            ControlError: an edit does not match exactly once, or the result is not Python.
        """
        text = reference
        for old, new in self.edit:
            if (count := text.count(old)) != 1:
                raise ControlError(f"control {self.name}: {old!r} occurs {count} times in the reference, not once")
            text = text.replace(old, new)
        try:
            text = with_definitions(text, self.define)
            ast.parse(text)
        except SyntaxError as error:
            raise ControlError(f"control {self.name}: {error.msg} in line {error.lineno}") from error
        if text == reference:
            raise ControlError(f"control {self.name}: it does not differ from the reference")
        return text


def wrong(name: str, *loses: str, says: str, edit: Mapping[str, str] | None = None, define: str = "") -> Control:
    """A plausible mistake; it must lose points in each of the kinds ``loses``."""
    if not loses or not set(loses) <= set(KINDS):
        raise ControlError(f"control {name}: name the kinds it must lose, of {', '.join(KINDS)}")
    return Control(name, loses, says, tuple((edit or {}).items()), define)


def right(name: str, *, edit: Mapping[str, str] | None = None, define: str = "") -> Control:
    """A right answer in another style; it must keep every point."""
    return Control(name, (), "", tuple((edit or {}).items()), define)


@dataclass(frozen=True)
class Controls:
    """The controls of one exercise."""

    wrong: tuple[Control, ...]
    right: tuple[Control, ...]


def load(path: Path) -> Controls:
    """Read a controls file.

    Raises:
        ControlError: no such file, an error in it, too few controls, a name used twice, or a wrong one without a sentence.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ControlError(f"{path}: no controls")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        controls = Controls(tuple(module.WRONG), tuple(module.RIGHT))
    except ControlError as error:
        raise ControlError(f"{path.name}: {error}") from error
    except Exception as error:
        raise ControlError(f"{path.name}: {type(error).__name__}: {error}") from error
    names = [control.name for control in (*controls.wrong, *controls.right)]
    if len(controls.wrong) < 5 or len(controls.right) < 2:
        raise ControlError(f"{path.name}: at least 5 wrong and 2 right controls are needed")
    if len(set(names)) < len(names):
        raise ControlError(f"{path.name}: a name is used twice")
    if silent := [control.name for control in controls.wrong if not control.says]:
        raise ControlError(f"{path.name}: {silent[0]} has no sentence for the student")
    return controls


def with_definitions(text: str, define: str) -> str:
    """``text`` with top-level definitions replaced by those of the same name in ``define``; new ones come first."""
    if not define.strip():
        return text
    lines = text.splitlines(keepends=True)
    places = {name: node for node in ast.parse(text).body if (name := _name(node))}
    new: list[str] = []
    replaced: list[tuple[int, int, str]] = []
    pieces = define.splitlines(keepends=True)
    for node in ast.parse(define).body:
        start, end = _span(node)
        piece = "".join(pieces[start:end]).rstrip() + "\n"
        if (old := places.get(_name(node))) is not None:
            replaced.append((*_span(old), piece))
        else:
            new.append(piece)
    for start, end, piece in sorted(replaced, reverse=True):
        lines[start:end] = [piece]
    first = min(_span(node)[0] for node in places.values())
    return "".join([*lines[:first], *(piece + "\n\n" for piece in new), *lines[first:]])


def _name(node: ast.stmt) -> str:
    return node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else ""


def _span(node: ast.stmt) -> tuple[int, int]:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    return first - 1, node.end_lineno or node.lineno


LAZY = ("zeros", "constant", "identity", "half", "none")

_LAZINESS = """

import torch


def _lazy_tree(kind, output, given):
    if isinstance(output, (tuple, list)):
        return type(output)(_lazy_tree(kind, item, given) for item in output)
    if isinstance(output, dict):
        return {{key: _lazy_tree(kind, item, given) for key, item in output.items()}}
    if not isinstance(output, torch.Tensor):
        return output
    if kind == "half":
        kept = output.clone()
        if kept.ndim:
            kept[(len(kept) + 1) // 2 :] = 0
        return kept
    return torch.zeros_like(output) if kind == "zeros" else torch.full_like(output, 0.5)


def _lazy(kind, function, method):
    import functools

    @functools.wraps(function)
    def answer(*given, **named):
        inputs = [x for x in (*given[method:], *named.values()) if isinstance(x, torch.Tensor)]
        if kind == "none":
            return None
        if kind == "identity":
            return inputs[0] if inputs else None
        return _lazy_tree(kind, function(*given, **named), inputs)

    return answer


for _name, _item in list(globals().items()):
    if getattr(_item, "__module__", None) != __name__ or _name.startswith("_"):
        continue
    if isinstance(_item, type) and issubclass(_item, torch.nn.Module) and "forward" in vars(_item):
        _item.forward = _lazy({kind!r}, _item.forward, 1)
    elif callable(_item) and not isinstance(_item, type):
        globals()[_name] = _lazy({kind!r}, _item, 0)
"""


def lazy(kind: str, reference: str) -> str:
    """The reference made lazy, which every suite must see through for free.

    ``zeros`` and ``constant`` answer the right shape, ``identity`` the first tensor it was given, ``half`` is right for the
    first half of the batch only, ``none`` forgot its return statement.
    """
    return reference + _LAZINESS.format(kind=kind)

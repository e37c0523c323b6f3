"""Lessons that are true: the code in a ``lesson.md`` runs, and prints what the lesson says it prints.

A block of ``python`` may be followed, after blank lines only, by a block of ``text``: its output. All ``python`` blocks of
a lesson share one namespace and run in order; without a ``text`` block they must print nothing. Authors do not type
outputs: ``python -m grader.lesson lesson.md`` writes them.
"""

import contextlib
import io
import re
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from grader.report import write_atomically

FENCE = re.compile(
    r"^(?P<opening>[ \t]*(?P<fence>`{3,}|~{3,})(?P<info>[^`\n]*))\n(?P<body>.*?)(?P<end>^[ \t]*(?P=fence)[ \t]*$|\Z)",
    re.MULTILINE | re.DOTALL,
)
LIKE_PYTHON = re.compile(r"py|ipython|\{\.?py", re.IGNORECASE)


class LessonError(ValueError):
    """A lesson that cannot be read or brought up to date: one line, with the place."""


@dataclass(frozen=True)
class Block:
    """A ``python`` block and the output that is printed below it; ``line`` is that of its first line of code."""

    source: str
    expected: str | None
    line: int


@dataclass(frozen=True)
class Mismatch:
    """A block that did not print what the lesson says; ``error`` is the exception that ended it, or empty."""

    line: int
    expected: str | None
    got: str
    error: str = ""

    def __str__(self) -> str:
        """All of it, for an author."""
        said = "no output" if self.expected is None else f"\n{self.expected}"
        return f"line {self.line}: {self.error or 'another output'}\n--- expected: {said}\n--- got:\n{self.got}"


@dataclass(frozen=True)
class _Place:
    """Where a block and its output lie in the text: ``text[start:end]`` is the output's fence, or nothing."""

    block: Block
    start: int
    end: int


def blocks(text: str) -> list[Block]:
    """The ``python`` blocks of a lesson, in order.

    Raises:
        LessonError: a block is not closed, or its first line looks like Python but is not exactly ``python``, so that
            nothing would run it.
    """
    return [place.block for place in _places(text)]


def run(text: str, name: str, *, seed: int = 0) -> list[Mismatch]:
    """Run a lesson and compare what it prints with what it says; trailing whitespace does not count.

    A warning is an error, and the blocks behind an error are not run. The global random stream, the number of threads
    and the default dtype are afterwards as before.

    Args:
        text: the lesson.
        name: its file name, for tracebacks.
        seed: of the global random stream when the lesson begins. A lesson whose sections seed themselves does not care.
    """
    mismatches = []
    for block, got, error in _outputs(blocks(text), name, seed):
        if error or got != (block.expected or ""):
            mismatches.append(Mismatch(block.line, block.expected, got, error))
    return mismatches


def update(text: str, name: str = "lesson.md") -> str:
    """The lesson with every output as it is: wrong ones replaced, missing ones added, empty ones removed.

    Raises:
        LessonError: a block raised.
    """
    places = _places(text)
    parts, done = [], 0
    outputs = _outputs((place.block for place in places), name, seed=0)
    for place, (block, got, error) in zip(places, outputs, strict=False):  # fewer outputs after an error
        if error:
            raise LessonError(f"{name}, line {block.line}: {error}")
        fence = "````" if "```" in got else "```"
        parts += [text[done : place.start], f"\n\n{fence}text\n{got}\n{fence}" if got else ""]
        done = place.end
    return "".join([*parts, text[done:]])


def _places(text: str) -> list[_Place]:
    fences = list(FENCE.finditer(text))
    places = []
    for number, fence in enumerate(fences):
        info, line = fence["info"].strip(), text.count("\n", 0, fence.start()) + 1
        if not fence["end"]:
            raise LessonError(f"line {line}: this block is not closed")
        if fence["opening"] != "```python":
            if LIKE_PYTHON.match(info):
                raise LessonError(f"line {line}: write ```python, not indented, so that the block is run")
            continue
        start = end = fence.end()
        expected = None
        if number + 1 < len(fences):
            below = fences[number + 1]
            if below["info"].strip() == "text" and not text[start : below.start()].strip():
                expected, end = _normal(below["body"]), below.end()
        places.append(_Place(Block(fence["body"], expected, line + 1), start, end))
    return places


def _outputs(code: Iterable[Block], name: str, seed: int) -> list[tuple[Block, str, str]]:
    """Every block with what it printed and the error that ended it, up to the first error."""
    namespace: dict[str, Any] = {"__name__": "lesson"}
    outputs = []
    with _deterministic(seed):
        for block in code:
            error = ""
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                try:
                    # Blank lines in front, so that a traceback has the line numbers of the lesson.
                    exec(compile("\n" * (block.line - 1) + block.source, name, "exec"), namespace)
                except Exception as caught:
                    error = _in_one_line(caught, name)
            outputs.append((block, _normal(printed.getvalue()), error))
            if error:
                break
    return outputs


def _in_one_line(error: Exception, name: str) -> str:
    message = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SyntaxError):
        return f"{message} (line {error.lineno})"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
    return f"{message} (line {lines[-1]})" if lines else message


def _normal(output: str) -> str:
    return "\n".join(line.rstrip() for line in output.rstrip().split("\n"))


@contextlib.contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_default_dtype(dtype)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        path = Path(argument)
        try:
            write_atomically(path, update(path.read_text(encoding="utf-8"), path.name))
        except LessonError as error:
            sys.exit(str(error))

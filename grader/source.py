"""One source: everything that a student receives for an exercise is made from its reference module.

A reference is plain Python; its answers stand between ``### BEGIN SOLUTION`` and ``### END SOLUTION``, nbgrader's own
markers, and nbgrader's own ``ClearSolutions`` takes them out.
"""

import ast
import difflib
import io
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from grader.course import Course, Exercise
from grader.report import write_atomically
from grader.submission import InputError

BEGIN = "### BEGIN SOLUTION"
END = "### END SOLUTION"
CODE_STUB = "# YOUR CODE HERE\nraise NotImplementedError"
"""What a student finds in place of an answer."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


class SourceError(InputError):
    """A reference module that cannot be turned into a stub; ``file:line: what is wrong``."""


@dataclass(frozen=True)
class Region:
    """One answer: the line numbers, counted from 1, of its two markers."""

    begin: int
    end: int


@dataclass(frozen=True)
class Cell:
    """A piece of a module as a notebook shows it.

    Attributes:
        kind: ``markdown`` for the module's docstring, else ``code``.
        source: the text, markers included.
        name: what it defines (``BasicMLP``), or ``task``, or ``setup``.
        solution: whether the student writes in it; all others are locked.
    """

    kind: Literal["markdown", "code"]
    source: str
    name: str
    solution: bool = False


def stub(text: str, name: str = "reference") -> str:
    """The module that a student receives: ``text`` with every answer replaced by ``CODE_STUB``, indented.

    Args:
        text: the reference module.
        name: its file's name, for messages.

    Raises:
        SourceError: a marker is nested, unclosed, stray, misspelt or out of place, or the stub would be no Python.
    """
    lint(text, name)
    cleared = _clear_solutions(text).rstrip("\n") + "\n"
    _parse(cleared, f"{name} (its stub)")
    return cleared


def lint(text: str, name: str = "reference") -> tuple[Region, ...]:
    """The answers of a reference, or a ``SourceError`` that names the first thing wrong with it."""
    module = _parse(text, name)
    if not ast.get_docstring(module):
        raise SourceError(f"{name}:1: no module docstring: it is the task that the student reads")
    regions = _regions(text, name)
    if not regions:
        raise SourceError(f"{name}:1: no {BEGIN}: nothing is left for the student to write")
    nodes = list(ast.walk(module))
    functions = [(node.lineno, node.end_lineno or 0) for node in nodes if isinstance(node, Function)]
    for region in regions:
        answer = [node for node in nodes if isinstance(node, ast.stmt) and region.begin < node.lineno < region.end]
        if not answer:
            raise SourceError(f"{name}:{region.begin}: no statement between {BEGIN} and {END}")
        last = max(node.end_lineno or 0 for node in answer)
        if not any(first < region.begin and last <= end for first, end in functions):
            raise SourceError(f"{name}:{region.begin}: an answer outside of a function: its stub could not be imported")
    return regions


def solution_lines(text: str, name: str = "reference") -> set[str]:
    """The lines of the answers, stripped, that would give something away.

    Left out are lines that also stand outside of the answers, and small change: what anybody would write.
    """
    regions = _regions(text, name)
    answers: set[str] = set()
    rest: set[str] = set()
    for number, line in enumerate(text.splitlines(), start=1):
        within = any(region.begin < number < region.end for region in regions)
        (answers if within else rest).add(line.strip())
    return {line for line in answers - rest if not _is_small_change(line)}


def leaks(secret: Iterable[str], text: str) -> list[str]:
    """Those of the solution lines ``secret`` that stand in ``text``, in the text's order, each once."""
    secret = set(secret)
    return list(dict.fromkeys(line for line in map(str.strip, text.splitlines()) if line in secret))


def sync(course: Course, exercises: Iterable[Exercise], check: bool = False) -> list[str]:
    """Write the stubs that are missing or stale.

    Args:
        course: where the files lie.
        exercises: whose stubs to look at.
        check: only look, write nothing.

    Returns:
        The stubs that were (with ``check``: would be) written, as paths relative to the course.
    """
    stale: dict[Path, str] = {}
    for exercise in exercises:
        reference, target = course.reference(exercise), course.stub(exercise)
        wanted = stub(read(reference), shown(reference, course.root))
        try:
            present = target.read_text(encoding="utf-8")
        except (FileNotFoundError, UnicodeDecodeError):
            present = None
        if present != wanted:
            stale[target] = wanted
    for target, wanted in () if check else stale.items():
        write_atomically(target, wanted)
    return [shown(target, course.root) for target in stale]


def cells(text: str, name: str = "reference") -> list[Cell]:
    """A reference module as the cells of a notebook: in order, nothing lost.

    The docstring becomes markdown. Each top-level function or class is a cell, with its decorators and the comments
    above it: open for writing where it holds an answer, locked otherwise. What stands between them (imports,
    constants) is a locked cell.
    """
    regions = lint(text, name)
    lines = text.splitlines()
    body = _parse(text, name).body
    found: list[Cell] = []
    begin = 1  # the first line that no cell holds yet
    for statement, following in zip(body, [*body[1:], None], strict=True):
        last = (_first_line(following) - 1) if following else len(lines)
        while following and last > (statement.end_lineno or 0) and not lines[last - 1][:1].isspace():
            last -= 1  # comments above the next statement are its own; indented ones still belong to this one
        if statement is body[0]:
            if last < (statement.end_lineno or 0):
                raise SourceError(f"{name}:{statement.end_lineno}: the module docstring needs a line of its own")
            found.append(Cell("markdown", ast.get_docstring(ast.Module(body[:1], [])) or "", "task"))
            begin = last + 1
        elif isinstance(statement, Definition) or following is None or isinstance(following, Definition):
            source = "\n".join(lines[begin - 1 : last]).strip("\n")
            open_for_writing = any(begin <= region.begin <= last for region in regions)
            title = statement.name if isinstance(statement, Definition) else "setup"
            found.append(Cell("code", source, title, open_for_writing))
            begin = last + 1
    return found


def read(path: Path) -> str:
    """A reference's text; an ``InputError`` in one line when there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


def shown(path: Path, root: Path) -> str:
    """A path as messages show it: relative to ``root`` where it lies inside."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _parse(text: str, name: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise SourceError(f"{name}:{error.lineno or 1}: not valid Python: {error.msg}") from error


def _regions(text: str, name: str) -> tuple[Region, ...]:
    """The answers by their markers alone."""
    markers = _markers(text, name)
    regions: list[Region] = []
    opened: int | None = None
    for number, marker in sorted(markers.items()):
        if marker == BEGIN:
            if opened is not None:
                raise SourceError(f"{name}:{number}: nested {BEGIN} (the one of line {opened} is still open)")
            opened = number
        elif opened is None:
            raise SourceError(f"{name}:{number}: {END} without {BEGIN}")
        else:
            regions.append(Region(opened, number))
            opened = None
    if opened is not None:
        raise SourceError(f"{name}:{opened}: {BEGIN} is never closed by {END}")
    return tuple(regions)


def _markers(text: str, name: str) -> dict[int, str]:
    """Line number -> marker; refuses whatever ClearSolutions or a hurried reader might take for one."""
    found: dict[int, str] = {}
    try:
        comments = [
            token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == tokenize.COMMENT
        ]
    except (tokenize.TokenError, SyntaxError) as error:
        raise SourceError(f"{name}:1: not valid Python: {error}") from error
    for comment in comments:
        number = comment.start[0]
        if comment.string in (BEGIN, END) and comment.line.strip() == comment.string:
            if comment.start[1] == 0:
                raise SourceError(f"{name}:{number}: indent {comment.string} like the answer, inside of its function")
            found[number] = comment.string
        elif _resembles_marker(comment.string):
            raise SourceError(f"{name}:{number}: write {BEGIN} or {END} alone on its line, not {comment.string!r}")
    for number, line in enumerate(text.splitlines(), start=1):
        if number not in found and ("BEGIN SOLUTION" in line or "END SOLUTION" in line):
            raise SourceError(f"{name}:{number}: a marker that is no comment: nbgrader would cut here all the same")
    return found


def _resembles_marker(comment: str) -> bool:
    words = comment.strip("#: \t-=").upper()
    return any(difflib.SequenceMatcher(None, words, marker.strip("# ")).ratio() > 0.8 for marker in (BEGIN, END))


def _is_small_change(line: str) -> bool:
    """Whether a solution line tells nobody anything.

    So is one shorter than 12 characters; the head of a block (``if size < 1:``, ``with torch.no_grad():``), for the answer
    is in the body; an error raised, for the task states it; and a statement that is no more than names and at most one
    call of names (``loss.backward()``, ``return F.relu(x)``). A number, an operator, a keyword argument or a call within
    a call is a thought.
    """
    if len(line) < 12:
        return True
    try:
        body = ast.parse(f"{line} pass" if line.endswith(":") else line).body
    except SyntaxError:  # a part of a statement, or of a comment
        return line.endswith(":") and line.startswith(("elif ", "except "))
    if line.endswith(":") or any(isinstance(statement, ast.Raise) for statement in body):
        return True
    nodes = [node for statement in body for node in ast.walk(statement)]
    plain = (ast.stmt, ast.Name, ast.Attribute, ast.Call, ast.Tuple, ast.expr_context)
    thoughts = [node for node in nodes if not isinstance(node, plain)]
    return bool(body) and not thoughts and sum(isinstance(node, ast.Call) for node in nodes) <= 1


def _first_line(statement: ast.stmt) -> int:
    """Where a statement begins, its decorators included."""
    decorators = statement.decorator_list if isinstance(statement, Definition) else []
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def _clear_solutions(text: str) -> str:
    try:
        from nbformat.v4 import new_code_cell, new_notebook
        from nbgrader.preprocessors import ClearSolutions
    except ImportError as error:
        raise InputError("making stubs needs nbgrader: pip install 'pytorch-genomics-course[nbgrader]'") from error
    preprocessor = ClearSolutions(code_stub={"python": CODE_STUB}, enforce_metadata=False)
    notebook = new_notebook(cells=[new_code_cell(text)])  # type: ignore[no-untyped-call]
    notebook, _ = preprocessor.preprocess(notebook, {})
    return str(notebook.cells[0].source)

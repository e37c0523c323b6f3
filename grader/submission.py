"""A student's answer as text: a Python module, or the code cells of a notebook. Nothing here runs it."""

import codecs
import hashlib
import io
import json
import re
import stat
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_BYTES = 64 * 2**20
"""A larger file is not read: a 50 MB output in a notebook is still an honest accident, a gigabyte is not."""


MAX_PARTS = 2_000_000
"""Lists and objects in a notebook's JSON, which grow twentyfold when they are parsed."""

ENCODINGS = {"utf-8", "utf-8-sig", "ascii", "iso8859-1", "iso8859-15", "cp1252"}
"""Of modules. Some of Python's other codecs (punycode) take the trusted process quadratic time on hostile text."""


class InputError(Exception):
    """The person who called gave something unusable; one clear line, exit code 2."""


@dataclass(frozen=True)
class Chunk:
    """Code that is compiled and run in one go: a whole module, or one notebook cell.

    Attributes:
        label: shown in tracebacks instead of a file name, e.g. ``ex1_basic_mlp.py`` or ``cell 4``.
        source: the code.
        required: whether an error in it makes the answer unusable. The student's own scratch cells are not required.
    """

    label: str
    source: str
    required: bool = True


@dataclass(frozen=True)
class Submission:
    """What a student handed in for one exercise.

    Attributes:
        name: the file's name.
        chunks: the code, in order.
        problem: why it cannot be run at all (no such file, not text, not a notebook), else "".
    """

    name: str
    chunks: tuple[Chunk, ...] = ()
    problem: str = ""

    @property
    def digest(self) -> str:
        """sha256 over everything that can influence the verdict."""
        content = json.dumps([self.problem, [(c.label, c.source, c.required) for c in self.chunks]])
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()

    @classmethod
    def from_source(cls, source: str, name: str) -> "Submission":
        """A module given as text."""
        return cls(name, (Chunk(name, source),))

    @classmethod
    def from_file(cls, path: Path) -> "Submission":
        """Read a ``.py`` or ``.ipynb`` file.

        What is wrong *inside* the file is the student's and becomes ``problem``; what is wrong with the call is an
        ``InputError``: no such file, a folder, no permission, another extension. A link is not followed: in a submitted
        archive it may lead to the reference, or to another student's answer.
        """
        if path.suffix not in (".py", ".ipynb"):
            raise InputError(f"{path}: expected a .py module or an .ipynb notebook")
        try:
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe or a device would never end
                return cls(path.name, problem="the file is a link or not a regular file, and is not read")
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
        if len(content) > MAX_BYTES:
            return cls(path.name, problem=f"the file is larger than {MAX_BYTES // 2**20} MB")
        return cls.from_bytes(content, path.name)

    @classmethod
    def from_bytes(cls, content: bytes, name: str) -> "Submission":
        """What ``from_file`` does, for content that is already in memory."""
        if not content.strip():
            return cls(name, problem="the file is empty")
        try:
            if name.endswith(".ipynb"):
                if content.count(b"[") + content.count(b"{") > MAX_PARTS:
                    return cls(name, problem=f"the notebook has more than {MAX_PARTS:,} parts: clear its outputs")
                return cls(name, cells_to_chunks(json.loads(content.decode("utf-8-sig"))))
            encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
            if codecs.lookup(encoding).name not in ENCODINGS:
                return cls(name, problem=f"the file's encoding is {encoding[:40]}: save it as UTF-8")
            return cls.from_source(content.decode(encoding), name)
        except UnicodeDecodeError as error:
            return cls(name, problem=f"the file is not UTF-8 text (byte {error.start}): save it as UTF-8")
        except SyntaxError as error:  # an unknown or contradictory coding cookie
            return cls(name, problem=f"the file's encoding cannot be read ({error.msg[:200]}): save it as UTF-8")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return cls(name, problem=f"the file is not a Jupyter notebook ({type(error).__name__})")


def cells_to_chunks(notebook: dict[str, Any]) -> tuple[Chunk, ...]:
    """The runnable code of a notebook (nbformat 4) in order; graded cells are the judge's and are left out.

    Cells that nbgrader marks as a solution, or as locked, are required; the student's own cells are not.
    """
    if notebook.get("nbformat") != 4:
        raise ValueError(f"nbformat 4 expected, got {notebook.get('nbformat')!r}")
    chunks = []
    for position, cell in enumerate(notebook["cells"], start=1):
        if cell["cell_type"] != "code":
            continue
        role = cell.get("metadata", {}).get("nbgrader")
        if not isinstance(role, dict):  # a student's own cell, or metadata that somebody has broken
            role = {}
        if role.get("grade"):
            continue
        source = cell["source"]
        text = without_magics(source if isinstance(source, str) else "".join(source))
        if text.strip():
            required = bool(role.get("solution") or role.get("locked"))
            chunks.append(Chunk(f"cell {position}", text, required))
    return tuple(chunks)


def without_magics(source: str) -> str:
    """``source`` with IPython's magics and shell escapes blanked out; line numbers stay the same.

    By pattern only: parsing hostile text would put the trusted process at the mercy of the parser's stack.
    """
    source = re.sub(r"^(\s*)%%(?:time|capture)\b.*", r"\1pass", source)  # the cell runs as usual
    if source.lstrip().startswith("%%"):
        return ""
    return re.sub(r"^([ \t]*)(?:%[a-zA-Z]|!(?!=)).*$", r"\1pass", source, flags=re.MULTILINE)

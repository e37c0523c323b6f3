"""What a grading found: one record, from which every face (terminal, HTML, gradebook) is drawn.

A face computes nothing: whatever it shows is a field or a property here.
"""

import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

SCHEMA_VERSION = 1

Outcome = Literal["correct", "wrong", "raised", "not_attempted", "not_reached", "grader_fault"]
"""``raised``: the student's code raised, ran out of time or memory, or ended the process.
``not_reached``: failed after an earlier kind had failed, so it may be a mere consequence; scored all the same.
``grader_fault``: the judge's own error; its points are pending, never lost."""

Kind = Literal["shapes", "gradients", "convergence", "throughput"]

Isolation = Literal["bubblewrap", "uid", "child-process", "in-process"]
"""How a submission was kept away from everything else, strongest first; see ``grader.seal``."""


Text = Annotated[
    str, BeforeValidator(lambda text: text.encode("utf-8", "replace").decode() if isinstance(text, str) else text)
]
"""Text that may come from a submission: a lone surrogate in it could not be written as UTF-8, and becomes a ``?``."""


class Record(BaseModel):
    """Base of all records: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Figure(Record):
    """Numbers worth a picture: a ``curve`` has one list per line, ``bars`` one value per bar (a list of length 1)."""

    style: Literal["curve", "bars"]
    title: Text
    unit: str = ""
    series: dict[Text, list[float]]
    x_label: Text = "step"  # of a curve: what one number after the other stands for
    limit: float | None = None  # a line to compare with
    limit_label: Text = "limit"


class Check(Record):
    """One expected check and what came of it."""

    id: str
    kind: Kind
    title: Text
    points: int = Field(ge=0)
    earned: int = Field(ge=0)
    outcome: Outcome
    rationale: Text = ""  # what was expected, what came
    help: Text = ""  # the likely cause and the next step
    seconds: float = 0.0
    figures: tuple[Figure, ...] = ()


class Environment(Record):
    """Where the verdict was reached."""

    grader: str
    python: str
    torch: str
    platform: str
    isolation: Isolation
    layers: tuple[str, ...] = ()  # what the isolation consisted of on that machine


R = TypeVar("R", Check, Environment)


@lru_cache(maxsize=4096)
def _shared(record: R) -> R:
    """The first of all records that are equal."""
    return record


class Report(Record):
    """The verdict on one submission to one exercise."""

    schema_version: Literal[1] = 1
    exercise: str
    title: str
    student: Text = ""
    submission: Text  # the file's name
    submission_digest: str  # sha256 of what was graded
    suite_digest: str  # sha256 of the hidden suite
    seed: int
    environment: Environment
    started: str  # ISO 8601, UTC
    seconds: float
    checks: tuple[Check, ...]
    score: int
    max_score: int
    pending: int = 0  # points of checks that a fault of the grader left undecided

    def by_kind(self) -> dict[Kind, tuple[int, int]]:
        """Kind -> (points earned, points possible), in the order of the rungs."""
        totals: dict[Kind, tuple[int, int]] = {}
        for check in self.checks:
            earned, points = totals.get(check.kind, (0, 0))
            totals[check.kind] = (earned + check.earned, points + check.points)
        return totals

    def summary(self) -> "Report":
        """Itself without words and figures: all that a table of a whole class needs.

        It is small: equal checks of the summaries of a class are one object.
        """
        bare = {"rationale": "", "help": "", "seconds": 0.0, "figures": ()}
        checks = tuple(_shared(check.model_copy(update=bare)) for check in self.checks)
        environment = _shared(self.environment.model_copy(update={"layers": ()}))
        return self.model_copy(update={"checks": checks, "environment": environment})

    @property
    def faulty(self) -> bool:
        """Whether a fault of the grader left a check undecided."""
        return any(check.outcome == "grader_fault" for check in self.checks)

    def to_json(self) -> str:
        """JSON text; NaN and infinities as strings, so that every JSON reader accepts it."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Read a report; ``pydantic.ValidationError`` (a ``ValueError``) when the text is not one."""
        return cls.model_validate_json(text)


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` so that a reader (or a crash) sees the whole file or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)  # an interrupt may come when it has its name already
        raise

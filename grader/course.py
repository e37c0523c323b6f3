"""The course's manifest, ``course.toml``: which exercises there are, and where their files lie.

Imports nothing heavy: every command of the grader reads the manifest first.
"""

import copyreg
import math
import re
import reprlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast, get_args

MANIFEST = "course.toml"
KINDS: tuple[str, ...] = ("shapes", "gradients", "convergence", "throughput")
Status = Literal["ready", "planned"]
T = TypeVar("T")


def _read_only(content: dict[str, T]) -> MappingProxyType[str, T]:
    return MappingProxyType(content)


# Exercises travel to worker processes; a read-only view of a dict cannot be pickled by itself.
copyreg.pickle(MappingProxyType, lambda view: (_read_only, (dict(view),)))


class CourseError(Exception):
    """A mistake in the manifest, or a name that it does not know: one clear line, with the place."""


@dataclass(frozen=True)
class Limits:
    """What one probe may use."""

    wall_s: float = 30.0
    memory_mb: int = 4096


@dataclass(frozen=True)
class Exercise:
    """One exercise. ``points`` and ``waives`` (kind -> the reason why it is not checked) are read-only."""

    id: str  # "3.1"
    number: int
    session: int
    folder: str  # "session_03_nn_module"
    slug: str
    module: str  # "ex1_basic_mlp"
    title: str
    stars: int
    minutes: int
    status: Status
    points: Mapping[str, int] = field(hash=False)
    prerequisites: tuple[str, ...]
    limits: Limits
    waives: Mapping[str, str] = field(hash=False)

    @property
    def max_score(self) -> int:
        """The sum of the points of all kinds."""
        return sum(self.points.values())

    @property
    def ready(self) -> bool:
        """Whether it is written, so that it can be released and graded."""
        return self.status == "ready"


@dataclass(frozen=True)
class Session:
    """One session and its exercises, by number."""

    number: int
    slug: str
    title: str
    folder: str
    minutes: int
    chapters: tuple[str, ...]
    prerequisites: tuple[str, ...]
    exercises: tuple[Exercise, ...]


@dataclass(frozen=True)
class Part:
    """One module of a capstone."""

    id: str  # "C1.2"
    number: int
    slug: str
    module: str  # "c2_model"
    title: str
    minutes: int


@dataclass(frozen=True)
class Capstone:
    """One capstone project; ``sessions`` are those it presupposes."""

    number: int
    slug: str
    title: str
    folder: str  # "capstone1_variant_effect"
    minutes: int
    sessions: tuple[int, ...]
    chapters: tuple[str, ...]
    status: Status
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Course:
    """The whole manifest; ``root`` is the folder in which it lies.

    That folder is the repository, or a released session: there the student's files lie flat beside ``course.toml``.
    """

    title: str
    root: Path
    sessions: tuple[Session, ...]
    capstones: tuple[Capstone, ...]

    @property
    def exercises(self) -> tuple[Exercise, ...]:
        """All exercises of all sessions, in the order of their ids."""
        return tuple(exercise for session in self.sessions for exercise in session.exercises)

    # -- where the files lie --

    def stub(self, exercise: Exercise) -> Path:
        """The module that a student completes."""
        return self._student_folder(exercise) / f"{exercise.module}.py"

    def visible_suite(self, exercise: Exercise) -> Path:
        """The tests that a student sees."""
        return self._student_folder(exercise) / f"test_{exercise.module}.py"

    def hints(self, exercise: Exercise) -> Path:
        """The hints of the exercise's whole session."""
        return self._student_folder(exercise) / "hints.toml"

    def reference(self, exercise: Exercise) -> Path:
        """The solved module."""
        return self.root / "reference" / exercise.folder / f"{exercise.module}.py"

    @property
    def secret(self) -> tuple[Path, ...]:
        """The folders that no submission may read."""
        return self.root / "tests", self.root / "reference"

    def hidden_suite(self, exercise: Exercise) -> Path:
        """The tests that give the points."""
        return self.root / "tests" / exercise.folder / f"test_{exercise.module}.py"

    def controls(self, exercise: Exercise) -> Path:
        """The wrong and right solutions that the hidden suite must tell apart."""
        return self.root / "tests" / exercise.folder / f"controls_{exercise.module}.py"

    def _student_folder(self, exercise: Exercise) -> Path:
        exercises = self.root / "exercises"
        return exercises / exercise.folder if exercises.is_dir() else self.root

    def check_files(self) -> list[str]:
        """One line for every file of the full layout that a ready exercise lacks."""
        files = (self.reference, self.stub, self.visible_suite, self.hidden_suite, self.controls, self.hints)
        return [
            f"{exercise.id}: no {file.__name__.replace('_', ' ')}: {file(exercise).relative_to(self.root).as_posix()}"
            for exercise in self.exercises
            if exercise.ready
            for file in files
            if not file(exercise).is_file()
        ]

    # -- finding an exercise --

    def session(self, number: int) -> Session:
        """The session of that number."""
        for session in self.sessions:
            if session.number == number:
                return session
        known = ", ".join(str(session.number) for session in self.sessions)
        raise CourseError(f"no session {number} in {MANIFEST}; there are {known}")

    def exercise(self, name: str) -> Exercise:
        """The exercise of that id (``3.1``), module (``ex1_basic_mlp``) or slug (``basic_mlp``), ready or planned."""
        for exercise in self.exercises:
            if name in (exercise.id, exercise.module, exercise.slug):
                return exercise
        raise CourseError(f"no exercise {name!r} in {MANIFEST}{_near(name, self.exercises)}")

    def exercise_of(self, path: Path) -> Exercise:
        """The exercise to which a file belongs, by its name: a module, a notebook, a suite or its controls."""
        module = path.stem.removeprefix("test_").removeprefix("controls_")
        for exercise in self.exercises:
            if exercise.module == module:
                return exercise
        raise CourseError(f"{path.name} is not named after an exercise{_near(module, self.exercises)}")

    def select(self, names: Iterable[str]) -> tuple[Exercise, ...]:
        """The ready exercises that are named, in the order of their ids: by its name, a session's number or ``all``."""
        ready = [exercise for exercise in self.exercises if exercise.ready]
        chosen: set[str] = set()
        for name in names:
            if name == "all" or name.isdecimal():
                number = None if name == "all" else self.session(int(name)).number
                found = [exercise for exercise in ready if number in (None, exercise.session)]
                if not found:
                    raise CourseError(f"{name}: no exercise is ready yet")
            else:
                found = [self.exercise(name)]
                if not found[0].ready:
                    raise CourseError(f"exercise {name} is planned, not written yet{_near(name, ready)}")
            chosen.update(exercise.id for exercise in found)
        return tuple(exercise for exercise in ready if exercise.id in chosen)


def _near(name: str, exercises: Sequence[Exercise]) -> str:
    """``; did you mean ...?`` with the exercises that have a similar name, or nothing."""
    labels = {label: e for e in exercises for label in (e.id, e.module, e.slug)}
    near = dict.fromkeys(labels[label] for label in get_close_matches(name, labels, n=6, cutoff=0.6))
    return f"; did you mean {', '.join(f'{e.id} ({e.slug})' for e in near)}?" if near else ""


def find(start: Path | None = None) -> Course:
    """Load the first ``course.toml`` in ``start`` (by default the current folder) or in a folder above it."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / MANIFEST).is_file():
            return load(folder)
    raise CourseError(
        f"no {MANIFEST} in {here} or any folder above it: run this inside the course or a released session"
    )


def load(path: Path) -> Course:
    """Read and check ``path``: a ``course.toml``, or the folder in which it lies."""
    file = path / MANIFEST if path.is_dir() else path
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CourseError(f"{file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CourseError(f"{MANIFEST}: not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise CourseError(f"{MANIFEST}: not valid TOML: {error}") from error

    table = _Table(raw, MANIFEST, ("course", "session", "capstone"))
    title = _Table(table.take("course", dict), f"{MANIFEST}: course", ("title",)).text("title")
    sessions = _in_order(_session(entry) for entry in table.entries("session", _SESSION_KEYS))
    capstones = _in_order(_capstone(entry) for entry in table.entries("capstone", _CAPSTONE_KEYS, default=[]))
    course = Course(title, file.resolve().parent, sessions, capstones)
    _check_names(course)
    _check_prerequisites(course)
    return course


_SESSION_KEYS = ("number", "slug", "title", "minutes", "chapters", "prerequisites", "exercise")
_EXERCISE_KEYS = (
    *("number", "slug", "title", "stars", "minutes", "status"),
    *("points", "prerequisites", "limits", "waives"),
)
_CAPSTONE_KEYS = ("number", "slug", "title", "minutes", "sessions", "chapters", "status", "parts")
_PART_KEYS = ("slug", "title", "minutes")


class _Table:
    """A table of the manifest, read key by key; every mistake becomes a ``CourseError`` that begins with the place."""

    def __init__(self, raw: object, place: str, keys: Sequence[str]) -> None:
        self.place = place
        if not isinstance(raw, dict):
            raise self.error(f"must be a table, got {reprlib.repr(raw)}")
        self.raw: dict[str, object] = raw
        for key in raw:
            if key not in keys:
                raise self.error(f"unknown key {key!r}; known: {', '.join(keys)}")

    def error(self, message: str) -> CourseError:
        return CourseError(f"{self.place}: {message}")

    def take(self, key: str, kind: type[T], default: T | None = None) -> T:
        """The value of ``key``, which must be of that type (a bool is no int); without a default it must be there."""
        value = self.raw.get(key, default)
        if value is None:
            raise self.error(f"{key} is missing")
        self.check_type(key, value, kind)
        return cast(T, value)

    def check_type(self, key: str, value: object, kind: type) -> None:
        if type(value) is not kind:
            names: dict[type, str] = {str: "a text", int: "a whole number", list: "a list", dict: "a table"}
            raise self.error(f"{key} must be {names[kind]}, got {reprlib.repr(value)}")

    def text(self, key: str) -> str:
        value = self.take(key, str)
        if not value.strip():
            raise self.error(f"{key} must not be empty")
        return value

    def slug(self) -> str:
        value = self.take("slug", str)
        if not re.fullmatch("[a-z0-9_]+", value):
            raise self.error(f"slug may have only the characters a-z, 0-9 and _, got {value!r}")
        return value

    def positive(self, key: str, default: int | None = None) -> int:
        value = self.take(key, int, default)
        if value < 1:
            raise self.error(f"{key} must be at least 1, got {value}")
        return value

    def status(self) -> Status:
        value = self.take("status", str)
        if value not in get_args(Status):
            raise self.error(f"status must be ready or planned, got {value!r}")
        return cast(Status, value)

    def items(self, key: str, kind: type[T], default: list[Any] | None = None) -> tuple[T, ...]:
        """A list whose items are all of that type."""
        values = self.take(key, list, default)
        for position, value in enumerate(values, start=1):
            self.check_type(f"{key}, item {position},", value, kind)
        return tuple(values)

    def entries(self, key: str, keys: Sequence[str], default: list[Any] | None = None) -> "Iterator[_Table]":
        """The tables of a list, each with its own place: its number, or its position when it has none."""
        separator = ": " if self.place == MANIFEST else ", "
        for position, raw in enumerate(self.take(key, list, default), start=1):
            number = raw.get("number") if isinstance(raw, dict) else None
            label = f"{key} {number}" if type(number) is int else f"{key} no. {position} of the file"
            yield _Table(raw, f"{self.place}{separator}{label}", keys)


def _session(table: _Table) -> Session:
    number, slug = table.positive("number"), table.slug()
    folder = f"session_{number:02}_{slug}"
    return Session(
        number=number,
        slug=slug,
        title=table.text("title"),
        folder=folder,
        minutes=table.positive("minutes"),
        chapters=table.items("chapters", str),
        prerequisites=table.items("prerequisites", str),
        exercises=_in_order(_exercise(entry, number, folder) for entry in table.entries("exercise", _EXERCISE_KEYS)),
    )


def _exercise(table: _Table, session: int, folder: str) -> Exercise:
    number, slug = table.positive("number"), table.slug()
    stars = table.take("stars", int)
    if not 1 <= stars <= 5:
        raise table.error(f"stars must be 1 to 5, got {stars}")
    status = table.status()
    waives = _Table(table.take("waives", dict, {}), f"{table.place}: waives", KINDS)
    points = _Table(table.take("points", dict, {}), f"{table.place}: points", KINDS)
    for kind in KINDS:
        if kind in points.raw and kind in waives.raw:
            raise points.error(f"{kind} is waived, so it cannot have points")
        if status == "ready" and kind not in points.raw and kind not in waives.raw:
            raise points.error(f"{kind} is missing; give it points, or say in waives why there is no such check")
    return Exercise(
        id=f"{session}.{number}",
        number=number,
        session=session,
        folder=folder,
        slug=slug,
        module=f"ex{number}_{slug}",
        title=table.text("title"),
        stars=stars,
        minutes=table.positive("minutes"),
        status=status,
        points=_read_only({kind: points.positive(kind) for kind in KINDS if kind in points.raw}),
        prerequisites=table.items("prerequisites", str),
        limits=_limits(_Table(table.take("limits", dict, {}), f"{table.place}: limits", ("wall_s", "memory_mb"))),
        waives=_read_only({kind: waives.text(kind) for kind in KINDS if kind in waives.raw}),
    )


def _limits(table: _Table) -> Limits:
    seconds = table.raw.get("wall_s", Limits.wall_s)
    if type(seconds) not in (int, float) or not 0 < cast(float, seconds) < math.inf:
        raise table.error(f"wall_s must be a number of seconds above 0, got {reprlib.repr(seconds)}")
    return Limits(float(cast(float, seconds)), table.positive("memory_mb", Limits.memory_mb))


def _capstone(table: _Table) -> Capstone:
    number, slug = table.positive("number"), table.slug()
    parts = enumerate(table.entries("parts", _PART_KEYS), start=1)
    return Capstone(
        number=number,
        slug=slug,
        title=table.text("title"),
        folder=f"capstone{number}_{slug}",
        minutes=table.positive("minutes"),
        sessions=table.items("sessions", int),
        chapters=table.items("chapters", str, default=[]),
        status=table.status(),
        parts=tuple(_part(part, number, position) for position, part in parts),
    )


def _part(table: _Table, capstone: int, number: int) -> Part:
    slug = table.slug()
    return Part(
        id=f"C{capstone}.{number}",
        number=number,
        slug=slug,
        module=f"c{number}_{slug}",
        title=table.text("title"),
        minutes=table.positive("minutes"),
    )


Numbered = TypeVar("Numbered", Session, Exercise, Capstone)


def _in_order(things: Iterable[Numbered]) -> tuple[Numbered, ...]:
    return tuple(sorted(things, key=lambda thing: thing.number))


def _place(thing: Session | Exercise | Capstone) -> str:
    if isinstance(thing, Exercise):
        return f"{MANIFEST}: session {thing.session}, exercise {thing.number}"
    return f"{MANIFEST}: {type(thing).__name__.lower()} {thing.number}"


def _check_names(course: Course) -> None:
    """No number and no slug twice; an exercise's slug is unique in the whole course, so that it can serve as a name."""
    groups: list[Sequence[Session | Exercise | Capstone]] = [course.sessions, course.exercises, course.capstones]
    for group in groups:
        numbers: set[str | int] = set()
        slugs: dict[str, str] = {}
        for thing in group:
            number = thing.id if isinstance(thing, Exercise) else thing.number
            if number in numbers:
                raise CourseError(f"{_place(thing)}: this number is used twice")
            if thing.slug in slugs:
                raise CourseError(f"{_place(thing)}: slug {thing.slug!r} is already that of {slugs[thing.slug]}")
            numbers.add(number)
            slugs[thing.slug] = _place(thing).removeprefix(f"{MANIFEST}: ")
    for capstone in course.capstones:
        part_slugs = [part.slug for part in capstone.parts]
        for slug in part_slugs:
            if part_slugs.count(slug) > 1:
                raise CourseError(f"{_place(capstone)}: slug {slug!r} is used by two parts")


def _check_prerequisites(course: Course) -> None:
    """Every prerequisite exists and comes before what needs it."""
    known = {exercise.id: (exercise.session, exercise.number) for exercise in course.exercises}
    dependents: list[Session | Exercise] = [*course.sessions, *course.exercises]
    for thing in dependents:
        own = known[thing.id] if isinstance(thing, Exercise) else (thing.number, 0)
        for name in thing.prerequisites:
            if name not in known:
                raise CourseError(f"{_place(thing)}: prerequisite {name!r} is not the id of an exercise")
            if known[name] >= own:
                raise CourseError(f"{_place(thing)}: prerequisite {name!r} does not come earlier")
    for capstone in course.capstones:
        for number in capstone.sessions:
            if number not in {session.number for session in course.sessions}:
                raise CourseError(f"{_place(capstone)}: there is no session {number}")

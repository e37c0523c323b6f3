"""The pytest plugin: kinds and points, the subjects of a check, the rungs, and the account of what was expected.

A suite is an ordinary pytest file. Each check carries exactly one of the four markers and asks the ``student`` fixture for
what it wants to see::

    @pytest.mark.gradients(points=3)
    def test_every_layer_receives_the_gradient_of_the_reference(student, reference, generator): ...

Points are given only for a check that was expected (collected) *and* positively completed. Whatever else happens to it,
including ways to end that nobody thought of, earns nothing.
"""

import hashlib
import inspect
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from grader.course import KINDS, MANIFEST, Course, CourseError, Exercise, find

TYPE_CHECKING = False
if TYPE_CHECKING:  # torch takes a second to import, and most pytest runs on a machine are not about this course
    import torch

    from grader.checks import Figures
    from grader.report import Check
    from grader.subject import Subject
    from grader.submission import Submission

MARKERS = {
    "shapes": "names, signatures, types, shapes, values, errors",
    "gradients": "gradients and invariants",
    "convergence": "learning, against the generator's optimum",
    "throughput": "speed, relative to the reference",
}


@dataclass
class Expected:
    """A check that was collected, and what is known of it so far."""

    kind: str
    title: str
    points: int
    structure: bool
    outcome: str = ""
    rationale: str = ""
    help: str = ""
    seconds: float = 0.0
    figures: list[Any] = field(default_factory=list)
    observations: "list[Observation]" = field(default_factory=list)


LARGE = 2**20

NO_ANSWER = object()
"""Observed when a submission was stopped or left: it equals nothing, so it identifies no mistake."""


LARGEST_OBSERVATION = 16 * 2**20
"""Bytes; of a larger answer it is not remembered what it was."""

MAX_WORDS = 4000
"""Characters of a check's rationale: it may quote what a submission answered."""


@dataclass
class Observation:
    """One question to the submission and its answer (or the observation of its error)."""

    probe: Callable[..., Any]
    inputs: tuple[Any, ...]
    answer: Any


@dataclass
class State:
    """What one run of a suite needs and finds. The grader makes one; on a student's machine the plugin does."""

    seed: int
    student: "Callable[[Path], Subject]"
    reference: "Callable[[Path], Subject | None]"
    kinds: tuple[str, ...] = KINDS
    expected: dict[str, Expected] = field(default_factory=dict)

    def finished(self) -> "dict[str, Expected]":
        """The checks in order, failures behind a failed rung renamed to ``not_reached``, unfinished ones to a fault."""
        failed_before = False
        for kind in KINDS:
            failed_here = False
            for check in self.expected.values():
                if check.kind != kind:
                    continue
                if not check.outcome:
                    check.outcome, check.rationale = "grader_fault", "the check did not complete"
                failed_here = failed_here or check.outcome in ("wrong", "raised", "not_attempted")
                if failed_before and check.outcome in ("wrong", "raised", "not_attempted"):
                    check.outcome = "not_reached"
            failed_before = failed_before or failed_here
        return self.expected


class Observed:
    """A subject that remembers what it was asked and what it said, for the diagnosis.

    It refuses to send the run seed: whoever has it can draw the held-out labels. Small seeds, which only people type, cannot
    be told from sizes and are let through.
    """

    def __init__(self, subject: "Subject", log: list[Observation], run_seed: int) -> None:
        self._subject = subject
        self._log = log
        self._secret = run_seed if run_seed >= LARGE else None

    def run(self, probe: Callable[..., Any], *inputs: Any) -> Any:
        """See ``Subject.run``."""
        from grader import wire
        from grader.subject import SubmissionError

        self._guard(inputs)
        try:
            answer = self._subject.run(probe, *inputs)
        except SubmissionError as error:
            self._log.append(Observation(probe, inputs, NO_ANSWER if error.observation is None else error.observation))
            raise
        kept = wire.tensor_bytes(answer) <= LARGEST_OBSERVATION
        self._log.append(Observation(probe, inputs, answer if kept else NO_ANSWER))
        return answer

    def timed(self, probe: Callable[..., Any], *inputs: Any) -> tuple[Any, float]:
        """See ``Subject.timed``."""
        self._guard(inputs)
        return self._subject.timed(probe, *inputs)

    def _guard(self, value: Any) -> None:
        if isinstance(value, dict):
            value = [*value, *value.values()]
        if isinstance(value, list | tuple):
            for item in value:
                self._guard(item)
        elif self._secret is not None and type(value) is int and value == self._secret:
            from grader.subject import GraderFault

            raise GraderFault("a check sends the run seed to the submission; send `seed`, which is this check's own")

    def close(self) -> None:
        """The owner closes the subject."""


class Trusted:
    """The reference as a check sees it: when it does not answer, the grader is at fault, not the student."""

    def __init__(self, subject: "Subject") -> None:
        self._subject = subject

    def run(self, probe: Callable[..., Any], *inputs: Any) -> Any:
        """See ``Subject.run``."""
        return self._asked(self._subject.run, probe, *inputs)

    def timed(self, probe: Callable[..., Any], *inputs: Any) -> tuple[Any, float]:
        """See ``Subject.timed``."""
        answer, seconds = self._asked(self._subject.timed, probe, *inputs)
        return answer, seconds

    def _asked(self, ask: Callable[..., Any], *question: Any) -> Any:
        from grader.subject import GraderFault, SubmissionError

        try:
            return ask(*question)
        except SubmissionError as error:
            raise GraderFault(f"the reference: {error.rationale}") from error

    def close(self) -> None:
        """The owner closes the subject."""


STATE = pytest.StashKey[State]()
CHECK = pytest.StashKey[Expected]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of a run."""
    group = parser.getgroup("course", "PyTorch Deep Learning for Genomics")
    group.addoption("--seed", type=int, default=0, help="run seed: every check draws its inputs from it (default 0)")
    group.addoption(
        "--submission",
        metavar="PATH|reference|stub",
        help="what to check: a module, a folder of modules, the reference, or the untouched stub "
        "(default: the module beside a visible suite; the reference for a hidden one)",
    )
    group.addoption(
        "--sealed",
        action="store_true",
        help="run it in a sealed process, as when it is graded: for code you do not trust",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    for kind, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{kind}(points=1, structure=False): {meaning}")
    if STATE not in config.stash:
        choice = config.getoption("--submission")
        if choice not in (None, "reference", "stub") and not Path(choice).exists():
            raise pytest.UsageError(f"--submission {choice}: no such file or folder")
        load = loader(config) if config.getoption("--sealed") else local
        student, reference = subjects(choice, cache(load))
        config.stash[STATE] = State(config.getoption("--seed"), student, reference)


def subjects(
    choice: str | None, load: "Callable[[Submission, Exercise, str], Subject]"
) -> "tuple[Callable[[Path], Subject], Callable[[Path], Subject | None]]":
    """Functions suite path -> subject, each loaded once."""

    @cache
    def read(path: Path) -> "Submission":
        from grader.subject import SubmissionError
        from grader.submission import InputError, Submission

        try:
            submission = Submission.from_file(path)
        except InputError as error:  # of one exercise of several, perhaps: a complaint of its own checks
            raise SubmissionError(str(error)) from None
        if submission.problem:
            raise SubmissionError(submission.problem)
        return submission

    def student(suite: Path) -> "Subject":
        course, exercise = course_of(suite)
        return load(read(submission_path(course, exercise, suite, choice)), exercise, exercise.module)

    def reference(suite: Path) -> "Subject | None":
        course, exercise = course_of(suite)
        path = course.reference(exercise)
        return load(read(path), exercise, f"reference_{exercise.module}") if path.is_file() else None

    return student, reference


def local(submission: "Submission", exercise: Exercise, name: str) -> "Subject":
    """In this process."""
    from grader.subject import Local

    return Local.of(submission, name)


def loader(config: pytest.Config) -> "Callable[[Submission, Exercise, str], Subject]":
    """Into sealed processes of one bench, which ends with the run."""
    from grader.seal import SealError, choose

    try:
        kind = choose()
    except SealError as error:
        raise pytest.UsageError(f"--sealed: {error}") from None
    from grader.bench import Bench, Child

    bench = Bench(kind)
    config.add_cleanup(bench.close)

    def load(submission: "Submission", exercise: Exercise, name: str) -> "Subject":
        limits = exercise.limits
        return Child(bench, submission, name, wall_s=limits.wall_s, memory_mb=limits.memory_mb)

    return load


def course_of(suite: Path) -> tuple[Course, Exercise]:
    """The course and the exercise that a suite belongs to."""
    try:
        course = find(suite.parent)
        return course, course.exercise_of(suite)
    except CourseError as error:
        raise pytest.UsageError(str(error)) from None


def submission_path(course: Course, exercise: Exercise, suite: Path, choice: str | None) -> Path:
    """The file that ``--submission`` means for this suite."""
    if choice == "reference" or (choice is None and suite == course.hidden_suite(exercise)):
        return course.reference(exercise)
    if choice in (None, "stub"):
        return course.stub(exercise)
    path = Path(choice)
    if path.is_dir():
        names = [f"{exercise.module}.py", f"{exercise.module}.ipynb"]
        found = [folder / name for folder in (path, path / exercise.folder) for name in names]
        return next((file for file in found if file.is_file()), found[0])
    return path


def kind_of(item: pytest.Item) -> str | None:
    """The kind of a check; None for a test that is not a check; an error for more than one."""
    kinds = [marker.name for marker in item.iter_markers() if marker.name in KINDS]
    if kinds and not in_course(item.path.parent):  # another project's markers, which happen to have our names
        return None
    if len(kinds) > 1:
        raise pytest.UsageError(f"{item.nodeid}: a check has one kind, this one has {kinds}")
    return kinds[0] if kinds else None


@cache
def in_course(folder: Path) -> bool:
    """Whether a manifest lies in this folder or above it."""
    return any((above / MANIFEST).is_file() for above in (folder, *folder.parents))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note the expected checks (after ``-m`` and ``-k``) and put them into the order of the rungs."""
    state = config.stash[STATE]
    files: dict[Path, int] = {}
    rank: dict[pytest.Item, tuple[int, int]] = {}
    for item in items:
        position = files.setdefault(item.path, len(files))
        kind = kind_of(item)
        rank[item] = (position, -1 if kind is None else KINDS.index(kind))
    items.sort(key=rank.__getitem__)
    for item in items:
        kind = kind_of(item)
        if kind is None:
            continue
        marker = next(item.iter_markers(kind))
        unknown = set(marker.kwargs) - {"points", "structure"}
        points = marker.kwargs.get("points", 1)
        if marker.args or unknown or type(points) is not int or points < 1:
            raise pytest.UsageError(f"{item.nodeid}: write @pytest.mark.{kind}(points=<whole number from 1>)")
        check = Expected(kind, title_of(item), points, bool(marker.kwargs.get("structure")))
        item.stash[CHECK] = check
        state.expected[item.nodeid.partition("::")[2] if len(files) == 1 else item.nodeid] = check


def title_of(item: pytest.Item) -> str:
    """A check's title: the first line of its docstring, or its name as words."""
    documentation = inspect.getdoc(getattr(item, "obj", None)) or ""
    return documentation.split("\n")[0].rstrip(".") or item.name.removeprefix("test_").replace("_", " ")


@pytest.fixture
def run_seed(request: pytest.FixtureRequest) -> int:
    """The seed of the whole run: one for a cohort, unknown to students. For data that several checks share."""
    return request.config.stash[STATE].seed


@pytest.fixture
def seed(request: pytest.FixtureRequest, run_seed: int) -> int:
    """This check's own seed, derived from the run's."""
    return seed_of(run_seed, request.node.name)


def seed_of(run_seed: int, name: str) -> int:
    """A check's own seed: 62 bits of a digest of run seed and name."""
    return int.from_bytes(hashlib.sha256(f"{run_seed}/{name}".encode()).digest()[:8], "big") >> 2


@pytest.fixture
def generator(seed: int) -> "torch.Generator":
    """A random generator at this check's own seed."""
    import torch

    return torch.Generator().manual_seed(seed)


@pytest.fixture
def student(request: pytest.FixtureRequest) -> "Subject":
    """The submission."""
    state, check = request.config.stash[STATE], request.node.stash.get(CHECK, None)
    if check is None:
        raise pytest.UsageError(f"{request.node.name} asks for the student, so give it a kind: {', '.join(KINDS)}")
    return Observed(state.student(request.path), check.observations, state.seed)


@pytest.fixture
def reference(request: pytest.FixtureRequest) -> "Subject":
    """The solution; hidden suites only."""
    subject = request.config.stash[STATE].reference(request.path)
    if subject is None:
        raise pytest.UsageError(f"{request.path.name} asks for the reference, which is not here")
    return Trusted(subject)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> "Iterator[Figures]":
    """What the check wants drawn in its report."""
    from grader.checks import Figures

    collected = Figures()
    yield collected
    request.node.stash[CHECK].figures = collected.items


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the way a check ended into one of the outcomes, and its failure into words for the student."""
    report = yield
    check = item.stash.get(CHECK, None)
    if check is None or call.when == "teardown":
        return report
    if call.when == "call":
        check.seconds = report.duration
        if call.excinfo is None and report.outcome == "passed":
            check.outcome = "correct"
            check.observations.clear()
            return report
    if call.excinfo is not None:
        judge(item, check, call.excinfo.value, again=call.when == "call")
        if check.outcome != "grader_fault" and report.failed:
            report.longrepr = Words(check)
    return report


def judge(item: pytest.Item, check: Expected, error: BaseException, *, again: bool) -> None:
    """The outcome of a check that ended with ``error``; ``again``: it can be repeated, because its fixtures were set up."""
    from grader.checks import Failure
    from grader.subject import GraderFault, SubmissionError

    first_line = (str(error).strip() or type(error).__name__).split("\n")[0]
    if isinstance(error, SubmissionError):
        check.outcome, check.rationale, check.help = error.outcome, error.rationale, error.help
    elif isinstance(error, Failure):
        check.outcome, check.rationale, check.help = "wrong", error.rationale, error.help
    elif isinstance(error, AssertionError | pytest.fail.Exception):  # the latter is pytest-timeout's
        check.outcome, check.rationale = "wrong", first_line
    elif again and isinstance(error, Exception) and not isinstance(error, GraderFault) and passes_with_reference(item):
        # The check trips over this answer but not over a right one: the answer is at fault.
        check.outcome = "wrong"
        check.rationale = f"the answer is not of the kind that was asked for ({type(error).__name__}: {first_line})"
    else:
        check.outcome, check.rationale = "grader_fault", f"{type(error).__name__}: {first_line}"
    check.rationale = check.rationale[:MAX_WORDS]


def passes_with_reference(item: pytest.Item) -> bool:
    """Whether the check, run again, passes when the reference is the student."""
    import torch

    from grader.checks import Figures

    state = item.config.stash[STATE]
    subject = state.reference(item.path)
    if subject is None or not isinstance(item, pytest.Function):
        return False
    arguments = {name: item.funcargs.get(name) for name in inspect.signature(item.obj).parameters}
    replaced = {
        "student": subject,
        "generator": torch.Generator().manual_seed(seed_of(state.seed, item.name)),
        "figures": Figures(),
    }
    try:
        item.obj(**{name: replaced.get(name, value) for name, value in arguments.items()})
    except Exception:
        return False
    return True


class Words(str):
    """A failure in the words for the student; pytest prints the text, and its first line in the summary."""

    def __new__(cls, check: Expected) -> "Words":
        """The text of a failed check."""
        return super().__new__(cls, "\n".join(part for part in (check.rationale, check.help) if part))

    def __init__(self, check: Expected) -> None:
        self.reprcrash = SimpleNamespace(message=check.rationale.split("\n")[0])


def pytest_report_header(config: pytest.Config) -> str | None:
    """How to repeat a run that was not the default one."""
    seed = config.getoption("--seed")
    return f"course: run seed {seed}" if seed else None


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """One friendly line at the end: how far, and what to do next."""
    checks = list(config.stash[STATE].finished().values()) if config.stash[STATE].expected else []
    if not checks or config.getoption("--submission") == "reference":
        return
    done = sum(check.outcome == "correct" for check in checks)
    line = f"{done} of {len(checks)} checks pass."
    following = next((check for check in checks if check.outcome != "correct"), None)
    if following is None:
        line += " Well done."
    elif all(check.outcome in ("not_attempted", "not_reached") for check in checks):
        line += " Nothing is attempted yet, so red is as it should be. Start where the first check points."
    else:
        line += f" Next: {following.title}."
    terminalreporter.write_line(line)


def records(state: State) -> "tuple[Check, ...]":
    """The finished checks as records of a report."""
    from grader.report import Check

    return tuple(
        Check.model_validate(
            {
                "id": name,
                "kind": check.kind,
                "title": check.title,
                "points": check.points,
                "earned": check.points if check.outcome == "correct" else 0,
                "outcome": check.outcome,
                "rationale": check.rationale,
                "help": check.help,
                "seconds": round(check.seconds, 4),
                "figures": tuple(check.figures),
            }
        )
        for name, check in state.finished().items()
    )

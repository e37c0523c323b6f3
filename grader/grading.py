"""Grading: run a suite against a submission and write down what it found."""

import contextlib
import hashlib
import importlib.resources
import io
import math
import platform
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from grader import __version__, controls, plugin
from grader import seal as seals
from grader.course import KINDS, Course, Exercise
from grader.report import Check, Environment, Kind, Report
from grader.sandbox import Module
from grader.subject import GraderFault, Kept, Local, Memo, Restarted, Subject, SubmissionError
from grader.submission import Submission

if TYPE_CHECKING:  # Linux only, and a student's machine may be another
    from grader.bench import Bench

DIAGNOSED = ("shapes", "gradients")
"""Kinds whose observations identify a mistake; what training ends with depends on too much else."""

CALLS = 5
"""How many times the limit of one probe all probes of a submission may take together."""

DIAGNOSIS_S = 10.0
"""Wall-clock seconds that one report may spend on finding out which mistake was made."""


def new_seed() -> int:
    """A run seed nobody can guess."""
    return secrets.randbits(62)


class Grader:
    """Grades submissions, each in a sealed process of one pre-warmed bench. A context manager.

    It keeps what the reference and the wrong controls answered, so that a cohort with one seed asks them once.

    Args:
        course: the full course, with its hidden suites.
        seal: how to seal submissions off; by default the strongest way that works here (``grader.seal``).
        trust: whether to grade without a seal where none works.
        bench: use this one, which somebody else closes.

    Raises:
        seals.SealError: no seal works here, and the code is not trusted.
    """

    def __init__(
        self, course: Course, *, seal: str | None = None, trust: bool = False, bench: "Bench | None" = None
    ) -> None:
        self.course = course
        self.seal = bench.seal if bench else seals.choose(seal, trust=trust, secret=course.secret)
        self._bench = bench
        self._owns_bench = bench is None
        self._references: dict[str, Memo] = {}
        self._controls: dict[str, list[tuple[controls.Control, Memo]]] = {}
        self._digests: dict[str, str] = {}
        self.structure: dict[str, set[str]] = {}  # exercise -> ids of its checks that look at structure only

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_: object) -> None:
        for subject in self._references.values():
            subject.close()
        if self._bench and self._owns_bench:
            self._bench.close()

    def grade(self, exercise: Exercise, submission: Submission, *, seed: int, student: str = "") -> Report:
        """The verdict of the hidden suite; whatever the submission does ends up in the report."""
        subject = self._subject(exercise, submission, total_s=CALLS * exercise.limits.wall_s)
        suite = self.course.hidden_suite(exercise)
        state = plugin.State(seed, lambda _: subject, lambda _: self._reference(exercise))
        try:
            return report_of(
                exercise,
                submission,
                state,
                lambda: self._run(exercise, suite, subject, state),
                suite_digest=self._digest(exercise),
                subject=subject,
                points=dict(exercise.points),
                student=student,
            )
        finally:
            subject.close()
            self.structure[exercise.id] = {name for name, check in state.expected.items() if check.structure}

    def _subject(self, exercise: Exercise, submission: Submission, *, total_s: float = math.inf) -> Kept:
        if sys.platform != "linux":  # trusted, or ``choose`` would have refused
            return Local.of(submission, exercise.module)
        from grader.bench import Bench, Child

        if self._bench is None:
            self._bench = Bench(self.seal)
        wall_s, memory_mb = exercise.limits.wall_s, exercise.limits.memory_mb
        return Child(self._bench, submission, exercise.module, wall_s=wall_s, memory_mb=memory_mb, total_s=total_s)

    def _reference(self, exercise: Exercise) -> Memo:
        if exercise.id not in self._references:
            submission = Submission.from_file(self.course.reference(exercise))
            self._references[exercise.id] = Memo(Restarted(lambda: self._subject(exercise, submission)))
        return self._references[exercise.id]

    def _digest(self, exercise: Exercise) -> str:
        if exercise.id not in self._digests:
            self._digests[exercise.id] = suite_digest_of(self.course, exercise)
        return self._digests[exercise.id]

    def _run(self, exercise: Exercise, suite: Path, subject: Kept, state: plugin.State) -> str:
        output = run_suite(suite, self.course.root, state)
        failing = [
            check
            for check in state.finished().values()
            if check.kind in DIAGNOSED and check.outcome not in ("correct", "grader_fault")
        ]
        if subject.answers and all(check.outcome != "not_attempted" for check in failing):
            with contextlib.suppress(GraderFault, controls.ControlError):  # a comment less; the verdict stands
                self._diagnose(exercise, failing)
        return output

    def _diagnose(self, exercise: Exercise, failing: Sequence[plugin.Expected]) -> None:
        """Append to a failing check's help the sentence of the wrong control whose answers are the submission's."""
        matched: dict[str, list[plugin.Expected]] = {}
        says: dict[str, str] = {}
        deadline = time.monotonic() + DIAGNOSIS_S
        for control, memo in self._wrong_controls(exercise):
            says[control.name] = control.says
            for check in failing:
                if time.monotonic() > deadline:
                    break
                if check.observations and self._equals(exercise, memo, check.observations):
                    matched.setdefault(control.name, []).append(check)
            memo.close()  # its answers stay, its process would only cost memory
        for check in failing:
            candidates = [name for name, checks in matched.items() if any(check is other for other in checks)]
            if candidates:  # the control that explains most of the failures, the first of equals
                best = max(candidates, key=lambda name: len(matched[name]))
                check.help = f"{check.help}\n{says[best]}".strip()

    def _equals(self, exercise: Exercise, memo: Memo, observations: Sequence[plugin.Observation]) -> bool:
        """Whether a control gives all these answers, and the reference does not."""
        reference = self._reference(exercise)
        differs = False
        for seen in observations:
            if seen.answer is plugin.NO_ANSWER or not same(observe(memo, seen), seen.answer):
                return False
            differs = differs or not same(observe(reference, seen), seen.answer)
        return differs

    def _wrong_controls(self, exercise: Exercise) -> list[tuple[controls.Control, Memo]]:
        if exercise.id not in self._controls:
            path, text = self.course.controls(exercise), self.course.reference(exercise).read_text(encoding="utf-8")
            found = controls.load(path).wrong if path.is_file() else ()
            self._controls[exercise.id] = [
                (one, Memo(self._subject(exercise, Submission.from_source(one.source(text), f"{one.name}.py"))))
                for one in found
            ]
        return self._controls[exercise.id]


def observe(subject: Subject, seen: plugin.Observation) -> Any:
    """What a subject says to a question that another one was asked."""
    try:
        return subject.run(seen.probe, *seen.inputs)
    except SubmissionError as error:
        return error.observation


def same(left: Any, right: Any) -> bool:
    """Whether two answers are equal as plain data, tensors within float rounding."""
    if isinstance(left, torch.Tensor):
        return (
            isinstance(right, torch.Tensor)
            and left.shape == right.shape
            and left.dtype is right.dtype
            and torch.allclose(left.double(), right.double(), rtol=1e-5, atol=1e-7, equal_nan=True)
        )
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return math.isclose(left, right, rel_tol=1e-6) or (math.isnan(left) and math.isnan(right))
    return bool(left == right)


def run_suite(suite: Path, root: Path, state: plugin.State) -> str:
    """Run one suite in this process, filling ``state``; returns what pytest printed."""
    for name, module in list(sys.modules.items()):  # a file of the same name in another course, from an earlier run
        if name.endswith(suite.stem) and getattr(module, "__file__", None) not in (None, str(suite)):
            del sys.modules[name]
    preset = SimplePreset(state)
    configuration = importlib.resources.files("grader") / "templates" / "pytest.ini"
    arguments = [
        str(suite), "-c", str(configuration), f"--rootdir={root}", f"--confcutdir={root}", "-q",
        "--disable-plugin-autoload", "-p", "grader", "-p", "pytest_timeout", "-p", "no:cacheprovider",
        "--tb=native", "-p", "no:unraisableexception",  # fast: nobody reads the traceback, and it collects garbage
    ]  # fmt: skip
    if state.kinds != KINDS:
        arguments += ["-m", " or ".join(state.kinds)]
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(output):
        code = pytest.main(arguments, plugins=[preset])
    if code == pytest.ExitCode.INTERRUPTED and preset.interrupted:
        raise KeyboardInterrupt
    return output.getvalue()


class SimplePreset:
    """Puts the grader's state where the plugin looks for it."""

    def __init__(self, state: plugin.State) -> None:
        self.state = state
        self.interrupted = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Before the plugin makes a state of its own."""
        config.stash[plugin.STATE] = self.state

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """The person at the keyboard, not a submission: those run elsewhere. Nor a suite that cannot be collected."""
        self.interrupted = type(excinfo.value) is KeyboardInterrupt  # pytest's own Interrupted is a subclass


def report_of(
    exercise: Exercise,
    submission: Submission,
    state: plugin.State,
    run: Callable[[], str],
    *,
    suite_digest: str,
    subject: Kept,
    points: dict[str, int],
    student: str = "",
) -> Report:
    """Run, account for every expected point, and write the report.

    Args:
        exercise: what is graded.
        submission: what was handed in.
        state: what the run fills.
        run: the run itself; returns what pytest printed.
        suite_digest: identifies the suite.
        subject: the submission's, which knows how it is kept.
        points: kind -> points that the manifest promises; empty where it promises nothing (visible checks).
        student: who handed it in.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    output = run()
    checks = plugin.records(state)
    for kind, promised in points.items():
        found = sum(check.points for check in checks if check.kind == kind)
        if (
            found != promised
        ):  # the suite could not be collected, or it and course.toml disagree: not the student's fault
            last = output.strip().splitlines()[-1] if output.strip() and not found else ""
            reason = f"the suite has {found} points of {kind}, course.toml promises {promised}. {last}".strip()
            checks = (*(check for check in checks if check.kind != kind), _fault(kind, promised, reason))
    return Report(
        exercise=exercise.id,
        title=exercise.title,
        student=student,
        submission=submission.name,
        submission_digest=submission.digest,
        suite_digest=suite_digest,
        seed=state.seed,
        environment=Environment(
            grader=__version__,
            python=platform.python_version(),
            torch=str(torch.__version__),
            platform=f"{platform.system()} {platform.machine()}",
            isolation=subject.isolation,
            layers=subject.layers,
        ),
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - clock, 3),
        checks=checks,
        score=sum(check.earned for check in checks),
        max_score=sum(check.points for check in checks),
        pending=sum(check.points for check in checks if check.outcome == "grader_fault"),
    )


def _fault(kind: str, points: int, reason: str) -> Check:
    name: Kind = next(known for known in ("shapes", "gradients", "convergence", "throughput") if known == kind)
    return Check(
        id=f"suite_{kind}", kind=name, title=f"the checks of {kind}", points=points, earned=0,
        outcome="grader_fault", rationale=reason,
    )  # fmt: skip


def undecided(
    course: Course, exercise: Exercise, submission: Submission, *, seed: int, student: str, reason: str
) -> Report:
    """The report on a submission that could not be graded: every point is pending."""
    state = plugin.State(seed, lambda _: nobody, lambda _: nobody)
    nobody = Local(Module(exercise.module, []), reason)
    report = report_of(
        exercise,
        submission,
        state,
        lambda: "",
        suite_digest=suite_digest_of(course, exercise),
        subject=nobody,
        points=dict(exercise.points),
        student=student,
    )
    return report.model_copy(
        update={"checks": tuple(_fault(*promised, reason) for promised in exercise.points.items())}
    )


def suite_digest_of(course: Course, exercise: Exercise) -> str:
    """sha256 over everything of ours that a verdict depends on.

    The hidden suite, the reference and the controls (their sentences are in reports), the fixtures with their tables, the
    grader's own code, and what the manifest says of points and limits. A change of a mere comment counts as well: better
    graded once too often.
    """
    ours = sorted([*contents(course.root / "fixtures"), *Path(__file__).parent.glob("*.py")])
    files = [course.hidden_suite(exercise), course.reference(exercise), course.controls(exercise), *ours]
    manifest = repr((sorted(exercise.points.items()), exercise.limits))
    return hashlib.sha256((manifest + digest_of(*files)).encode()).hexdigest()


def contents(folder: Path) -> list[Path]:
    """All files below a folder, tables as well as modules; not what Python keeps for itself."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def digest_of(*files: Path) -> str:
    """sha256 over the files' contents."""
    digest = hashlib.sha256(__version__.encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes() if file.is_file() else b"").digest())
    return digest.hexdigest()


def check(course: Course, exercise: Exercise, path: Path, *, kinds: tuple[str, ...] = KINDS, seed: int = 0) -> Report:
    """The verdict of the *visible* checks on a student's own file, in this process."""
    submission = Submission.from_file(path)
    if submission.problem:
        raise SubmissionError(submission.problem)
    return _visible(course, exercise, submission, lambda: Local.of(submission, exercise.module), kinds, seed)


def check_namespace(
    course: Course, exercise: Exercise, namespace: dict[str, Any], kinds: tuple[str, ...] = KINDS
) -> Report:
    """The verdict of the visible checks on the names of a running notebook."""
    subject = Local(Module.of_namespace(exercise.module, namespace))
    return _visible(course, exercise, Submission(f"{exercise.module}.ipynb"), lambda: subject, kinds, 0)


def _visible(
    course: Course,
    exercise: Exercise,
    submission: Submission,
    load: Callable[[], Kept],
    kinds: tuple[str, ...],
    seed: int,
) -> Report:
    suite = course.visible_suite(exercise)
    subject = load()
    state = plugin.State(seed, lambda _: subject, lambda _: None, kinds)
    return report_of(
        exercise,
        submission,
        state,
        lambda: run_suite(suite, course.root, state),
        suite_digest=digest_of(suite),
        subject=subject,
        points={},
    )

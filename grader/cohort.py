"""A folder of submissions, one folder per student, graded on several cores (or machines) with one seed.

Reports are kept in a ``Store``, one file per submission, so that a run that was killed resumes where it was. The work is done
by a crew: ``Processes`` here, or ``grader.cluster.Cluster`` on a Dask cluster. Few jobs are under way at any time, and a report
is handed on as soon as it is there: the driver's memory does not grow with the class.
"""

import contextlib
import ctypes
import fcntl
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from grader import __version__
from grader.course import Course, Exercise, load
from grader.grading import Grader, new_seed, suite_digest_of, undecided
from grader.report import Report, write_atomically
from grader.submission import InputError, Submission

EMPTY = "nothing was handed in for this exercise"


@dataclass(frozen=True)
class Task:
    """One student's answer to one exercise; ``path`` None when there is none."""

    student: str
    exercise: Exercise
    path: Path | None

    def submission(self) -> Submission:
        """Read it; links are not followed, because they may lead to somebody else's file."""
        if self.path is None:
            return Submission(f"{self.exercise.module}.py", problem=EMPTY)
        if self.path.is_symlink() or self.path.parent.is_symlink() or not self.path.is_file():
            return Submission(self.path.name, problem="the file is a link or not a regular file, and is not read")
        try:
            return Submission.from_file(self.path)
        except InputError as error:
            return Submission(self.path.name, problem=str(error))


def discover(folder: Path, exercises: Sequence[Exercise]) -> list[Task]:
    """The tasks of a cohort: every student's every exercise.

    A student's folder holds the modules or notebooks, or a folder of the session with them (nbgrader's layout).

    Raises:
        InputError: no such folder, or no student in it handed in any of the exercises.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    students = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    for path in students:
        if path.suffix in (".html", ".txt"):  # beside the folders of reports lie pages, and the seed
            raise InputError(f"{path}: the folder of a student cannot have such a name")
        if not utf8(path.name):  # reports are: two such names could become one
            raise InputError(f"{path}: the folder of a student must have a name in UTF-8")
    tasks = [Task(student.name, exercise, find(student, exercise)) for student in students for exercise in exercises]
    if not any(task.path for task in tasks):
        names = f"{exercises[0].module}.py or .ipynb"
        raise InputError(f"{folder}: no submissions; expected one folder per student with files such as {names}")
    return tasks


def utf8(name: str) -> bool:
    """Whether a file's name was UTF-8 on disk."""
    return name == name.encode("utf-8", "replace").decode()


def find(student: Path, exercise: Exercise) -> Path | None:
    """The file a student handed in for an exercise: a module before a notebook, the top folder before the session's."""
    for folder in (student, student / exercise.folder):
        for suffix in (".py", ".ipynb"):
            path = folder / f"{exercise.module}{suffix}"
            if path.is_symlink() or path.exists():
                return path
    return None


# ------------------------------------------------------------------------------------------------------------- the store

LOST = "the process that graded this ended {count} times, and nobody knows why"
MOST_LOSSES = 3
"""So many workers may die over one submission; then a person must look at it."""

SEED = "seed.txt"
UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}")  # as ``write_atomically`` names its temporary files


@dataclass
class Store:
    """A folder of reports, ``<student>/<exercise>.json``, for one run at a time; a context manager.

    Which verdict a report holds is told by four things in it: the digest of the submission, the digest of the suite (with
    all that a verdict depends on, see ``grading.suite_digest_of``), the seed, and the grader's version.

    Attributes:
        folder: where the reports are.
        seed: of all reports in it.
        regrade: whether reports that another suite or grader made are made anew.
        reused: how many reports were there already and hold.
        stale: how many of those were made with another suite or grader.
    """

    folder: Path
    seed: int
    regrade: bool = False
    reused: int = 0
    stale: int = 0

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path, *, seed: int | None = None, regrade: bool = False) -> "Iterator[Store]":
        """The store in ``folder``, made when there is none; its seed is drawn once and kept in ``seed.txt``.

        Raises:
            InputError: another run works in it, or its reports have another seed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel frees it, however we end
            except BlockingIOError:
                raise InputError(f"{folder}: another grader is at work in it") from None
            for path in folder.rglob(".*"):
                if UNFINISHED.fullmatch(path.name):  # of a writer that was killed
                    path.unlink(missing_ok=True)
            kept = _seed_in(folder)
            if seed is not None and not any(folder.glob("*/*.json")):
                kept = None if kept != seed else kept  # nothing depends on it yet
            if kept is not None and seed not in (None, kept):
                raise InputError(f"{folder}: its reports have the seed {kept}; use another folder for the seed {seed}")
            if kept is None:
                kept = new_seed() if seed is None else seed
                write_atomically(folder / SEED, f"{kept}\n")
                (folder / SEED).chmod(0o600)  # with the seed one can draw the hidden inputs
            yield cls(folder, kept, regrade)

    def path(self, student: str, exercise: str) -> Path:
        """Where a report lies."""
        return self.folder / student / f"{exercise}.json"

    def read(self, student: str, exercise: str) -> Report | None:
        """The report that is there; None when there is none that can be read."""
        report = _report_in(self.path(student, exercise))
        return report if report and (report.student, report.exercise) == (student, exercise) else None

    def kept(self, task: Task, submission: Submission, suite: str) -> Report | None:
        """The report on this submission, unless it must be made (again)."""
        report = self.read(task.student, task.exercise.id)
        if report is None or (report.submission_digest, report.seed) != (submission.digest, self.seed):
            return None
        fresh = (report.suite_digest, report.environment.grader) == (suite, __version__)
        if report.faulty and (self.regrade or not is_lost(report)):
            return None
        if not fresh and self.regrade:
            return None
        self.reused += 1
        self.stale += not fresh
        return report

    def write(self, report: Report) -> Report | None:
        """Put a report in its place, whole or not at all; returns the one that was there.

        With ``regrade``, what was there is remembered until ``forget``, over runs: one that was killed has shown nothing yet.
        """
        before = self._before(report.student, report.exercise)
        old = self.read(report.student, report.exercise)
        if old and self.regrade and not before.exists():
            write_atomically(before, old.summary().to_json())
        write_atomically(self.path(report.student, report.exercise), report.to_json())
        return old

    def changes(self, tasks: Iterable[Task]) -> list[tuple[Report, Report]]:
        """Of the reports on these tasks that were made again: summaries of the one before and the one that is there."""
        pairs = []
        for task in tasks:
            old = _report_in(self._before(task.student, task.exercise.id))
            new = self.read(task.student, task.exercise.id) if old else None
            if old and new:
                pairs.append((old, new.summary()))
        return pairs

    def forget(self, tasks: Iterable[Task]) -> None:
        """The changes have been shown."""
        for task in tasks:
            self._before(task.student, task.exercise.id).unlink(missing_ok=True)

    def _before(self, student: str, exercise: str) -> Path:
        return self.folder / student / f".{exercise}.before"


def _report_in(path: Path) -> Report | None:
    try:
        return Report.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or not a whole one: it will be made again
        return None


def _seed_in(folder: Path) -> int | None:
    try:
        return int((folder / SEED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise InputError(f"{folder / SEED}: expected a number, the seed of the reports beside it") from None


def is_lost(report: Report) -> bool:
    """Whether a report says that its submission ended too many workers."""
    return any(check.rationale == LOST.format(count=MOST_LOSSES) for check in report.checks)


# -------------------------------------------------------------------------------------------------------------- the crew


@dataclass(frozen=True)
class Job:
    """What travels to a worker: a submission's text, not its path."""

    exercise: str
    student: str
    submission: Submission
    seed: int
    losses: int = 0


class Crew(Protocol):
    """Workers that grade."""

    @property
    def room(self) -> int:
        """How many jobs should be under way at the same time; it may change."""
        ...

    def start(self, job: Job) -> None:
        """Begin with a job."""
        ...

    def finished(self) -> "list[tuple[Job, Report | None]]":
        """Wait for at least one job to end; None stands for a report that never came, because its worker died."""
        ...


class WorkersFailed(InputError):
    """The processes that should grade do not even start."""


class Processes:
    """A crew of processes on this machine, each with a bench of its own. A context manager.

    Each is an executor of one process, so that it is known whose work a dead one was doing.
    """

    def __init__(self, course: Course, jobs: int, *, seal: str | None = None, trust: bool = False) -> None:
        self.room = jobs
        self._new: Callable[[Any], Executor] = lambda started: workers(
            course, 1, seal=seal, trust=trust, started=started
        )
        self._idle: list[tuple[Executor, Any]] = []
        self._busy: dict[Future[str], tuple[Job, Executor, Any]] = {}

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        executors = [executor for executor, _ in self._idle] + [executor for _, executor, _ in self._busy.values()]
        for executor in executors:
            for process in list((getattr(executor, "_processes", None) or {}).values()):
                process.kill()  # what is under way is of no use any more; the bench ends with it
            executor.shutdown(wait=True, cancel_futures=True)

    def start(self, job: Job) -> None:
        """See ``Crew``."""
        while self._idle:
            executor, started = self._idle.pop()
            try:
                self._busy[executor.submit(_grade, job)] = job, executor, started
            except BrokenProcessPool:  # it died while it had nothing to do, which is no job's fault
                executor.shutdown(wait=False)
            else:
                return
        started = get_context("spawn").Event()
        executor = self._new(started)
        self._busy[executor.submit(_grade, job)] = job, executor, started

    def finished(self) -> list[tuple[Job, Report | None]]:
        """See ``Crew``.

        Raises:
            WorkersFailed: a process ended before it was ready for any job.
        """
        ended: list[tuple[Job, Report | None]] = []
        for future in wait(self._busy, return_when=FIRST_COMPLETED).done:
            job, executor, started = self._busy.pop(future)
            try:
                ended.append((job, Report.from_json(future.result())))
                self._idle.append((executor, started))
            except BrokenProcessPool:
                executor.shutdown(wait=False)
                if not started.is_set():
                    raise WorkersFailed("a process that should grade did not start; see its messages above") from None
                ended.append((job, None))
        return ended


def grade(
    course: Course,
    tasks: Iterable[Task],
    *,
    seed: int,
    jobs: int = 1,
    store: Store | None = None,
    crew: Crew | None = None,
    made: "Callable[[Report | None, Report], None]" = lambda before, after: None,
) -> Iterator[Report]:
    """The reports as they come: those that the store has, and those that are made now, which it is given.

    Args:
        course: the full course.
        tasks: read one by one, as there is room for them.
        seed: the run seed.
        jobs: how many processes, where no crew is given.
        store: keeps reports over runs.
        crew: who does the work; this function's own processes by default.
        made: is told of every report that is made now, and of the one (if any) whose place it takes.
    """
    with contextlib.ExitStack() as stack:
        if crew is None:
            crew = stack.enter_context(Processes(course, jobs))
        digests: dict[str, str] = {}
        under_way = 0

        def ended() -> Iterator[Report]:
            nonlocal under_way
            for job, report in crew.finished():
                under_way -= 1
                if report is None and job.losses + 1 < MOST_LOSSES:
                    crew.start(replace(job, losses=job.losses + 1))
                    under_way += 1
                    continue
                if report is None:
                    reason = LOST.format(count=MOST_LOSSES)
                    exercise = course.exercise(job.exercise)
                    report = undecided(course, exercise, job.submission, seed=seed, student=job.student, reason=reason)
                before = store.write(report) if store is not None else None
                made(before, report)
                yield report

        for task in tasks:
            submission = task.submission()
            name = task.exercise.id
            if store is not None:
                if name not in digests:
                    digests[name] = suite_digest_of(course, task.exercise)
                if kept := store.kept(task, submission, digests[name]):
                    yield kept
                    continue
            while under_way >= crew.room:
                yield from ended()
            crew.start(Job(name, task.student, submission, seed))
            under_way += 1
        while under_way:
            yield from ended()


_grader: Grader | None = None  # of this worker process: it ends with the process, and its bench with it


def workers(
    course: Course, jobs: int, *, seal: str | None = None, trust: bool = False, started: Any = None
) -> Executor:
    """Processes in which ``worker()`` is a grader of this course, with one bench each; ``started`` is set by them."""
    arguments = (str(course.root), seal, trust, started, os.getpid())
    return ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_start, initargs=arguments)


def worker() -> Grader:
    """The grader of this worker process."""
    assert _grader is not None
    return _grader


def _start(root: str, seal: str | None, trust: bool, started: Any, driver: int) -> None:
    global _grader
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: when the driver is killed, so are we
        if os.getppid() != driver:  # it was killed while we were importing
            os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which then ends us
    _grader = Grader(load(Path(root)), seal=seal, trust=trust)
    if started is not None:
        started.set()


def _grade(job: Job) -> str:
    return grade_job(worker(), job).to_json()


def grade_job(grader: Grader, job: Job) -> Report:
    """The report on a job; what goes wrong with the grader costs nobody a point and stops no cohort."""
    exercise = grader.course.exercise(job.exercise)
    try:
        return grader.grade(exercise, job.submission, seed=job.seed, student=job.student)
    except Exception as error:
        reason = f"a fault of the grader: {type(error).__name__}: {error}"[:1000]
        return undecided(grader.course, exercise, job.submission, seed=job.seed, student=job.student, reason=reason)

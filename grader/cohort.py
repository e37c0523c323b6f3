"""A folder of submissions, one folder per student, graded on several cores with one seed."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from grader.course import Course, Exercise, load
from grader.grading import Grader
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
    tasks = [Task(student.name, exercise, find(student, exercise)) for student in students for exercise in exercises]
    if not any(task.path for task in tasks):
        names = f"{exercises[0].module}.py or .ipynb"
        raise InputError(f"{folder}: no submissions; expected one folder per student with files such as {names}")
    return tasks


def find(student: Path, exercise: Exercise) -> Path | None:
    """The file a student handed in for an exercise: a module before a notebook, the top folder before the session's."""
    for folder in (student, student / exercise.folder):
        for suffix in (".py", ".ipynb"):
            path = folder / f"{exercise.module}{suffix}"
            if path.is_symlink() or path.exists():
                return path
    return None


def grade(course: Course, tasks: Sequence[Task], *, seed: int, jobs: int, out: Path | None = None) -> Iterator[Report]:
    """The reports as they come; each is also written to ``out/<student>/<exercise>.json`` when ``out`` is given."""
    jobs = max(1, min(jobs, len(tasks)))
    with workers(course, jobs) as pool:
        pending = [pool.submit(_grade, task, seed) for task in tasks]
        for future in as_completed(pending):
            report = future.result()
            if out is not None:
                write_atomically(out / report.student / f"{report.exercise}.json", report.to_json())
            yield report


_grader: Grader | None = None  # of this worker process: it ends with the process, and its bench with it


def workers(course: Course, jobs: int) -> ProcessPoolExecutor:
    """Processes in which ``worker()`` is a grader of this course, with one bench each."""
    return ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_start, initargs=(str(course.root),))


def worker() -> Grader:
    """The grader of this worker process."""
    assert _grader is not None
    return _grader


def _start(root: str) -> None:
    global _grader
    _grader = Grader(load(Path(root)))


def _grade(task: Task, seed: int) -> Report:
    return worker().grade(task.exercise, task.submission(), seed=seed, student=task.student)

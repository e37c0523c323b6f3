"""A folder of students: whose work is found where, what is not read, and how the reports are written."""

import json
import os
import pickle
import threading
from pathlib import Path

import pytest

from grader import cohort
from grader.cohort import Task, discover
from grader.grading import Grader
from grader.report import Report, write_atomically
from grader.submission import InputError

RIGHT = "def double(x):\n    if not x.is_floating_point():\n        raise ValueError('x')\n    return x + x\n"
HOME = "session_03_tiny"


@pytest.fixture(scope="module")
def course(made_up, tmp_path_factory):
    again = made_up.quick()
    return made_up.make(tmp_path_factory.mktemp("course"), {"double": made_up.quick(), "again": again})


@pytest.fixture(scope="module")
def exercises(course):
    return course.select(["3"])


@pytest.fixture
def submissions(tmp_path):
    """``submissions({"ada/ex1_double.py": text})``: the folder with these files."""

    def write(files):
        folder = tmp_path / "submissions"
        folder.mkdir()
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return folder

    return write


def found(tasks, folder):
    return {(task.student, task.exercise.id): task.path and task.path.relative_to(folder).as_posix() for task in tasks}


# ------------------------------------------------------------------------------------------------------------- discover


def test_every_student_has_a_task_for_every_exercise_handed_in_or_not(submissions, exercises):
    folder = submissions({"bob/ex2_again.py": "x", "ada/ex1_double.py": "x", "cy/notes.txt": "x"})
    assert found(discover(folder, exercises), folder) == {
        ("ada", "3.1"): "ada/ex1_double.py",
        ("ada", "3.2"): None,
        ("bob", "3.1"): None,
        ("bob", "3.2"): "bob/ex2_again.py",
        ("cy", "3.1"): None,
        ("cy", "3.2"): None,
    }
    assert [task.student for task in discover(folder, exercises)] == ["ada", "ada", "bob", "bob", "cy", "cy"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["ex1_double.py"], "ex1_double.py"),
        (["ex1_double.ipynb"], "ex1_double.ipynb"),
        ([f"{HOME}/ex1_double.py"], f"{HOME}/ex1_double.py"),
        ([f"{HOME}/ex1_double.ipynb"], f"{HOME}/ex1_double.ipynb"),
        (["ex1_double.ipynb", "ex1_double.py"], "ex1_double.py"),
        ([f"{HOME}/ex1_double.py", "ex1_double.ipynb"], "ex1_double.ipynb"),
        (["other_session/ex1_double.py", "ex1_double.txt", "EX1_DOUBLE.py"], None),
        (["ex1_double.py/a.txt"], "ex1_double.py"),
    ],
)
def test_a_module_comes_before_a_notebook_and_the_top_folder_before_the_sessions(
    submissions, exercises, names, expected
):
    folder = submissions({"bob/ex1_double.py": "x"} | {f"ada/{name}": "x" for name in names})
    path = found(discover(folder, exercises), folder)["ada", "3.1"]
    assert path == (expected and f"ada/{expected}")


def test_hidden_folders_and_loose_files_are_no_students(submissions, exercises):
    folder = submissions({"ada/ex1_double.py": "x", ".git/ex1_double.py": "x", "ex1_double.py": "x", "readme.txt": "x"})
    assert {task.student for task in discover(folder, exercises)} == {"ada"}


@pytest.mark.parametrize("files", [{}, {"ada/notes.txt": "x"}, {"ex1_double.py": "x"}, {".ada/ex1_double.py": "x"}])
def test_a_folder_without_submissions_is_bad_input_that_says_what_is_expected(submissions, exercises, files):
    with pytest.raises(
        InputError, match=r"no submissions; expected one folder per student with files such as ex1_double\.py"
    ):
        discover(submissions(files), exercises)


def test_no_folder_is_bad_input(tmp_path, exercises):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(InputError, match="no such folder"):
            discover(path, exercises)


# --------------------------------------------------------------------------------------------------------- what is read


def read(folder, exercises, student="ada"):
    (task,) = [task for task in discover(folder, exercises) if (task.student, task.exercise.id) == (student, "3.1")]
    return task.submission()


def test_what_is_missing_is_a_submission_that_says_so(submissions, exercises):
    submission = read(submissions({"ada/ex2_again.py": "x"}), exercises)
    assert (submission.problem, submission.chunks) == (cohort.EMPTY, ())


@pytest.mark.parametrize("link", ["ex1_double.py", "ex1_double.ipynb", f"{HOME}/ex1_double.py", HOME])
@pytest.mark.parametrize("to", ["another student", "nothing", "the reference"])
def test_links_are_not_followed(submissions, exercises, course, link, to):
    folder = submissions(
        {"bob/ex1_double.py": "SECRET = 1", f"bob/{HOME}/ex1_double.py": "SECRET = 1", "ada/notes": ""}
    )
    targets = {
        "another student": folder / "bob" / (HOME if link == HOME else "ex1_double.py"),
        "nothing": folder / "nowhere",
        "the reference": course.root / "reference" / HOME / ("" if link == HOME else "ex1_double.py"),
    }
    path = folder / "ada" / link
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(targets[to])
    submission = read(folder, exercises)
    assert submission.chunks == ()
    assert "is not read" in submission.problem or submission.problem == cohort.EMPTY


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["a folder", "a pipe"])
def test_what_is_no_file_is_not_read(submissions, exercises, make):
    folder = submissions({"bob/ex1_double.py": "x", "ada/notes": ""})
    make(folder / "ada/ex1_double.py")
    assert "not a regular file" in read(folder, exercises).problem


def test_a_task_travels_to_another_process(exercises):
    task = Task("ada", exercises[0], Path("x"))
    assert pickle.loads(pickle.dumps(task)) == task


# -------------------------------------------------------------------------------------------------------------- grading


@pytest.fixture(scope="module")
def graded(course, exercises, tmp_path_factory):
    """The reports of a small class by two processes, and the folder they were written to."""
    folder, out = tmp_path_factory.mktemp("class"), tmp_path_factory.mktemp("reports") / "deep"
    cell = {"cell_type": "code", "metadata": {}, "source": RIGHT}
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]}
    files = {
        "ada/ex1_double.py": RIGHT,
        "bob/ex1_double.py": RIGHT.replace("x + x", "3 * x"),
        f"cy/{HOME}/ex1_double.ipynb": json.dumps(notebook),
        "dan/ex1_double.py": "import os\nos._exit(0)\n",
        "eve/ex2_again.py": "",
        "fay \u00fc/ex1_double.py": RIGHT,
        "gus/notes.txt": "",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    tasks = discover(folder, exercises)
    with cohort.Store.open(out, seed=7) as store:
        return list(cohort.grade(course, tasks, seed=7, jobs=2, store=store)), out


def of(graded, student, exercise="3.1"):
    (report,) = [one for one in graded[0] if (one.student, one.exercise) == (student, exercise)]
    return report


def test_two_processes_grade_every_task_once_with_one_seed(graded):
    reports, _ = graded
    assert len(reports) == len({(one.student, one.exercise) for one in reports}) == 14
    assert {one.seed for one in reports} == {7}


@pytest.mark.parametrize(
    ("student", "score"), [("ada", 9), ("bob", 4), ("cy", 9), ("dan", 0), ("fay \u00fc", 9), ("gus", 0)]
)
def test_everybody_gets_the_verdict_on_their_own_work(graded, student, score):
    assert (of(graded, student).score, of(graded, student).pending) == (score, 0)


@pytest.mark.parametrize(
    ("student", "exercise", "words"),
    [("gus", "3.1", cohort.EMPTY), ("ada", "3.2", cohort.EMPTY), ("eve", "3.2", "the file is empty")],
)
def test_what_was_not_handed_in_earns_nothing_and_says_why(graded, student, exercise, words):
    report = of(graded, student, exercise)
    assert (report.score, report.max_score, report.pending) == (0, 9, 0)
    assert {one.rationale for one in report.checks} == {words}


def test_every_report_is_written_to_the_students_folder_and_nothing_else(graded):
    reports, out = graded
    written = {
        path.relative_to(out).as_posix(): Report.from_json(path.read_text())
        for path in out.rglob("*")
        if path.is_file() and path.name not in ("seed.txt", ".lock")
    }
    assert written == {f"{one.student}/{one.exercise}.json": one for one in reports}


def test_the_same_class_in_this_process_gets_the_same_points(graded, course, exercises, bench):
    one = Grader(course, bench=bench)
    for student, text in (("ada", RIGHT), ("bob", RIGHT.replace("x + x", "3 * x"))):
        submission = cohort.Submission.from_source(text, "ex1_double.py")
        report, other = cohort.grade_job(one, cohort.Job("3.1", student, submission, 7)), of(graded, student)
        assert [(c.id, c.outcome, c.earned, c.rationale, c.help) for c in report.checks] == [
            (c.id, c.outcome, c.earned, c.rationale, c.help) for c in other.checks
        ]
    one.__exit__()


# ------------------------------------------------------------------------------------------------------ atomic writing


def test_a_reader_sees_the_old_file_or_the_new_one_and_never_a_part(tmp_path):
    path, texts = tmp_path / "report.json", {"a" * 200_000, "b" * 200_000}
    write_atomically(path, "a" * 200_000)
    seen, done = set(), threading.Event()

    def look():
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=look)
    reader.start()
    for text in ("b" * 200_000, "a" * 200_000) * 20:
        write_atomically(path, text)
    done.set()
    reader.join()
    assert seen <= texts
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_what_cannot_be_written_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_a_written_file_can_be_read_by_others(tmp_path):
    write_atomically(tmp_path / "a/b/report.json", "x")
    assert (tmp_path / "a/b/report.json").stat().st_mode & 0o777 == 0o644

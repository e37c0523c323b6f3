"""A class of students, honest, unlucky and hostile, through nbgrader's own commands."""

import csv
import json
import os
import re
from types import SimpleNamespace
from typing import ClassVar

import pytest

pytest.importorskip("nbgrader")

from jupyter_core.application import NoStart
from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderApp

from grader import course as manifest
from grader.release import release_notebooks
from grader.report import Check, Environment, Report

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # nbgrader's, nbconvert's and SQLAlchemy's own
    pytest.mark.timeout(300),
]

SESSION = "session_03_tiny"
RIGHT = "    return helper(x) * FACTOR  # right: shapes gradients convergence throughput"
TITLES = {"shapes": "the shape", "gradients": "the gradient", "convergence": "the fit", "throughput": "the speed"}


class FakeGrader:
    """Gives the points of a kind when ``# right: <kind>`` stands in a submitted chunk, and never runs anything."""

    opened = 0
    seeds: ClassVar[set[int]] = set()

    def __init__(self, course, **options):
        self.course = course

    def __enter__(self):
        type(self).opened += 1
        return self

    def __exit__(self, *_):
        pass

    def grade(self, exercise, submission, *, seed, student=""):
        self.seeds.add(seed)
        text = "\n".join(chunk.source for chunk in submission.chunks)
        if "# explode" in text:
            raise RuntimeError("the grader itself")
        assert "grader.notebook" not in text
        required = "\n".join(chunk.source for chunk in submission.chunks if chunk.required)
        assert not submission.chunks or "FACTOR = 2" in required, "locked cells are back"
        right = " ".join(re.findall("# right: (.*)", text)).split() if f"def {exercise.slug}(" in text else []
        fault = " ".join(re.findall("# fault: (.*)", text)).split()
        odd = "\ud800" if student == "surrogates" else ""
        checks = []
        for kind, points in exercise.points.items():
            outcome = "grader_fault" if kind in fault else "correct" if kind in right else "wrong"
            if "raise NotImplementedError" in text and not right:
                outcome = "not_attempted"
            won = outcome == "correct"
            checks.append(
                Check(
                    id=f"test_{kind}", kind=kind, title=f"{TITLES[kind]} is right", points=points,
                    earned=points * won, outcome=outcome, rationale="" if won else f"expected <1>, got \x1b[31m2{odd}",
                    help="" if won else "look again",
                )
            )  # fmt: skip
        return Report(
            exercise=exercise.id, title=exercise.title, student=student, submission=submission.name,
            submission_digest=submission.digest, suite_digest="0", seed=seed, started="", seconds=0.0,
            environment=Environment(grader="0", python="3", torch="2", platform="Linux", isolation="child-process"),
            checks=tuple(checks), score=sum(c.earned for c in checks), max_score=sum(c.points for c in checks),
        )  # fmt: skip


def cell(notebook, grade_id):
    return next(c for c in notebook["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") == grade_id)


def solved(notebook, line=RIGHT):
    for one in notebook["cells"]:
        if one["metadata"].get("nbgrader", {}).get("solution"):
            one["source"] = "".join(one["source"]).replace("    # YOUR CODE HERE\n    raise NotImplementedError", line)
    return notebook


def partly(notebook):
    return solved(notebook, "    return x  # right: shapes gradients")


def without(*parts):
    def change(notebook):
        solved(notebook)
        notebook["cells"] = [
            c for c in notebook["cells"] if not c["metadata"].get("nbgrader", {}).get("grade_id", "").endswith(parts)
        ]
        return notebook

    return change


def marked(**metadata):
    """The graded cell of the shapes, with this in its nbgrader metadata."""

    def change(notebook):
        mark = cell(partly(notebook), "ex1_double_convergence")["metadata"]["nbgrader"]
        mark.update(metadata)
        return notebook

    return change


def garbled(value):
    def change(notebook):
        cell(partly(notebook), "ex1_double_convergence")["metadata"]["nbgrader"] = value
        return notebook

    return change


def without_points(notebook):
    del cell(partly(notebook), "ex1_double_convergence")["metadata"]["nbgrader"]["points"]
    return notebook


def copied(notebook):
    partly(notebook)
    notebook["cells"] += [json.loads(json.dumps(c)) for c in notebook["cells"]]
    return notebook


def forged(notebook):
    partly(notebook)
    own = json.loads(json.dumps(cell(notebook, "ex1_double_shapes")))
    own["metadata"]["nbgrader"] |= {"grade_id": "ex1_double_bonus", "points": 100}
    notebook["cells"].append(own)
    return notebook


def edited(notebook):
    partly(notebook)
    cell(notebook, "ex1_double_convergence")["source"] = "2.0"
    cell(notebook, "ex1_double_setup")["source"] = "import os"
    return notebook


def as_markdown(notebook):
    partly(notebook)
    for one in notebook["cells"]:
        one["cell_type"] = "markdown"
        one.pop("outputs", None)
        one.pop("execution_count", None)
    return notebook


def shuffled(notebook):
    notebook["cells"] = partly(notebook)["cells"][::-1]
    return notebook


def with_outputs(notebook):
    partly(notebook)
    for one in notebook["cells"]:
        if one["cell_type"] == "code":
            data = {"text/plain": "1000000.0"}
            fake = {"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": data}
            error = {"output_type": "stream", "name": "stderr", "text": "boo"}
            one["outputs"] = [fake, error, {"output_type": "nonsense"}]
    return notebook


def huge(notebook):
    cell(partly(notebook), "ex1_double_def_double")["outputs"] = [
        {"output_type": "stream", "name": "stdout", "text": "x" * 50_000_000}
    ]
    return notebook


def many_cells(notebook):
    return {**partly(notebook), "cells": (notebook["cells"] * 10_000)[:10_000]}


def surrogates(notebook):
    partly(notebook)["cells"].append({"cell_type": "code", "metadata": {}, "source": "'\ud800'", "outputs": []})
    notebook["metadata"] = {"kernelspec": "no such kernel", "language": 7}
    return notebook


def hidden_copy_runs_nothing(notebook):
    own = {
        "cell_type": "code",
        "metadata": {},
        "outputs": [],
        "source": 'from grader.notebook import check\ncheck("3.1")',
    }
    partly(notebook)["cells"].append(own)
    return notebook


def raw(content):
    return lambda _: content


PARTLY = (4, 3, 0, 0)
FULL = (4, 3, 2, 1)
ZERO = (0, 0, 0, 0)
LOST = (None, None, None, None)

# student -> (what becomes of the released notebook, points per kind, a phrase of the feedback)
CLASS = {
    "right": (solved, FULL, "shapes: 4 of 4 points"),
    "partly": (partly, PARTLY, "✗ the fit is right (0/2): wrong"),
    "untouched": (lambda notebook: notebook, ZERO, "not attempted"),
    "missing": (None, ZERO, None),
    "graded_deleted": (without("_shapes", "_convergence", "_throughput"), FULL, "convergence: 2 of 2"),
    "all_deleted_but_the_answer": (without("_task", "setup", "helper", *TITLES), FULL, "throughput: 1 of 1"),
    "answer_deleted": (without("_double"), ZERO, "None of this exercise"),
    "copied": (copied, PARTLY, "are copies or unknown"),
    "forged": (forged, PARTLY, "1 cell(s) marked"),
    "edited": (edited, PARTLY, "convergence: 0 of 2"),
    "more_points": (marked(points=400), PARTLY, "convergence: 0 of 2"),
    "negative_points": (marked(points="-inf"), PARTLY, "convergence: 0 of 2"),
    "no_points": (without_points, PARTLY, "convergence: 0 of 2"),
    "renumbered": (marked(grade_id="ex1_double_shapes2"), PARTLY, "convergence: 0 of 2"),
    "strange_id": (marked(grade_id=["a"]), PARTLY, "convergence: 0 of 2"),
    "schema_1": (marked(schema_version=1), PARTLY, "convergence: 0 of 2"),
    "schema_99": (marked(schema_version=99, extra="x"), PARTLY, "convergence: 0 of 2"),
    "solution_too": (marked(solution=True), PARTLY, "convergence: 0 of 2"),
    "no_flags": (marked(grade=False, locked=False), PARTLY, "convergence: 0 of 2"),
    "text_mark": (garbled("x"), PARTLY, "convergence: 0 of 2"),
    "null_mark": (garbled(None), PARTLY, "convergence: 0 of 2"),
    "list_mark": (garbled([{}]), PARTLY, "convergence: 0 of 2"),
    "empty_mark": (garbled({}), PARTLY, "convergence: 0 of 2"),
    "markdown": (as_markdown, PARTLY, "gradients: 3 of 3"),
    "shuffled": (shuffled, PARTLY, "gradients: 3 of 3"),
    "forged_outputs": (with_outputs, PARTLY, "gradients: 3 of 3"),
    "huge_output": (huge, PARTLY, "gradients: 3 of 3"),
    "many_cells": (many_cells, ZERO, "10,000 cells"),
    "surrogates": (surrogates, PARTLY, "gradients: 3 of 3"),
    "own_check": (hidden_copy_runs_nothing, PARTLY, "gradients: 3 of 3"),
    "no_cells": (lambda notebook: {**notebook, "cells": []}, ZERO, "None of this exercise"),
    "other_exercise": ("ex2_shift", ZERO, "None of this exercise"),
    "empty_file": (raw(b""), ZERO, "the file is empty"),
    "not_utf8": (raw(b'{"cells": "\xff"}'), ZERO, "not UTF-8 text (byte 11)"),
    "not_json": (raw(b"import torch\n"), ZERO, "not a Jupyter notebook"),
    "json_list": (raw(b"[1]"), ZERO, "not a Jupyter notebook"),
    "deep_json": (raw(b"[" * 100_000), ZERO, "not a Jupyter notebook"),
    "odd_cells": (raw(b'{"nbformat": 4, "cells": [7]}'), ZERO, "not a Jupyter notebook"),
    "format_3": (raw(b'{"nbformat": 3, "worksheets": []}'), ZERO, "notebook format 3"),
    "folder": ("folder", ZERO, "it is not a file"),
    "link": ("link", ZERO, "it is a link"),
    "broken_link": ("broken link", ZERO, "it is a link"),
    "pipe": ("pipe", ZERO, "it is not a file"),
    "odd_files": ("odd files", PARTLY, "gradients: 3 of 3"),
    "bad_timestamp": ("bad timestamp", PARTLY, "gradients: 3 of 3"),
    "pending": (lambda n: solved(n, "    # right: shapes\n    # fault: gradients"), (4, None, 0, 0), "3 pending"),
    "fault": (lambda n: solved(n, "    # explode"), LOST, "It costs you nothing"),
}


def nbgrader(*arguments):
    """Run an nbgrader command in this process; its exit status."""
    NbGraderApp.clear_instance()
    app = NbGraderApp.instance()
    try:
        app.initialize([*arguments])
        app.start()
    except NoStart:  # how an application says that a subcommand has done its work
        return 0
    except SystemExit as error:
        return error.code
    finally:
        for one in (app, app.subapp):
            if one:
                type(one).clear_instance()
    return 0


def hand_in(folder, released, secret, kind):
    """Put one student's submission of exercise 1 into ``folder``."""
    target = folder / "ex1_double.ipynb"
    if kind is None:
        return
    text = (released / "ex1_double.ipynb").read_text()
    if callable(kind):
        content = kind(json.loads(text))
        target.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    elif kind == "folder":
        target.mkdir()
        (target / "ex1_double.ipynb").write_text(text)
    elif kind == "link":
        target.symlink_to(secret)
    elif kind == "broken link":
        target.symlink_to("nowhere.ipynb")
    elif kind == "pipe":
        os.mkfifo(target)
    elif kind == "ex2_shift":
        target.write_text(json.dumps(solved(json.loads((released / "ex2_shift.ipynb").read_text()))))
    else:
        target.write_text(json.dumps(partly(json.loads(text))))
    if kind == "odd files":
        (folder / "passwords.txt").symlink_to(secret)
        (folder / "gone.txt").symlink_to("nowhere")
        os.mkfifo(folder / "pipe")
        os.mkfifo(folder / "timestamp.txt")
        (folder / "notes.txt").write_text("mine")
        (folder / "own.ipynb").write_text("not a notebook")
    if kind == "bad timestamp":
        (folder / "timestamp.txt").write_text("yesterday, honestly")


@pytest.fixture(scope="module")
def graded(tiny_root, tmp_path_factory):
    """The course folder after release, autograde, feedback and export; and the exit status of each command."""
    course = manifest.load(tiny_root)
    root = tmp_path_factory.mktemp("class") / "nb"
    release_notebooks(course, course.session(3), root)
    released = root / "release" / SESSION
    secret = root.parent / "secret.ipynb"
    secret.write_text(json.dumps(solved(json.loads((released / "ex1_double.ipynb").read_text()))))
    for student, (kind, _, _) in CLASS.items():
        folder = root / "submitted" / student / SESSION
        folder.mkdir(parents=True)
        (folder / "ex2_shift.ipynb").write_text(
            json.dumps(solved(json.loads((released / "ex2_shift.ipynb").read_text())))
        )
        hand_in(folder, released, secret, kind)
    patch = pytest.MonkeyPatch()
    patch.chdir(root)
    patch.setattr("grader.nbgrader.open_grader", FakeGrader)
    try:
        status = SimpleNamespace(
            autograde=nbgrader("autograde", SESSION, "--log-level=ERROR"),
            feedback=nbgrader("generate_feedback", SESSION, "--log-level=ERROR"),
            export=nbgrader("export", "--log-level=ERROR"),
        )
    finally:
        patch.undo()
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        yield SimpleNamespace(root=root, gradebook=gradebook, status=status, released=released)


def test_every_command_succeeds(graded):
    assert vars(graded.status) == {"autograde": 0, "feedback": 0, "export": 0}
    assert FakeGrader.opened == 1
    assert len(FakeGrader.seeds) == 1


@pytest.mark.parametrize("student", CLASS)
def test_scores(graded, student):
    grades = graded.gradebook.find_submission_notebook("ex1_double", SESSION, student).grades
    scores = {grade.name: grade.auto_score for grade in grades}
    assert scores == {f"ex1_double_{kind}": points for kind, points in zip(TITLES, CLASS[student][1], strict=True)}
    assert {grade.name for grade in grades if grade.needs_manual_grade} == {k for k, v in scores.items() if v is None}


@pytest.mark.parametrize("student", CLASS)
def test_one_bad_notebook_does_not_harm_the_other(graded, student):
    notebook = graded.gradebook.find_submission_notebook("ex2_shift", SESSION, student)
    assert (notebook.score, notebook.max_score, notebook.needs_manual_grade) == (5, 5, False)


@pytest.mark.parametrize("student", [name for name, (_, _, phrase) in CLASS.items() if phrase])
def test_feedback_says_why(graded, student):
    page = (graded.root / "feedback" / student / SESSION / "ex1_double.html").read_text(encoding="utf-8")
    assert CLASS[student][2] in page
    assert "# hidden" not in page


def test_feedback_escapes_what_comes_from_the_submission(graded):
    page = (graded.root / "feedback/partly" / SESSION / "ex1_double.html").read_text(encoding="utf-8")
    assert "expected &lt;1&gt;, got" in page
    assert "\x1b" not in page


def test_nothing_is_left_ungraded(graded):
    with open(graded.root / "grades.csv", newline="") as file:
        rows = {row["student_id"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == sorted(CLASS)
    for student, (_, scores, _) in CLASS.items():
        assert float(rows[student]["score"]) == sum(score or 0 for score in scores) + 5
        assert float(rows[student]["max_score"]) == 15
    assert sorted(os.listdir(graded.root / "autograded")) == sorted(CLASS)


def test_links_and_pipes_are_not_followed(graded):
    folder = graded.root / "autograded" / "odd_files" / SESSION
    assert (folder / "notes.txt").read_text() == "mine"
    assert not {"passwords.txt", "gone.txt", "pipe"} & set(os.listdir(folder))
    assert "right: shapes" not in (graded.root / "autograded/link" / SESSION / "ex1_double.ipynb").read_text()


def test_reports_and_the_seed_are_kept_outside_of_the_students_folders(graded):
    report = Report.from_json((graded.root / "reports/right/3.1.json").read_text())
    assert (report.student, report.score, report.max_score) == ("right", 10, 10)
    assert {report.seed} == FakeGrader.seeds == {int((graded.root / f"seeds/{SESSION}.txt").read_text())}


def test_hidden_suites_are_nowhere_in_the_course_folder(graded, tiny_root):
    for step in ("source", "release", "autograded", "feedback", "reports"):
        files = [path for path in (graded.root / step).rglob("*") if path.is_file()]
        assert files
        assert not [path for path in files if path.read_bytes() in (b"# hidden\n", b"# controls\n")]


def test_a_second_autograde_changes_nothing_but_what_is_new(graded, monkeypatch):
    monkeypatch.chdir(graded.root)
    monkeypatch.setattr("grader.nbgrader.open_grader", FakeGrader)
    assert nbgrader("autograde", SESSION, "--student=pending", "--force", "--log-level=ERROR") == 0
    graded.gradebook.db.expire_all()
    notebook = graded.gradebook.find_submission_notebook("ex1_double", SESSION, "pending")
    assert (notebook.score, notebook.needs_manual_grade) == (4, True)


def test_a_wrong_course_folder_stops_before_anything_is_graded(graded, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(graded.root)
    monkeypatch.setenv("GRADER_COURSE", str(tmp_path))
    before = sorted(os.listdir(graded.root / "autograded"))
    assert nbgrader("autograde", SESSION, "--force") == 1
    assert "course.toml: No such file" in capsys.readouterr().err
    assert sorted(os.listdir(graded.root / "autograded")) == before

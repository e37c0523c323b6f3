"""Session 3 as it stands in this repository, with a class of students, through nbgrader's own command line."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("nbgrader")

from nbgrader.api import Gradebook

from grader import course as manifest
from grader.release import release_notebooks

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # nbgrader's, nbconvert's and SQLAlchemy's own
    pytest.mark.timeout(300),
]

HOUSE = Path(__file__).parents[2]
SESSION, NOTEBOOK = "session_03_nn_module", "ex1_basic_mlp"
KINDS = ("shapes", "gradients", "convergence", "throughput")


def code(text):
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": text}


def role(cell):
    return cell["metadata"].get("nbgrader", {})


def first(text):
    """The right answer with a cell of the student's own in front."""
    return lambda right: {**right, "cells": [code(text), *right["cells"]]}


def edited(old, new):
    def change(right):
        for cell in right["cells"]:
            if role(cell).get("solution"):
                cell["source"] = "".join(cell["source"]).replace(old, new)
        return right

    return change


def without_graded_cells(right):
    return {**right, "cells": [cell for cell in right["cells"] if not role(cell).get("grade")]}


def forged(right):
    copies = [json.loads(json.dumps(cell)) for cell in right["cells"] if role(cell).get("grade")]
    for cell in right["cells"]:
        if role(cell).get("grade"):
            cell["metadata"]["nbgrader"] |= {"points": 1000}
            cell["source"] = "1000.0"
    copies[0]["metadata"]["nbgrader"]["grade_id"] = "bonus"
    return {**right, "cells": right["cells"] + copies}


def huge(right):
    right["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * 50_000_000}]
    return right


FULL, NOTHING = (6, 4, 4, 2), (0, 0, 0, 0)

# student -> (what is handed in, points per kind, a phrase of the feedback)
CLASS = {
    "right": (lambda right: right, FULL, "shapes: 6 of 6 points"),
    "stub": ("released", NOTHING, "not attempted"),
    "no_activation": (
        edited("nn.ReLU()", "nn.Identity()"),
        (3, 0, 0, 0),
        "There is nothing between your linear layers",
    ),
    "graded_deleted": (without_graded_cells, FULL, "throughput: 2 of 2 points"),
    "forged": (forged, FULL, "are copies or unknown"),
    "exit": (first("import os\nos._exit(0)"), NOTHING, "ended the process"),
    "endless": (first("while True:\n    pass"), NOTHING, "still running after 8 s"),
    "syntax": (edited("def forward", "def forward("), (1, 0, 0, 0), "SyntaxError"),
    "scratch": (first("import warnings\nwarnings.warn('careful')\n%matplotlib inline\n1 / 0"), FULL, "6 of 6 points"),
    "empty": (lambda right: {**right, "cells": []}, NOTHING, "None of this exercise"),
    "other": ("lesson", NOTHING, "None of this exercise"),
    "not_utf8": (b'{"cells": "\xff"}', NOTHING, "not UTF-8 text (byte 11)"),
    "huge": (huge, FULL, "convergence: 4 of 4 points"),
}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The course folder after autograde, feedback and export; the course is a copy in which patience is short."""
    base = tmp_path_factory.mktemp("session")
    house = base / "course"
    for name in ("exercises", "reference", "fixtures", f"tests/{SESSION}"):
        shutil.copytree(HOUSE / name, house / name, ignore=shutil.ignore_patterns("__pycache__"))
    text = (HOUSE / "course.toml").read_text(encoding="utf-8")
    limited = text.replace('slug = "basic_mlp"\n', 'slug = "basic_mlp"\nlimits = { wall_s = 8 }\n')
    (house / "course.toml").write_text(limited, encoding="utf-8")
    course = manifest.load(house)
    root = release_notebooks(course, course.session(3), base / "nb")
    for student, (kind, _, _) in CLASS.items():
        folder = root / "submitted" / student / SESSION
        folder.mkdir(parents=True)
        if callable(kind):
            right = json.loads((root / "source" / SESSION / f"{NOTEBOOK}.ipynb").read_text(encoding="utf-8"))
            content = json.dumps(kind(right)).encode()
        elif kind == "released":
            content = (root / "release" / SESSION / f"{NOTEBOOK}.ipynb").read_bytes()
        elif kind == "lesson":
            content = (root / "lessons" / f"{SESSION}.ipynb").read_bytes()
        else:
            content = kind
        (folder / f"{NOTEBOOK}.ipynb").write_bytes(content)
    for path in (root / "source" / SESSION).glob("*.ipynb"):  # who is right is so in every exercise
        shutil.copyfile(path, root / "submitted" / "right" / SESSION / path.name)

    def nbgrader(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "nbgrader", *arguments, "--log-level=ERROR"],
            cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    nbgrader("autograde", SESSION)
    nbgrader("generate_feedback", SESSION)
    nbgrader("export")
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        yield SimpleNamespace(root=root, gradebook=gradebook, course=course)


@pytest.mark.parametrize("student", CLASS)
def test_scores(graded, student):
    grades = graded.gradebook.find_submission_notebook(NOTEBOOK, SESSION, student).grades
    scores = {grade.name: grade.auto_score for grade in grades}
    assert scores == {f"{NOTEBOOK}_{kind}": points for kind, points in zip(KINDS, CLASS[student][1], strict=True)}
    assert not [grade.name for grade in grades if grade.needs_manual_grade]


@pytest.mark.parametrize("student", CLASS)
def test_feedback_says_why(graded, student):
    page = (graded.root / "feedback" / student / SESSION / f"{NOTEBOOK}.html").read_text(encoding="utf-8")
    assert CLASS[student][2] in page


def test_the_reference_has_every_point_of_the_session(graded):
    with open(graded.root / "grades.csv", newline="") as file:
        rows = {row["student_id"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == sorted(CLASS)
    most = sum(exercise.max_score for exercise in graded.course.session(3).exercises if exercise.ready)
    assert {float(row["max_score"]) for row in rows.values()} == {most}
    assert float(rows["right"]["score"]) == most
    for student in set(CLASS) - {"right"}:
        assert float(rows[student]["score"]) == sum(CLASS[student][1])

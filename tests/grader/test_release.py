"""What leaves the house: complete, runnable, the same every time, and without a line of a solution."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from grader import course as manifest
from grader import release
from grader.source import solution_lines
from grader.submission import InputError

pytest.importorskip("nbgrader")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # nbgrader's, nbconvert's and SQLAlchemy's own
    pytest.mark.timeout(300),
]

SESSION = "session_03_tiny"
ANSWER = "return helper(x) * FACTOR + 0"
STUDENT_FILES = {
    *("README.md", "course.toml", "hints.toml", "lesson.md"),
    *("test_ex1_double.py", "test_ex2_shift.py"),
}


@pytest.fixture
def course(tiny_root, tmp_path):
    """A copy of the tiny course, free to be broken."""
    return manifest.load(shutil.copytree(tiny_root, tmp_path / "course"))


@pytest.fixture(scope="module")
def tiny(tiny_root):
    return manifest.load(tiny_root)


@pytest.fixture(scope="module")
def modules(tiny, tmp_path_factory):
    return release.release_modules(tiny, tiny.session(3), tmp_path_factory.mktemp("modules"))


@pytest.fixture(scope="module")
def notebooks(tiny, tmp_path_factory):
    return release.release_notebooks(tiny, tiny.session(3), tmp_path_factory.mktemp("notebooks") / "nb")


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def code_of(path):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def run(folder, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )


class TestModules:
    def test_hold_what_a_student_needs_and_nothing_else(self, modules):
        assert files_of(modules) == STUDENT_FILES | {
            *("ex1_double.py", "ex2_shift.py", "pytest.ini", "fixtures/__init__.py", ".grader-release")
        }

    def test_hold_stubs_and_no_answer(self, modules):
        assert "    raise NotImplementedError\n" in (modules / "ex1_double.py").read_text()
        assert not [path for path in modules.rglob("*") if path.is_file() and ANSWER in path.read_text()]

    def test_the_archive_holds_the_same_files(self, modules):
        with zipfile.ZipFile(modules.parent / f"{SESSION}.zip") as archive:
            assert set(archive.namelist()) == {f"{SESSION}/{name}" for name in files_of(modules)}
            for name in files_of(modules):
                assert archive.read(f"{SESSION}/{name}") == (modules / name).read_bytes()

    def test_the_archive_is_the_same_every_time(self, tiny, modules, tmp_path):
        release.release_modules(tiny, tiny.session(3), tmp_path / "a" / "new")
        again, first = tmp_path / "a" / "new" / f"{SESSION}.zip", modules.parent / f"{SESSION}.zip"
        assert again.read_bytes() == first.read_bytes()

    def test_the_folder_works_on_its_own(self, modules, tmp_path):
        folder = shutil.copytree(modules, tmp_path / "mine")
        red = run(folder, "pytest", "-p", "no:cacheprovider", "test_ex1_double.py")
        assert red.returncode == 1, red.stdout + red.stderr
        assert "not attempted" in red.stdout
        stub = folder / "ex1_double.py"
        stub.write_text(stub.read_text().replace("raise NotImplementedError", "return x + x"))
        green = run(folder, "pytest", "-p", "no:cacheprovider", "test_ex1_double.py")
        assert green.returncode == 0, green.stdout + green.stderr

    def test_a_release_replaces_a_release(self, course, tmp_path):
        folder = release.release_modules(course, course.session(3), tmp_path / "out")
        (folder / "leftover").write_text("")
        (course.root / "exercises" / SESSION / "README.md").write_text("# New\n")
        release.release_modules(course, course.session(3), tmp_path / "out")
        assert (folder / "README.md").read_text() == "# New\n"
        assert not (folder / "leftover").exists()
        assert sorted(os.listdir(tmp_path / "out")) == [SESSION, f"{SESSION}.zip"]

    def test_nothing_else_is_ever_replaced(self, course, tmp_path):
        folder = tmp_path / "out" / SESSION
        folder.mkdir(parents=True)
        (folder / "ex1_double.py").write_text("my own work")
        with pytest.raises(InputError, match="choose another folder"):
            release.release_modules(course, course.session(3), tmp_path / "out")
        assert files_of(tmp_path / "out") == {f"{SESSION}/ex1_double.py"}

    def test_a_file_in_the_way_is_one_line(self, course, tmp_path):
        (tmp_path / "out").write_text("")
        with pytest.raises(InputError, match=r"out: (File exists|Not a directory)$"):
            release.release_modules(course, course.session(3), tmp_path / "out")

    @pytest.mark.parametrize("name", ["lesson.md", "hints.toml", "README.md", "test_ex2_shift.py"])
    def test_a_missing_file_is_one_line_and_leaves_nothing(self, course, tmp_path, name):
        (course.root / "exercises" / SESSION / name).unlink()
        for flavour in (release.release_modules, release.release_notebooks):
            with pytest.raises(InputError, match=f"^exercises/{SESSION}/{name} is missing$"):
                flavour(course, course.session(3), tmp_path / "out")
        assert files_of(tmp_path / "out") == set()

    def test_a_session_without_exercises_is_one_line(self, course, tmp_path):
        text = (course.root / "course.toml").read_text().replace('"ready"', '"planned"')
        (course.root / "course.toml").write_text(text)
        planned = manifest.load(course.root)
        with pytest.raises(InputError, match="no exercise that is ready"):
            release.release_modules(planned, planned.session(3), tmp_path / "out")


class TestLeaks:
    @pytest.mark.parametrize("name", ["README.md", "lesson.md", "hints.toml", "test_ex2_shift.py"])
    def test_a_solution_line_anywhere_refuses_the_release(self, course, tmp_path, name):
        path = course.root / "exercises" / SESSION / name
        path.write_text(f"{path.read_text()}\n      {ANSWER}  \n")
        flavours = (
            (release.release_modules, release.release_notebooks) if name == "lesson.md" else (release.release_modules,)
        )
        for flavour in flavours:
            with pytest.raises(InputError, match=r"gives away a line of the solution of 3\.1: return helper"):
                flavour(course, course.session(3), tmp_path / "out")
            assert files_of(tmp_path / "out") == set()

    def test_notebooks_are_looked_into(self, course, tmp_path):
        folder = tmp_path / "out"
        folder.mkdir()
        (folder / "x.ipynb").write_text(release.lesson_notebook(f'```python\n"{chr(34)}"\n{ANSWER}\n```\n'))
        with pytest.raises(InputError, match=r"not released: x\.ipynb"):
            release.check_leaks(course, course.session(3).exercises[:2], folder)


class TestNotebooks:
    def test_source_and_release_hold_the_same_files_and_the_lesson(self, notebooks):
        expected = STUDENT_FILES | {"ex1_double.ipynb", "ex2_shift.ipynb"}
        assert files_of(notebooks / "source" / SESSION) == expected
        assert files_of(notebooks / "release" / SESSION) == expected | {"lesson.ipynb"}
        assert {"nbgrader_config.py", "gradebook.db"} < files_of(notebooks)

    def test_only_the_source_holds_answers(self, notebooks, tiny):
        assert ANSWER in "\n".join(code_of(notebooks / "source" / SESSION / "ex1_double.ipynb"))
        assert "raise NotImplementedError" in code_of(notebooks / "release" / SESSION / "ex1_double.ipynb")[2]
        text = (tiny.reference(tiny.exercise("3.1"))).read_text()
        released = "\n".join(
            line
            for path in (notebooks / "release").rglob("*.ipynb")
            for code in code_of(path)
            for line in code.split("\n")
        )
        assert not [line for line in solution_lines(text) if line in released]

    def test_one_graded_cell_per_kind(self, notebooks):
        cells = json.loads((notebooks / "release" / SESSION / "ex1_double.ipynb").read_text())["cells"]
        marks = [cell["metadata"]["nbgrader"] for cell in cells if "nbgrader" in cell["metadata"]]
        assert [(m["grade_id"], m["points"]) for m in marks if m["grade"]] == [
            ("ex1_double_shapes", 4),
            ("ex1_double_gradients", 3),
            ("ex1_double_convergence", 2),
            ("ex1_double_throughput", 1),
        ]
        assert [m["grade_id"] for m in marks if m["solution"]] == ["ex1_double_def_double"]
        assert {m["schema_version"] for m in marks} == {3}

    def test_the_same_every_time(self, tiny):
        exercise = tiny.exercise("3.1")
        assert release.notebook(tiny, exercise) == release.notebook(tiny, exercise)

    def test_the_lesson_runs_cell_by_cell(self, notebooks):
        cells = json.loads((notebooks / "release" / SESSION / "lesson.ipynb").read_text())["cells"]
        assert [cell["cell_type"] for cell in cells] == ["markdown", "code", "markdown"]
        assert code_of(notebooks / "release" / SESSION / "lesson.ipynb") == ["1 + 1"]

    def test_nbgrader_validate_passes_the_source_and_fails_the_release(self, notebooks):
        files = [f"{step}/{SESSION}/ex1_double.ipynb" for step in ("source", "release")]
        done = run(notebooks, "nbgrader", "validate", *files)
        source, failed, release = done.stdout.partition("VALIDATION FAILED ON 1 CELL(S)!")
        assert "Success!" in source, done.stdout + done.stderr
        assert failed, done.stdout + done.stderr
        assert "Doubles a tensor (0/1): not attempted" in release
        assert "notebook.py" not in release  # no traceback into the grader

    def test_a_second_release_keeps_what_others_have_put_there(self, course, tmp_path):
        root = release.release_notebooks(course, course.session(3), tmp_path / "nb")
        (root / "nbgrader_config_local.py").write_text("c = get_config()\n")
        (root / "submitted").mkdir()
        (course.root / "exercises" / SESSION / "README.md").write_text("# New\n")
        release.release_notebooks(course, course.session(3), root)
        assert (root / "release" / SESSION / "README.md").read_text() == "# New\n"
        assert {"submitted", "nbgrader_config_local.py"} < set(os.listdir(root))
        assert not [name for name in os.listdir(root) if name.startswith(".grader-") and name != release.MARKER]

    def test_a_release_that_nbgrader_refuses_changes_nothing(self, course, tmp_path):
        from nbgrader.api import Gradebook

        root = release.release_notebooks(course, course.session(3), tmp_path / "nb")
        with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
            gradebook.add_student("ada")
            gradebook.add_submission(SESSION, "ada")
        before = {name: (root / name).read_bytes() for name in files_of(root)}
        reference = course.reference(course.exercise("3.1"))
        reference.write_text(reference.read_text() + "\n\ndef another():\n    pass\n")
        with pytest.raises(InputError, match="Cannot add or remove cells"):
            release.release_notebooks(course, course.session(3), root)
        assert {name: (root / name).read_bytes() for name in files_of(root)} == before

    def test_another_folder_is_left_alone(self, course, tmp_path):
        (tmp_path / "nb").mkdir()
        (tmp_path / "nb" / "thesis.tex").write_text("")
        with pytest.raises(InputError, match="choose another folder"):
            release.release_notebooks(course, course.session(3), tmp_path / "nb")
        assert files_of(tmp_path / "nb") == {"thesis.tex"}

    def test_the_configuration_finds_the_course(self, course, tmp_path):
        inside, outside = course.root / "build" / "nb", tmp_path / "elsewhere"
        assert "HERE / '../..'" in release.configuration(course, inside)
        assert repr(str(course.root)) in release.configuration(course, outside)

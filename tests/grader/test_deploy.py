"""A session as an autograder for Gradescope and as a repository for GitHub: what is in them, and that their scripts do it."""

import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import jsonschema
import pytest
import yaml

from grader import __version__, deploy
from grader import course as manifest
from grader.cli import BAD_INPUT, DONE, main
from grader.submission import InputError

ROOT = Path(__file__).parents[2]
SESSION = "session_03_nn_module"
SCHEMA = json.loads((Path(__file__).with_name("golden") / "gradescope.schema.json").read_text(encoding="utf-8"))

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def course():
    return manifest.load(ROOT)


@pytest.fixture(scope="module")
def archive(course, tmp_path_factory):
    return deploy.release_gradescope(course, course.session(3), tmp_path_factory.mktemp("gradescope"))


@pytest.fixture
def autograder(archive, tmp_path):
    """Gradescope's folder, with the archive unpacked as Gradescope does."""
    home = tmp_path / "autograder"
    for name in ("source", "submission", "results"):
        (home / name).mkdir(parents=True)
    with zipfile.ZipFile(archive) as file:
        file.extractall(home / "source")  # everything readable to all, as `unzip` without its permissions
    (home / "submission_metadata.json").write_text("{}")
    return home


def run_autograder(home, python=sys.executable):
    environment = {"PATH": os.environ["PATH"], "AUTOGRADER": str(home), "AUTOGRADER_PYTHON": python}
    script = home / "source" / "run_autograder"
    done = subprocess.run(["bash", script], cwd=home, env=environment, capture_output=True, text=True, timeout=240)
    results = json.loads((home / "results" / "results.json").read_text(encoding="utf-8"))
    jsonschema.validate(results, SCHEMA)
    return done, results


def scores(results):
    """Exercise -> (points, points possible)."""
    found = {}
    for test in results["tests"]:
        exercise = ".".join(test["number"].split(".")[:2])
        earned, possible = found.get(exercise, (0, 0))
        found[exercise] = (earned + test["score"], possible + test["max_score"])
    return found


class TestArchive:
    def test_holds_the_session_and_no_other(self, archive):
        with zipfile.ZipFile(archive) as file:
            names = set(file.namelist())
        for folder in ("tests", "reference", "exercises"):
            assert {name.split("/")[1] for name in names if name.startswith(f"{folder}/")} == {SESSION}
        wanted = {
            *("setup.sh", "run_autograder", "nothing_handed_in.json"),
            *("course.toml", "requirements.lock", "pyproject.toml", "README.md", "LICENSE"),
            *("grader/cli.py", "grader/templates/pytest.ini", "fixtures/tables/SOURCE.txt"),
        }
        assert wanted <= names
        assert not [name for name in names if "__pycache__" in name or name.startswith(".")]

    def test_its_scripts_can_be_run_and_its_secrets_not_be_read_by_others(self, archive):
        with zipfile.ZipFile(archive) as file:
            modes = {info.filename: stat.S_IMODE(info.external_attr >> 16) for info in file.infolist()}
        assert modes["setup.sh"] == modes["run_autograder"] == 0o755
        secret = [mode for name, mode in modes.items() if name.startswith(("tests/", "reference/"))]
        assert set(secret) == {0o600}

    def test_is_the_same_every_time(self, course, archive, tmp_path):
        again = deploy.release_gradescope(course, course.session(3), tmp_path / "a" / "b")
        assert again.read_bytes() == archive.read_bytes()
        assert os.listdir(again.parent) == ["autograder.zip"]

    def test_holds_nothing_that_programs_keep_for_themselves(self, made_up, tmp_path):
        course = made_up.make(tmp_path / "course", {"double": made_up.quick()})
        for name in ("README.md", "LICENSE", "pyproject.toml", "requirements.lock"):
            (course.root / name).write_text("")
        for name in (".ipynb_checkpoints/ex1_double.py", "__pycache__/x.pyc", ".DS_Store"):
            path = course.root / "exercises/session_03_tiny" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("")
        with zipfile.ZipFile(deploy.release_gradescope(course, course.session(3), tmp_path / "out")) as file:
            assert [name for name in file.namelist() if name.startswith("exercises/")] == [
                f"exercises/session_03_tiny/{name}"
                for name in ("README.md", "ex1_double.py", "hints.toml", "lesson.md", "test_ex1_double.py")
            ]

    def test_is_not_written_when_a_suite_is_missing(self, tiny_root, tmp_path):
        root = shutil.copytree(tiny_root, tmp_path / "course")
        (root / "tests/session_03_tiny/test_ex2_shift.py").unlink()
        course = manifest.load(root)
        with pytest.raises(InputError, match=r"test_ex2_shift\.py is missing"):
            deploy.release_gradescope(course, course.session(3), tmp_path / "out")
        assert os.listdir(tmp_path / "out") == []

    @pytest.mark.parametrize("name", ["setup.sh", "run_autograder"])
    def test_its_scripts_are_bash(self, archive, tmp_path, name):
        with zipfile.ZipFile(archive) as file:
            text = file.read(name).decode()
        assert text.startswith("#!/usr/bin/env bash\n")
        assert "\nset -euo pipefail\n" in text
        assert "@" not in text.replace("${@}", "")  # every placeholder is filled in
        (tmp_path / name).write_text(text)
        subprocess.run(["bash", "-n", tmp_path / name], check=True)


class TestRunAutograder:
    def test_grades_what_was_handed_in_and_counts_what_was_not(self, autograder):
        submission = autograder / "submission"
        shutil.copy(ROOT / "reference" / SESSION / "ex1_basic_mlp.py", submission)
        (submission / "ex2_promoter_classifier.py").write_text("import os\nos._exit(0)\n")
        (submission / "ex3_custom_module.py").symlink_to(
            autograder / "source/reference" / SESSION / "ex3_custom_module.py"
        )
        done, results = run_autograder(autograder)
        assert done.returncode == 0, done.stderr
        expected = {f"3.{number}": (0, 16) for number in range(1, 7)} | {"3.1": (16, 16)}
        assert scores(results) == expected
        outputs = {test["number"]: test["output"] for test in results["tests"]}
        assert "ended the process" in outputs["3.2.1"]
        assert "link" in outputs["3.3.1"]
        assert "nothing was handed in" in outputs["3.4.1"]
        assert results["stdout_visibility"] == "hidden"
        assert results["extra_data"]["seals"]["3.1"].startswith(("bubblewrap", "uid"))
        for place in ("source/tests", "source/reference", "submission", "results", "submission_metadata.json"):
            assert (autograder / place).stat().st_mode & 0o077 == 0

    def test_does_not_follow_a_link_to_the_references(self, autograder):
        (autograder / "submission" / SESSION).symlink_to(autograder / "source/reference" / SESSION)
        done, results = run_autograder(autograder)
        assert done.returncode == 0, done.stderr
        assert scores(results) == {f"3.{number}": (0, 16) for number in range(1, 7)}

    def test_nothing_handed_in_is_no_points_of_all(self, autograder):
        (autograder / "submission" / "homework.py").write_text("print(1)\n")
        done, results = run_autograder(autograder)
        assert done.returncode == 0, done.stderr
        assert scores(results) == {f"3.{number}": (0, 16) for number in range(1, 7)}
        assert "ex1_basic_mlp.py" in results["output"]
        assert len(results["tests"]) == 6

    @pytest.mark.parametrize("program", ["exit 1", "exit 2", "kill -9 $PPID", "echo '[' > results.json; exit 0"])
    def test_a_fault_is_no_grade(self, autograder, tmp_path, program):
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\n{program}\n")
        python.chmod(0o755)
        (autograder / "submission" / "ex1_basic_mlp.py").write_text("")
        done, results = run_autograder(autograder, str(python))
        assert done.returncode != 0
        assert "autograder fault" in results["output"]
        assert "score" not in results
        assert results["tests"] == []

    def test_what_an_earlier_run_left_is_no_result(self, autograder):
        (autograder / "results" / "results.json").write_text('{"score": 96, "output": ""}')
        (autograder / "submission" / "ex1_basic_mlp.py").write_text("")
        _, results = run_autograder(autograder, "/bin/false")
        assert "score" not in results


# ---------------------------------------------------------------------------------------------------------------- GitHub


@pytest.fixture(scope="module")
def repository(made_up, tmp_path_factory):
    """A released repository of the made-up course, whose wheel is only a name."""
    home = tmp_path_factory.mktemp("github")
    return released(made_up.make(home / "course", {"double": made_up.quick()}), home / "out")


def released(course, to):
    """The repository of a made-up course."""
    (course.root / "dist").mkdir()
    (course.root / "dist" / f"made_up-{__version__}-py3-none-any.whl").write_bytes(b"wheel")
    (course.root / "requirements.lock").write_text("torch==2.13.0\n")
    return deploy.release_github(course, course.session(3), to)


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def steps(repository):
    workflow = yaml.safe_load((repository / ".github/workflows/grade.yml").read_text())
    (job,) = workflow["jobs"].values()
    return workflow, job["steps"]


def check_step(repository, tmp_path):
    """Run the workflow's own check in a copy of the repository, with ``grader`` of this tree; -> (done, result, summary)."""
    (script,) = [step["run"] for step in steps(repository)[1] if step.get("name") == "Check"]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "grader").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m grader.cli "$@"\n')
    (tmp_path / "bin" / "grader").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    command = ["bash", "-e", "-c", script]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=120)
    result = repository / "result.json"
    summary = tmp_path / "summary.md"
    return done, json.loads(result.read_text()) if result.exists() else None, summary.read_text()


class TestRepository:
    def test_holds_the_modules_the_workflow_and_the_wheel_and_no_secret(self, repository):
        assert files_of(repository) == {
            *("README.md", "course.toml", "hints.toml", "lesson.md", "pytest.ini", ".grader-release", ".gitignore"),
            *("ex1_double.py", "test_ex1_double.py", "fixtures/__init__.py", "requirements.lock"),
            *(".github/workflows/grade.yml", f"wheels/made_up-{__version__}-py3-none-any.whl"),
        }
        assert not [name for name in files_of(repository) if "return 2 * x" in (repository / name).read_text()]
        assert os.listdir(repository.parent) == [repository.name]

    def test_its_workflow_may_only_read(self, repository):
        workflow, found = steps(repository)
        assert workflow["permissions"] == {"contents": "read"}
        assert {step["uses"].partition("@")[0] for step in found if "uses" in step} == {
            *("actions/checkout", "actions/setup-python", "actions/upload-artifact")
        }
        assert not [step for step in found if "${{" in step.get("run", "")]  # nothing a student writes becomes shell

    def test_its_check_is_red_for_a_stub(self, repository, tmp_path):
        done, result, summary = check_step(shutil.copytree(repository, tmp_path / "mine"), tmp_path)
        assert done.returncode == 1, done.stderr
        assert (result["status"], result["score"], result["max_score"]) == ("fail", 0, 2)
        assert "not attempted" in summary

    def test_its_check_is_green_for_a_solution(self, repository, tmp_path):
        mine = shutil.copytree(repository, tmp_path / "mine")
        (mine / "ex1_double.py").write_text("def double(x):\n    return 2 * x\n")
        done, result, summary = check_step(mine, tmp_path)
        assert done.returncode == 0, done.stderr
        assert (result["status"], result["score"], result["isolation"]) == ("pass", 2, "in-process")
        assert "2/2" in summary

    def test_its_check_is_red_for_what_cannot_be_read(self, repository, tmp_path):
        mine = shutil.copytree(repository, tmp_path / "mine")
        (mine / "ex1_double.py").write_bytes(b"\xff\xfe")
        done, result, summary = check_step(mine, tmp_path)
        assert done.returncode == BAD_INPUT
        assert result is None
        assert "**3.1 could not be checked" in summary

    def test_its_result_never_lacks_an_exercise(self, made_up, tmp_path):
        course = made_up.make(tmp_path / "course", {"double": made_up.quick(), "again": made_up.quick()})
        mine = released(course, tmp_path / "out")
        (mine / "ex1_double.py").write_text("def double(x):\n    return 2 * x\n")
        (mine / "ex2_again.py").write_bytes(b"\xff\xfe")
        done, result, summary = check_step(mine, tmp_path)
        assert done.returncode == BAD_INPUT
        assert result is None
        assert "**3.2 could not be checked" in summary
        assert "2/2" in summary

    def test_its_result_is_of_this_run(self, repository, tmp_path):
        mine = shutil.copytree(repository, tmp_path / "mine")
        (mine / "build/reports").mkdir(parents=True)
        (mine / "build/reports/9.9.json").write_text("{}")
        (mine / "ex1_double.py").write_bytes(b"\xff\xfe")
        (mine / "result.json").write_text('{"status": "pass"}')
        done, result, _ = check_step(mine, tmp_path)
        assert (done.returncode, result) == (BAD_INPUT, None)
        (mine / "ex1_double.py").write_text("def double(x):\n    return 2 * x\n")
        (tmp_path / "again").mkdir()
        done, result, _ = check_step(mine, tmp_path / "again")
        assert (done.returncode, result["max_score"]) == (DONE, 2)

    def test_needs_the_wheel(self, tiny_root, tmp_path):
        course = manifest.load(tiny_root)
        with pytest.raises(InputError, match="run `make wheel`"):
            deploy.release_github(course, course.session(3), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_replaces_a_release_and_nothing_else(self, made_up, tmp_path):
        course = made_up.make(tmp_path / "course", {"double": made_up.quick()})
        folder = released(course, tmp_path / "out")
        (folder / "leftover").write_text("")
        (folder / ".git").mkdir()
        (folder / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
        deploy.release_github(course, course.session(3), tmp_path / "out")
        assert not (folder / "leftover").exists()
        assert (folder / ".git" / "HEAD").read_text() == "ref: refs/heads/main\n"
        assert os.listdir(tmp_path / "out") == [folder.name]
        (folder / ".grader-release").unlink()
        with pytest.raises(InputError, match="choose another folder"):
            deploy.release_github(course, course.session(3), tmp_path / "out")


@pytest.mark.parametrize("flavour", ["gradescope", "github"])
def test_the_command_names_what_it_wrote(made_up, tmp_path, monkeypatch, capsys, flavour):
    course = made_up.make(tmp_path / "course", {"double": made_up.quick()})
    for name in ("README.md", "LICENSE", "pyproject.toml", "requirements.lock", f"dist/x-{__version__}-y.whl"):
        (course.root / name).parent.mkdir(exist_ok=True)
        (course.root / name).write_text("")
    monkeypatch.chdir(course.root)
    with pytest.raises(SystemExit) as left:
        main(["release", "3", "--as", flavour, "--to", "out"])
    assert left.value.code == DONE
    assert capsys.readouterr().out == {"gradescope": "out/autograder.zip\n", "github": "out/session_03_tiny\n"}[flavour]

"""A session for machines of others: an autograder for Gradescope, a template repository for GitHub.

The autograder holds the hidden suites and the references, which students must not see, so it goes to Gradescope only. The
repository goes to students, so it holds what ``release_modules`` gives them and runs the visible checks.
"""

import importlib.resources
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from grader import __version__
from grader.course import MANIFEST, Course, Session
from grader.release import check_replaceable, ready, release_modules, replace, workspace
from grader.submission import InputError

ARCHIVE = "autograder.zip"
SECRET = ("tests", "reference")


def release_gradescope(course: Course, session: Session, to: Path) -> Path:
    """Write ``to/autograder.zip``: ``setup.sh``, ``run_autograder``, the grader and the session with its hidden suites.

    Args:
        course: the full course.
        session: what to grade; exercises that are only planned are left out.
        to: the folder to write into; it is made if necessary.

    Returns:
        The archive.

    Raises:
        InputError: the session has no exercise that is ready, a file is missing, or ``to`` cannot be written.
    """
    exercises = ready(session)
    scripts = {
        "setup.sh": _template("setup.sh"),
        "run_autograder": _template("run_autograder")
        .replace("@SESSION@", f"session {session.number}")
        .replace("@NUMBER@", str(session.number))
        .replace("@FOLDER@", session.folder)
        .replace("@MODULES@", " ".join(exercise.module for exercise in exercises)),
        "nothing_handed_in.json": nothing_handed_in(session),
    }
    with workspace(to) as workshop:
        with zipfile.ZipFile(workshop / ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in scripts.items():
                executable = not name.endswith(".json")
                _add(archive, name, text.encode(), 0o755 if executable else 0o644)
            for path in _files(course, session):
                place = path.relative_to(course.root)
                _add(archive, place.as_posix(), path.read_bytes(), 0o600 if place.parts[0] in SECRET else 0o644)
        os.replace(workshop / ARCHIVE, to / ARCHIVE)
    return to / ARCHIVE


def release_github(course: Course, session: Session, to: Path) -> Path:
    """Write ``to/session_03_nn_module/``, ready to be a template repository: the modules, a workflow, the course's wheel.

    Args:
        course: the full course, with its wheel in ``dist``.
        session: what to release of it.
        to: the folder to write into; it is made if necessary.

    Returns:
        The repository's folder.

    Raises:
        InputError: there is no wheel of this version, or as for ``release_modules``.
    """
    target = to / session.folder
    check_replaceable(target)
    wheels = sorted((course.root / "dist").glob(f"*-{__version__}-*.whl"))
    if not wheels:
        raise InputError(
            f"no wheel of version {__version__} in dist, which the workflow would install: run `make wheel`"
        )
    with workspace(to) as workshop:
        folder = release_modules(course, session, workshop / "new")
        workflow = folder / ".github" / "workflows" / "grade.yml"
        workflow.parent.mkdir(parents=True)
        numbers = " ".join(exercise.id for exercise in ready(session))
        workflow.write_text(_template("grade.yml").replace("@EXERCISES@", numbers), encoding="utf-8")
        (folder / "wheels").mkdir()
        shutil.copy(wheels[-1], folder / "wheels")
        shutil.copy(_existing(course.root / "requirements.lock"), folder)
        (folder / ".gitignore").write_text("__pycache__/\n.pytest_cache/\nbuild/\nresult.json\n", encoding="utf-8")
        replace(folder, target, workshop)
    return target


def nothing_handed_in(session: Session) -> str:
    """Gradescope's ``results.json`` for a submission that holds none of the session's files: no points, and the reason."""
    exercises = ready(session)
    names = ", ".join(f"{exercise.module}.py" for exercise in exercises)
    content = {
        "output": f"nothing was handed in: none of the expected files is there ({names}, or notebooks of these names)",
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": [
            {
                "score": 0,
                "max_score": exercise.max_score,
                "name": exercise.title,
                "number": exercise.id,
                "status": "failed",
                "output": f"nothing was handed in for this exercise: no {exercise.module}.py or .ipynb",
                "output_format": "text",
                "visibility": "visible",
            }
            for exercise in exercises
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _files(course: Course, session: Session) -> Iterator[Path]:
    """What grading the session takes, in order; the ready exercises' files must all be there."""
    for exercise in ready(session):
        for path in (course.hidden_suite(exercise), course.reference(exercise)):
            _existing(path)
    for name in ("README.md", "LICENSE", "pyproject.toml", "requirements.lock", MANIFEST):
        yield _existing(course.root / name)
    places = [Path(place, session.folder) for place in ("exercises", *SECRET)]
    for place in (Path("grader"), Path("fixtures"), *places):
        for path in sorted((course.root / place).rglob("*")):
            hidden = any(part.startswith((".", "__pycache__")) for part in path.relative_to(course.root).parts)
            if path.is_file() and not hidden:
                yield path


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path.name} is missing in {path.parent}")
    return path


def _template(name: str) -> str:
    return (importlib.resources.files("grader") / "templates" / name).read_text(encoding="utf-8")


def _add(archive: zipfile.ZipFile, name: str, content: bytes, mode: int) -> None:
    """The same bytes for the same file: dated to the zip format's first day."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, (0o100000 | mode) << 16
    archive.writestr(info, content)

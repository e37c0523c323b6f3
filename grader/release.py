"""What students and instructors get of a session: a folder of modules, or an nbgrader course folder of notebooks.

Neither ever holds a hidden suite, a control, or a line of a solution outside of nbgrader's ``source/``.
"""

import contextlib
import json
import os
import re
import shutil
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from grader.course import MANIFEST, Course, Exercise, Session
from grader.report import write_atomically
from grader.source import CODE_STUB, cells, leaks, read, shown, solution_lines, stub
from grader.submission import InputError

MARKER = ".grader-release"
"""A file by which a folder is known to be a release, which a later one may replace."""

PYTEST_INI = """\
[pytest]
addopts = --strict-markers --import-mode=importlib
timeout = 120
"""

CONFIG = '''\
"""Written by `grader release`, and rewritten by the next one: your own settings go into nbgrader_config_local.py."""

from pathlib import Path

HERE = Path(__file__).resolve().parent
c = get_config()

c.CourseDirectory.root = str(HERE)
c.CourseDirectory.course_id = {course_id!r}
c.CourseDirectory.db_url = f"sqlite:///{{(HERE / 'gradebook.db').as_posix()}}"

# The full course with its hidden suites; the environment variable GRADER_COURSE overrides it.
c.Judge.course = str({course}.resolve())

c.ClearSolutions.code_stub = {{"python": {code_stub!r}}}
c.GenerateAssignment.post_convert_hook = "grader.nbgrader.add_lesson"
c.Execute.timeout = 300  # of one cell, in `nbgrader validate`; `nbgrader autograde` runs no kernel
c.Autograde.exporter_class = "grader.nbgrader.SubmissionExporter"
c.Autograde.sanitize_preprocessors = [
    "grader.nbgrader.Restore",
    "nbgrader.preprocessors.ClearOutput",
    "nbgrader.preprocessors.DeduplicateIds",
    "nbgrader.preprocessors.OverwriteKernelspec",
    "nbgrader.preprocessors.OverwriteCells",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.Autograde.autograde_preprocessors = [
    "grader.nbgrader.Judge",
    "nbgrader.preprocessors.IgnorePattern",
    "nbconvert.preprocessors.ClearMetadataPreprocessor",
    "nbgrader.preprocessors.LimitOutput",
    "grader.nbgrader.SaveGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.OverwriteCells.add_missing_cells = True

if (HERE / "nbgrader_config_local.py").is_file():
    load_subconfig("nbgrader_config_local.py", str(HERE))
'''


def release_modules(course: Course, session: Session, to: Path) -> Path:
    """Write ``to/session_03_nn_module/`` and its ``.zip``: stubs, visible checks, hints, lesson, guide, fixtures.

    Args:
        course: the full course.
        session: what to release of it; exercises that are only planned are left out.
        to: the folder to write into; it is made if necessary.

    Returns:
        The session's folder.

    Raises:
        InputError: a file is missing, a solution would leak, or ``to`` holds something that is not a release.
    """
    exercises = ready(session)
    target = to / session.folder
    check_replaceable(target)
    with workspace(to) as workshop:
        folder = workshop / session.folder
        folder.mkdir()
        for exercise in exercises:
            text = stub(read(course.reference(exercise)), shown(course.reference(exercise), course.root))
            (folder / f"{exercise.module}.py").write_text(text, encoding="utf-8")
        _copy_support(course, session, exercises, folder)
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(course.root / "fixtures", folder / "fixtures", ignore=ignored)
        (folder / "pytest.ini").write_text(PYTEST_INI, encoding="utf-8")
        (folder / MARKER).write_text(f"{session.folder} as modules\n", encoding="utf-8")
        check_leaks(course, exercises, folder)
        _zip(folder, workshop / "release.zip")
        replace(folder, target, workshop)
        os.replace(workshop / "release.zip", to / f"{session.folder}.zip")
    return target


def release_notebooks(course: Course, session: Session, to: Path) -> Path:
    """Make ``to`` an nbgrader course folder, or add the session to one that an earlier release made.

    ``source/`` gets the notebooks with their solutions and ``release/``, by nbgrader's own ``generate_assignment``, those
    that students get. The gradebook, submissions and other sessions stay as they are; when anything fails, all does.

    Args:
        course: the full course.
        session: what to release of it; exercises that are only planned are left out.
        to: the course folder.

    Returns:
        ``to``.

    Raises:
        InputError: as for ``release_modules``, or nbgrader refuses, for instance because cells would change under
            submissions that it already has.
    """
    exercises = ready(session)
    to = to.resolve()
    check_replaceable(to)
    fresh = not (to / MARKER).exists()
    with workspace(to.parent if fresh else to) as workshop:
        root = workshop / to.name if fresh else to
        source = workshop / "source"
        source.mkdir(parents=True)
        for exercise in exercises:
            write_atomically(source / f"{exercise.module}.ipynb", notebook(course, exercise))
        _copy_support(course, session, exercises, source)
        lesson = _student_file(course, session, "lesson.md").read_text(encoding="utf-8")
        with _rollback(root, session, workshop / "before"):
            write_atomically(root / "lessons" / f"{session.folder}.ipynb", lesson_notebook(lesson))
            write_atomically(root / "nbgrader_config.py", configuration(course, to))
            write_atomically(root / MARKER, "an nbgrader course folder\n")
            replace(source, root / "source" / session.folder, workshop)
            _generate_assignment(root, session)
            check_leaks(course, exercises, root / "release" / session.folder)
        if fresh:
            if to.exists():
                to.rmdir()
            root.rename(to)
    return to


def notebook(course: Course, exercise: Exercise) -> str:
    """An exercise as nbgrader's source notebook: the reference in cells, then one graded cell per kind of check."""
    reference = course.reference(exercise)
    made: list[dict[str, Any]] = []
    names: list[str] = []
    for cell in cells(read(reference), shown(reference, course.root)):
        name = f"{exercise.module}_{cell.name if cell.name in ('task', 'setup') else f'def_{cell.name}'}"
        names.append(name)
        repeated = f"_{names.count(name)}" if names.count(name) > 1 else ""
        text = cell.source
        if cell.kind == "markdown":
            text = (
                f"# {text}\n\n{'★' * exercise.stars} · about {exercise.minutes} minutes · {exercise.max_score} points"
            )
        made.append(_cell(cell.kind, text, _mark(name + repeated, cell.kind, solution=cell.solution)))
    made.append(
        _cell(
            "markdown",
            "## Check your work\n\nRun these cells as often as you like. The grader runs more checks, of the same four kinds, "
            f"on the same properties. In a terminal, `grader hint {exercise.id}` has ideas.",
        )
    )
    for kind, points in exercise.points.items():
        text = f'from grader.notebook import check\n\ncheck("{exercise.id}", "{kind}")'
        made.append(_cell("code", text, _mark(f"{exercise.module}_{kind}", "code", points=points)))
    return _notebook(exercise.module, made)


def lesson_notebook(lesson: str) -> str:
    """The lesson with its ``python`` blocks as code cells; everything else, outputs included, is markdown."""
    made = []
    for index, part in enumerate(re.split(r"^```python\n(.*?)^```\n?", f"{lesson}\n", flags=re.DOTALL | re.MULTILINE)):
        if part.strip():
            made.append(_cell("code" if index % 2 else "markdown", part.strip("\n")))
    return _notebook("lesson", made)


def check_leaks(course: Course, exercises: Sequence[Exercise], folder: Path) -> None:
    """Refuse a folder in which a line of a solution of these exercises stands."""
    secret = {line: e.id for e in exercises for line in solution_lines(read(course.reference(e)), e.module)}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        text = file.read_text(encoding="utf-8", errors="replace")
        if file.suffix == ".ipynb":
            text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
        for line in leaks(secret, text):
            place = file.relative_to(folder).as_posix()
            raise InputError(f"not released: {place} gives away a line of the solution of {secret[line]}: {line}")


def ready(session: Session) -> list[Exercise]:
    """The exercises of a session that can be released; ``InputError`` when there are none."""
    exercises = [exercise for exercise in session.exercises if exercise.ready]
    if not exercises:
        raise InputError(f"session {session.number} has no exercise that is ready")
    return exercises


def check_replaceable(target: Path) -> None:
    """``InputError`` when ``target`` exists, holds something and was not made by a release."""
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() and not (target / MARKER).is_file():
        raise InputError(f"{target} exists and was not made by `grader release`: choose another folder")


@contextlib.contextmanager
def workspace(beside: Path) -> Iterator[Path]:
    """A temporary folder inside of ``beside``, hence on the same disk; gone at the end, whatever happens."""
    try:
        beside.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=".grader-", dir=beside))
    except OSError as error:
        raise InputError(f"{beside}: {error.strerror or error}") from error
    try:
        yield workshop
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


@contextlib.contextmanager
def _rollback(root: Path, session: Session, saved: Path) -> Iterator[None]:
    """Put everything that a release of notebooks changes back as it was, when it fails."""
    places = [
        *(Path(step) / session.folder for step in ("source", "release")),
        *(Path("lessons") / f"{session.folder}.ipynb", Path("nbgrader_config.py"), Path("gradebook.db"), Path(MARKER)),
    ]
    for place in places:
        if (root / place).is_dir():
            shutil.copytree(root / place, saved / place)
        elif (root / place).exists():
            (saved / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / place, saved / place)
    try:
        yield
    except BaseException:
        for place in places:
            _remove(root / place)
            if (saved / place).exists():
                shutil.move(saved / place, root / place)
        raise


def replace(new: Path, target: Path, workshop: Path) -> None:
    """Put the folder ``new`` in the place of ``target``, whose git repository, if it is one, stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    old = workshop / "old"
    if target.exists():
        target.rename(old)
    new.rename(target)
    if (old / ".git").exists():
        (old / ".git").rename(target / ".git")
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _student_file(course: Course, session: Session, name: str) -> Path:
    path = course.root / "exercises" / session.folder / name
    if not path.is_file():
        raise InputError(f"{shown(path, course.root)} is missing")
    return path


def _copy_support(course: Course, session: Session, exercises: Sequence[Exercise], folder: Path) -> None:
    """What both flavours hold beside the answers: visible checks, hints, guide, lesson, manifest."""
    for name in (*(f"test_{e.module}.py" for e in exercises), "hints.toml", "README.md", "lesson.md"):
        shutil.copyfile(_student_file(course, session, name), folder / name)
    shutil.copyfile(course.root / MANIFEST, folder / MANIFEST)


def _zip(folder: Path, archive: Path) -> None:
    """The same bytes for the same files: sorted, and dated to the zip format's first day."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            info = zipfile.ZipInfo(path.relative_to(folder.parent).as_posix(), (1980, 1, 1, 0, 0, 0))
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
            file.writestr(info, path.read_bytes())


def configuration(course: Course, to: Path) -> str:
    """``nbgrader_config.py`` of the course folder ``to``; it names the course relatively where it lies inside of it."""
    inside = to.is_relative_to(course.root)
    place = f"(HERE / {os.path.relpath(course.root, to)!r})" if inside else f"Path({str(course.root)!r})"
    course_id = re.sub(r"\W+", "_", course.title.lower()).strip("_")
    return CONFIG.format(course_id=course_id, course=place, code_stub=CODE_STUB)


def _generate_assignment(root: Path, session: Session) -> None:
    """Run ``nbgrader generate_assignment`` in this process."""
    try:
        from nbgrader.apps import NbGraderAPI
        from traitlets.config.loader import PyFileConfigLoader
    except ImportError as error:
        raise InputError("notebooks need nbgrader: pip install 'pytorch-genomics-course[nbgrader]'") from error
    config = PyFileConfigLoader("nbgrader_config.py", str(root)).load_config()
    with _scripts_on_path():
        result = NbGraderAPI(config=config).generate_assignment(session.folder)
    if not result["success"]:
        lines = str(result.get("log") or result.get("error") or "").strip().splitlines()
        telling = [line for line in lines if re.search(r"Error: |Exception: ", line)] or lines or ["no reason given"]
        raise InputError(f"nbgrader generate_assignment refused: {telling[0].strip()}")


@contextlib.contextmanager
def _scripts_on_path() -> Iterator[None]:
    """nbgrader makes its gradebook with the ``alembic`` program, which PATH lacks when the venv is not activated."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _cell(kind: str, source: str, mark: dict[str, Any] | None = None) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {"nbgrader": mark} if mark else {}, "source": source}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell


def _mark(grade_id: str, kind: str, *, solution: bool = False, points: int | None = None) -> dict[str, Any]:
    """nbgrader's metadata of a cell, schema 3."""
    graded = points is not None
    mark = {"schema_version": 3, "grade_id": grade_id, "grade": graded, "solution": solution, "locked": not solution}
    return {**mark, "task": False, "cell_type": kind, **({"points": points} if graded else {})}


def _notebook(name: str, made: list[dict[str, Any]]) -> str:
    """Notebook JSON, byte for byte the same for the same cells."""
    for number, cell in enumerate(made, start=1):
        cell["id"] = f"{name[:50]}-{number:03}".replace("_", "-")
    metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    content = {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

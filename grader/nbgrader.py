"""The judge inside of ``nbgrader autograde``: grades with the hidden suites instead of running the notebook in a kernel.

The configuration that ``grader release`` writes puts four classes into nbgrader's own pipeline; all that follows on them
(gradebook, late penalties, formgrader, feedback, export) is nbgrader's:

1. ``SubmissionExporter`` reads what a student handed in. Whatever it is, the pipeline gets a well-formed notebook.
2. ``Restore`` gives every cell that the gradebook knows its own metadata back, and locked cells their text.
3. ``Judge`` grades the code and writes each graded cell's output: messages, then the points.
4. ``SaveGrades`` saves only points that the Judge has given; what it could not decide waits for a person.
"""

import contextlib
import glob
import json
import os
import shutil
import stat
import tempfile
import traceback
import warnings
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from nbconvert.exporters import NotebookExporter
from nbconvert.exporters.exporter import ResourcesDict
from nbformat import NotebookNode, from_dict
from nbgrader import utils
from nbgrader.api import Gradebook
from nbgrader.converters.base import NbGraderException
from nbgrader.preprocessors import NbGraderPreprocessor, SaveAutoGrades
from traitlets import Bool, Integer, Unicode

from grader import course as manifest
from grader import seal as seals
from grader.notebook import summary
from grader.report import Report, write_atomically
from grader.submission import MAX_BYTES, Submission, cells_to_chunks

# nbgrader's own, three for every submission, and of no use to anybody who runs it
warnings.filterwarnings("ignore", message="Object of type .* not in session")

MAX_CELLS = 1_000
MAX_SOURCE = 2**20
"""More cells, or more characters in them, than any honest notebook has."""

NOTES = "grader"
"""The key under which one step leaves word for the next: in the notebook's metadata, and in nbgrader's resources."""


class SubmissionExporter(NotebookExporter):
    """Reads a submitted notebook without ever failing: what is unreadable becomes an empty notebook and a note."""

    def __init__(self, config: Any = None, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)  # type: ignore[no-untyped-call]
        self.converter = cast(Any, self.parent)
        try:
            judge = Judge(parent=self)
            course = judge.load_course()
            seals.choose(judge.seal, trust=judge.trust, secret=[course.root / "tests", course.root / "reference"])
        except (manifest.CourseError, seals.SealError) as error:  # said before any submission is touched
            self.log.error("%s", error)
            raise NbGraderException(str(error)) from error
        directory = self.converter.coursedir
        self._ignored = list(directory.ignore)
        if self.converter.pre_convert_hook is None:
            self.converter.pre_convert_hook = self._leave_odd_files_out
        if "get_existing_timestamp" not in vars(directory):
            directory.get_existing_timestamp = _forgiving(directory.get_existing_timestamp)

    def from_filename(self, filename: str, resources: Any = None, **kwargs: Any) -> Any:
        """Read, preprocess and export one notebook; see nbconvert."""
        if not self.converter._sanitizing:  # the second pass reads what the first has written
            return super().from_filename(filename, resources=resources, **kwargs)
        notebook, problem = read_submitted(Path(filename))
        if problem:
            self.log.warning("%s: %s", filename, problem)
            notebook["cells"] = [_cell("markdown", f"**This notebook cannot be graded: {problem}.**", 0)]
        notebook["metadata"] = {NOTES: {"problem": problem, "notes": []}}
        resources = self._init_resources(resources)  # type: ignore[no-untyped-call]
        resources["metadata"]["name"] = Path(filename).stem
        resources["metadata"]["path"] = str(Path(filename).parent)
        return self.from_notebook_node(from_dict(notebook), resources=resources, **kwargs)  # type: ignore[no-untyped-call]

    def _leave_odd_files_out(self, *, assignment: str, student: str, notebooks: list[str]) -> None:
        """Before each submission: nbgrader copies its other files, following links and waiting for pipes."""
        odd = {
            glob.escape(name)
            for folder, _, names in os.walk(Path(notebooks[0]).parent)
            for name in names
            if not _is_plain_file(Path(folder, name))
        }
        self.converter.coursedir.ignore = [*self._ignored, *sorted(odd)]


class Restore(NbGraderPreprocessor):  # type: ignore[misc]
    """Makes the graded, locked and solution cells what the gradebook says they are, whatever became of them."""

    def preprocess(self, nb: NotebookNode, resources: ResourcesDict) -> tuple[NotebookNode, ResourcesDict]:
        """See nbconvert."""
        where = resources["nbgrader"]
        with Gradebook(where["db_url"]) as gradebook:
            notebook = gradebook.find_notebook(where["notebook"], where["assignment"])
            points = {cell.name: cell.max_score for cell in notebook.grade_cells}
            solutions = {cell.name for cell in notebook.solution_cells}
            known = {
                cell.name: _Known(cell, points.get(cell.name), cell.name in solutions)
                for cell in _source_cells(notebook)
            }
        order = [
            name
            for name in _order_of(Path("source", where["assignment"], f"{where['notebook']}.ipynb"))
            if name in known
        ]
        order += [name for name in known if name not in order]
        seen: set[str] = set()
        cells, strange = [], 0
        for cell in nb.cells:
            claim = cell.metadata.pop("nbgrader", {})
            name = claim.get("grade_id", "")
            if name in known and name not in seen:
                seen.add(name)
                cell = known[name].restored(cell.source)
            elif claim.get("claims"):
                strange += 1
            cells.append(cell)
        notes = []
        if known and not seen & solutions and not nb.metadata[NOTES]["problem"]:
            notes.append("None of this exercise's cells is in the notebook. Is it another exercise's, or an empty one?")
        elif solutions - seen:
            gone = ", ".join(name for name in order if name in solutions - seen)
            notes.append(f"Deleted or renamed, so not graded: {gone}. Take the cell from the released notebook again.")
        if strange:
            notes.append(f"{strange} cell(s) marked as nbgrader's are copies or unknown; they count as your own cells.")
        for index, name in enumerate(order):
            if name not in seen and known[name].locked:
                earlier = [_name_of(cell) for cell in cells]
                before = [earlier.index(other) for other in order[:index] if other in earlier]
                cells.insert(max(before[-1:], default=-1) + 1, known[name].restored(""))
        nb.cells = cells
        for number, cell in enumerate(nb.cells):
            cell["id"] = f"cell-{number:04}"
        for note in notes:
            self.log.warning("%s, %s: %s", where["student"], where["notebook"], note)
        nb.metadata[NOTES]["notes"] = notes
        return nb, resources


class Judge(NbGraderPreprocessor):  # type: ignore[misc]
    """Grades one notebook with its exercise's hidden suite. It needs no kernel, so none can die."""

    course = Unicode("", help="The folder of the full course, with its hidden suites; GRADER_COURSE overrides it").tag(
        config=True
    )
    seed = Integer(None, allow_none=True, help="The run seed; by default one is drawn per assignment and kept").tag(
        config=True
    )

    seal = Unicode(
        None, allow_none=True, help="How submissions are sealed off: bubblewrap, uid or none; default: the strongest"
    ).tag(config=True)
    trust = Bool(False, help="Grade even where no seal works: only for submissions that you trust").tag(config=True)

    def load_course(self) -> manifest.Course:
        """The full course; a ``CourseError`` when it is not where the configuration says."""
        path = os.environ.get("GRADER_COURSE") or self.course
        if not path:
            raise manifest.CourseError(
                "c.Judge.course is not set: the folder of the full course, with its hidden suites"
            )
        course = manifest.load(Path(path))
        if not (course.root / "tests").is_dir():
            raise manifest.CourseError(f"{course.root}: no tests/ here, so no hidden suites: c.Judge.course is wrong")
        return course

    def preprocess(self, nb: NotebookNode, resources: ResourcesDict) -> tuple[NotebookNode, ResourcesDict]:
        """See nbconvert."""
        where = resources["nbgrader"]
        left = nb.metadata.pop(NOTES, {})
        graded = {_name_of(cell): cell for cell in nb.cells if utils.is_grade(cell) and cell.cell_type == "code"}
        name = f"{where['notebook']}.ipynb"
        report: Report | None = None
        fault = ""
        try:
            report = self._grade(name, nb, left.get("problem", ""), where)
        except Exception as error:  # ours, not the student's
            self.log.error("%s, %s: %s", where["student"], name, traceback.format_exc())
            fault = f"A fault of the grader ({type(error).__name__}); a person will look at it. It costs you nothing."
        scores: dict[str, float] = {}
        for index, (grade_id, cell) in enumerate(graded.items()):
            notes = [*left.get("notes", []), ""] if index == 0 and left.get("notes") else []
            text, score = fault, None
            if report:
                text, score = _verdict(
                    report, grade_id.removeprefix(f"{where['notebook']}_"), cell.metadata.nbgrader.points
                )
            if left.get("problem") and score is not None:
                text = f"This notebook cannot be graded: {left['problem']}."
            cell.outputs = [_stream("\n".join([*notes, text]))]
            if score is not None:
                scores[grade_id] = score
                cell.outputs.append(_result(score))
        resources[NOTES] = scores
        return nb, resources

    def _grade(self, name: str, nb: NotebookNode, problem: str, where: Any) -> Report:
        course = self.load_course()
        exercise = course.exercise_of(Path(name))
        # a copy of a graded cell would run the visible checks inside of the sandbox
        cells = [{**cell, "source": ""} if "grader.notebook" in cell.source else cell for cell in nb.cells]
        chunks = cells_to_chunks({**nb, "cells": cells})
        submission = Submission(name, () if problem else chunks, problem)
        seed = self.seed if self.seed is not None else seed_of(Path("seeds"), where["assignment"])
        grader = grader_for(self.parent, course, seal=self.seal, trust=self.trust)
        report: Report = grader.grade(exercise, submission, seed=seed, student=where["student"])
        try:
            write_atomically(Path("reports", where["student"], f"{exercise.id}.json"), report.to_json())
        except (OSError, ValueError) as error:
            self.log.error("the report on %s, %s is not saved: %s", where["student"], name, error)
        return report


class SaveGrades(SaveAutoGrades):  # type: ignore[misc]
    """nbgrader's, but a graded cell on which the Judge has given no verdict waits for a person.

    nbgrader itself would give it full marks, because it has no error output.
    """

    def _add_score(self, cell: NotebookNode, resources: ResourcesDict) -> None:
        super()._add_score(cell, resources)
        if cell.cell_type == "code" and _name_of(cell) not in resources.get(NOTES, {}):
            where = (_name_of(cell), self.notebook_id, self.assignment_id, self.student_id)
            grade = self.gradebook.find_grade(*where)
            grade.auto_score = None
            grade.needs_manual_grade = True
            self.gradebook.db.commit()


def add_lesson(*, assignment: str, notebooks: list[str], **_: Any) -> None:
    """After ``generate_assignment``: the lesson's notebook is released too, but it is no part of the assignment."""
    root = Path(notebooks[0]).resolve().parents[2]
    lesson, folder = root / "lessons" / f"{assignment}.ipynb", root / "release" / assignment
    if lesson.is_file() and folder.is_dir():
        shutil.copyfile(lesson, folder / "lesson.ipynb")


def read_submitted(path: Path) -> tuple[dict[str, Any], str]:
    """A submitted notebook as plain data that nbformat accepts, outputs dropped; and the reason why it has no cells.

    Nothing in it is trusted: it may be a folder, a link to another student's work, a pipe, or JSON of any shape.
    """
    notebook: dict[str, Any] = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return notebook, "it is not a file"
            with open(handle, "rb", closefd=False) as file:
                content = file.read(MAX_BYTES + 1)
        finally:
            os.close(handle)
    except OSError as error:
        is_link = path.is_symlink()
        return notebook, "it is a link, not a file" if is_link else f"it cannot be opened ({error.strerror})"
    if not content.strip():
        return notebook, "the file is empty"
    if len(content) > MAX_BYTES:
        return notebook, f"the file is larger than {MAX_BYTES // 2**20} MB"
    try:
        raw = json.loads(content.decode("utf-8-sig"))
        if raw["nbformat"] != 4:
            return notebook, f"it is of notebook format {raw['nbformat']!r:.20}; save it again with a current Jupyter"
        cells = list(_well_formed(raw["cells"]))
    except UnicodeDecodeError as error:
        return notebook, f"the file is not UTF-8 text (byte {error.start})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return notebook, "the file is not a Jupyter notebook"
    if len(cells) > MAX_CELLS:
        return notebook, f"it has {len(cells):,} cells; at most {MAX_CELLS:,} are read"
    if sum(len(cell["source"]) for cell in cells) > MAX_SOURCE:
        return notebook, f"its cells hold more than {MAX_SOURCE:,} characters"
    return {**notebook, "cells": cells}, ""


def seed_of(folder: Path, assignment: str) -> int:
    """The run seed of an assignment: drawn on first use, then the same for the whole cohort."""
    path = folder / f"{assignment}.txt"
    if not path.exists():
        from grader.grading import new_seed

        folder.mkdir(exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".")
        with os.fdopen(handle, "w") as file:
            file.write(f"{new_seed()}\n")
        with contextlib.suppress(FileExistsError):  # another autograde of the same assignment was faster
            os.link(temporary, path)
        os.unlink(temporary)
    return int(path.read_text())


def open_grader(course: manifest.Course, **options: Any) -> Any:
    """A ``Grader``, which is a context manager."""
    from grader.grading import Grader  # torch: only once there is something to grade

    return Grader(course, **options)


_graders: "weakref.WeakKeyDictionary[Any, Any]" = weakref.WeakKeyDictionary()


def grader_for(owner: Any, course: manifest.Course, **options: Any) -> Any:
    """One grader for all notebooks of one run: it lives as long as ``owner``, the run's exporter."""
    if owner not in _graders:
        stack = contextlib.ExitStack()
        _graders[owner] = stack.enter_context(open_grader(course, **options))
        weakref.finalize(owner, stack.close)
    return _graders[owner]


class _Known:
    """A cell as the gradebook knows it."""

    def __init__(self, cell: Any, points: float | None, solution: bool) -> None:
        self.cell_type, self.source, self.locked = str(cell.cell_type), str(cell.source), bool(cell.locked)
        self.metadata = {
            "schema_version": 3,
            "grade_id": cell.name,
            "grade": points is not None,
            "solution": solution,
            "locked": self.locked,
            "task": False,
            "cell_type": cell.cell_type,
            "checksum": cell.checksum,
        }
        if points is not None:
            self.metadata["points"] = points

    def restored(self, source: str) -> NotebookNode:
        """The cell, with ``source`` where the student may write in it."""
        cell = _cell(self.cell_type, self.source if self.locked else source, 0)
        cell["metadata"] = {"nbgrader": dict(self.metadata)}
        return cast(NotebookNode, from_dict(cell))  # type: ignore[no-untyped-call]


def _source_cells(notebook: Any) -> list[Any]:
    """Of a gradebook's notebook; task cells (which this course has none of) stay nbgrader's business."""
    tasks = {cell.name for cell in notebook.task_cells}
    return [cell for cell in notebook.source_cells if cell.name not in tasks]


def _order_of(source: Path) -> list[str]:
    """The cells' names in the order of the source notebook: the gradebook keeps none."""
    try:
        cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return []
    return [cell["metadata"]["nbgrader"]["grade_id"] for cell in cells if "nbgrader" in cell["metadata"]]


def _name_of(cell: NotebookNode) -> str:
    return str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))


def _well_formed(raw: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Cells of a submitted notebook, cut down to what matters: type, text, and nbgrader's mark."""
    for number, cell in enumerate(raw):
        source = cell.get("source", "")
        text = source if isinstance(source, str) else "".join(source)
        kind = cell.get("cell_type")
        made = _cell(kind if kind in ("code", "markdown") else "raw", text, number)
        metadata = cell.get("metadata")
        if isinstance(metadata, dict) and "nbgrader" in metadata:
            mark = metadata["nbgrader"]
            role = mark if isinstance(mark, dict) else {}
            grade_id = role.get("grade_id")
            made["metadata"]["nbgrader"] = {
                "grade_id": grade_id if isinstance(grade_id, str) else "",
                "claims": role is not mark or any(role.get(key) for key in ("grade", "solution", "locked", "task")),
            }
        yield made


def _cell(cell_type: str, source: str, number: int) -> dict[str, Any]:
    clean = source.encode("utf-8", "replace").decode("utf-8")  # JSON may hold half a surrogate pair, a file may not
    cell: dict[str, Any] = {"id": f"cell-{number:04}", "cell_type": cell_type, "metadata": {}, "source": clean}
    if cell_type == "code":
        cell |= {"outputs": [], "execution_count": None}
    return cell


def _verdict(report: Report, kind: str, points: float) -> tuple[str, float | None]:
    """The messages and the score of one graded cell; no score where a fault of the grader left it open."""
    checks = [check for check in report.checks if check.kind == kind]
    possible = sum(check.points for check in checks)
    if not possible:
        return f"The hidden suite has no points for {kind!r}; a person will look at it.", None
    if any(check.outcome == "grader_fault" for check in checks):
        return summary(report, kind), None
    share = sum(check.earned for check in checks) / possible
    return summary(report, kind), float(min(max(points * share, 0.0), points))


def _stream(text: str) -> NotebookNode:
    clean = text.encode("utf-8", "replace").decode("utf-8")
    return cast(NotebookNode, from_dict({"output_type": "stream", "name": "stdout", "text": clean + "\n"}))  # type: ignore[no-untyped-call]


def _result(score: float) -> NotebookNode:
    """What nbgrader reads as partial credit."""
    data = {"text/plain": repr(score)}
    result = {"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": data}
    return cast(NotebookNode, from_dict(result))  # type: ignore[no-untyped-call]


def _forgiving(get_timestamp: Any) -> Any:
    """nbgrader's reader of ``timestamp.txt``, which a student can write, with None for what is no timestamp."""

    def get(folder: str) -> Any:
        if not _is_plain_file(Path(folder, "timestamp.txt")):  # a pipe would be waited for
            return None
        try:
            return get_timestamp(folder)
        except Exception:  # whatever the date parser makes of hostile text
            return None

    return get


def _is_plain_file(path: Path) -> bool:
    try:
        path.name.encode("utf-8")
        status = path.lstat()
    except (OSError, UnicodeEncodeError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES and os.access(path, os.R_OK)

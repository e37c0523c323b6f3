"""CSV files that Canvas and Moodle import as grades.

A cell says "no grade" where points are pending or a report is missing: a total over what happens to be there would be a
wrong grade. Every such cell is named in a line for the instructor.
"""

import csv
import io
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from grader.report import Report
from grader.submission import InputError
from grader.terminal import Cohort, kinds, one_line, printable, score

CANVAS_IDENTITY = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")
CANVAS_KEYS = ("SIS Login ID", "ID", "SIS User ID")
"""The columns in which a student's folder name is looked up."""

CANVAS_NO_GRADE = ""
MOODLE_NO_GRADE = "-"  # an empty cell would become a zero where the import makes a new grade item


@dataclass(frozen=True)
class Column:
    """A column of grades: its header, and the exercises whose points it sums."""

    header: str
    exercises: tuple[str, ...]
    possible: int


@dataclass(frozen=True)
class Table:
    """A CSV file, and one line for everything in it that a person has to look at."""

    text: str
    complaints: list[str]


def canvas(
    reports: Sequence[Report], *, per: str = "session", headers: Sequence[str] = (), roster: Path | None = None
) -> Table:
    """The CSV that Canvas's gradebook imports.

    Args:
        reports: of any number of students; of two on the same exercise the later one counts.
        per: ``session`` or ``exercise``: what has a column of its own.
        headers: the columns' headers, such as ``Session 3 (12345)`` with Canvas's number of the assignment.
        roster: the CSV that Canvas's gradebook exports, whose rows say who is who; without it the folder names are taken
            for SIS login ids.

    Raises:
        InputError: a report names no student, the headers do not fit the columns, or the roster is none.
    """
    cohort = _cohort(reports)
    columns = _columns(cohort, per, headers)
    find = _roster(roster) if roster else lambda student: {"Student": student, "SIS Login ID": student}
    rows: list[list[str]] = [
        [*CANVAS_IDENTITY, *(column.header for column in columns)],
        ["    Points Possible", "", "", "", "", *(str(column.possible) for column in columns)],
    ]
    complaints: list[str] = []
    for student in cohort.students:
        identity = find(student)
        if identity is None:
            complaints.append(f"{one_line(student)}: not in the roster, or there more than once; left out")
            continue
        grades = [_grade(cohort, student, column, complaints) or CANVAS_NO_GRADE for column in columns]
        rows.append([*(_cell(identity.get(name, "")) for name in CANVAS_IDENTITY), *grades])
    return Table(_csv(rows), complaints)


def moodle(
    reports: Sequence[Report], *, per: str = "session", headers: Sequence[str] = (), key: str = "username"
) -> Table:
    """The CSV that Moodle imports as grades: who, and for every column the points and a line of feedback.

    Args:
        reports: as for ``canvas``.
        per: as for ``canvas``.
        headers: the columns' headers.
        key: what the students' folder names are: ``username``, ``idnumber`` or ``email``.

    Raises:
        InputError: a report names no student, or the headers do not fit the columns.
    """
    cohort = _cohort(reports)
    columns = _columns(cohort, per, headers)
    rows = [[key, *(text for column in columns for text in (column.header, f"{column.header} (feedback)"))]]
    complaints: list[str] = []
    for student in cohort.students:
        row = [_cell(student)]
        for column in columns:
            grade = _grade(cohort, student, column, complaints) or MOODLE_NO_GRADE
            row += [grade, _cell(_feedback(cohort, student, column))]
        rows.append(row)
    return Table(_csv(rows), complaints)


def _cohort(reports: Sequence[Report]) -> Cohort:
    for report in reports:
        if not report.student:
            name = one_line(report.submission)
            raise InputError(f"the report on {name} names no student: grade a folder with one folder per student")
    return Cohort.of(reports)


def _columns(cohort: Cohort, per: str, headers: Sequence[str]) -> list[Column]:
    groups: dict[str, list[str]] = {}
    for exercise in cohort.exercises:
        title = f"{exercise} {cohort.handed_in(exercise)[0].title}"
        name = one_line(title) if per == "exercise" else f"Session {exercise.partition('.')[0]}"
        groups.setdefault(name, []).append(exercise)
    if headers and len(headers) != len(groups):
        raise InputError(f"{len(headers)} headers for {len(groups)} columns: {', '.join(groups)}")
    return [
        Column(_cell(header), tuple(group), sum(_possible(cohort, exercise) for exercise in group))
        for header, group in zip(headers or groups, groups.values(), strict=True)
    ]


def _possible(cohort: Cohort, exercise: str) -> int:
    return max(report.max_score for report in cohort.handed_in(exercise))


def _grade(cohort: Cohort, student: str, column: Column, complaints: list[str]) -> str | None:
    """The points, or None and a complaint."""
    total = 0
    doubts = []
    for exercise in column.exercises:
        report = cohort.latest(student, exercise)
        if report is None:
            doubts.append(f"no report on {exercise}")
        elif report.faulty:
            doubts.append(f"{report.pending} points of {exercise} are pending")
        else:
            total += report.score
    if doubts:
        complaints.append(f"{one_line(student)}: {column.header} has no grade: {', '.join(doubts)}")
        return None
    return str(total)


def _feedback(cohort: Cohort, student: str, column: Column) -> str:
    found = [report for exercise in column.exercises if (report := cohort.latest(student, exercise))]
    return "; ".join(f"{report.exercise} {score(report)} ({kinds(report)})" for report in found)


def _roster(path: Path) -> Callable[[str], dict[str, str] | None]:
    """A function from a folder's name to the identity of that student in Canvas, None when it is not beyond doubt."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in CANVAS_IDENTITY[:2] if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{path}: not an export of Canvas's gradebook (no column {missing[0]})")
            entries = [{name: (row.get(name) or "").strip() for name in CANVAS_IDENTITY} for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    known: dict[str, list[dict[str, str]]] = {}
    for entry in entries:
        if entry["ID"]:  # not the rows of points possible and manual posting
            for name in {entry[key] for key in CANVAS_KEYS}:
                known.setdefault(name, []).append(entry)

    def find(student: str) -> dict[str, str] | None:
        found = known.get(student, [])
        return found[0] if len(found) == 1 else None

    return find


def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula, on one line."""
    shown = printable(text).replace("\n", "\\n").replace("\t", "\\t")
    first = unicodedata.normalize("NFKC", shown.lstrip())[:1]  # full-width signs count as well
    return f"'{shown}" if first and first in "=+-@" else shown


def _csv(rows: Sequence[Sequence[str]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()

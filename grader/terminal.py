"""The report as a terminal shows it, and the words and marks that every face shares.

Names, titles and messages may come from a submission: they are never read as markup, and whatever could steer a
terminal is shown as an escape sequence such as ``\\x1b`` instead of being sent to it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from grader.report import Check, Outcome, Report

LONGEST_MESSAGE = 4_000  # characters
MOST_LINES = 40
LONGEST_NAME = 24


class Words(NamedTuple):
    """How one outcome is shown: a mark, the same in ASCII, its name, and what a student may not know about it."""

    mark: str
    ascii: str
    name: str
    meaning: str
    style: str


OUTCOMES: dict[Outcome, Words] = {
    "correct": Words("✓", "+", "correct", "", "green"),
    "wrong": Words("✗", "x", "wrong", "", "red"),
    "raised": Words("!", "!", "your code raised", "", "red"),
    "not_attempted": Words("○", "o", "not attempted", "This blank is still to be filled in.", "yellow"),
    "not_reached": Words(
        "…", ".", "not reached", "An earlier kind failed, so this may be a mere consequence: mend that first.", "yellow"
    ),
    "grader_fault": Words(
        "?", "?", "grader fault", "Not your mistake: the points are pending and this costs you nothing.", "magenta"
    ),
}


def printable(text: str) -> str:
    """``text``, cut to about a screen, with control, bidirectional and other invisible characters as escapes."""
    lines = text[:LONGEST_MESSAGE].replace("\r\n", "\n").split("\n")
    shown = "\n".join(lines[:MOST_LINES])
    cut = "\n… (the rest is in the report's JSON)" if len(lines) > MOST_LINES or len(text) > LONGEST_MESSAGE else ""
    return "".join(c if c.isprintable() or c in "\n\t\u00a0\u200c\u200d" else _escaped(c) for c in shown) + cut


def one_line(text: str, limit: int = 200) -> str:
    """``text`` as :func:`printable`, on one line of at most ``limit`` characters."""
    line = " ".join(printable(text[: limit + 1]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def points(check: Check) -> str:
    """Points earned and possible, such as ``3/4``, or ``4 pending``."""
    return f"{check.points} pending" if check.outcome == "grader_fault" else f"{check.earned}/{check.points}"


def score(report: Report) -> str:
    """The score, such as ``12/16``, with a ``?`` when points are pending."""
    return f"{report.score}/{report.max_score}" + ("?" if report.faulty else "")


def kinds(report: Report) -> str:
    """Points by kind in one line: ``S 6/6 G 4/4 C 3/4 T 2/2``."""
    return " ".join(f"{kind[0].upper()} {earned}/{possible}" for kind, (earned, possible) in report.by_kind().items())


def matters(report: Report) -> list[list[Check]]:
    """The checks that are not correct, in order; neighbours with the same outcome and message stand together."""
    open_checks = [check for check in report.checks if check.outcome != "correct"]
    alike = groupby(open_checks, key=lambda check: (check.outcome, check.rationale, check.help))
    return [list(group) for _, group in alike]


@dataclass(frozen=True)
class Cohort:
    """Reports as a grid. A cell holds all reports of one student on one exercise; the last one counts."""

    students: list[str]
    exercises: list[str]
    cells: dict[tuple[str, str], list[Report]]
    possible: int  # points of all exercises together

    @classmethod
    def of(cls, reports: Iterable[Report]) -> "Cohort":
        """Sort ``reports`` into the grid. A report without a student's name gets a row for its file."""
        cells: dict[tuple[str, str], list[Report]] = {}
        for report in sorted(reports, key=lambda report: report.started):
            cells.setdefault((report.student or report.submission, report.exercise), []).append(report)
        students = sorted({student for student, _ in cells}, key=lambda name: (name.casefold(), name))
        most: dict[str, int] = {}
        for (_, exercise), attempts in cells.items():
            most[exercise] = max(most.get(exercise, 0), attempts[-1].max_score)
        return cls(students, sorted(most, key=natural), cells, sum(most.values()))

    def latest(self, student: str, exercise: str) -> Report | None:
        """The report that counts."""
        found = self.cells.get((student, exercise))
        return found[-1] if found else None

    def handed_in(self, exercise: str) -> list[Report]:
        """The reports that count on one exercise."""
        return [report for s in self.students if (report := self.latest(s, exercise))]

    def total(self, student: str) -> str:
        """The student's points over all exercises of the grid, handed in or not."""
        mine = [report for e in self.exercises if (report := self.latest(student, e))]
        pending = "?" if any(report.faulty for report in mine) else ""
        return f"{sum(report.score for report in mine)}/{self.possible}{pending}"


def show_report(report: Report, console: Console) -> None:
    """Print one report: the score, every check, and for each that is not correct what to do next."""

    def say(text: str, style: str = "") -> Text:
        return Text(_encodable(printable(text), console), style=style, overflow="fold")

    console.print(say(f"{one_line(report.exercise)}  {one_line(report.title)}", "bold"))
    where = [one_line(text) for text in (report.submission, report.student) if text]
    console.print(say(" · ".join([*where, f"seed {report.seed}"]), "dim"))
    pending = f", {report.pending} pending" if report.pending else ""
    console.print(say(f"Score {report.score}/{report.max_score}{pending}", "bold"))

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for header in ("", "Check", "Outcome"):
        table.add_column(header, overflow="fold")
    table.add_column("Points", overflow="fold", justify="right")
    for kind, (earned, possible) in report.by_kind().items():
        table.add_row("", say(kind.capitalize(), "bold"), "", say(f"{earned}/{possible}", "bold"))
        for check in report.checks:
            if check.kind == kind:
                words = OUTCOMES[check.outcome]
                indented = Padding(say(one_line(check.title)), (0, 0, 0, 2))
                table.add_row(_mark(words, console), indented, say(words.name, words.style), say(points(check)))
    console.print()
    console.print(table)

    for group in matters(report):
        words = OUTCOMES[group[0].outcome]
        console.print()
        for check in group:
            title = say(f" {one_line(check.title)}", "bold")
            console.print(_mark(words, console) + title + say(f"  {words.name}, {points(check)}", words.style))
        rationale, advice = group[0].rationale.strip("\n"), group[0].help.strip("\n")
        for text, style in ((words.meaning, "dim"), (rationale, ""), (f"Next: {advice}" if advice else "", "cyan")):
            if text:
                console.print(Padding(say(text, style), (0, 0, 0, 2), expand=False))
    if report.checks and not matters(report):
        console.print()
        console.print(say(f"All {len(report.checks)} checks passed. Well done.", "green"))


def show_cohort(reports: Sequence[Report], console: Console) -> None:
    """Print students × exercises: points per kind where the console is wide enough, else scores, else a list."""
    cohort = Cohort.of(reports)
    if not cohort.cells:
        console.print(Text("No reports."))
        return
    tables = [_grid(cohort, console, by_kind=True), _grid(cohort, console, by_kind=False), _list(cohort, console)]
    unbounded = console.options.update(max_width=10_000)
    fitting = (table for table in tables if console.measure(table, options=unbounded).maximum <= console.width)
    table = next(fitting, tables[-1])
    console.print(table)
    for exercise in cohort.exercises:
        report = cohort.handed_in(exercise)[0]
        line = f"{one_line(exercise)}  {one_line(report.title, 60)}, {report.max_score} points"
        console.print(Text(_encodable(line, console), style="dim", overflow="fold"))
    legend = "S shapes  G gradients  C convergence  T throughput  ? points pending: a fault of the grader"
    console.print(Text(legend, style="dim"))


def show_changes(changes: Sequence[tuple[Report, Report]], console: Console) -> None:
    """Print which points another grading has changed: the report before and the one that took its place."""
    moved = [(old, new) for old, new in changes if old.by_kind() != new.by_kind() or old.pending != new.pending]
    console.print()
    if not moved:
        console.print(Text(f"{len(changes)} graded again, no points changed."))
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for header in ("Student", "Exercise", "Before", "After", "Kinds"):
        table.add_column(header, overflow="fold", justify="right" if header in ("Before", "After") else "left")
    for old, new in sorted(moved, key=lambda pair: (pair[1].student.casefold(), pair[1].exercise)):
        before, after = old.by_kind(), new.by_kind()
        names = [kind for kind in {**before, **after} if before.get(kind) != after.get(kind)]
        parts = [f"{kind} {before.get(kind, (0, 0))[0]} → {after.get(kind, (0, 0))[0]}" for kind in names]
        words = (one_line(new.student, LONGEST_NAME), one_line(new.exercise), score(old), score(new), ", ".join(parts))
        table.add_row(*(Text(_encodable(word, console)) for word in words))
    console.print(table)
    console.print(Text(f"{len(changes)} graded again, points changed in {len(moved)}."))


def _grid(cohort: Cohort, console: Console, by_kind: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("Student", no_wrap=True)
    possible: dict[str, list[int]] = {}
    for exercise in cohort.exercises:
        totals = cohort.handed_in(exercise)[0].by_kind()
        possible[exercise] = [most for _, most in totals.values()]
        header = _encodable(one_line(exercise, LONGEST_NAME), console)
        if by_kind:
            letters = _columns([kind[0].upper() for kind in totals], possible[exercise])
            header += f"\n{letters} \n{_columns(possible[exercise], possible[exercise])} "
        table.add_column(Text(header, justify="right"), justify="right", no_wrap=True)
    table.add_column(Text("Total", justify="right"), justify="right", no_wrap=True)
    for student in cohort.students:
        row: list[RenderableType] = [Text(_encodable(one_line(student, LONGEST_NAME), console))]
        for exercise in cohort.exercises:
            report = cohort.latest(student, exercise)
            if report is None:
                row.append(Text("- " if by_kind else "-", style="dim"))
                continue
            style = "magenta" if report.faulty else "green" if report.score == report.max_score else ""
            totals = report.by_kind()
            if not by_kind:
                cell = score(report)
            elif [most for _, most in totals.values()] != possible[exercise]:
                cell = kinds(report)  # graded by another version of the suite: the header's points are not its own
            else:
                earned = _columns([earned for earned, _ in totals.values()], possible[exercise])
                cell = earned + ("?" if report.faulty else " ")
            row.append(Text(cell, style=style))
        table.add_row(*row, Text(cohort.total(student), style="bold"))
    return table


def _list(cohort: Cohort, console: Console) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for header in ("Student", "Exercise", "Score", "Kinds"):
        table.add_column(header, overflow="fold")
    for student in cohort.students:
        for exercise in cohort.exercises:
            if report := cohort.latest(student, exercise):
                names = (one_line(name, LONGEST_NAME) for name in (student, exercise))
                table.add_row(*(Text(_encodable(text, console)) for text in (*names, score(report), kinds(report))))
        table.add_row("", Text("total", style="bold"), Text(cohort.total(student), style="bold"), "")
    return table


def _columns(entries: Sequence[int | str], possible: Sequence[int]) -> str:
    return " ".join(f"{entry:>{len(str(most))}}" for entry, most in zip(entries, possible, strict=True))


def _mark(words: Words, console: Console) -> Text:
    return Text(words.ascii if "\\" in _encodable(words.mark, console) else words.mark, style=words.style)


def _encodable(text: str, console: Console) -> str:
    """``text`` with what the console's encoding lacks written as escapes."""
    return text.encode(console.encoding, "backslashreplace").decode(console.encoding)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which exercise 3.10 comes after 3.9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]

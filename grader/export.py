"""The faces that other programs read: Gradescope, JUnit XML, and a result.json with a Markdown summary for GitHub Actions.

All text that may come from a submission goes through ``terminal.printable`` first: no control character, nothing XML
forbids, no more than a screenful. None of these faces shows the run seed, because students may read them.
"""

import html
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from grader.report import Check, Report
from grader.submission import InputError
from grader.terminal import OUTCOMES, natural, one_line, points, printable, score

PENDING = (
    "The grader failed, not your code: points are pending and a person will look. Nothing is scored until then, "
    "and this costs you nothing."
)


def read_reports(paths: Iterable[Path]) -> list[Report]:
    """The reports in these files (one report or a list of them) and, at any depth, in these folders.

    Returns:
        The reports by student and exercise.

    Raises:
        InputError: a file cannot be read or is no report, or there is no report at all.
    """
    reports: list[Report] = []
    for path in paths:
        files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        if not files:
            raise InputError(f"{path}: no reports")
        for file in files:
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
                entries = content if isinstance(content, list) else [content]
                reports += [Report.from_json(json.dumps(entry)) for entry in entries]
            except ValueError as error:
                raise InputError(f"{file}: not a report ({str(error).splitlines()[0]})") from None
    if not reports:
        raise InputError("no reports")
    return sorted(reports, key=lambda report: (report.student, natural(report.exercise)))


def pending(reports: Iterable[Report]) -> list[str]:
    """One line, with the reason, for each report with points that a fault of the grader left undecided."""
    return [
        f"{one_line(report.student or report.submission)}: {report.pending} points of {report.exercise} are pending: "
        + one_line(next(check.rationale for check in report.checks if check.outcome == "grader_fault"))
        for report in reports
        if report.faulty
    ]


def heading(report: Report) -> str:
    """What the report is about, on one line."""
    return f"{one_line(report.exercise)} {one_line(report.title)}"


def seal(report: Report) -> str:
    """How the submission was kept away from everything else."""
    layers = report.environment.layers
    return f"{report.environment.isolation} ({', '.join(layers)})" if layers else report.environment.isolation


def explanation(check: Check) -> str:
    """Everything a student is told about a check that is not correct; how the grader failed might tell how it judges."""
    words = OUTCOMES[check.outcome]
    parts = [f"{words.name}, {points(check)}", words.meaning]
    if check.outcome != "grader_fault":
        advice = check.help.strip()
        parts += [check.rationale.strip("\n"), f"Next: {advice}" if advice else ""]
    return "\n".join(printable(part) for part in parts if part)


def of_one_student(reports: Sequence[Report]) -> None:
    """Refuse reports that cannot stand in one student's result.

    Raises:
        InputError: they are of several students, or two are of the same exercise.
    """
    students = sorted({report.student for report in reports})
    if len(students) > 1:
        raise InputError(f"reports of {len(students)} students ({one_line(', '.join(students))}); this format has one")
    exercises = [report.exercise for report in reports]
    for exercise in exercises:
        if exercises.count(exercise) > 1:
            raise InputError(f"two reports on {exercise}; this format has one for each exercise")


# ------------------------------------------------------------------------------------------------------------ Gradescope


def gradescope(reports: Sequence[Report]) -> str:
    """``results.json`` of a Gradescope autograder for one student: a test for every check.

    Where points are pending no score is given at all. Gradescope then flags the run for the staff, whereas any number would
    be a grade that the student may not deserve.

    Raises:
        InputError: the reports are of several students, or two are of the same exercise.
    """
    of_one_student(reports)
    faulty = any(report.faulty for report in reports)
    lines = [f"{heading(report)}: {score(report)} points" for report in reports]
    content = {
        "output": "\n".join([*([PENDING] if faulty else []), *lines, f"Isolation: {reports[0].environment.isolation}"]),
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "execution_time": round(sum(report.seconds for report in reports), 3),
        "tests": [
            _gradescope_test(report, check, f"{report.exercise}.{number}", scored=not faulty)
            for report in reports
            for number, check in enumerate(report.checks, start=1)
        ],
        "extra_data": {
            "grader": reports[0].environment.grader,
            "seals": {report.exercise: seal(report) for report in reports},
            "pending": {report.exercise: report.pending for report in reports if report.faulty},
        },
    }
    return _json(content)


def _gradescope_test(report: Report, check: Check, number: str, *, scored: bool) -> dict[str, Any]:
    correct = check.outcome == "correct"
    test = {
        "name": f"{one_line(report.title)}: {one_line(check.title)}",
        "number": number,
        "status": "passed" if correct else "failed",
        "output": OUTCOMES[check.outcome].name if correct else explanation(check),
        "output_format": "text",
        "visibility": "visible",
        "tags": [check.kind, check.outcome],
    }
    return {"score": check.earned, "max_score": check.points, **test} if scored else test


# ------------------------------------------------------------------------------------------------------------- JUnit XML


def junit(reports: Sequence[Report]) -> str:
    """JUnit XML as Jenkins, GitLab and others read it: a suite for every report, a case for every check.

    What is wrong, raised or was not reached is a ``failure``; a fault of the grader is an ``error``.
    """
    root = ElementTree.Element("testsuites", {"name": "grader", **_counts(reports)})
    for report in reports:
        root.append(_suite(report))
    ElementTree.indent(root)
    return f"<?xml version='1.0' encoding='utf-8'?>\n{ElementTree.tostring(root, encoding='unicode')}\n"


def _suite(report: Report) -> ElementTree.Element:
    names = [one_line(report.student)] if report.student else []
    attributes = {"name": " · ".join([heading(report), *names]), **_counts([report]), "timestamp": report.started}
    suite = ElementTree.Element("testsuite", attributes)
    environment = report.environment
    _properties(
        suite,
        exercise=report.exercise,
        student=report.student,
        submission=report.submission,
        submission_digest=report.submission_digest,
        score=report.score,
        max_score=report.max_score,
        pending=report.pending,
        isolation=environment.isolation,
        layers=", ".join(environment.layers),
        grader=environment.grader,
        python=environment.python,
        torch=environment.torch,
        platform=environment.platform,
    )
    for check in report.checks:
        place = {"classname": f"{report.exercise}.{check.kind}", "name": one_line(check.title)}
        case = ElementTree.SubElement(suite, "testcase", {**place, "time": f"{check.seconds:.3f}"})
        _properties(case, id=check.id, outcome=check.outcome, points=check.points, earned=check.earned)
        if check.outcome != "correct":
            tag = "error" if check.outcome == "grader_fault" else "failure"
            message = one_line(check.rationale) or OUTCOMES[check.outcome].name
            ElementTree.SubElement(case, tag, {"type": check.outcome, "message": message}).text = explanation(check)
    return suite


def _properties(parent: ElementTree.Element, **values: str | int) -> None:
    properties = ElementTree.SubElement(parent, "properties")
    for name, value in values.items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": one_line(str(value), 1_000)})


def _counts(reports: Sequence[Report]) -> dict[str, str]:
    outcomes = [check.outcome for report in reports for check in report.checks]
    errors = outcomes.count("grader_fault")
    return {
        "tests": str(len(outcomes)),
        "failures": str(len(outcomes) - outcomes.count("correct") - errors),
        "errors": str(errors),
        "skipped": "0",
        "time": f"{sum(report.seconds for report in reports):.3f}",
    }


# -------------------------------------------------------------------------------------------------------- GitHub Actions


def github(reports: Sequence[Report]) -> str:
    """``result.json`` of a workflow run, version 1; its keys are those that classroom tools for GitHub Actions agree on.

    ``status`` is ``pass``, ``fail`` or, after a fault of the grader, ``error``: of the whole, and of every test.

    Raises:
        InputError: the reports are of several students, or two are of the same exercise.
    """
    of_one_student(reports)
    tests = [_github_test(report, check) for report in reports for check in report.checks]
    statuses = {test["status"] for test in tests}
    content = {
        "version": 1,
        "status": "error" if "error" in statuses or not tests else "fail" if "fail" in statuses else "pass",
        "score": sum(report.score for report in reports),
        "max_score": sum(report.max_score for report in reports),
        "pending": sum(report.pending for report in reports),
        "isolation": seal(reports[0]),
        "tests": tests,
    }
    return _json(content)


def _github_test(report: Report, check: Check) -> dict[str, Any]:
    status = {"correct": "pass", "grader_fault": "error"}.get(check.outcome, "fail")
    return {
        "name": f"{heading(report)}: {one_line(check.title)}",
        "exercise": report.exercise,
        "kind": check.kind,
        "status": status,
        "score": check.earned,
        "max_score": check.points,
        "message": None if status == "pass" else explanation(check),
        "execution_time": f"{check.seconds:.3f}s",
    }


def summary(reports: Sequence[Report]) -> str:
    """The Markdown of a job summary: a table, then what to do about every check that is not correct."""
    lines = ["| Exercise | Points | |", "| --- | ---: | --- |"]
    for report in reports:
        marks = " ".join(OUTCOMES[check.outcome].mark for check in report.checks)
        lines.append(f"| {_markdown(heading(report))} | {score(report)} | {_markdown(marks)} |")
    if any(report.faulty for report in reports):
        lines += ["", PENDING]
    for report in reports:
        for check in report.checks:
            if check.outcome != "correct":
                mark = _markdown(OUTCOMES[check.outcome].mark)
                lines += ["", f"**{mark} {_markdown(heading(report))}: {_markdown(one_line(check.title))}**", ""]
                lines += [f"<pre>{html.escape(explanation(check))}</pre>"]
    lines += ["", f"Isolation: {_markdown(seal(reports[0]))}"]
    return "\n".join(lines) + "\n"


def _markdown(text: str) -> str:
    """Text whose punctuation is no markup: as entities, which Markdown never takes for structure."""
    return re.sub(r"[!-/:-@\[-`{-~]", lambda match: f"&#{ord(match[0])};", text)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

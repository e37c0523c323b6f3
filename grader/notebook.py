"""Inside of a notebook: ``check("3.1", "shapes")`` runs the visible checks on what the notebook has defined."""

import sys
import warnings

from grader.course import KINDS, CourseError, find
from grader.report import Check, Report
from grader.terminal import OUTCOMES, one_line, points, printable


def check(exercise: str, *kinds: str) -> None:
    """Run the visible checks of an exercise on the names of this notebook, and print what they found.

    Args:
        exercise: its id, such as ``3.1``.
        kinds: of ``shapes``, ``gradients``, ``convergence`` and ``throughput``; all of them when none is given.

    Raises:
        AssertionError: a check is not correct yet; so nbgrader's Validate button sees it, too.
    """
    __tracebackhide__ = True  # IPython leaves this frame out of the traceback
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise CourseError(f"no kind of check is called {unknown[0]!r}; there are {', '.join(KINDS)}")
    from grader.grading import check_namespace  # torch and pytest: a second or two

    course = find()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbgrader's Validate button takes anything on stderr for a failure
        report = check_namespace(course, course.exercise(exercise), vars(sys.modules["__main__"]), kinds or KINDS)
    for kind in kinds or KINDS:
        print(summary(report, kind))
    missing = [one_line(check.title, 80) for check in report.checks if check.outcome != "correct"]
    if missing:
        raise AssertionError(f"not yet: {'; '.join(missing)}")


def summary(report: Report, kind: str) -> str:
    """What the checks of one kind found, for a student, as plain text."""
    checks = [check for check in report.checks if check.kind == kind]
    if not checks:
        return f"{kind}: no visible check; the grader has some"
    earned = sum(check.earned for check in checks)
    pending = sum(check.points for check in checks if check.outcome == "grader_fault")
    head = f"{kind}: {earned} of {sum(check.points for check in checks)} points"
    return "\n".join([head + (f", {pending} pending" if pending else ""), *map(_lines, checks)])


def _lines(check: Check) -> str:
    words = OUTCOMES[check.outcome]
    lines = [f"  {words.mark} {one_line(check.title)} ({points(check)})"]
    if check.outcome != "correct":
        lines[0] += f": {words.name}"
        for text in (words.meaning, check.rationale, f"Next: {check.help}" if check.help.strip() else ""):
            lines += [f"      {line}" for line in printable(text.strip("\n")).split("\n") if line.strip()]
    return "\n".join(lines)

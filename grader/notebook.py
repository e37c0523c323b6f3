"""Inside of a notebook: ``check("3.1", "shapes")`` runs the visible checks on what the notebook has defined."""

import sys
import warnings
from itertools import groupby

from grader.course import KINDS, CourseError, find
from grader.report import Check, Report
from grader.terminal import OUTCOMES, one_line, points, printable


class NotYetError(AssertionError):
    """A check is not correct yet. A notebook shows the message alone: the traceback would lead into the grader."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for it
        return str(self).splitlines()


def check(exercise: str, *kinds: str) -> None:
    """Run the visible checks of an exercise on the names of this notebook, and show what they found.

    Args:
        exercise: its id, such as ``3.1``.
        kinds: of ``shapes``, ``gradients``, ``convergence`` and ``throughput``; all of them when none is given.

    Raises:
        NotYetError: a check is not correct yet; so nbgrader's Validate button sees it, too.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise CourseError(f"no kind of check is called {unknown[0]!r}; there are {', '.join(KINDS)}")
    from grader.grading import check_namespace  # torch and pytest: a second or two

    course = find()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbgrader's Validate button takes anything on stderr for a failure
        report = check_namespace(course, course.exercise(exercise), vars(sys.modules["__main__"]), kinds or KINDS)
    text = "\n".join(summary(report, kind) for kind in kinds or KINDS)
    if any(check.outcome != "correct" for check in report.checks):
        raise NotYetError(text)
    print(text)


def summary(report: Report, kind: str) -> str:
    """What the checks of one kind found, for a student, as plain text."""
    checks = [check for check in report.checks if check.kind == kind]
    if not checks:
        return f"{kind}: no visible check; the grader has some"
    earned = sum(check.earned for check in checks)
    pending = sum(check.points for check in checks if check.outcome == "grader_fault")
    head = f"{kind}: {earned} of {sum(check.points for check in checks)} points"
    alike = groupby(checks, key=lambda check: (check.outcome, check.rationale, check.help))
    lines = [line for _, group in alike for line in _lines(list(group))]
    return "\n".join([head + (f", {pending} pending" if pending else ""), *lines])


def _lines(checks: list[Check]) -> list[str]:
    """Neighbours that say the same: their titles, then what they say, once."""
    words = OUTCOMES[checks[0].outcome]
    named = "" if checks[0].outcome == "correct" else f": {words.name}"
    lines = [f"  {words.mark} {one_line(check.title)} ({points(check)}){named}" for check in checks]
    advice = f"Next: {checks[0].help.strip()}" if checks[0].help.strip() else ""
    for text in (words.meaning, checks[0].rationale.strip("\n"), advice):
        lines += [f"      {line}" for line in printable(text).split("\n") if line.strip()]
    return lines

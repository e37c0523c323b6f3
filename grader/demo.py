"""The whole house in two minutes: ``python -m grader.demo SESSION --to DIR``.

Releases a session in both flavours, makes a small class out of the controls (right answers, each kind of wrong one, one that
crashes, one that never ends, one that is empty), grades it, prints the table, and writes the HTML report.
"""

import argparse
import os
import shutil
import time
from pathlib import Path

from grader import cohort, controls
from grader.cli import console, progress
from grader.course import KINDS, Course, Session, find
from grader.html import write_pages
from grader.release import release_modules, release_notebooks
from grader.report import write_atomically
from grader.terminal import show_cohort

CRASH = "import os\n\nos._exit(0)  # leaves before anybody can look\n"
ENDLESS = "while True:\n    pass\n"


def make_class(course: Course, session: Session, folder: Path) -> None:
    """Write the class's submissions: ``folder/<student>/<module>.py``."""
    exercises = [exercise for exercise in session.exercises if exercise.ready]
    for exercise in exercises:
        reference = course.reference(exercise).read_text(encoding="utf-8")
        known = controls.load(course.controls(exercise))
        answers = {
            "ada_right": reference,
            "ben_another_style": known.right[0].source(reference),
            "cem_not_started": course.stub(exercise).read_text(encoding="utf-8"),
        }
        for kind in KINDS:
            wrong = next((control for control in known.wrong if control.loses[0] == kind), None)
            if wrong is None:
                wrong = next(control for control in known.wrong if kind in control.loses)
            answers[f"dia_wrong_{kind}"] = wrong.source(reference)
        if exercise is exercises[0]:
            answers |= {"eli_crashes": CRASH, "fay_never_ends": ENDLESS, "gus_empty": ""}
        for student, text in answers.items():
            write_atomically(folder / student / f"{exercise.module}.py", text)


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(prog="python -m grader.demo", description=__doc__.split("\n")[0])
    parser.add_argument("session", type=int)
    parser.add_argument("--to", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    started = time.monotonic()
    course = find()
    session = course.session(options.session)
    shutil.rmtree(options.to, ignore_errors=True)

    print(f"Releasing session {session.number}, {session.title} ...")
    print("  modules:   ", release_modules(course, session, options.to / "modules"))
    print("  notebooks: ", release_notebooks(course, session, options.to / "notebooks"))

    submissions = options.to / "submissions"
    make_class(course, session, submissions)
    tasks = cohort.discover(submissions, course.select([str(session.number)]))
    print(f"Grading {len(tasks)} answers ...", flush=True)
    reports = []
    with (
        cohort.Store.open(options.to / "reports", seed=2026) as store,
        cohort.Processes(course, os.cpu_count() or 1, trust=True) as crew,  # the answers are ours
        progress("grading", len(tasks)) as advance,
    ):
        for report in cohort.grade(course, tasks, seed=store.seed, store=store, crew=crew):
            reports.append(report)
            advance()
    reports.sort(key=lambda report: (report.student, report.exercise))
    show_cohort(reports, console())
    print(f"\nThe report: {write_pages(reports, options.to / 'reports')}   ({time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    main()

"""The audit: every suite on trial, with answers whose verdict is known.

Stub: zero. Reference and right controls: every point, on every seed. Wrong controls: points lost in each kind they name.
Lazy controls: no check that looks at values passes. A grader fault anywhere is a wrong verdict.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from grader import controls
from grader.cohort import worker, workers
from grader.course import Course, Exercise
from grader.report import Report
from grader.submission import Submission

SEEDS = tuple(range(2**40, 2**40 + 10))
"""Ten large ones: a suite that would send the run seed to a submission is caught with a large seed only."""

ROLES = ("stub", "reference", "right", "wrong", "lazy")


@dataclass(frozen=True)
class Trial:
    """One control, graded on one seed."""

    exercise: str
    control: str
    role: str  # stub, reference, right, wrong, lazy
    seed: int
    loses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What the suite said of a control, and what is wrong with that ("": nothing)."""

    trial: Trial
    score: int
    max_score: int
    seconds: float
    complaint: str = ""


def trials(course: Course, exercise: Exercise, seeds: Sequence[int] = SEEDS) -> list[tuple[Trial, str]]:
    """All trials of one exercise, each with the text that is graded.

    Wrong and lazy controls are graded once, on the first seed: that they fail is shown by the named check; that nobody
    else does is what ten seeds are for.

    Raises:
        ControlError: the controls cannot be made.
    """
    reference = course.reference(exercise).read_text(encoding="utf-8")
    found = controls.load(course.controls(exercise))
    first = seeds[0]
    plan = [(Trial(exercise.id, "stub", "stub", first), course.stub(exercise).read_text(encoding="utf-8"))]
    plan += [(Trial(exercise.id, "reference", "reference", seed), reference) for seed in seeds]
    for one in found.right:
        plan += [(Trial(exercise.id, one.name, "right", seed), one.source(reference)) for seed in seeds]
    for one in found.wrong:
        plan.append((Trial(exercise.id, one.name, "wrong", first, one.loses), one.source(reference)))
    for kind in controls.LAZY:
        plan.append((Trial(exercise.id, f"lazy_{kind}", "lazy", first), controls.lazy(kind, reference)))
    return plan


def judge(trial: Trial, report: Report, structure: Iterable[str] = ()) -> Verdict:
    """Hold a report against what is known of its control; ``structure``: ids of checks that any answer may pass."""
    complaint = ""
    faults = [check.title for check in report.checks if check.outcome == "grader_fault"]
    missed = [check for check in report.checks if check.outcome != "correct"]
    if faults:
        complaint = f"grader fault in {faults[0]!r}: " + next(
            c.rationale for c in report.checks if c.title == faults[0]
        )
    elif trial.role == "stub" and report.score:
        complaint = f"the stub earns {report.score} points"
    elif trial.role in ("reference", "right") and missed:
        complaint = f"loses {missed[0].title!r}: {missed[0].rationale}"
    elif trial.role == "wrong":
        kinds = {str(kind): earned < points for kind, (earned, points) in report.by_kind().items()}
        kept = [kind for kind in trial.loses if not kinds.get(kind)]
        complaint = f"keeps every point of {', '.join(kept)}" if kept else ""
    elif trial.role == "lazy":
        passed = [check.title for check in report.checks if check.outcome == "correct" and check.id not in structure]
        complaint = f"passes {passed[0]!r}" if passed else ""
    return Verdict(trial, report.score, report.max_score, report.seconds, complaint)


def run_group(exercise_id: str, seed: int, seeds: Sequence[int]) -> list[Verdict]:
    """All trials of one exercise on one seed, in a worker process: they share what the reference answered."""
    grader = worker()
    exercise = grader.course.exercise(exercise_id)
    verdicts = []
    for trial, text in trials(grader.course, exercise, seeds):
        if trial.seed == seed:
            report = grader.grade(exercise, Submission.from_source(text, f"{exercise.module}.py"), seed=seed)
            verdicts.append(judge(trial, report, grader.structure[exercise.id]))
    return verdicts


def audit(
    course: Course, exercises: Sequence[Exercise], *, seeds: Sequence[int] = SEEDS, jobs: int = 1
) -> Iterator[list[Verdict]]:
    """Verdicts of all trials, one list for each exercise and seed, as they come.

    Raises:
        ControlError: the controls of an exercise cannot be made.
    """
    for exercise in exercises:
        trials(course, exercise, seeds)  # complain before the work starts
    groups = [(exercise.id, seed, tuple(seeds)) for exercise in exercises for seed in seeds]
    with workers(course, min(jobs, len(groups)), trust=True) as pool:
        for future in as_completed([pool.submit(run_group, *group) for group in groups]):
            yield future.result()


def show(verdicts: Sequence[Verdict], console: Console) -> None:
    """A table: one line per exercise and role, then every wrong verdict in words."""
    table = Table("exercise", "role", "trials", "points", "seconds", "wrong verdicts", title="Audit")
    ids = sorted({verdict.trial.exercise for verdict in verdicts}, key=lambda name: [int(n) for n in name.split(".")])
    for exercise in ids:
        for role in ROLES:
            of_role = [v for v in verdicts if v.trial.exercise == exercise and v.trial.role == role]
            if not of_role:
                continue
            scores = sorted(v.score for v in of_role)
            span = f"{scores[0]}" if scores[0] == scores[-1] else f"{scores[0]}..{scores[-1]}"
            mean = sum(v.seconds for v in of_role) / len(of_role)
            bad = sum(bool(v.complaint) for v in of_role)
            points = f"{span} of {of_role[0].max_score}"
            table.add_row(exercise, role, str(len(of_role)), points, f"{mean:.1f}", str(bad or "none"))
    console.print(table)
    complaints: dict[tuple[str, str, str, str], list[int]] = {}
    for verdict in verdicts:
        if verdict.complaint:
            trial = verdict.trial
            complaints.setdefault((trial.exercise, trial.role, trial.control, verdict.complaint), []).append(trial.seed)
    for (exercise, role, control, complaint), seeds in sorted(complaints.items()):
        where = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds, such as {min(seeds)}"
        text = f"{exercise} {role} {control}, {where}: {complaint}"
        console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    wrong = sum(bool(v.complaint) for v in verdicts)
    console.print(f"{len(verdicts)} trials, {wrong or 'no'} wrong verdict{'' if wrong == 1 else 's'}")

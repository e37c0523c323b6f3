"""The audit: which suites it lets pass, and that a suite which is lax, strict, flaky or faulty is named."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from grader import audit, cohort, grading
from grader.audit import Trial, Verdict
from grader.controls import ControlError
from grader.grading import Grader
from grader.report import Check, Environment, Report

# ------------------------------------------------------------------------------------------------------------- judge()


def report(**outcomes):
    """A report with a check of 2 points per keyword: kind_name = outcome."""
    checks = []
    for name, outcome in outcomes.items():
        kind, _, _ = name.partition("_")
        earned = 2 if outcome == "correct" else 0
        checks.append(
            Check(id=name, kind=kind, title=f"T {name}", points=2, earned=earned, outcome=outcome, rationale="R")
        )
    score, most = sum(check.earned for check in checks), sum(check.points for check in checks)
    environment = Environment(grader="", python="", torch="", platform="", isolation="child-process")
    return Report(
        exercise="3.1", title="Double", submission="x.py", submission_digest="", suite_digest="", seed=0,
        environment=environment, started="", seconds=0, checks=tuple(checks), score=score, max_score=most,
    )  # fmt: skip


def complaint(role, *loses, structure=(), **outcomes):
    return audit.judge(Trial("3.1", "c", role, 0, loses), report(**outcomes), structure).complaint


@pytest.mark.parametrize("role", ["stub", "reference", "right", "wrong", "lazy"])
def test_a_fault_of_the_grader_is_a_wrong_verdict_on_anything(role):
    words = complaint(role, "shapes", shapes="grader_fault", gradients="wrong")
    assert words == "grader fault in 'T shapes': R"


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        ({"shapes": "not_attempted", "gradients": "not_reached"}, ""),
        ({"shapes": "correct", "gradients": "not_attempted"}, "the stub earns 2 points"),
    ],
)
def test_a_stub_must_earn_nothing(outcomes, words):
    assert complaint("stub", **outcomes) == words


@pytest.mark.parametrize("role", ["reference", "right"])
@pytest.mark.parametrize("outcome", ["wrong", "raised", "not_attempted", "not_reached"])
def test_a_right_answer_must_keep_every_point(role, outcome):
    assert complaint(role, shapes="correct", gradients="correct") == ""
    assert complaint(role, shapes="correct", gradients=outcome) == "loses 'T gradients': R"


@pytest.mark.parametrize(
    ("loses", "outcomes", "words"),
    [
        (("shapes",), {"shapes": "wrong", "gradients": "correct"}, ""),
        (("shapes",), {"shapes_a": "correct", "shapes_b": "wrong"}, ""),
        (("shapes",), {"shapes": "wrong", "gradients": "wrong"}, ""),
        (("gradients",), {"shapes": "wrong", "gradients": "correct"}, "keeps every point of gradients"),
        (
            ("shapes", "gradients"),
            {"shapes": "correct", "gradients": "correct"},
            "keeps every point of shapes, gradients",
        ),
        (("shapes", "gradients"), {"shapes": "wrong", "gradients": "correct"}, "keeps every point of gradients"),
        (("gradients",), {"shapes": "wrong", "gradients": "not_reached"}, ""),
        (("throughput",), {"shapes": "wrong"}, "keeps every point of throughput"),
    ],
)
def test_a_wrong_answer_must_lose_in_every_kind_it_names(loses, outcomes, words):
    assert complaint("wrong", *loses, **outcomes) == words


@pytest.mark.parametrize(
    ("structure", "outcomes", "words"),
    [
        ((), {"shapes": "wrong", "gradients": "raised"}, ""),
        ((), {"shapes": "wrong", "gradients": "correct"}, "passes 'T gradients'"),
        (("shapes",), {"shapes": "correct", "gradients": "wrong"}, ""),
        (("shapes",), {"shapes": "correct", "gradients": "correct"}, "passes 'T gradients'"),
    ],
)
def test_a_lazy_answer_passes_structural_checks_at_most(structure, outcomes, words):
    assert complaint("lazy", structure=structure, **outcomes) == words


# ------------------------------------------------------------------------------------------------------------ the plan


def test_the_plan_has_every_role_on_the_seeds_it_needs(made_up, tmp_path):
    course = made_up.make(tmp_path)
    plan = [trial for trial, _ in audit.trials(course, course.exercise("3.1"), range(3, 6))]
    seeds = {role: [trial.seed for trial in plan if trial.role == role] for role in audit.ROLES}
    assert seeds["stub"] == [3]
    assert seeds["reference"] == [3, 4, 5]
    assert seeds["right"] == [3, 4, 5] * 2
    assert seeds["wrong"] == [3] * 5
    assert seeds["lazy"] == [3] * 5
    assert len({text for _, text in audit.trials(course, course.exercise("3.1"), [0])}) == 14


# ----------------------------------------------------------------------------------------------------- suites on trial


@pytest.fixture
def audited(made_up, bench, tmp_path, monkeypatch):
    """``audited(**files)`` -> complaints {(role, control, seed): words} of a course with these files spoilt."""

    def run(exercises, seeds=(0,)):
        course = made_up.make(tmp_path, exercises)
        grader = Grader(course, bench=bench)
        monkeypatch.setattr(cohort, "_grader", grader)
        monkeypatch.setattr(grading, "DIAGNOSED", ())  # a diagnosis changes no verdict, and takes time
        monkeypatch.setattr(audit, "workers", lambda *_, **__: made_up.Here())
        ready = [exercise for exercise in course.exercises if exercise.ready]
        try:
            verdicts = [verdict for group in audit.audit(course, ready, seeds=seeds) for verdict in group]
        finally:
            for subject in grader._references.values():
                subject.close()
        return verdicts

    return run


def complaints(verdicts):
    return {(v.trial.role, v.trial.control, v.trial.seed): v.complaint for v in verdicts if v.complaint}


@pytest.fixture
def double(made_up):
    """``double(old, new, ...)``: the files of the exercise, with text of the suite replaced."""

    def files(*replacements):
        suite = made_up.quick().suite
        for old, new in zip(replacements[::2], replacements[1::2], strict=True):
            assert suite.count(old) == 1
            suite = suite.replace(old, new)
        return replace(made_up.quick(), suite=suite)

    return files


def test_a_good_suite_has_no_complaint(audited, made_up):
    verdicts = audited({"double": made_up.Files()})
    assert complaints(verdicts) == {}
    assert len(verdicts) == 1 + 3 + 5 + 5
    assert {v.score for v in verdicts if v.trial.role in ("reference", "right")} == {10}


def test_a_suite_that_is_too_lax_is_named_with_what_it_let_pass(audited, double):
    lax = double("(2 * cotangent,), what", "student.run(gradients_of, doubled, [x], cotangent), what")
    found = complaints(audited({"double": lax}))
    assert found["wrong", "triples", 0] == found["wrong", "squares", 0] == "keeps every point of gradients"
    assert found["lazy", "lazy_identity", 0] == "passes 'The gradient is two'"
    assert not any(role in ("stub", "reference", "right") for role, _, _ in found)


def test_a_suite_that_is_too_strict_is_named_with_whom_it_refused(audited, double):
    strict = double(
        '@pytest.mark.gradients(points=3)\ndef test_gradient(',
        'def recipe(exercise, x):\n    return exercise.double(x).grad_fn.name()\n\n\n'
        '@pytest.mark.gradients(points=1)\ndef test_recipe(student):\n'
        '    """By multiplication"""\n'
        '    assert student.run(recipe, torch.ones(1, requires_grad=True)) == "MulBackward0", "not by multiplication"\n\n\n'
        '@pytest.mark.gradients(points=2)\ndef test_gradient(',
    )  # fmt: skip
    found = complaints(audited({"double": strict}))
    assert {control for role, control, _ in found if role == "right"} == {"adds"}
    assert found["right", "adds", 0].startswith("loses 'By multiplication': not by multiplication")


def test_a_suite_that_is_flaky_is_named_with_its_seed(audited, double):
    flaky = double("def test_descends(student, generator):", "def test_descends(student, generator, run_seed):",
                   "    x = 3 + torch", "    assert run_seed != 2, 'bad luck'\n    x = 3 + torch")  # fmt: skip
    found = complaints(audited({"double": flaky}, seeds=(1, 2)))
    assert found[("reference", "reference", 2)].endswith("bad luck")
    assert {seed for _, _, seed in found} == {2}


def test_a_suite_with_a_fault_is_named(audited, double):
    faulty = double('what="gradient")', 'what="gradient" + 1)')
    found = complaints(audited({"double": faulty}))
    assert found["reference", "reference", 0].startswith("grader fault in 'The gradient is two': TypeError")


@pytest.mark.parametrize("suite", ["import no_such_module\n", "", "def broken(:\n"])
def test_a_suite_that_cannot_be_run_is_named_on_every_trial(audited, made_up, suite):
    verdicts = audited({"double": replace(made_up.quick(), suite=suite)})
    assert all(verdict.complaint.startswith("grader fault") for verdict in verdicts)


def test_a_stub_that_earns_a_point_is_named(audited, double):
    generous = double("def test_input_is_left_alone(student, generator):", "def test_input_is_left_alone(generator):",
                      "student.run(left_over, x), x, what", "x, x, what")  # fmt: skip
    assert complaints(audited({"double": generous}))["stub", "stub", 0] == "the stub earns 1 points"


def test_a_structural_check_of_one_exercise_excuses_no_check_of_the_same_name_in_another(audited, double, made_up):
    lax = double("structure=True)\ndef test_input_is_left_alone", ")\ndef test_input_is_left_alone")
    found = complaints(audited({"double": double(), "again": replace(
        lax,
        suite=lax.suite.replace("exercise.double", "exercise.again"),
        reference=made_up.REFERENCE.replace("def double", "def again"),
        stub=made_up.STUB.replace("def double", "def again"),
    )}))  # fmt: skip
    assert {words for (role, _, _), words in found.items() if role == "lazy"} == {"passes 'The input stays as it was'"}


def test_a_control_that_cannot_be_made_is_said_before_the_work_starts(audited, made_up):
    spoilt = made_up.Files(controls=made_up.CONTROLS.replace('"2 * x": "3 * x"', '"5 * x": "3 * x"'))
    with pytest.raises(ControlError, match="control triples: '5 \\* x' occurs 0 times"):
        audited({"double": spoilt})


# ------------------------------------------------------------------------------------------------------------ the table


def shown(*verdicts):
    console = Console(file=io.StringIO(), width=100)
    audit.show(verdicts, console)
    return console.file.getvalue()


def test_the_table_counts_trials_points_and_wrong_verdicts_and_words_follow():
    text = shown(
        Verdict(Trial("3.10", "reference", "reference", 0), 10, 10, 0.5),
        Verdict(Trial("3.2", "reference", "reference", 0), 10, 10, 0.5),
        Verdict(Trial("3.2", "reference", "reference", 1), 7, 10, 1.5, "loses 'a [b]'"),
    )
    rows = [line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells == [
        ["3.2", "reference", "2", "7..10 of 10", "1.0", "1"],
        ["3.10", "reference", "1", "10 of 10", "0.5", "none"],
    ]
    assert "3.2 reference reference, seed 1: loses 'a [b]'" in text
    assert text.rstrip().endswith("3 trials, 1 wrong verdict")


def test_no_wrong_verdict_is_said_in_words():
    assert "1 trials, no wrong verdicts" in shown(Verdict(Trial("3.1", "stub", "stub", 0), 0, 10, 0.1))

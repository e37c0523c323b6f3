"""The pytest plugin: what a check is, in which order checks run, how they end, and what that is worth."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grader import plugin
from grader.course import KINDS
from grader.grading import report_of, run_suite
from grader.subject import Local
from grader.submission import Submission

pytest_plugins = "pytester"

IMPORTS = """\
import os
import pytest
import torch
from grader.checks import Failure, assert_close, expect

def doubled(exercise, x):
    return exercise.double(x)

def attribute(exercise, name):
    return getattr(exercise, name)
"""

WRONG_ANSWER = "def double(x):\n    return 3 * x\n"
RIGHT_ANSWER = "def double(x):\n    return x + x\n"


def check(kind, body, name="test_it", points=1, arguments="student", extra=""):
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return f"\n@pytest.mark.{kind}(points={points})\n{extra}\ndef {name}({arguments}):\n{lines}\n"


PASSING = "expect(student.run(doubled, 2.0) == 4.0, 'no')"


@pytest.fixture(scope="module")
def course(made_up, tmp_path_factory):
    return made_up.make(tmp_path_factory.mktemp("course"))


@pytest.fixture
def verdict(course, tmp_path):
    """``verdict(checks, answer)`` -> the report of a suite of these checks, the reference beside it."""

    def judge(text, answer=RIGHT_ANSWER, *, points=None, seed=0, name="test_ex1_double.py"):
        suite = tmp_path / name
        (tmp_path / "course.toml").write_text((course.root / "course.toml").read_text())
        suite.write_text(IMPORTS + text)
        exercise = course.exercise("3.1")
        submission = Submission.from_source(answer, "ex1_double.py")
        student = Local.of(submission, exercise.module)
        solution = Local.of(Submission.from_file(course.reference(exercise)), "reference_double")
        state = plugin.State(seed, lambda _: student, lambda _: solution)
        return report_of(
            exercise,
            submission,
            state,
            lambda: run_suite(suite, tmp_path, state),
            suite_digest="",
            subject=Local.of(Submission("a.py", problem="nobody"), "a"),
            points=points or {},
        )

    return judge


def outcomes(report):
    return {check.id: check.outcome for check in report.checks}


# ------------------------------------------------------------------------------- points for what positively completed


@pytest.mark.parametrize(
    ("checks", "outcome"),
    [
        (check("shapes", PASSING), "correct"),
        (check("shapes", "pass"), "correct"),
        (check("shapes", "raise Failure('no')"), "wrong"),
        (check("shapes", "assert student.run(doubled, 2.0) == 5.0"), "wrong"),
        (check("shapes", "pytest.fail('no')"), "wrong"),
        (check("shapes", "pytest.xfail('no')"), "wrong"),
        (check("shapes", "pytest.skip('no')"), "grader_fault"),
        (check("shapes", "pytest.importorskip('no_such_module_at_all')"), "grader_fault"),
        (check("shapes", "raise SystemExit(0)"), "grader_fault"),
        (check("shapes", "raise BaseException('no')"), "grader_fault"),
        (check("shapes", "raise RuntimeError('no')"), "grader_fault"),
        (check("shapes", "1 / 0"), "grader_fault"),
        (check("shapes", "pytest.exit('no', returncode=0)"), "grader_fault"),
        (check("shapes", PASSING, extra="@pytest.mark.skip"), "grader_fault"),
        (check("shapes", PASSING, extra="@pytest.mark.skipif(True, reason='no')"), "grader_fault"),
        (check("shapes", PASSING, arguments="student, no_such_fixture"), "grader_fault"),
        (check("shapes", "expect(False, 'no')", extra="@pytest.mark.xfail"), "wrong"),
        (check("shapes", "student.run(attribute, 'nothing')"), "raised"),
    ],
)
def test_only_a_check_that_positively_completed_earns_its_points(verdict, checks, outcome):
    report = verdict(checks)
    assert outcomes(report) == {"test_it": outcome}
    assert report.score == (outcome == "correct")
    assert report.pending == (outcome == "grader_fault")
    assert report.checks[0].rationale or outcome == "correct"


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("def double(x):\n    raise NotImplementedError\n", "not_attempted"),
        ("def double(x):\n    raise ValueError('mine')\n", "raised"),
        ("import pytest\ndef double(x):\n    pytest.skip('mine')\n", "raised"),
        ("import pytest\ndef double(x):\n    pytest.exit('mine', returncode=0)\n", "raised"),
        ("import pytest\ndef double(x):\n    pytest.xfail('mine')\n", "raised"),
        ("import unittest\ndef double(x):\n    raise unittest.SkipTest\n", "raised"),
        ("def double(x):\n    raise SystemExit(0)\n", "raised"),
        ("def double(x):\n    raise GeneratorExit\n", "raised"),
        ("def double(x):\n    raise type('Mine', (BaseException,), {})\n", "raised"),
        ("import sys\nsys.exit(0)\n", "raised"),
        ("def double(x:\n", "raised"),
        ("", "raised"),
    ],
)
def test_whatever_an_answer_raises_is_its_own_and_earns_nothing(verdict, answer, outcome):
    report = verdict(check("shapes", PASSING) + check("gradients", "pass", name="test_later"), answer)
    assert report.checks[0].outcome == outcome
    assert report.checks[0].earned == 0
    assert outcomes(report)["test_later"] == "correct"  # the run went on


def test_the_checks_after_an_exit_of_the_suite_are_pending_not_lost(verdict):
    text = check("shapes", "pass", name="test_a") + check("shapes", "pytest.exit('x')", name="test_b")
    report = verdict(text + check("gradients", "pass", name="test_c"), points={"shapes": 2, "gradients": 1})
    assert outcomes(report) == {"test_a": "correct", "test_b": "grader_fault", "test_c": "grader_fault"}
    assert (report.score, report.pending) == (1, 2)


def test_a_fixture_that_fails_is_the_graders_fault_also_when_the_check_does_not_look_at_it(verdict):
    fixture = "@pytest.fixture(autouse=True)\ndef data():\n    raise OSError('no data')\n"
    report = verdict(fixture + check("shapes", PASSING))
    assert report.checks[0].outcome == "grader_fault"
    assert "no data" in report.checks[0].rationale


def test_a_fixture_that_asks_the_student_gives_the_students_error_its_name(verdict):
    fixture = "@pytest.fixture\ndef answer(student):\n    return student.run(doubled, 1.0)\n"
    report = verdict(
        fixture + check("shapes", "pass", arguments="answer"), "def double(x):\n    raise ValueError('mine')\n"
    )
    assert report.checks[0].outcome == "raised"
    assert "mine" in report.checks[0].rationale


@pytest.mark.parametrize(("body", "outcome"), [("pass", "correct"), ("expect(False, 'no')", "wrong")])
def test_an_error_in_teardown_changes_no_verdict(verdict, body, outcome):
    fixture = "@pytest.fixture\ndef data():\n    yield 1\n    raise OSError('no data')\n"
    assert outcomes(verdict(fixture + check("shapes", body, arguments="student, data"))) == {"test_it": outcome}


TRIPS = (
    "values = student.run(doubled, torch.tensor(2.0))\n"
    "expect(values['a'] == 1 if isinstance(values, str) else values > 3, 'no')"
)


def test_an_answer_over_which_only_it_makes_the_check_trip_is_wrong(verdict):
    report = verdict(check("shapes", TRIPS), "def double(x):\n    return 'text'\n")
    assert report.checks[0].outcome == "wrong"
    assert "not of the kind that was asked for (TypeError" in report.checks[0].rationale


def test_a_check_that_trips_over_the_reference_as_well_is_the_graders_fault(verdict):
    report = verdict(check("shapes", "student.run(doubled, 2.0)['a']"), WRONG_ANSWER)
    assert report.checks[0].outcome == "grader_fault"


def test_the_second_run_with_the_reference_has_the_inputs_of_the_first(verdict):
    body = (
        "x = torch.randn(3, generator=generator)\n"
        "figures.bars('x', {'first': x[0].item()})\n"
        "seen.append(x)\n"
        "expect(all(torch.equal(x, other) for other in seen), 'other inputs')\n"
        "student.run(doubled, x).missing if len(seen) == 1 else None"
    )
    checks = "seen = []\n" + check("shapes", body, arguments="student, generator, figures")
    report = verdict(checks)
    assert report.checks[0].outcome == "wrong"  # it tripped over the answer only
    assert len(report.checks[0].figures) == 1


def test_a_rationale_that_quotes_a_huge_answer_is_cut(verdict):
    report = verdict(
        check("shapes", "raise Failure(str(student.run(doubled, 'x')))"), "def double(x):\n    return x * 10**7\n"
    )
    assert len(report.checks[0].rationale) <= plugin.MAX_WORDS


# --------------------------------------------------------------------------------------- what was expected, what came


def test_what_the_manifest_promises_and_the_suite_lacks_is_pending(verdict):
    report = verdict(check("shapes", PASSING, points=2), points={"shapes": 2, "gradients": 3})
    assert outcomes(report) == {"test_it": "correct", "suite_gradients": "grader_fault"}
    assert (report.score, report.max_score, report.pending) == (2, 5, 3)


@pytest.mark.parametrize("points", [1, 3])
def test_a_suite_and_a_manifest_that_disagree_are_the_graders_fault(verdict, points):
    report = verdict(check("shapes", PASSING, points=2), points={"shapes": points})
    assert (report.score, report.max_score, report.pending) == (0, points, points)
    assert f"the suite has 2 points of shapes, course.toml promises {points}" in report.checks[0].rationale


@pytest.mark.parametrize(
    "text",
    [
        "import no_such_module_at_all\n",
        "def broken(:\n",
        "import os\nraise SystemExit(0)\n",
        "pytest.skip('all of it', allow_module_level=True)\n",
        "",
        "def pytest_generate_tests(metafunc):\n    raise RuntimeError\n" + check("shapes", "pass"),
    ],
    ids=["import error", "syntax error", "exit", "skip", "empty", "generator"],
)
def test_a_suite_that_cannot_be_collected_costs_nobody_a_point(verdict, text):
    report = verdict(text, points={"shapes": 4, "gradients": 3})
    assert set(outcomes(report).values()) == {"grader_fault"}
    assert (report.score, report.max_score, report.pending) == (0, 7, 7)


def test_a_check_that_was_not_collected_is_pending(verdict):
    text = (
        check("shapes", PASSING)
        + "if 'never' in os.environ:"
        + check("shapes", PASSING, "test_b").replace("\n", "\n    ")
    )
    report = verdict(text, points={"shapes": 2})
    assert (report.score, report.pending) == (0, 2)


def test_a_check_that_a_conftest_takes_out_of_the_collection_is_pending(verdict, tmp_path):
    (tmp_path / "conftest.py").write_text("def pytest_collection_modifyitems(items):\n    del items[1:]\n")
    report = verdict(
        check("shapes", PASSING) + check("gradients", PASSING, "test_b"), points={"shapes": 1, "gradients": 1}
    )
    assert outcomes(report) == {"test_it": "correct", "suite_gradients": "grader_fault"}


def test_two_checks_of_the_same_name_in_two_classes_are_two_checks(verdict):
    text = "".join(
        f"class Test{name}:\n" + check("shapes", body, arguments="self, student").replace("\n", "\n    ") + "\n"
        for name, body in (("A", PASSING), ("B", "expect(False, 'no')"))
    )
    report = verdict(text, points={"shapes": 2})
    assert outcomes(report) == {"TestA::test_it": "correct", "TestB::test_it": "wrong"}
    assert report.score == 1


def test_every_parameter_set_is_a_check_with_points_of_its_own(verdict):
    text = check(
        "shapes", "expect(n < 2, 'no')", arguments="student, n", extra="@pytest.mark.parametrize('n', range(3))"
    )
    report = verdict(text)
    assert list(outcomes(report).values()) == ["correct", "correct", "wrong"]
    assert (report.score, report.max_score) == (2, 3)


# ----------------------------------------------------------------------------------------------------------- the rungs


def ladder(*failing):
    return "".join(check(kind, f"expect({kind not in failing}, 'no')", name=f"test_{kind}") for kind in reversed(KINDS))


def test_checks_run_in_the_order_of_the_rungs_and_keep_their_own_order_within(verdict):
    text = "order = []\n" + "".join(
        check(kind, f"order.append('{kind}{n}')\nexpect(len(order) < 8, ' '.join(order))", name=f"test_{kind}_{n}")
        for n in (2, 1)
        for kind in reversed(KINDS)
    )
    report = verdict(text)
    assert report.checks[-1].rationale == " ".join(f"{kind}{n}" for kind in KINDS for n in (2, 1))


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        ((), ["correct"] * 4),
        (("shapes",), ["wrong", "correct", "correct", "correct"]),
        (("shapes", "gradients"), ["wrong", "not_reached", "correct", "correct"]),
        (("shapes", "throughput"), ["wrong", "correct", "correct", "not_reached"]),
        (("gradients", "convergence"), ["correct", "wrong", "not_reached", "correct"]),
        (KINDS, ["wrong", "not_reached", "not_reached", "not_reached"]),
    ],
)
def test_failures_behind_a_failed_rung_are_not_reached_and_everything_is_scored_all_the_same(
    verdict, failing, expected
):
    report = verdict(ladder(*failing))
    assert [check.outcome for check in report.checks] == expected
    assert [check.kind for check in report.checks] == list(KINDS)
    assert report.score == 4 - len(failing)


def test_two_failures_on_the_same_rung_are_both_wrong(verdict):
    text = check("shapes", "expect(False, 'no')", name="test_a") + check("shapes", "expect(False, 'no')", name="test_b")
    assert list(outcomes(verdict(text)).values()) == ["wrong", "wrong"]


def test_a_check_that_is_not_reached_keeps_its_words(verdict):
    report = verdict(
        check("shapes", "expect(False, 'a')") + check("gradients", "expect(False, 'b', 'c')", name="test_b")
    )
    assert (report.checks[1].outcome, report.checks[1].rationale, report.checks[1].help) == ("not_reached", "b", "c")


def test_a_fault_of_the_grader_fails_no_rung(verdict):
    report = verdict(check("shapes", "1 / 0") + check("gradients", "expect(False, 'no')", name="test_b"))
    assert list(outcomes(report).values()) == ["grader_fault", "wrong"]


# ----------------------------------------------------------------------------------------------- markers, seeds, titles


@pytest.mark.parametrize(
    "marker",
    [
        "@pytest.mark.shapes(points=0)",
        "@pytest.mark.shapes(points=-1)",
        "@pytest.mark.shapes(points=1.5)",
        "@pytest.mark.shapes(points=True)",
        "@pytest.mark.shapes(points='2')",
        "@pytest.mark.shapes(2)",
        "@pytest.mark.shapes(point=2)",
        "@pytest.mark.shapes\n@pytest.mark.gradients",
        "@pytest.mark.shapes\n@pytest.mark.shapes(points=2)",
        "@pytest.mark.shape(points=1)",
    ],
)
def test_a_marker_with_a_mistake_is_refused_and_costs_nobody_a_point(verdict, marker):
    report = verdict(f"{marker}\ndef test_it(student):\n    pass\n", points={"shapes": 1})
    assert outcomes(report) == {"suite_shapes": "grader_fault"}


def test_a_check_without_points_is_worth_one(verdict):
    assert verdict("@pytest.mark.shapes\ndef test_it(student):\n    pass\n").max_score == 1


def test_a_test_without_a_kind_gives_no_points_and_may_not_ask_the_student(verdict):
    report = verdict(
        "def test_own():\n    pass\ndef test_it(student):\n    pass\n" + check("shapes", "pass", name="test_c")
    )
    assert outcomes(report) == {"test_c": "correct"}


SEEDED = check(
    "shapes",
    "raise Failure(f'{run_seed} {seed} {torch.rand((), generator=generator).item()}')",
    arguments="student, run_seed, seed, generator",
)


def drawn(report):
    return {check.id: check.rationale.split() for check in report.checks}


def test_the_same_seed_gives_the_same_inputs_and_another_check_or_seed_gives_others(verdict):
    text = SEEDED + SEEDED.replace("test_it", "test_other")
    first, again, other = drawn(verdict(text, seed=5)), drawn(verdict(text, seed=5)), drawn(verdict(text, seed=6))
    assert first == again
    assert first["test_it"][0] == first["test_other"][0] == "5"
    everything = [value for draw in (first, other) for words in draw.values() for value in words[1:]]
    assert len(set(everything)) == len(everything) == 8


def test_a_new_check_in_the_suite_does_not_change_the_inputs_of_the_others(verdict):
    alone = drawn(verdict(SEEDED))["test_it"]
    assert drawn(verdict(check("shapes", "pass", name="test_a") + SEEDED))["test_it"] == alone


@pytest.mark.parametrize("run_seed", [0, 1, -1, 2**62, 2**200])
def test_a_checks_seed_fits_a_generator_whatever_the_run_seed(run_seed):
    seed = plugin.seed_of(run_seed, "test_it")
    assert 0 <= seed < 2**62
    torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("documentation", "title"),
    [
        ('"""The first line.\n\n    More."""', "The first line"),
        ('"""Is it right?"""', "Is it right?"),
        ("", "rows sum to one"),
        ('"""  """', "rows sum to one"),
    ],
)
def test_a_title_is_the_first_line_of_the_docstring_or_the_name_in_words(verdict, documentation, title):
    report = verdict(check("shapes", f"{documentation}\npass", name="test_rows_sum_to_one"))
    assert report.checks[0].title == title


# -------------------------------------------------------------------------------------------- a student's own machine


@pytest.fixture
def session(pytester, made_up):
    """A course in pytester's folder; ``session(*arguments)`` runs pytest in it."""
    made_up.make(pytester.path)

    def run(*arguments):
        few = ("--disable-plugin-autoload", "-p", "grader", "-p", "no:cacheprovider")  # others take seconds to load
        return pytester.runpytest_inprocess(*few, "--import-mode=importlib", *arguments)

    return run


VISIBLE, HIDDEN = "exercises/session_03_tiny", "tests/session_03_tiny"


def test_a_stub_is_red_with_a_friendly_line(session):
    result = session(VISIBLE)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["not attempted yet*", "0 of 2 checks pass. Nothing is attempted yet, so red is as it*"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_half_done_answer_is_told_what_is_next(session, pytester):
    (pytester.path / VISIBLE / "ex1_double.py").write_text(
        "def double(x):\n    return 2 * x if len(x) == 3 else None\n"
    )
    result = session(VISIBLE)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["1 of 2 checks pass. Next: A gradient comes through."])


@pytest.mark.parametrize("arguments", [(VISIBLE, "--submission", "reference/session_03_tiny/ex1_double.py"),
                                       (VISIBLE, "--submission", "reference/session_03_tiny"),
                                       (VISIBLE, "--submission", "reference")])  # fmt: skip
def test_the_submission_may_be_a_file_a_folder_or_the_reference(session, arguments):
    session(*arguments).assert_outcomes(passed=2)


def test_the_submission_may_be_a_folder_of_sessions(session):
    session(VISIBLE, "--submission", "reference").assert_outcomes(passed=2)
    result = session(VISIBLE, "--submission", "./reference")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["2 of 2 checks pass. Well done."])


def test_a_hidden_suite_checks_the_reference_unless_told_otherwise(session):
    session(HIDDEN, "-k", "not speed").assert_outcomes(passed=5, deselected=1)
    session(HIDDEN, "-k", "not speed", "--submission", "stub").assert_outcomes(failed=5, deselected=1)


def test_a_notebook_is_a_submission(session, pytester):
    cell = {"cell_type": "code", "metadata": {}, "source": "def double(x):\n    return 2 * x\n"}
    (pytester.path / "mine").mkdir()
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]}
    (pytester.path / "mine/ex1_double.ipynb").write_text(json.dumps(notebook))
    session(VISIBLE, "--submission", "mine").assert_outcomes(passed=2)


def test_a_submission_that_does_not_exist_is_one_clear_line(session):
    result = session(VISIBLE, "--submission", "nowhere.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == ["ERROR: --submission nowhere.py: no such file or folder"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "*ex1_double.py: No such file or directory"), (b"", "the file is empty"), (b"x = '\xff'", "*UTF-8*")],
)
def test_a_file_that_is_missing_or_unreadable_is_said_without_a_traceback(session, pytester, content, words):
    path = pytester.path / VISIBLE / "ex1_double.py"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    result = session(VISIBLE)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines([words])
    result.stdout.no_fnmatch_line("*plugin.py*")


@pytest.mark.parametrize("kind", ["shapes", "gradients"])
def test_a_kind_can_be_selected_by_its_marker(session, kind):
    result = session(VISIBLE, "-m", kind, "--submission", "reference", "-v")
    result.assert_outcomes(passed=1, deselected=1)


def test_the_run_seed_is_shown_when_it_is_not_the_default(session):
    session(VISIBLE, "--seed", "7").stdout.fnmatch_lines(["course: run seed 7"])
    session(VISIBLE).stdout.no_fnmatch_line("*run seed*")


def test_a_seed_that_is_no_number_is_refused(session):
    assert session(VISIBLE, "--seed", "x").ret == pytest.ExitCode.USAGE_ERROR


def test_a_failure_shows_the_students_own_lines(session, pytester):
    (pytester.path / VISIBLE / "ex1_double.py").write_text("def double(x):\n    return x / 'two'\n")
    session(VISIBLE).stdout.fnmatch_lines(
        ["TypeError: *", "It was raised in", "  ex1_double.py, line 2, in double: return*"]
    )


def test_asking_for_a_reference_that_is_not_there_is_said(session, pytester):
    (pytester.path / "reference/session_03_tiny/ex1_double.py").unlink()
    result = session(HIDDEN, "-k", "gradient", "--submission", "stub")
    result.stdout.fnmatch_lines(["*asks for the reference, which is not here"])


# ------------------------------------------------------------------------------------------------ other people's suites

OTHERS = """\
import sys
import pytest

@pytest.fixture
def student():
    return 1

def test_pass(student):
    assert student == 1

@pytest.mark.throughput("GB/s")
@pytest.mark.shapes(of="triangles")
def test_markers_of_the_same_names(student):
    number = 1
    assert number == 2

def test_torch_is_not_imported():
    assert "torch" not in sys.modules
    assert "grader.plugin" in sys.modules
"""


def test_the_plugin_leaves_other_suites_alone_and_does_not_import_torch_there(tmp_path):
    (tmp_path / "test_others.py").write_text(OTHERS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_others.py"]
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert "1 failed, 2 passed" in result.stdout
    assert "assert 1 == 2" in result.stdout  # pytest's own words
    assert "checks pass" not in result.stdout


def test_the_plugin_is_installed_as_an_entry_point():
    spec = importlib.util.find_spec("grader.plugin")
    assert Path(spec.origin).samefile(plugin.__file__)
    from importlib.metadata import entry_points

    assert [entry.value for entry in entry_points(group="pytest11", name="grader")] == ["grader.plugin"]

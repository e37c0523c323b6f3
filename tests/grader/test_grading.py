"""The grader: from a submission to its report, with the diagnosis, the memory of the reference, and the accounts."""

import os
import platform
import re
from dataclasses import replace

import pytest
import torch

from grader import grading, plugin
from grader.grading import Grader, check, check_namespace, digest_of, observe, same
from grader.report import Report
from grader.subject import SubmissionError
from grader.submission import InputError, Submission
from grader.wire import Foreign


@pytest.fixture(scope="module")
def course(made_up, tmp_path_factory):
    return made_up.make(tmp_path_factory.mktemp("course"), {"double": made_up.quick()})


@pytest.fixture(scope="module")
def grader(course, bench):
    one = Grader(course, bench=bench)
    yield one
    for subject in one._references.values():
        subject.close()


@pytest.fixture
def grade(course, grader):
    def report_on(source, seed=0, student=""):
        submission = source if isinstance(source, Submission) else Submission.from_source(source, "answer.py")
        return grader.grade(course.exercise("3.1"), submission, seed=seed, student=student)

    return report_on


@pytest.fixture(scope="module")
def reference_text(made_up):
    return made_up.REFERENCE


def answer(expression, check="if not x.is_floating_point():\n        raise ValueError('x')"):
    return f"import torch\ndef double(x):\n    {check}\n    return {expression}\n"


def outcomes(report):
    return {one.id: one.outcome for one in report.checks}


# ----------------------------------------------------------------------------------------------------------- the report


def test_the_reference_earns_everything_and_the_stub_nothing(grade, made_up):
    whole, nothing = grade(made_up.REFERENCE), grade(made_up.STUB)
    assert (whole.score, whole.max_score, whole.pending) == (9, 9, 0)
    assert (nothing.score, nothing.max_score, nothing.pending) == (0, 9, 0)
    assert nothing.checks[0].outcome == "not_attempted"


def test_a_report_says_what_was_graded_with_what_and_where(grade, made_up):
    report = grade(made_up.REFERENCE, seed=11, student="ada")
    assert (report.exercise, report.title, report.student, report.seed) == ("3.1", "Double", "ada", 11)
    assert report.submission == "answer.py"
    environment = report.environment
    assert (environment.python, environment.torch) == (platform.python_version(), torch.__version__)
    assert environment.isolation == "bubblewrap"
    assert {"no capabilities", "seccomp"} <= set(environment.layers)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", report.started)


@pytest.mark.parametrize("expression", ["2 * x", "3 * x", "x.nonsense", "2 * x.detach()"])
def test_the_totals_of_a_report_are_the_sums_of_its_checks(grade, expression):
    report = grade(answer(expression))
    assert report.score == sum(one.earned for one in report.checks)
    assert report.max_score == sum(one.points for one in report.checks) == 9
    assert all(one.earned == (one.points if one.outcome == "correct" else 0) for one in report.checks)
    assert Report.from_json(report.to_json()) == report


def test_checks_stand_in_the_order_of_the_rungs(grade, made_up):
    assert [one.kind for one in grade(made_up.REFERENCE).checks] == ["shapes"] * 3 + ["gradients", "convergence"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import os\nos._exit(0)\n", "ended the process (exit code 0)"),
        ("def double(x):\n    import os\n    os._exit(0)\n", "ended the process (exit code 0)"),
        ("raise SystemExit(0)\n", "SystemExit"),
        ("def double(x\n", "SyntaxError"),
        ("import ctypes\nctypes.string_at(0)\n", "signal SIGSEGV"),
        (Submission("answer.py", problem="the file is empty"), "the file is empty"),
    ],
    ids=["exits when loaded", "exits when called", "SystemExit", "no Python", "crashes", "empty"],
)
def test_an_answer_that_gives_no_answer_earns_nothing_and_is_told_why(grade, source, words):
    report = grade(source)
    assert (report.score, report.max_score, report.pending) == (0, 9, 0)
    assert words in report.checks[0].rationale


def test_ten_seeds_give_the_same_score(grade):
    assert {grade(answer("x + x"), seed).score for seed in range(10)} == {9}
    assert {grade(answer("3 * x"), seed).score for seed in range(10)} == {4}


def test_the_same_seed_gives_the_same_verdict_word_for_word(grade):
    first, second = grade(answer("3 * x"), 3), grade(answer("3 * x"), 3)
    assert [(one.outcome, one.rationale, one.help) for one in first.checks] == [
        (one.outcome, one.rationale, one.help) for one in second.checks
    ]
    assert grade(answer("3 * x"), 4).checks[0].rationale != first.checks[0].rationale


def test_new_seeds_differ_and_cannot_be_guessed():
    seeds = {grading.new_seed() for _ in range(100)}
    assert len(seeds) == 100
    assert max(seeds) > 2**56
    assert all(0 <= seed < 2**63 for seed in seeds)  # what --seed takes


def test_one_submission_cannot_change_what_the_next_one_is_measured_by(grade, made_up):
    meddling = "import torch\ntorch.allclose = torch.equal = torch.isclose = lambda *a, **k: torch.ones(()).bool()\n"
    assert grade(meddling + answer("3 * x")).score == 4
    assert grade(answer("3 * x")).score == 4
    assert grade(made_up.REFERENCE).score == 9


# ---------------------------------------------------------------------------------------------------------- the suite's


@pytest.fixture
def spoilt(made_up, bench, tmp_path):
    """``spoilt(answer, **files)``: the verdict of a course with these files."""

    def verdict(source, **files):
        course = made_up.make(tmp_path / "course", {"double": replace(made_up.quick(), **files)})
        one = Grader(course, bench=bench)
        try:
            return one.grade(course.exercise("3.1"), Submission.from_source(source, "answer.py"), seed=0)
        finally:
            for subject in one._references.values():
                subject.close()

    return verdict


@pytest.mark.parametrize(
    ("suite", "words"),
    [
        ("import no_such_module_at_all\n", "the suite has 0 points of shapes, course.toml promises 4"),
        ("def broken(:\n", "course.toml promises 4"),
        ("raise KeyboardInterrupt\n", None),
        ("raise SystemExit(0)\n", "course.toml promises 4"),
        ("", "course.toml promises 4"),
    ],
)
def test_a_suite_that_cannot_be_run_leaves_every_point_pending(spoilt, made_up, suite, words):
    if words is None:  # the person at the keyboard
        with pytest.raises(KeyboardInterrupt):
            spoilt(made_up.REFERENCE, suite=suite)
        return
    report = spoilt(made_up.REFERENCE, suite=suite)
    assert (report.score, report.max_score, report.pending) == (0, 9, 9)
    assert report.faulty
    assert words in report.checks[0].rationale


def test_a_manifest_that_promises_other_points_leaves_those_pending(spoilt, made_up):
    report = spoilt(made_up.REFERENCE, points={"shapes": 4, "gradients": 5, "convergence": 2})
    assert (report.score, report.max_score, report.pending) == (6, 11, 5)
    assert "the suite has 3 points of gradients, course.toml promises 5" in [one.rationale for one in report.checks][-1]


def test_a_reference_that_cannot_be_loaded_costs_nobody_a_point(spoilt, made_up):
    report = spoilt(answer("2 * x"), reference=made_up.REFERENCE + "\nraise RuntimeError('broken')\n")
    assert outcomes(report)["test_values"] == "grader_fault"
    assert (report.score, report.pending) == (7, 2)  # the other checks do not ask it
    assert "the reference: your file could not be loaded: RuntimeError: broken" in report.checks[0].rationale


def test_a_conftest_above_the_course_is_not_run(spoilt, made_up, tmp_path):
    mark = tmp_path / "was_run"
    (tmp_path / "conftest.py").write_text(f"open({str(mark)!r}, 'w')\n")
    assert spoilt(made_up.REFERENCE).score == 9
    assert not mark.exists()


def test_a_pytest_ini_beside_the_course_or_in_the_environment_changes_nothing(spoilt, made_up, tmp_path, monkeypatch):
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -k nothing\n")
    (tmp_path / "course").mkdir()
    (tmp_path / "course/pytest.ini").write_text("[pytest]\naddopts = -k nothing\n")
    monkeypatch.chdir(tmp_path)
    assert spoilt(made_up.REFERENCE).score == 9


# ------------------------------------------------------------------------------------------------------------ diagnosis


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (answer("3 * x"), "You multiply by three."),
        (answer("x + x + x"), "You multiply by three."),
        (answer("x ** 2"), "You square."),
        (answer("torch.mul(x.detach(), 2)"), "You cut the graph."),
        ("def double(x):\n    return 2 * x\n", "Whole numbers are accepted."),
        (answer("x / 2"), "You halve."),
    ],
    ids=["triples", "triples in other words", "squares", "detached", "no_validation", "halves"],
)
def test_an_answer_that_is_a_wrong_control_in_other_words_is_told_its_mistake(grade, source, says):
    report = grade(source)
    helps = [one.help for one in report.checks if one.outcome != "correct" and one.kind in grading.DIAGNOSED]
    assert helps
    assert all(text.endswith(says) for text in helps)


SENTENCES = ("You multiply by three.", "You square.", "You cut the graph.", "Whole numbers are accepted.", "You halve.")


@pytest.mark.parametrize(
    "source",
    [
        answer("2 * x"),
        answer("4 * x"),
        answer("3.001 * x"),
        answer("x.sin()"),
        answer("None"),
        answer("{1, 2}"),
        answer("x.nonsense"),
        answer("[2 * x]"),
        "def double(x):\n    raise NotImplementedError\n",
        "import os\ndef double(x):\n    os._exit(1)\n",
        "raise RuntimeError\n",
    ],
    ids=["right", "4x", "nearly 3x", "sine", "none", "set", "raises", "list", "stub", "exits", "broken"],
)
def test_any_other_answer_is_told_no_mistake_that_it_did_not_make(grade, source):
    report = grade(source)
    assert not [one.help for one in report.checks for sentence in SENTENCES if sentence in one.help]


def test_the_help_of_the_check_comes_before_the_diagnosis(grade):
    assert grade(answer("3 * x")).checks[0].help == "Multiply by two.\nYou multiply by three."


def test_checks_that_pass_and_kinds_that_identify_nothing_get_no_diagnosis(grade):
    report = grade(answer("3 * x"))
    assert {one.id for one in report.checks if "three" in one.help} == {"test_values", "test_gradient"}


def test_an_answer_with_two_mistakes_is_told_of_the_one_that_explains_more(grade):
    report = grade(answer("3 * x", check="pass"))
    assert outcomes(report)["test_error"] == "wrong"
    helps = {one.id: one.help for one in report.checks}
    assert "Whole numbers are accepted." in helps["test_error"]
    assert "You multiply by three." in helps["test_values"]


@pytest.mark.parametrize(
    "controls",
    [
        lambda made_up: made_up.quick().controls.replace("3 * x", "7 * x"),
        lambda made_up: made_up.quick().controls.replace("2 * x", "5 * x"),
        lambda made_up: "raise RuntimeError\n",
        lambda made_up: "",
    ],
    ids=["others", "that do not match", "that raise", "none"],
)
def test_the_diagnosis_changes_no_score(grade, spoilt, made_up, controls):
    with_controls = grade(answer("3 * x"))
    without = spoilt(answer("3 * x"), controls=controls(made_up))
    assert [(one.earned, one.outcome) for one in without.checks] == [
        (one.earned, one.outcome) for one in with_controls.checks
    ]
    assert not [one.help for one in without.checks if "three" in one.help]


SAME = [
    (torch.ones(2), torch.ones(2) + 1e-7),
    (torch.tensor([float("nan")]), torch.tensor([float("nan")])),
    (1.0, 1.0 + 1e-9),
    (float("nan"), float("nan")),
    ({"a": [1, (2.0, None)]}, {"a": [1, (2.0, None)]}),
    (("error", "ValueError"), ("error", "ValueError")),
]
OTHER = [
    (torch.ones(2), torch.ones(2, dtype=torch.float64)),
    (torch.ones(2), torch.ones(2, 1)),
    (torch.ones(2), torch.ones(2) + 1e-3),
    (torch.ones(2), [1.0, 1.0]),
    (True, 1),
    (1, 1.0),
    ([1], (1,)),
    ([1], [1, 2]),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    (("error", "ValueError"), ("error", "TypeError")),
    (None, False),
    (plugin.NO_ANSWER, None),
    (Foreign("a"), Foreign("b")),
]


@pytest.mark.parametrize(("left", "right"), SAME)
def test_equal_answers_are_the_same(left, right):
    assert same(left, right)
    assert same(right, left)


@pytest.mark.parametrize(("left", "right"), OTHER)
def test_answers_that_differ_are_not_the_same(left, right):
    assert not same(left, right)
    assert not same(right, left)


def test_what_a_subject_raises_is_its_observation():
    class Raising:
        def run(self, *_):
            raise SubmissionError("x", observation=("error", "ValueError"))

    assert observe(Raising(), plugin.Observation(print, (), None)) == ("error", "ValueError")


# ----------------------------------------------------------------------------------------------- the reference's memory


def test_the_reference_is_asked_once_per_seed_and_not_again_for_the_next_student(course, bench, made_up, monkeypatch):
    asked = []
    one = Grader(course, bench=bench)
    memo = one._reference(course.exercise("3.1"))
    inner = memo._subject
    original = type(inner).run

    def counted(self, probe, *inputs):
        if self is inner:
            asked.append(probe.__name__)
        return original(self, probe, *inputs)

    monkeypatch.setattr(type(inner), "run", counted)
    exercise = course.exercise("3.1")
    counts = []
    for source, seed in ((made_up.REFERENCE, 1), (answer("x + x"), 1), (answer("x.mul(2)"), 1), (answer("x + x"), 2)):
        one.grade(exercise, Submission.from_source(source, "answer.py"), seed=seed)
        counts.append(len(asked))
    memo.close()
    assert counts == [1, 1, 1, 2]  # test_values alone asks the reference


def test_a_check_that_changes_the_references_answer_does_not_change_it_for_the_next_student(
    spoilt, made_up, bench, tmp_path
):
    suite = made_up.quick().suite.replace(
        "    assert_close(student.run(doubled, x), reference.run(doubled, x), help",
        "    wanted = reference.run(doubled, x)\n    answer = student.run(doubled, x)\n"
        "    assert_close(answer, wanted.clone(), help='')\n    wanted.zero_()\n"
        "    assert_close(answer, reference.run(doubled, x), help",
    )
    assert suite != made_up.quick().suite
    assert spoilt(made_up.REFERENCE, suite=suite).score == 9


# -------------------------------------------------------------------------------------------------------------- digests


def test_the_digests_change_with_the_submission_and_with_nothing_else(grade):
    first, again, other = grade(answer("2 * x")), grade(answer("2 * x"), seed=5), grade(answer("2 * x "))
    assert first.submission_digest == again.submission_digest != other.submission_digest
    assert first.suite_digest == again.suite_digest == other.suite_digest


@pytest.mark.parametrize("changed", ["suite", "reference"])
def test_the_suites_digest_changes_with_suite_and_reference(made_up, bench, tmp_path, changed):
    files = made_up.quick()
    digests = []
    for number, text in enumerate((files.suite, files.suite + "\n")):
        spoilt = (
            replace(files, suite=text)
            if changed == "suite"
            else replace(files, reference=files.reference + "\n" * number)
        )
        course = made_up.make(tmp_path / str(number), {"double": spoilt})
        exercise = course.exercise("3.1")
        digests.append(digest_of(course.hidden_suite(exercise), course.reference(exercise)))
    assert digests[0] != digests[1]


def test_a_digest_tells_apart_where_one_file_ends_and_the_next_begins(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("ab")
    two.write_text("c")
    first = digest_of(one, two)
    one.write_text("a")
    two.write_text("bc")
    assert digest_of(one, two) != first
    assert digest_of(two, one) != digest_of(one, two)


# ------------------------------------------------------------------------------------------------------- visible checks


def test_the_visible_checks_run_in_this_process_and_promise_no_points(course, made_up, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(made_up.REFERENCE)
    report = check(course, course.exercise("3.1"), path)
    assert (report.score, report.max_score, report.environment.isolation) == (2, 2, "in-process")
    path.write_text(answer("x"))
    assert check(course, course.exercise("3.1"), path).score == 1


def test_one_kind_of_the_visible_checks_can_be_chosen(course, made_up, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(made_up.REFERENCE)
    report = check(course, course.exercise("3.1"), path, kinds=("gradients",))
    assert [one.kind for one in report.checks] == ["gradients"]


def test_a_running_notebooks_names_can_be_checked(course):
    assert check_namespace(course, course.exercise("3.1"), {"double": lambda x: 2 * x}).score == 2
    report = check_namespace(course, course.exercise("3.1"), {})
    assert report.score == 0
    assert "double" in report.checks[0].rationale


def test_a_file_that_is_not_there_is_bad_input_and_an_empty_one_the_students(course, tmp_path):
    with pytest.raises(InputError, match="No such file"):
        check(course, course.exercise("3.1"), tmp_path / "mine.py")
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(SubmissionError, match="empty"):
        check(course, course.exercise("3.1"), tmp_path / "mine.py")


def test_a_graded_run_prints_nothing_and_leaves_the_folder_as_it_was(grade, course, made_up, capfd, monkeypatch):
    before = sorted(path for path in course.root.rglob("*") if "__pycache__" not in path.parts)
    directory = os.getcwd()
    grade(made_up.REFERENCE + "\nprint('hello')\n")
    assert capfd.readouterr() == ("", "")
    assert sorted(path for path in course.root.rglob("*") if "__pycache__" not in path.parts) == before
    assert os.getcwd() == directory

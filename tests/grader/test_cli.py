"""The command line: what every command prints and returns, and that bad input is one line, exit code 2, and no file."""

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

import grader.audit
from grader import __version__, cohort
from grader.cli import BAD_INPUT, DONE, FAILED, main
from grader.grading import Grader
from grader.report import Report

HOME = "session_03_tiny"
STUB, SOLUTION = f"exercises/{HOME}/ex1_double.py", f"reference/{HOME}/ex1_double.py"
TRIPLES = "def double(x):\n    if not x.is_floating_point():\n        raise ValueError('x')\n    return 3 * x\n"


class Kept:
    """A bench that many graders share."""

    def __init__(self, bench):
        self._bench = bench

    def __getattr__(self, name):
        return getattr(self._bench, name)

    def close(self):
        pass


@pytest.fixture(autouse=True)
def environment(bench, monkeypatch, made_up):
    """One bench for all commands, no worker processes, a wide terminal, no changed environment afterwards."""
    monkeypatch.setattr("grader.bench.Bench", lambda *_: Kept(bench))
    graders = []

    def here(course, *_, **__):
        graders.append(Grader(course))
        monkeypatch.setattr(cohort, "_grader", graders[-1])
        return made_up.Here()

    monkeypatch.setattr(cohort, "workers", here)
    monkeypatch.setattr(grader.audit, "workers", here)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    for one in graders:
        one.__exit__()


@pytest.fixture
def course(made_up, tmp_path, monkeypatch):
    """A course of 3.1 (ready) and 3.2 (planned) in the current folder."""
    home = tmp_path / "course"
    home.mkdir()
    monkeypatch.chdir(home)
    return made_up.make(home, {"double": made_up.quick()})


@pytest.fixture
def run(capsys):
    """``run("grade", ...)`` -> (exit code, standard output, standard error)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        written = capsys.readouterr()
        return left.value.code, written.out, written.err

    return call


def files(folder):
    """Every path below a folder with its content; what Python keeps for itself is left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


# ------------------------------------------------------------------------------------------------------------ bad input

BAD = [
    ("", "required: COMMAND"),
    ("grad", "invalid choice: 'grad'"),
    ("list x", "invalid int value: 'x'"),
    ("list 99", "no session 99 in course.toml; there are 3"),
    ("list 3 4", "unrecognized arguments: 4"),
    ("check", "required: exercise"),
    ("check 9.9", "no exercise '9.9'"),
    ("check doubel", "did you mean 3.1 (double)?"),
    ("check 3.2", "3.2 Later is planned, not written yet"),
    ("check 3.1 nowhere.py", "nowhere.py: No such file or directory"),
    ("check 3.1 .", "expected a .py module or an .ipynb notebook"),
    ("check 3.1 empty.py", "empty.py: the file is empty"),
    ("check 3.1 latin.py", "latin.py: the file"),
    ("check 3.1 broken.ipynb", "broken.ipynb: the file is not a Jupyter notebook"),
    ("check 3.1 --seed x", "invalid whole number from 0 to 2**63 - 1 value: 'x'"),
    ("hint 3.1 4", "invalid choice: 4"),
    ("hint 3.1 x", "invalid int value: 'x'"),
    ("hint 3.2", "3.2 Later is planned, not written yet"),
    ("hint 9.9", "no exercise '9.9'"),
    ("sync 9.9", "no exercise '9.9'"),
    ("sync 3.2", "exercise 3.2 is planned, not written yet"),
    ("sync 4", "no session 4"),
    ("release 3 --to out", "required: --as"),
    ("release 3 --as modules", "required: --to"),
    ("release 3 --as slides --to out", "invalid choice: 'slides'"),
    ("release x --as modules --to out", "invalid int value: 'x'"),
    ("release 99 --as modules --to out", "no session 99"),
    ("release 3 --as modules --to empty.py", "empty.py"),
    ("grade 3.1", "required: FILE|DIR"),
    ("grade 3.2 good.py", "3.2 Later is planned, not written yet"),
    ("grade 9.9 good.py", "no exercise '9.9'"),
    ("grade 3.1 nowhere.py --out out", "nowhere.py: No such file or directory"),
    ("grade 3.1 good.py nowhere.py --out out", "nowhere.py: No such file or directory"),
    ("grade 3.1 notes.txt --out out", "notes.txt: expected a .py module or an .ipynb notebook"),
    ("grade 3.1 class --out out", "class: expected a .py module or an .ipynb notebook"),
    ("grade 3.1 good.py --seed x --out out", "value: 'x'"),
    ("grade 3.1 good.py --seed 1.5 --out out", "value: '1.5'"),
    ("grade 3.1 good.py --seed -1 --out out", "value: '-1'"),
    ("grade 3.1 good.py --seed 9223372036854775808 --out out", "invalid whole number from 0 to 2**63 - 1"),
    ("grade 3.1 good.py --jobs 0 --out out", "invalid whole number from 1 value: '0'"),
    ("grade 3.1 good.py --json - --out out", "--json and --out exclude each other"),
    ("grade 3.1 good.py class/ada/good.py --out out", "two of the files have the same name"),
    ("grade 3.1 good.py --json .", "."),
    ("grade 3.1 good.py --out empty.py", "empty.py"),
    ("grade 3.1 good.py --json empty.py/x.json", "empty.py"),
    ("grade 3 nowhere --out out", "nowhere: no such folder"),
    ("grade 3 good.py --out out", "good.py: no such folder"),
    ("grade 3 class --out out", "class: no submissions; expected one folder per student"),
    ("grade 3 class class --out out", "a session is graded from one folder"),
    ("grade 99 class --out out", "no session 99"),
    ("audit 9.9", "no exercise '9.9'"),
    ("audit 3.2", "exercise 3.2 is planned"),
    ("audit 3.1 --seeds 0", "invalid whole number from 1 value: '0'"),
    ("audit 3.1 --seeds x", "invalid whole number from 1 value: 'x'"),
    ("report nowhere --to out", "nowhere: no such folder"),
    ("report class --to out", "class: no reports"),
    ("report odd --to out", "x.json: not a report"),
    ("report odd", "required: --to"),
]


@pytest.mark.parametrize(("command", "words"), BAD, ids=[command or "nothing" for command, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2_and_changes_no_file(course, run, command, words):
    (course.root / "class/ada").mkdir(parents=True)
    (course.root / "class/ada/good.py").write_text(TRIPLES)
    (course.root / "good.py").write_text(TRIPLES)
    (course.root / "empty.py").write_text("")
    (course.root / "latin.py").write_bytes(b"x = '\xe9'\n")
    (course.root / "broken.ipynb").write_text("{")
    (course.root / "notes.txt").write_text("x")
    (course.root / "odd").mkdir()
    (course.root / "odd/x.json").write_text('{"exercise": "3.1"}')
    before = files(course.root)
    code, out, err = run(*command.split())
    assert code == BAD_INPUT
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
    assert err.startswith("grader")
    assert files(course.root) == before


@pytest.mark.parametrize(
    "command", ["list", "check 3.1", "hint 3.1", "sync", "grade 3.1 good.py", "grade 3 class", "audit"]
)
def test_outside_a_course_every_command_says_where_it_belongs(run, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*command.split())
    assert (code, out) == (BAD_INPUT, "")
    assert "run this inside the course or a released session" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["list", "grade 3.1 good.py", "audit"])
def test_a_mistake_in_the_manifest_is_one_line_with_its_place(course, run, command):
    manifest = course.root / "course.toml"
    manifest.write_text(manifest.read_text().replace("stars = 1", "stars = 6", 1))
    code, _, err = run(*command.split())
    assert (code, err) == (BAD_INPUT, "grader: course.toml: session 3, exercise 1: stars must be 1 to 5, got 6\n")


def test_the_version_is_that_of_the_package(run):
    assert run("--version") == (DONE, f"grader {__version__}\n", "")


@pytest.mark.parametrize(
    "command", ["list", "check", "hint", "sync", "release", "grade", "audit", "report", "export", "doctor"]
)
def test_every_command_explains_itself(run, command):
    code, out, _ = run(command, "--help")
    assert code == DONE
    assert out.startswith(f"usage: grader {command}")


# ----------------------------------------------------------------------------------------------------------- list, hint


@pytest.mark.parametrize("arguments", [(), ("3",)])
def test_list_shows_what_is_ready_and_what_is_planned(course, run, arguments):
    code, out, _ = run("list", *arguments)
    assert code == DONE
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("    3.")}
    assert not lines["3.1"].endswith("planned")
    assert lines["3.2"].endswith("planned")
    assert "A Made-Up Course" in out


def test_list_works_in_a_folder_of_the_course(course, run, monkeypatch):
    monkeypatch.chdir(course.root / "exercises" / HOME)
    assert run("list")[0] == DONE


@pytest.mark.parametrize(
    ("arguments", "hint", "has_next", "has_symptoms"),
    [
        ((), "What is two times?", True, False),
        (("1",), "What is two times?", True, False),
        (("2",), "A product.", True, True),
        (("3",), "One line: a number times x.", False, True),
    ],
)
def test_hint_gives_one_rung_and_the_way_to_the_next(course, run, arguments, hint, has_next, has_symptoms):
    code, out, _ = run("hint", "3.1", *arguments)
    rung = arguments[0] if arguments else "1"
    assert code == DONE
    assert out.startswith(f"3.1 Double, hint {rung} of 3\n\n{hint}\n")
    assert (f"grader hint 3.1 {int(rung) + 1}" in out) == has_next
    assert ("It is too large: Is it three times?" in out) == has_symptoms
    others = {"What is two times?", "A product.", "One line: a number times x."} - {hint}
    assert not [other for other in others if other in out]


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"[ex1_double",
        b"\xff",
        b"[ex1_double]\n",
        b"[ex1_double]\nhints = []\n",
        b"ex1_double = 1\n",
        b"[ex2_later]\n",
    ],
    ids=["no file", "empty", "no TOML", "no UTF-8", "no key", "too few", "no table", "another exercise"],
)
def test_hint_without_hints_is_one_line(course, run, content):
    path = course.hints(course.exercise("3.1"))
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    code, out, err = run("hint", "3.1", "2")
    assert (code, out, err.count("\n")) == (BAD_INPUT, "", 1)
    assert "hints.toml" in err


# ---------------------------------------------------------------------------------------------------------------- check


def test_check_passes_a_right_file_and_fails_a_stub(course, run):
    code, out, err = run("check", "3.1", SOLUTION)
    assert (code, err) == (DONE, "")
    assert "2/2" in out
    code, out, err = run("check", "3.1")
    assert (code, err) == (FAILED, "")
    assert "not attempted" in out


@pytest.mark.parametrize("name", ["3.1", "double", "ex1_double"])
def test_an_exercise_has_three_names(course, run, name):
    assert run("check", name, SOLUTION)[0] == DONE


# ------------------------------------------------------------------------------------------------------- sync, release


def test_sync_tells_and_mends_a_stale_stub(course, run):
    assert run("sync", "--check") == (DONE, "", "")
    (course.root / STUB).write_text("# old\n")
    assert run("sync", "--check") == (FAILED, f"stale: {STUB}\n", "")
    assert (course.root / STUB).read_text() == "# old\n"
    assert run("sync", "3.1") == (DONE, f"wrote {STUB}\n", "")
    assert run("sync", "all") == (DONE, "", "")


def test_release_names_the_folder_it_made(course, run, tmp_path):
    code, out, err = run("release", "3", "--as", "modules", "--to", tmp_path / "out")
    assert (code, err) == (DONE, "")
    assert Path(out.strip()) == tmp_path / "out" / HOME
    assert (tmp_path / "out" / HOME / "ex1_double.py").read_text() == (course.root / STUB).read_text()
    assert f"{HOME}/ex1_double.py" in zipfile.ZipFile(tmp_path / "out" / f"{HOME}.zip").namelist()


def test_a_student_can_work_in_what_was_released(course, run, tmp_path, monkeypatch):
    run("release", "3", "--as", "modules", "--to", tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out" / HOME)
    assert run("list")[0] == DONE
    assert run("hint", "3.1")[0] == DONE
    assert run("check", "3.1")[0] == FAILED
    Path("ex1_double.py").write_text((course.root / SOLUTION).read_text())
    assert run("check", "3.1")[0] == DONE


# ---------------------------------------------------------------------------------------------------------------- grade


def test_grade_prints_one_json_object_with_the_fields_of_the_contract(course, run):
    code, out, err = run("grade", "3.1", SOLUTION, "--json", "-", "--seed", "5")
    assert (code, err) == (DONE, "")
    report = json.loads(out)
    assert (report["exercise"], report["score"], report["max_score"], report["seed"]) == ("3.1", 9, 9, 5)
    fields = {"id", "kind", "title", "points", "earned", "outcome", "rationale", "help"}
    assert report["checks"]
    assert all(fields <= set(check) for check in report["checks"])
    assert Report.from_json(out).to_json() == json.dumps(report, indent=2)


def test_the_stub_earns_nothing_and_the_exit_code_says_so(course, run):
    code, out, _ = run("grade", "3.1", STUB, "--json", "-")
    assert (code, json.loads(out)["score"]) == (FAILED, 0)


def test_ten_seeds_give_ten_times_the_same(course, run):
    scores = {
        json.loads(run("grade", "3.1", SOLUTION, "--json", "-", "--seed", seed)[1])["score"] for seed in range(10)
    }
    assert scores == {9}


def test_without_a_seed_a_new_one_is_drawn_and_recorded(course, run):
    first, second = (json.loads(run("grade", "3.1", SOLUTION, "--json", "-")[1])["seed"] for _ in range(2))
    assert first != second
    assert min(first, second) > 2**40


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_the_seeds_at_the_ends_of_the_range_work(course, run, seed):
    code, out, _ = run("grade", "3.1", SOLUTION, "--json", "-", "--seed", seed)
    assert (code, json.loads(out)["seed"]) == (DONE, seed)


def test_several_files_give_a_list_in_their_order_and_one_seed(course, run):
    Path("mine.py").write_text(TRIPLES)
    code, out, _ = run("grade", "3.1", SOLUTION, "mine.py", STUB, "--json", "-")
    reports = json.loads(out)
    assert code == FAILED
    assert [report["score"] for report in reports] == [9, 4, 0]
    assert len({report["seed"] for report in reports}) == 1


def test_a_report_for_people_names_the_mistake(course, run):
    Path("mine.py").write_text(TRIPLES)
    code, out, _ = run("grade", "3.1", "mine.py")
    assert code == FAILED
    assert "4/9" in out
    assert "You multiply by three." in out


def test_a_json_file_is_written_whole_and_alone(course, run, tmp_path):
    target = tmp_path / "new/report.json"
    assert run("grade", "3.1", SOLUTION, "--json", target)[:2] == (DONE, "")
    assert Report.from_json(target.read_text()).score == 9
    assert [path.name for path in target.parent.iterdir()] == ["report.json"]


def test_out_gets_a_report_per_file_and_pages(course, run, tmp_path):
    Path("mine.py").write_text(TRIPLES)
    code, out, _ = run("grade", "3.1", SOLUTION, "mine.py", "--out", tmp_path / "out")
    assert code == FAILED
    assert Path(out.strip()) == tmp_path / "out/index.html"
    reports = {path.stem: Report.from_json(path.read_text()).score for path in (tmp_path / "out").glob("*.json")}
    assert reports == {"ex1_double": 9, "mine": 4}
    assert (tmp_path / "out/index.html").is_file()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("mine.py", b"", "the file is empty"),
        ("mine.py", b"\xff\xfe\x00", "UTF-8"),
        ("mine.py", b"def double(x:", "SyntaxError"),
        ("mine.py", b"import os\nos._exit(0)\n", "ended the process"),
        ("mine.ipynb", b"{}", "not a Jupyter notebook"),
        ("mine.ipynb", b'{"nbformat": 4, "cells": []}', "double"),
    ],
)
def test_what_is_wrong_inside_of_a_file_is_a_verdict_not_bad_input(course, run, name, content, words):
    Path(name).write_bytes(content)
    code, out, err = run("grade", "3.1", name, "--json", "-")
    report = json.loads(out)
    assert (code, err) == (FAILED, "")
    assert (report["score"], report["max_score"], report["pending"]) == (0, 9, 0)
    assert words in report["checks"][0]["rationale"]


# ------------------------------------------------------------------------------------------------- a session's students


@pytest.fixture
def students(course):
    for name, text in (("ada", TRIPLES.replace("3 *", "2 *")), ("bob", TRIPLES)):
        (course.root / "class" / name).mkdir(parents=True)
        (course.root / "class" / name / "ex1_double.py").write_text(text)
    (course.root / "class/cy").mkdir()
    return "class"


def test_a_class_is_a_table_and_done_even_if_nobody_passes(students, run):
    code, out, err = run("grade", "3", students, "--jobs", "2")
    assert code == DONE
    assert [line for line in out.splitlines() if "ada" in line and "9/9" in line]
    assert [line for line in out.splitlines() if "bob" in line and "4/9" in line]
    assert err.splitlines()[-1] == "grading: 3 of 3"


def test_a_class_as_json_is_a_list_by_student(students, run):
    code, out, _ = run("grade", "3", students, "--json", "-", "--seed", "1")
    assert code == DONE
    assert [(one["student"], one["score"], one["seed"]) for one in json.loads(out)] == [
        ("ada", 9, 1),
        ("bob", 4, 1),
        ("cy", 0, 1),
    ]


def test_a_class_is_written_by_student_and_report_makes_its_pages_again(students, run, tmp_path):
    code, out, _ = run("grade", "3", students, "--out", tmp_path / "out")
    assert code == DONE
    assert out.strip().endswith("index.html")
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.json")) == [
        "ada/3.1.json", "bob/3.1.json", "cy/3.1.json",
    ]  # fmt: skip
    code, again, err = run("report", tmp_path / "out", "--to", tmp_path / "pages")
    assert (code, err, Path(again.strip())) == (DONE, "", tmp_path / "pages/index.html")
    pages = {path.name: path.read_text() for path in (tmp_path / "pages").rglob("*.html")}
    assert pages == {path.name: path.read_text() for path in (tmp_path / "out").rglob("*.html")}


def test_a_pending_verdict_fails_the_run_of_a_class(students, course, run):
    course.hidden_suite(course.exercise("3.1")).write_text("import no_such_module\n")
    code, out, _ = run("grade", "3", students, "--json", "-")
    assert code == FAILED
    assert {one["pending"] for one in json.loads(out)} == {9}


# ---------------------------------------------------------------------------------------------------------------- audit


def test_audit_of_a_good_suite_is_done(course, run):
    code, out, err = run("audit", "3.1", "--seeds", "1")
    assert code == DONE
    assert out.rstrip().endswith("14 trials, no wrong verdicts")
    assert err.splitlines()[-1] == "auditing: 1 of 1"


def test_audit_of_a_bad_suite_fails_and_names_the_control(course, run):
    suite = course.hidden_suite(course.exercise("3.1"))
    suite.write_text(
        suite.read_text().replace("(2 * cotangent,), what", "student.run(gradients_of, doubled, [x], cotangent), what")
    )
    code, out, _ = run("audit", "all", "--seeds", "1")
    assert code == FAILED
    assert f"3.1 wrong triples, seed {grader.audit.SEEDS[0]}: keeps every point of gradients" in out


@pytest.mark.parametrize("spoil", ["remove", "break"])
def test_audit_without_usable_controls_is_bad_input(course, run, spoil):
    path = course.controls(course.exercise("3.1"))
    path.unlink() if spoil == "remove" else path.write_text("WRONG = [\n")
    code, out, err = run("audit")
    assert (code, out) == (BAD_INPUT, "")
    assert "controls_ex1_double.py: " in err
    assert err.count("\n") == 1


def test_audit_in_worker_processes_finds_the_same(made_up, tmp_path):
    quick = made_up.quick()
    strict = quick.suite.replace(
        "    x = 3 + torch",
        "    import multiprocessing\n    assert multiprocessing.parent_process() is None, 'always'\n    x = 3 + torch",
    )
    made_up.make(tmp_path, {"double": replace(quick, suite=strict)})
    command = [sys.executable, "-m", "grader.cli", "audit", "--seeds", "1", "--jobs", "1"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == FAILED
    lines = [line for line in result.stdout.splitlines() if "seed" in line and ": " in line]
    assert [line.split(",")[0] for line in lines] == [
        "3.1 reference reference",
        "3.1 right adds",
        "3.1 right multiplies",
    ]


# -------------------------------------------------------------------------------------------------------- as a process


def test_a_reader_that_leaves_early_is_no_error(course):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "grader.cli", "list"]
    result = subprocess.run(command, cwd=course.root, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (result.returncode, result.stderr) == (DONE, "")


def test_list_and_hint_do_not_wait_for_torch(course):
    script = "import sys\nfrom grader.cli import main\ntry:\n    main(sys.argv[1:])\nfinally:\n    assert 'torch' not in sys.modules"
    for arguments, code in ((["list"], DONE), (["hint", "3.1"], DONE), (["list", "99"], BAD_INPUT)):
        command = [sys.executable, "-c", script, *arguments]
        result = subprocess.run(command, cwd=course.root, capture_output=True, text=True, check=False)
        assert result.returncode == code, result.stderr

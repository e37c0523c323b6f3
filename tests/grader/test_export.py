"""The faces for other programs: against golden files, and each golden file against the rules of the program that reads it.

``GRADER_REWRITE_GOLDEN=1 pytest tests/grader/test_export.py`` writes the golden files anew; read the difference before you
commit it.
"""

import csv
import io
import json
import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jsonschema
import pytest
from markdown_it import MarkdownIt

from grader import export, gradebooks
from grader.cli import BAD_INPUT, DONE, FAILED, main
from grader.report import Check, Environment, Report
from grader.submission import InputError

GOLDEN = Path(__file__).with_name("golden")
FORMULA = '=HYPERLINK("x")'
HOSTILE = "\x1b[2J\x00\x0b\ufffe\u202e]]>\r<script>alert('&')</script> | `a` **b** [c](d) ![e](f)\n# g\n\n| h |\n=i"
SEED = 471_100_815
OUTCOMES = ("correct", "wrong", "raised", "not_attempted", "not_reached", "grader_fault")
KINDS = ("shapes", "shapes", "gradients", "gradients", "convergence", "throughput")


def report(student="ada", exercise="3.1", outcomes=OUTCOMES, text=HOSTILE, **changes):
    """A report with one check for each outcome; the n-th is worth n points."""
    checks = tuple(
        Check(
            id=f"test_{outcome}",
            kind=KINDS[number],
            title=f"{number + 1} Größe {text}",
            points=number + 1,
            earned=number + 1 if outcome == "correct" else 0,
            outcome=outcome,
            rationale="" if outcome == "correct" else f"expected 2, got {text}",
            help="" if outcome == "correct" else f"Look at {text}",
            seconds=0.25,
        )
        for number, outcome in enumerate(outcomes)
    )
    fields = {
        "exercise": exercise,
        "title": f"Double {text}",
        "student": student,
        "submission": f"ex1_double.py {text}",
        "submission_digest": "a" * 64,
        "suite_digest": "b" * 64,
        "seed": SEED,
        "environment": Environment(
            grader="0.1", python="3.12.1", torch="2.13.0", platform="Linux x86_64",
            isolation="bubblewrap", layers=("Landlock 7", "seccomp"),
        ),
        "started": "2026-01-14T10:00:00+00:00",
        "seconds": 1.5,
        "checks": checks,
        "score": sum(check.earned for check in checks),
        "max_score": sum(check.points for check in checks),
        "pending": sum(check.points for check in checks if check.outcome == "grader_fault"),
    }  # fmt: skip
    return Report(**(fields | changes))


def decided(**changes):
    """A report without a fault of the grader, worth 15 points."""
    return report(outcomes=OUTCOMES[:5], **changes)


PENDING = [report(), decided(exercise="3.10"), decided(exercise="3.2", text="plain")]
DECIDED = PENDING[1:]
COHORT = [
    *(decided(student="ada", exercise=number, text="plain") for number in ("3.1", "3.2", "3.10")),
    *(decided(student=FORMULA, exercise=number) for number in ("3.1", "3.2", "3.10")),
    *(decided(student="zoë, 李", exercise=number) for number in ("3.1", "3.2")),
    report(student="zoë, 李", exercise="3.10"),
    decided(student="late", exercise="3.1"),
]
ROSTER = (
    "\ufeffStudent,ID,SIS User ID,SIS Login ID,Section,Session 3 (77)\n"
    "    Points Possible,,,,,45\n"
    '"Lovelace, Ada",101,S-1,ada,"Genomics, A",\n'
    f'"{FORMULA.replace(chr(34), chr(34) * 2)}",102,"zoë, 李",,Genomics,\n'
    "Latecomer,late,S-3,l@x,Genomics,\n"
)


@pytest.fixture
def roster(tmp_path):
    path = tmp_path / "roster.csv"
    path.write_text(ROSTER, encoding="utf-8")
    return path


def golden(name, text):
    """The text is, byte for byte, that of the golden file."""
    path = GOLDEN / name
    if os.environ.get("GRADER_REWRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode())
    assert text.encode() == path.read_bytes()


def no_control_characters(text):
    assert not [c for c in text if not c.isprintable() and c not in "\n\u00a0"]
    assert str(SEED) not in text


# ------------------------------------------------------------------------------------------------------------ Gradescope

GRADESCOPE = json.loads((GOLDEN / "gradescope.schema.json").read_text(encoding="utf-8"))


def test_gradescope_scores_every_check_of_a_session():
    text = export.gradescope(DECIDED)
    golden("gradescope.json", text)
    no_control_characters(text)
    results = json.loads(text)
    jsonschema.validate(results, GRADESCOPE)
    assert sum(test["score"] for test in results["tests"]) == 2
    assert sum(test["max_score"] for test in results["tests"]) == 30
    assert [test["status"] for test in results["tests"]] == ["passed", *["failed"] * 4] * 2
    assert results["stdout_visibility"] == "hidden"


def test_gradescope_gives_no_score_at_all_while_points_are_pending():
    text = export.gradescope(PENDING)
    golden("gradescope_pending.json", text)
    results = json.loads(text)
    jsonschema.validate(results, GRADESCOPE)
    assert "score" not in results
    assert len(results["tests"]) == 16
    assert not [test for test in results["tests"] if "score" in test or "max_score" in test]
    assert "a person will look" in results["output"]
    assert "expected 2" not in results["tests"][5]["output"]  # how the grader failed is for the staff
    assert results["extra_data"]["pending"] == {"3.1": 6}


def test_gradescope_says_which_seal_was_used():
    results = json.loads(export.gradescope(DECIDED))
    assert "Isolation: bubblewrap" in results["output"]
    assert results["extra_data"]["seals"]["3.2"] == "bubblewrap (Landlock 7, seccomp)"


@pytest.mark.parametrize("face", [export.gradescope, export.github])
def test_the_result_of_one_student_is_never_that_of_two(face):
    with pytest.raises(InputError, match="reports of 2 students"):
        face([decided(student="ada"), decided(student="bob")])
    with pytest.raises(InputError, match=r"two reports on 3\.1"):
        face([decided(), decided()])


# ------------------------------------------------------------------------------------------------------------- JUnit XML

ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors", "skipped", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"},
    "properties": set(),
    "property": {"name", "value"},
    "testcase": {"classname", "name", "time"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
}
CHILDREN = {
    "testsuites": ["testsuite"],
    "testsuite": ["properties", "testcase"],
    "properties": ["property"],
    "testcase": ["properties", "failure", "error"],
}
"""What may stand in what, in this order: the part we use of Jenkins's schema."""


def check_junit(element):
    assert set(element.attrib) == ATTRIBUTES[element.tag]
    order = [CHILDREN[element.tag].index(child.tag) for child in element]
    assert order == sorted(order)
    for child in element:
        check_junit(child)
    if element.tag in ("testsuite", "testsuites"):
        for attribute, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
            assert int(element.get(attribute)) == len(list(element.iter(tag)))


def test_junit_has_a_suite_for_every_report_and_a_case_for_every_check():
    text = export.junit(PENDING)
    golden("junit.xml", text)
    no_control_characters(text)
    root = ElementTree.fromstring(text.encode())
    check_junit(root)
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("16", "12", "1")
    first = root.find("testsuite")
    assert [[child.get("type") for child in case if child.tag != "properties"] for case in first.iter("testcase")] == [
        [], *([outcome] for outcome in OUTCOMES[1:])
    ]  # fmt: skip
    properties = {one.get("name"): one.get("value") for one in first.find("properties")}
    assert (properties["score"], properties["max_score"], properties["pending"]) == ("1", "21", "6")
    assert (properties["isolation"], properties["layers"]) == ("bubblewrap", "Landlock 7, seccomp")


# --------------------------------------------------------------------------------------------------------------- Canvas


NO_GRADE = "-"
"""Moodle's. An empty cell becomes a zero where its import makes a new grade item."""


def rows_of(text):
    rows = list(csv.reader(io.StringIO(text), strict=True))
    assert {len(row) for row in rows} == {len(rows[0])}
    cells = [cell for row in rows for cell in row if cell != NO_GRADE]
    assert not [cell for cell in cells if cell.lstrip()[:1] and cell.lstrip()[0] in "=+-@"]
    no_control_characters(text)
    return rows


def test_canvas_has_a_column_for_the_session():
    table = gradebooks.canvas(COHORT, headers=["Session 3 (77)"])
    golden("canvas.csv", table.text)
    header, possible, *students = rows_of(table.text)
    assert header == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "Session 3 (77)"]
    assert possible == ["    Points Possible", "", "", "", "", "51"]
    assert {row[3]: row[5] for row in students} == {"ada": "3", f"'{FORMULA}": "3", "late": "", "zoë, 李": ""}
    assert table.complaints == [
        "late: Session 3 (77) has no grade: no report on 3.2, no report on 3.10",
        "zoë, 李: Session 3 (77) has no grade: 6 points of 3.10 are pending",
    ]


def test_canvas_takes_who_is_who_from_its_own_export(roster):
    table = gradebooks.canvas(COHORT, per="exercise", roster=roster)
    golden("canvas_roster.csv", table.text)
    header, possible, *students = rows_of(table.text)
    assert [name.partition(" ")[0] for name in header[5:]] == ["3.1", "3.2", "3.10"]
    assert possible[5:] == ["15", "15", "21"]
    assert [row[:3] for row in students] == [
        ["Lovelace, Ada", "101", "S-1"],
        ["Latecomer", "late", "S-3"],
        [f"'{FORMULA}", "102", "zoë, 李"],
    ]
    assert [row[5:] for row in students] == [["1", "1", "1"], ["1", "", ""], ["1", "1", ""]]
    assert table.complaints[0] == f"{FORMULA}: not in the roster, or there more than once; left out"
    assert len(table.complaints) == 4


def test_a_grade_goes_to_nobody_when_two_could_be_meant(tmp_path):
    path = tmp_path / "roster.csv"
    path.write_text("Student,ID,SIS User ID,SIS Login ID,Section\nA,1,7,a,\nB,7,2,b,\nC,3,,c,\n")
    table = gradebooks.canvas([decided(student="7"), decided(student="c")], roster=path)
    assert [row[0] for row in rows_of(table.text)[2:]] == ["C"]
    assert len(table.complaints) == 1


def test_a_student_with_one_name_in_two_columns_is_one(tmp_path):
    path = tmp_path / "roster.csv"
    path.write_text("Student,ID,SIS User ID,SIS Login ID,Section\nA,1,a,a,\n")
    table = gradebooks.canvas([decided(student="a")], roster=path)
    assert (rows_of(table.text)[2][:2], table.complaints) == (["A", "1"], [])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no column Student"),
        (b"Name,Mail\nA,b\n", "no column Student"),
        (b"Student,Mail\nA,b\n", "no column ID"),
        (b"Student,ID\n\xff,1\n", "not a CSV file in UTF-8"),
        (b'Student,ID\n"a"b,1\n', "not a CSV file in UTF-8"),
    ],
)
def test_what_is_no_roster_is_refused(tmp_path, content, words):
    (tmp_path / "roster.csv").write_bytes(content)
    with pytest.raises(InputError, match=words):
        gradebooks.canvas(COHORT, roster=tmp_path / "roster.csv")


# --------------------------------------------------------------------------------------------------------------- Moodle


def test_moodle_has_points_and_feedback():
    table = gradebooks.moodle(COHORT)
    golden("moodle.csv", table.text)
    header, *students = rows_of(table.text)
    assert header == ["username", "Session 3", "Session 3 (feedback)"]
    assert {row[0]: row[1] for row in students} == {"ada": "3", f"'{FORMULA}": "3", "late": "-", "zoë, 李": "-"}
    assert students[0][2].startswith("3.1 1/15 (S 1/3 G 0/7 C 0/5); ")
    assert table.complaints == [
        "late: Session 3 has no grade: no report on 3.2, no report on 3.10",
        "zoë, 李: Session 3 has no grade: 6 points of 3.10 are pending",
    ]


def test_moodle_has_no_empty_grade_and_no_zero_for_what_is_pending():
    rows = rows_of(gradebooks.moodle([report(student="ada", text="plain")], per="exercise").text)
    assert rows[1][:2] == ["ada", NO_GRADE]


def test_moodle_per_exercise():
    header, *students = rows_of(gradebooks.moodle(COHORT, per="exercise", key="email", headers=["a", "b", "c"]).text)
    assert header == ["email", "a", "a (feedback)", "b", "b (feedback)", "c", "c (feedback)"]
    points = {row[0]: row[1::2] for row in students}
    assert points == {"ada": ["1"] * 3, f"'{FORMULA}": ["1"] * 3, "late": ["1", "-", "-"], "zoë, 李": ["1", "1", "-"]}


@pytest.mark.parametrize("name", ["=1", "+1", "-1", "@SUM(1)", " =1", "\t=1", "\r=1", "\n=1", "＝1", "＠x", "\u00a0=1"])
@pytest.mark.parametrize("face", [gradebooks.canvas, gradebooks.moodle])
def test_no_name_becomes_a_formula(face, name):
    rows = rows_of(face([decided(student=name)], headers=[name]).text)
    cells = [cell for row in rows for cell in row if "1" in cell or "x" in cell]
    assert cells
    assert not [cell for cell in cells if re.match(r"\s*[=+\-@＝＠\t\r\n]", cell)]


@pytest.mark.parametrize("face", [gradebooks.canvas, gradebooks.moodle])
def test_a_grade_needs_a_student_and_a_column(face):
    with pytest.raises(InputError, match="names no student"):
        face([decided(student="")])
    with pytest.raises(InputError, match="2 headers for 1 columns: Session 3"):
        face([decided()], headers=["a", "b"])


@pytest.mark.parametrize("face", [gradebooks.canvas, gradebooks.moodle])
def test_of_two_reports_the_later_one_counts(face):
    later = decided(started="2026-02-01T00:00:00+00:00", score=9)
    for reports in ([later, decided()], [decided(), later]):
        assert "9" in rows_of(face(reports).text)[-1]


# ------------------------------------------------------------------------------------------------------- GitHub Actions

GITHUB = {
    "type": "object",
    "additionalProperties": False,
    "required": ["version", "status", "score", "max_score", "pending", "isolation", "tests"],
    "properties": {
        "version": {"const": 1},
        "status": {"enum": ["pass", "fail", "error"]},
        "score": {"type": "integer", "minimum": 0},
        "max_score": {"type": "integer", "minimum": 0},
        "pending": {"type": "integer", "minimum": 0},
        "isolation": {"type": "string"},
        "tests": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "exercise", "kind", "status", "score", "max_score", "message", "execution_time"],
                "properties": {
                    "name": {"type": "string", "pattern": "^[^\n]+$"},
                    "exercise": {"type": "string"},
                    "kind": {"enum": ["shapes", "gradients", "convergence", "throughput"]},
                    "status": {"enum": ["pass", "fail", "error"]},
                    "score": {"type": "integer", "minimum": 0},
                    "max_score": {"type": "integer", "minimum": 0},
                    "message": {"type": ["string", "null"]},
                    "execution_time": {"type": "string", "pattern": r"^\d+\.\d{3}s$"},
                },
            },
        },
    },
}


def test_github_has_one_result():
    text = export.github(PENDING)
    golden("github.json", text)
    no_control_characters(text)
    result = json.loads(text)
    jsonschema.validate(result, GITHUB)
    assert (result["status"], result["score"], result["max_score"], result["pending"]) == ("error", 3, 51, 6)
    assert sum(test["score"] for test in result["tests"]) == 3
    assert sum(test["max_score"] for test in result["tests"]) == 51
    assert [test["status"] for test in result["tests"]][:6] == ["pass", "fail", "fail", "fail", "fail", "error"]


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [(["correct"] * 2, "pass"), (["correct", "wrong"], "fail"), (["wrong", "grader_fault"], "error"), ([], "error")],
)
def test_github_passes_only_what_is_all_correct(outcomes, status):
    assert json.loads(export.github([report(outcomes=outcomes)]))["status"] == status


def test_a_summary_is_markdown_of_ours_alone():
    text = export.summary(PENDING)
    golden("summary.md", text)
    no_control_characters(text)
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    inline = [child for token in tokens for child in token.children or ()]
    assert {token.type for token in inline} <= {"text", "text_special", "strong_open", "strong_close", "softbreak"}
    assert not [
        token for token in tokens if token.type.startswith(("heading", "bullet", "blockquote", "fence", "code"))
    ]
    blocks = [token.content for token in tokens if token.type == "html_block"]
    assert len(blocks) == 13
    assert all(re.fullmatch(r"<pre>[^<>]*</pre>\n?", block) for block in blocks)
    assert len([token for token in tokens if token.type == "tr_open"]) == 1 + len(PENDING)


# ------------------------------------------------------------------------------------------------------ the command line


@pytest.fixture
def run(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        written = capsys.readouterr()
        return left.value.code, written.out, written.err

    return call


@pytest.fixture
def folder(tmp_path):
    """A folder of the cohort's reports, as ``grader grade 3 ... --out`` writes it."""
    for number, one in enumerate(COHORT):
        path = tmp_path / "reports" / str(number) / f"{one.exercise}.json"
        path.parent.mkdir(parents=True)
        path.write_text(one.to_json(), encoding="utf-8")
    return tmp_path / "reports"


def test_a_folder_of_reports_becomes_a_file(run, folder, tmp_path):
    code, out, err = run(
        "export", folder, "--format", "canvas", "--assignment", "Session 3 (77)", "--to", tmp_path / "x.csv"
    )
    assert (code, out) == (FAILED, "")
    assert err.splitlines() == [
        "grader: late: Session 3 (77) has no grade: no report on 3.2, no report on 3.10",
        "grader: zoë, 李: Session 3 (77) has no grade: 6 points of 3.10 are pending",
    ]
    golden("canvas.csv", (tmp_path / "x.csv").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "face"), [("gradescope", export.gradescope), ("github", export.github)])
def test_a_list_of_reports_goes_to_standard_output(run, tmp_path, name, face):
    path = tmp_path / "reports.json"
    path.write_text(json.dumps([json.loads(one.to_json()) for one in reversed(DECIDED)]))
    expected = face(export.read_reports([path]))
    assert run("export", path, "--format", name, "--to", "-") == (DONE, expected, "")
    assert [one.exercise for one in export.read_reports([path])] == ["3.2", "3.10"]


def test_what_is_pending_is_said_and_written(run, tmp_path):
    (tmp_path / "one.json").write_text(report().to_json())
    code, _, err = run("export", tmp_path / "one.json", "--format", "gradescope", "--to", tmp_path / "results.json")
    assert code == FAILED
    assert err.startswith("grader: ada: 6 points of 3.1 are pending: expected 2, got \\x1b")
    assert err.count("\n") == 1
    assert "score" not in json.loads((tmp_path / "results.json").read_text())["tests"][0]


def test_a_job_summary_is_appended(run, tmp_path):
    (tmp_path / "one.json").write_text(decided(text="plain").to_json())
    (tmp_path / "summary.md").write_text("before\n\n")
    code, out, _ = run(
        "export", tmp_path / "one.json", "--format", "github", "--to", "-", "--summary", tmp_path / "summary.md"
    )
    assert code == DONE
    assert json.loads(out)["status"] == "fail"
    assert (tmp_path / "summary.md").read_text().startswith("before\n\n| Exercise |")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("nowhere --format junit --to out", "nowhere: No such file or directory"),
        ("empty --format junit --to out", "empty: no reports"),
        ("bad.json --format junit --to out", "bad.json: not a report"),
        ("list.json --format junit --to out", "no reports"),
        ("good.json --format html --to out", "invalid choice: 'html'"),
        ("good.json --format junit", "required: --to"),
        ("good.json --format junit --to out --per exercise", "--per means nothing with --format junit"),
        ("good.json --format moodle --to out --roster r", "--roster means nothing with --format moodle"),
        ("good.json --format canvas --to out --key email", "--key means nothing with --format canvas"),
        ("good.json --format canvas --to out --summary s", "--summary means nothing with --format canvas"),
        ("good.json --format canvas --to out --roster nowhere", "nowhere: No such file or directory"),
        ("good.json --format canvas --to out --assignment a --assignment b", "2 headers for 1 columns"),
        ("good.json good.json --format github --to out", "two reports on 3.1"),
    ],
)
def test_bad_input_is_one_line_and_no_file(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "good.json").write_text(decided().to_json())
    (tmp_path / "bad.json").write_text('{"schema_version": 1}')
    (tmp_path / "list.json").write_text("[]")
    code, out, err = run("export", *arguments.split())
    assert (code, out, err.count("\n")) == (BAD_INPUT, "", 1)
    assert words in err
    assert not Path("out").exists()


@pytest.fixture
def visible(made_up, tmp_path, monkeypatch):
    """A made-up course in the current folder, and a right answer in ``mine.py`` that prints."""
    monkeypatch.chdir(made_up.make(tmp_path, {"double": made_up.quick()}).root)
    Path("mine.py").write_text("print('loaded')\n\n\ndef double(x):\n    print('called')\n    return 2 * x\n")


def test_check_prints_a_report_and_nothing_of_what_the_file_prints(visible, run):
    code, out, err = run("check", "3.1", "mine.py", "--json", "-")
    assert (code, err) == (DONE, "loaded\n")
    assert Report.from_json(out).score == 2


def test_check_writes_a_report_that_can_be_exported(visible, run):
    assert run("check", "3.1", "--json", "new/one.json")[::2] == (FAILED, "")
    assert run("export", "new", "--format", "github", "--to", "result.json") == (DONE, "", "")
    result = json.loads(Path("result.json").read_text())
    assert (result["status"], result["score"], result["max_score"]) == ("fail", 0, 2)

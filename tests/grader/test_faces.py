"""What the terminal and the web pages show of a report: everything, and nothing as markup of their own."""

import io
import math
import re
import xml.etree.ElementTree as ElementTree
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console

from grader.html import cohort_page, page_name, report_page, write_pages
from grader.report import Check, Environment, Figure, Kind, Outcome, Report
from grader.terminal import OUTCOMES, one_line, printable, show_cohort, show_report

NAN, INF = math.nan, math.inf
KINDS = get_args(Kind)
VOID = {"meta", "link", "br", "img", "input", "hr"}
PAYLOADS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style></pre></svg><h1>",
    "[bold red]markup[/bold red] [/] [link=http://evil]x[/link] :smile:",
    "\x1b[2J\x1b]0;owned\x07\x9b31m\x08\r",
    "\u202egnp.exe\u2066\u200b\ufeff\x00\ufffe",
    "$title ${body} $ %s {0}",
    "Ünïcödé 李四 🧬 e\u0301",
    "long " + "x" * 20_000,
    "\n" * 5_000,
]
FIGURES = (
    Figure(style="curve", title="empty", series={}),
    Figure(style="curve", title="no values", series={"a": [], "b": [NAN, INF, -INF]}, limit=NAN),
    Figure(style="curve", title="gaps", unit="nats", series={"a": [1.0, NAN, 2.0, 3.0, INF], "b": [0.5]}, limit=0.7),
    Figure(style="curve", title="flat", series={"a": [0.0] * 3, "b": [-0.0]}),
    Figure(style="curve", title="enormous", series={"a": [1e308, -1e308, 5e-324, 1.0]}, limit=INF),
    Figure(style="curve", title="decades", series={"a": [10.0 ** (5 - i / 50) for i in range(600)]}),
    Figure(style="curve", title="tiny", series={"a": [5e-324, 1e-320]}),
    Figure(style="curve", title="many", series={f"line {i}": [float(i), i + 1.0] for i in range(40)}),
    Figure(style="bars", title="none", series={}),
    Figure(style="bars", title="bars", unit="ms", series={"a": [3.0], "b": [-2.0], "c": [NAN], "d": []}, limit=2.5),
    Figure(style="bars", title="infinite", series={"a": [INF], "b": [0.0]}, limit=INF),
)


def make_report(outcomes=tuple(OUTCOMES), text="plain", student="Ada", exercise="3.1", figures=(), **changes):
    checks = tuple(
        Check(
            id=f"test_{number}",
            kind=KINDS[number * len(KINDS) // len(outcomes)],
            title=f"check {number} {text}",
            points=3,
            earned=3 if outcome == "correct" else 0,
            outcome=outcome,
            rationale=f"rationale {number} {text}",
            help=f"help {number} {text}",
            figures=figures,
        )
        for number, outcome in enumerate(outcomes)
    )
    fields = {
        "exercise": exercise,
        "title": f"Basic MLP {text}",
        "student": student,
        "submission": f"ex1_basic_mlp.py {text}",
        "submission_digest": "a" * 64,
        "suite_digest": "b" * 64,
        "seed": 4711,
        "environment": Environment(
            grader="0.1", python="3.12", torch="2.13", platform=f"Linux {text}", isolation="child-process"
        ),
        "started": "2026-01-14T10:00:00Z",
        "seconds": 2.5,
        "checks": checks,
        "score": sum(check.earned for check in checks),
        "max_score": 3 * len(checks),
        "pending": sum(check.points for check in checks if check.outcome == "grader_fault"),
    }
    return Report(**(fields | changes))


class Page(HTMLParser):
    """Every tag that is opened is closed, in order; collects tags, attributes and text."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(page)
        self.close()
        assert self.open == []
        assert page.startswith("<!doctype html>")

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def check_page(page):
    parsed = Page(page)
    names = [name for name, _ in parsed.attributes]
    assert not {"script", "img", "link", "iframe", "object", "base", "form"} & set(parsed.tags)
    assert not [name for name in names if name.startswith("on") or name in ("src", "style")]
    assert all(re.match(r"#check-\d+$|[a-z0-9-]+\.html$", value) for name, value in parsed.attributes if name == "href")
    ids = [value for name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for name, value in parsed.attributes if name == "href" and value.startswith("#")} <= set(ids)
    assert ("lang", "en") in parsed.attributes
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in parsed.attributes
    assert "@import" not in page
    assert "url(" not in page
    assert all(character.isprintable() or character in "\n\t\u00a0\u200c\u200d" for character in unescape(page))
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        for part in ElementTree.fromstring(svg).iter():
            for name, value in part.attrib.items():
                if name in ("x", "y", "x1", "x2", "y1", "y2", "width", "height", "cx", "cy"):
                    assert -10 <= float(value) <= 1200, (name, value)
                if name == "points":
                    assert re.fullmatch(r"(-?[\d.]+,-?[\d.]+ ?)+", value)
    return parsed


def in_terminal(show, *arguments, width=100, encoding="utf-8", **options):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="")
    console = Console(file=file, width=width, **({"color_system": None} | options))
    show(*arguments, console)
    file.flush()
    return raw.getvalue().decode(encoding)


def squeezed(text):
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize("text", PAYLOADS, ids=range(len(PAYLOADS)))
def test_page_of_hostile_texts(text):
    figure = Figure(style="curve", title=text, unit=text, series={text: [1.0, 2.0], text + "2": []}, limit=1.5)
    bars = Figure(style="bars", title=text, unit=text, series={text: [1.0]}, limit=1.5)
    report = make_report(text=text, student=text, exercise=text, figures=(figure, bars))
    parsed = check_page(report_page(report))
    for check in report.checks:
        assert one_line(check.title) in parsed.text
        assert printable(check.rationale.strip("\n")) in parsed.text
    check_page(cohort_page([report, make_report()]))


@pytest.mark.parametrize("text", PAYLOADS, ids=range(len(PAYLOADS)))
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_terminal_of_hostile_texts(text, encoding):
    report = make_report(text=text, student=text, exercise=text)
    for width in (100, 30):
        for shown in (
            in_terminal(show_report, report, width=width, encoding=encoding),
            in_terminal(show_cohort, [report, make_report()], width=width, encoding=encoding),
        ):
            assert all(character.isprintable() or character in "\n\u00a0\u200c\u200d" for character in shown)
            assert len(shown.splitlines()) < 4_000
    if encoding == "utf-8":
        shown = squeezed(in_terminal(show_report, report, width=400))
        assert all(squeezed(one_line(check.title))[:150] in shown for check in report.checks)


def test_colours_come_from_the_grader_only():
    shown = in_terminal(show_report, make_report(text=PAYLOADS[4]), color_system="standard", force_terminal=True)
    assert "\x1b[2J" not in shown
    assert "\x1b]" not in shown
    assert re.sub(r"\x1b\[[\d;]*m", "", shown).isascii() is False
    assert "\x1b" not in re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert "\\x1b[2J" in re.sub(r"\x1b\[[\d;]*m", "", shown)


def test_everything_of_a_report_is_shown():
    report = make_report(figures=FIGURES)
    page, shown = check_page(report_page(report)).text, in_terminal(show_report, report)
    for check in report.checks:
        for face in (page, shown):
            assert check.title in face
            assert OUTCOMES[check.outcome].name in face
            assert check.outcome == "correct" or check.help in face
    for face in (page, shown):
        assert "3 pending" in face or "3 points are pending" in face
        assert "4711" in face
        assert "costs you nothing" in face
    assert "Score 3/18, 3 pending" in shown
    assert "3 / 18" in page
    assert "a" * 64 in page
    assert all(figure.title in page for figure in FIGURES)


def test_outcomes_differ_without_colour():
    assert set(OUTCOMES) == set(get_args(Outcome))
    for column in ("mark", "ascii", "name"):
        assert len({getattr(words, column) for words in OUTCOMES.values()}) == len(OUTCOMES)


def test_checks_with_one_message_share_a_block():
    report = make_report(["not_attempted"] * 4)
    same = tuple(check.model_copy(update={"rationale": "Fill in forward.", "help": ""}) for check in report.checks)
    report = report.model_copy(update={"checks": same})
    assert in_terminal(show_report, report).count("Fill in forward.") == 1
    assert check_page(report_page(report)).text.count("Fill in forward.") == 1


def test_full_marks_and_no_checks():
    full = make_report(["correct"] * 4)
    assert "All 4 checks passed" in in_terminal(show_report, full)
    assert "All 4 checks passed" in check_page(report_page(full)).text
    empty = make_report([])
    assert "passed" not in in_terminal(show_report, empty)
    assert "passed" not in check_page(report_page(empty)).text


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.title)
def test_every_figure_is_drawn_or_explained(figure):
    text = check_page(report_page(make_report(figures=(figure,)))).text
    assert figure.title in text
    if not any(figure.series.values()):
        assert "nothing to draw" in text


def test_what_cannot_be_drawn_is_said():
    text = check_page(report_page(make_report(figures=(FIGURES[2],)))).text
    assert "a: 2 of 5 values cannot be drawn, first at measurement 2 (nan)." in text
    assert "a, last inf" in text


def test_a_long_curve_stays_small_and_keeps_its_spike():
    flat = [1.0] * 50_000
    flat[31_234] = 100.0
    page = report_page(make_report(["wrong"], figures=(Figure(style="curve", title="t", series={"a": flat}),)))
    points = re.search(r'points="([^"]*)"', page)[1].split()
    assert len(points) < 1_000
    assert len({point.split(",")[1] for point in points}) == 2


def test_cohort_shows_every_student_and_score():
    names = ["Ada", "Barbara", "Rosalind"]
    reports = [make_report(["correct", "wrong"], student=n, exercise=f"3.{e}") for n in names for e in range(1, 7)]
    reports.append(make_report(["grader_fault", "correct"], student="Late", exercise="3.10"))
    page = check_page(cohort_page(reports)).text
    for face in (page, *(in_terminal(show_cohort, reports, width=width) for width in (120, 90, 50))):
        assert all(name in face for name in [*names, "Late"])
        assert "18/42" in face
        assert "3/42?" in face
        assert face.index("3.6") < face.index("3.10")
    assert "Most failed, by 3 of 3: check 1 plain." in page


def test_six_exercises_fit_120_columns():
    reports = [make_report(["correct"] * 8, student="A" * 300, exercise=f"3.{e}") for e in range(1, 7)]
    shown = in_terminal(show_cohort, reports, width=120)
    assert "6 6 6 6" in shown
    assert "S G C T" in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_the_last_report_counts_and_the_earlier_is_linked(tmp_path):
    old = make_report(["wrong"] * 2, submission_digest="c" * 64, started="2026-01-13T10:00:00Z")
    new = make_report(["correct"] * 2)
    index = write_pages([new, old], tmp_path).read_text()
    assert "earlier: 0/6" in check_page(index).text
    assert page_name(old) in index
    assert "6/6" in in_terminal(show_cohort, [new, old])
    again = old.model_copy(update={"checks": new.checks, "score": 6, "started": "2026-01-15T10:00:00Z"})
    assert page_name(again) == page_name(old)


def test_no_reports():
    check_page(cohort_page([]))
    assert "No reports" in in_terminal(show_cohort, [])


def test_pages_stay_inside_the_folder_and_do_not_collide(tmp_path):
    names = [
        "../../x",
        "..",
        "/etc/passwd",
        "a/b",
        "a_b",
        "A/B",
        "a\\b",
        "CON",
        "李四",
        "李五",
        "",
        "\x00",
        "n" * 300,
        "n" * 301,
    ]
    folder = tmp_path / "deep" / "pages"
    reports = [make_report(student=name) for name in names]
    reports += [make_report(exercise=name) for name in names]
    index = write_pages(reports, folder)
    assert index == folder / "index.html"
    written = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert {path.parent for path in written} == {folder}
    assert len({path.name.lower() for path in written}) == len(reports) + 1
    assert all(re.fullmatch(r"[a-z0-9-]+\.html", path.name) and len(path.name) < 120 for path in written)
    linked = set(re.findall(r'href="([^"#]+)"', index.read_text(encoding="utf-8")))
    assert linked == {path.name for path in written} - {"index.html"}


def test_page_shows_what_json_brings_back():
    report = make_report(figures=FIGURES)
    again = Report.from_json(report.to_json())
    assert again.to_json() == report.to_json()
    assert report_page(again) == report_page(report)
    line = again.checks[0].figures[1].series["b"]
    assert math.isnan(line[0])
    assert line[1:] == [INF, -INF]
    assert math.isnan(again.checks[0].figures[1].limit)


def test_page_needs_no_network():
    page = report_page(make_report(figures=FIGURES)) + cohort_page([make_report()])
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page


def test_template_is_found_beside_the_package():
    import grader

    assert (Path(grader.__file__).parent / "templates" / "page.html").is_file()

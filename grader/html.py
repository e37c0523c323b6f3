"""Reports as web pages: one for each report, and one for the cohort. Static, self-contained, printable; no script.

Every text may come from a submission. Pages are built with :func:`element` alone, which escapes whatever it is given.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from grader.report import Check, Figure, Outcome, Report, write_atomically
from grader.terminal import OUTCOMES, Cohort, matters, one_line, points, printable, score

STYLES: dict[Outcome, str] = {"correct": "good", "wrong": "bad", "raised": "bad"}  # the others: "wait"
MOST_LINES, MOST_BARS, MOST_POINTS = 12, 24, 400
HUGE = 1e30  # a larger number is off every scale


class Markup(str):
    """Text that is already HTML."""


def element(tag: str, *children: str, **attributes: str | float) -> Markup:
    """``<tag …>children</tag>``, everything escaped. ``class_`` stands for class, ``aria_label`` for aria-label."""
    opening = [tag]
    for name, value in attributes.items():
        text = value if isinstance(value, str) else f"{value:.2f}"
        opening.append(f'{name.rstrip("_").replace("_", "-")}="{text if isinstance(text, Markup) else escape(text)}"')
    inside = "".join(child if isinstance(child, Markup) else escape(printable(child)) for child in children)
    return Markup(f"<{' '.join(opening)}>{inside}</{tag}>")


def report_page(report: Report) -> str:
    """One report as a page."""
    where = " · ".join(
        one_line(text) for text in (f"Exercise {report.exercise}", report.submission, report.student) if text
    )
    parts = [
        element("p", where, class_="quiet"),
        element("h1", one_line(report.title)),
        _score(report),
        *_next_step(report),
        element("h2", "Checks"),
        _checks_table(report),
    ]
    if groups := matters(report):
        parts.append(element("h2", "What to look at"))
        parts += [_group(report, group) for group in groups]
    if shown := [check for check in report.checks if check.outcome == "correct" and (check.figures or check.rationale)]:
        parts.append(element("h2", "What went well"))
        parts += [_group(report, [check]) for check in shown]
    parts.append(_provenance(report))
    return _page(f"{report.exercise} {report.title}: {score(report)}", element("main", *parts))


def cohort_page(reports: Sequence[Report]) -> str:
    """Students × exercises, with links to the pages that :func:`write_pages` writes, and a summary per exercise."""
    cohort = Cohort.of(reports)
    seeds = sorted({report.seed for report in reports})
    seed = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"
    counted = f"{len(cohort.students)} students, {len(cohort.exercises)} exercises, {len(reports)} reports, {seed}"
    parts = [element("h1", "Cohort"), element("p", counted, class_="quiet"), element("h2", "Students")]
    parts.append(element("div", _students_table(cohort), class_="scroll"))
    for number, exercise in enumerate(cohort.exercises):
        parts += _exercise_summary(cohort, exercise, number)
    return _page("Cohort", element("main", *parts, class_="wide"))


def page_name(report: Report) -> str:
    """The file name of a report's page: safe on every file system, and the same when the same work is graded again."""
    key = (
        report.student,
        report.exercise,
        report.submission,
        report.submission_digest,
        report.suite_digest,
        report.seed,
    )
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:20]
    readable = re.sub(r"[^a-z0-9]+", "-", f"{report.student[:30]} {report.exercise[:30]}".lower()).strip("-")
    return f"{readable or 'report'}-{digest}.html"


def write_pages(reports: Sequence[Report], folder: Path) -> Path:
    """Write a page per report and then ``index.html``, whose path is returned."""
    for report in sorted(reports, key=lambda report: report.started):  # of two verdicts on the same work the last stays
        write_page(report, folder)
    return write_index(reports, folder)


def write_page(report: Report, folder: Path) -> None:
    """Write the page of one report."""
    write_atomically(folder / page_name(report), report_page(report))


def write_index(reports: Sequence[Report], folder: Path) -> Path:
    """Write ``index.html`` over reports (or their summaries), whose pages are there; returns its path."""
    index = folder / "index.html"
    write_atomically(index, cohort_page(reports))
    return index


@cache
def _template() -> Template:
    return Template((files("grader") / "templates" / "page.html").read_text(encoding="utf-8"))


def _page(title: str, body: Markup) -> str:
    return _template().substitute(title=escape(one_line(title)), body=body)


# ---------------------------------------------------------------------------------------------------- one report


def _score(report: Report) -> Markup:
    entries = []
    for kind, (earned, possible) in report.by_kind().items():
        meter = _meter(earned, possible)
        entries.append(element("div", element("dt", kind.capitalize()), element("dd", f"{earned}/{possible} ", meter)))
    big = element("p", str(report.score), element("span", f" / {report.max_score}"), class_="big")
    return element("div", big, element("dl", *entries, class_="kinds"), class_="score")


def _next_step(report: Report) -> Iterator[Markup]:
    if report.pending:
        pending = "1 point is" if report.pending == 1 else f"{report.pending} points are"
        text = f"{pending} pending: a fault of the grader, not yours. It costs you nothing."
        yield element("p", OUTCOMES["grader_fault"].mark + " " + text, class_="next")
    open_checks = [check for check in report.checks if check.outcome not in ("correct", "grader_fault")]
    if open_checks:
        link = element("a", one_line(open_checks[0].title), href=f"#{_anchor(report, open_checks[0])}")
        yield element("p", "Start with: ", link, class_="next")
    elif report.checks and not report.faulty:
        yield element("p", f"✓ All {len(report.checks)} checks passed. Well done.", class_="next good")


def _checks_table(report: Report) -> Markup:
    linked = {id(check): _anchor(report, group[0]) for group in matters(report) for check in group}
    rows = []
    for kind, (earned, possible) in report.by_kind().items():
        total = element("td", f"{earned}/{possible}", class_="number")
        heading = element("th", kind.capitalize(), scope="row", colspan=2)
        rows.append(element("tr", heading, element("td", _meter(earned, possible)), total, class_="group"))
        for check in report.checks:
            if check.kind == kind:
                title: str = one_line(check.title)
                if anchor := linked.get(id(check)):
                    title = element("a", title, href=f"#{anchor}")
                words, style = OUTCOMES[check.outcome], STYLES.get(check.outcome, "wait")
                mark = element("span", words.mark, class_=f"mark {style}", aria_hidden="true")
                cells = (
                    element("td", mark),
                    element("th", title, scope="row"),
                    element("td", words.name, class_=f"outcome {style}"),
                    element("td", points(check), class_="number"),
                )
                rows.append(element("tr", *cells))
    return element("table", _header("", "Check", "Outcome", "#Points"), element("tbody", *rows))


def _group(report: Report, group: Sequence[Check]) -> Markup:
    """The checks of one group under one message, with their figures."""
    first = group[0]
    words, style = OUTCOMES[first.outcome], STYLES.get(first.outcome, "wait")
    mark = element("span", words.mark, class_=f"mark {style}", aria_hidden="true")
    parts = [element("h3", mark, one_line(check.title)) for check in group]
    kinds = " and ".join(dict.fromkeys(check.kind for check in group)).capitalize()
    outcome = f"{kinds}: {words.name}, {', '.join(points(check) for check in group)}"
    parts.append(element("p", outcome, class_=f"outcome {style}"))
    if words.meaning:
        parts.append(element("p", words.meaning, class_="quiet"))
    if first.rationale.strip():
        parts.append(element("pre", first.rationale.strip("\n")))
    if first.help.strip():
        parts.append(element("div", first.help.strip(), class_="help"))
    for check in group:
        parts += [_figure(f, f"{_anchor(report, check)}-{number}") for number, f in enumerate(check.figures)]
    return element("article", *parts, id=_anchor(report, first))


def _anchor(report: Report, check: Check) -> str:
    return f"check-{next(number for number, other in enumerate(report.checks) if other is check)}"


def _provenance(report: Report) -> Markup:
    environment = report.environment
    software = f"grader {environment.grader}, Python {environment.python}, PyTorch {environment.torch}"
    facts = {
        "Graded": f"{report.started}, in {report.seconds:.1f} s",
        "Seed": str(report.seed),
        "Submission": f"sha256 {report.submission_digest}",
        "Suite": f"sha256 {report.suite_digest}",
        "With": f"{software} on {environment.platform}, {environment.isolation}",
    }
    entries = [part for name, fact in facts.items() for part in (element("dt", name), element("dd", one_line(fact)))]
    return element("footer", element("dl", *entries))


# ---------------------------------------------------------------------------------------------------- the cohort


def _students_table(cohort: Cohort) -> Markup:
    rows = []
    for student in cohort.students:
        cells = [element("th", one_line(student), scope="row")]
        for exercise in cohort.exercises:
            attempts = cohort.cells.get((student, exercise), [])
            cells.append(_cell(attempts) if attempts else element("td", "–", class_="quiet"))
        rows.append(element("tr", *cells, element("td", cohort.total(student), class_="number")))
    heads = [one_line(exercise) for exercise in cohort.exercises]
    caption = element(
        "caption", "S shapes, G gradients, C convergence, T throughput. – nothing handed in. ? points pending."
    )
    return element("table", caption, _header("Student", *heads, "#Total"), element("tbody", *rows))


def _cell(attempts: Sequence[Report]) -> Markup:
    report = attempts[-1]
    full = report.score == report.max_score
    link = element("a", score(report), href=page_name(report))
    parts = [link, element("span", " ✓", class_="good") if full else ""]
    pairs = (f"{kind[0].upper()} {earned}/{possible}" for kind, (earned, possible) in report.by_kind().items())
    spans = [part for pair in pairs for part in (element("span", pair, class_="whole"), " ")]
    parts.append(element("div", *spans, class_="quiet"))
    earlier = {page_name(old): score(old) for old in attempts[:-1] if page_name(old) != page_name(report)}
    if earlier:
        links = [part for name, text in earlier.items() for part in (" ", element("a", text, href=name))]
        parts.append(element("div", "earlier:", *links, class_="quiet"))
    return element("td", *parts)


def _exercise_summary(cohort: Cohort, exercise: str, number: int) -> Iterator[Markup]:
    """How many passed each check."""
    reports = cohort.handed_in(exercise)
    checks: dict[str, Check] = {}
    outcomes: dict[str, Counter[Outcome]] = {}
    for check in (check for report in reports for check in report.checks):
        checks.setdefault(check.id, check)
        outcomes.setdefault(check.id, Counter())[check.outcome] += 1
    failures = {id_: count.total() - count["correct"] - count["grader_fault"] for id_, count in outcomes.items()}
    yield element("h2", f"{one_line(exercise)} {one_line(reports[0].title)}")
    full = sum(report.score == report.max_score for report in reports)
    text = f"{len(reports)} handed in, {full} with full marks."
    worst = max(failures.values(), default=0)
    if worst:
        titles = [one_line(checks[id_].title) for id_, count in failures.items() if count == worst]
        text += f" Most failed, by {worst} of {len(reports)}: {'; '.join(titles)}."
    yield element("p", text)
    rows = []
    for id_, check in checks.items():
        count = outcomes[id_]
        passed = element(
            "td", _meter(count["correct"], count.total()), f" {count['correct']} of {count.total()}", class_="whole"
        )
        others = [element("td", str(count[o] or "·"), class_="number") for o in OUTCOMES if o != "correct"]
        title = element("th", one_line(check.title), scope="row")
        rows.append(element("tr", title, element("td", check.kind, class_="whole"), passed, *others))
    names = [f"#{words.name.removeprefix('your code ')}" for outcome, words in OUTCOMES.items() if outcome != "correct"]
    table = element("table", _header("Check", "Kind", "Passed", *names), element("tbody", *rows))
    yield element("div", table, class_="scroll")


def _header(*names: str) -> Markup:
    """A table's head; the names of columns of numbers begin with ``#``."""
    cells = []
    for name in names:
        if not name:
            cells.append(element("td"))
        elif name.startswith("#"):
            cells.append(element("th", name[1:], scope="col", class_="number"))
        else:
            cells.append(element("th", name, scope="col"))
    return element("thead", element("tr", *cells))


# ---------------------------------------------------------------------------------------------------- figures


def _meter(part: int, whole: int) -> Markup:
    """A small bar; the numbers stand beside it."""
    track = element("rect", width=72, height=8, rx=2, class_="track")
    fill = element("rect", width=72 * part / whole if whole else 0, height=8, rx=2, class_="fill")
    return element("svg", track, fill, width=72, height=8, aria_hidden="true")


def _figure(figure: Figure, name: str) -> Markup:
    svg, notes = _curves(figure, name) if figure.style == "curve" else _bars(figure, name)
    caption = [element("strong", one_line(figure.title)), *(element("div", note) for note in notes)]
    return element("figure", element("figcaption", *caption), svg)


def _svg(figure: Figure, name: str, height: float, summary: str, drawing: Sequence[Markup]) -> Markup:
    title = element("title", one_line(figure.title), id=f"{name}-title")
    described = element("desc", summary, id=f"{name}-desc")
    labels = f"{name}-title {name}-desc"
    box = f"0 0 640 {height:.0f}"
    return element("svg", title, described, *drawing, viewBox=box, role="img", class_="plot", aria_labelledby=labels)


def _curves(figure: Figure, name: str) -> tuple[Markup, list[str]]:
    left, right, top, bottom = 64.0, 624.0, 26.0, 246.0
    shown = dict(list(figure.series.items())[:MOST_LINES])
    limit = figure.limit if figure.limit is not None and _drawable(figure.limit) else None
    values = [v for line in shown.values() for v in line if _drawable(v)] + ([] if limit is None else [limit])
    y = Scale(values, bottom, top, zero=False)
    longest = max((len(line) for line in shown.values()), default=0)
    x = Scale([1.0, float(max(longest, 2))], left, right, zero=False, padded=False)

    drawing = [_text(figure.unit + (" (log scale)" if y.log else ""), 8, 14, "start", "faint")]
    for tick in y.ticks():
        drawing.append(_line(left, y(tick), right, y(tick), "grid"))
        drawing.append(_text(y.label(tick), left - 8, y(tick) + 4, "end", "faint"))
    for tick in x.ticks():
        if tick.is_integer():
            drawing.append(_line(x(tick), bottom, x(tick), bottom + 5, "axis"))
            drawing.append(_text(f"{tick:.0f}", x(tick), bottom + 19, "middle", "faint"))
    drawing.append(_line(left, bottom, right, bottom, "axis"))
    drawing.append(_text(figure.x_label, right, bottom + 38, "end", "faint"))
    if limit is not None:
        drawing.append(_line(left, y(limit), right, y(limit), "limit"))

    notes, summary, row = [], [], bottom + 44.0
    for number, (label, line) in enumerate(shown.items()):
        style = f"line s{number % 6} d{number % 5}"
        drawing += _path(line, x, y, style)
        finite = [v for v in line if _drawable(v)]
        last = f"{one_line(label, 48)}, last {line[-1]:.4g}" if line else f"{one_line(label, 48)}, no values"
        drawing.append(_line(left, row, left + 36, row, style))
        drawing.append(_text(last, left + 46, row + 4, "start"))
        row += 20
        if finite:
            summary.append(f"{last}, from {min(finite):.4g} to {max(finite):.4g} over {len(line)} values.")
        if strange := [i for i, v in enumerate(line) if not _drawable(v)]:
            first = f"first at measurement {strange[0] + 1} ({line[strange[0]]:.4g})"
            notes.append(f"{one_line(label, 48)}: {len(strange)} of {len(line)} values cannot be drawn, {first}.")
    if figure.limit is not None:
        drawing.append(_line(left, row, left + 36, row, "limit"))
        drawing.append(_text(f"{figure.limit_label} {figure.limit:.4g}", left + 46, row + 4, "start"))
        row += 20
        summary.append(f"{figure.limit_label.capitalize()} {figure.limit:.4g}.")
    if hidden := len(figure.series) - len(shown):
        notes.append(f"{hidden} more lines are in the report's JSON.")
    if not values:
        return Markup(), [*notes, "There is nothing to draw."]
    return _svg(figure, name, row, " ".join(summary), drawing), notes


def _path(line: Sequence[float], x: "Scale", y: "Scale", style: str) -> Iterator[Markup]:
    """One line, with gaps where a value cannot be drawn; a value between two gaps is a dot."""
    run: list[tuple[float, float]] = []
    for position, value in [*_thinned(line), (0, math.nan)]:
        if _drawable(value):
            run.append((x(position), y(value)))
            continue
        if len(run) == 1:
            yield element("circle", cx=run[0][0], cy=run[0][1], r=3.5, class_=style)
        elif run:
            yield element("polyline", points=Markup(" ".join(f"{a:.1f},{b:.1f}" for a, b in run)), class_=style)
        run = []


def _thinned(line: Sequence[float]) -> list[tuple[int, float]]:
    """``(position, value)``; of a long line the smallest and the largest value of each stretch, so that spikes stay."""
    numbered = list(enumerate(line, 1))
    if len(line) <= MOST_POINTS:
        return numbered
    size = math.ceil(len(line) / (MOST_POINTS / 2))
    kept: list[tuple[int, float]] = []
    for start in range(0, len(numbered), size):
        stretch = numbered[start : start + size]
        strange = [point for point in stretch if not _drawable(point[1])]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += strange[:1] or sorted(ends)
    return kept


def _bars(figure: Figure, name: str) -> tuple[Markup, list[str]]:
    left, right, top, step = 170.0, 520.0, 26.0, 34.0
    shown = {label: values[0] if values else math.nan for label, values in list(figure.series.items())[:MOST_BARS]}
    limit = figure.limit if figure.limit is not None and _drawable(figure.limit) else None
    values = [v for v in shown.values() if _drawable(v)] + ([] if limit is None else [limit])
    x = Scale(values, left, right, zero=True)
    bottom = top + step * len(shown)

    drawing = []
    for tick in x.ticks():
        drawing.append(_line(x(tick), top, x(tick), bottom, "grid"))
        drawing.append(_text(x.label(tick), x(tick), bottom + 18, "middle", "faint"))
    summary = []
    for number, (label, value) in enumerate(shown.items()):
        middle = top + step * (number + 0.5)
        measured = f"{value:.4g} {figure.unit}".strip()
        end = x(0.0)
        if _drawable(value):
            end = x(value)
            start, stop = sorted((x(0.0), end))
            drawing.append(element("rect", x=start, y=middle - 9, width=stop - start, height=18, class_="fill"))
        drawing.append(_text(one_line(label, 24), left - 10, middle + 4, "end"))
        drawing.append(_text(one_line(measured, 16), max(end, x(0.0)) + 8, middle + 4, "start"))
        summary.append(f"{one_line(label, 48)}: {measured}.")
    drawing.append(_line(x(0.0), top, x(0.0), bottom, "axis"))
    drawing.append(_text(one_line(figure.unit, 16), right, bottom + 36, "end", "faint"))
    if figure.limit is not None:
        summary.append(f"{figure.limit_label.capitalize()} {figure.limit:.4g} {figure.unit}.")
        if limit is not None:
            drawing.append(_line(x(limit), top - 8, x(limit), bottom, "limit"))
            drawing.append(_text(f"{figure.limit_label} {limit:.4g}", x(limit), top - 12, "middle"))
    hidden = len(figure.series) - len(shown)
    notes = [f"{hidden} more bars are in the report's JSON."] if hidden else []
    if not shown:
        return Markup(), ["There is nothing to draw."]
    return _svg(figure, name, bottom + 44, " ".join(summary), drawing), notes


def _drawable(value: float) -> bool:
    return math.isfinite(value) and abs(value) < HUGE


def _text(text: str, x: float, y: float, anchor: str, class_: str = "label") -> Markup:
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=class_)


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


class Scale:
    """From values to positions on the page: linear, or logarithmic for positive values that span decades."""

    def __init__(self, values: Sequence[float], start: float, end: float, zero: bool, padded: bool = True):
        low, high = min(values, default=0.0), max(values, default=1.0)
        self.log = padded and not zero and low > 1 / HUGE and high / low > 200
        self.start, self.end = start, end
        if self.log:
            self.low, self.high = float(math.floor(math.log10(low))), float(math.ceil(math.log10(high)))
            return
        if zero or 0 < low < 0.3 * high:
            low, high = min(low, 0.0), max(high, 0.0)
        if high - low <= max(1e-4 * max(abs(low), abs(high)), 1e-30):  # flat
            low, high = (low - 0.1 * abs(low), high + 0.1 * abs(high)) if abs(high) > 1e-20 else (0.0, 1.0)
        margin = 0.06 * (high - low) if padded else 0.0
        self.low, self.high = low - (margin if low else 0.0), high + (margin if high else 0.0)

    def __call__(self, value: float) -> float:
        """The position of ``value``."""
        value = math.log10(value) if self.log else value
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)

    @property
    def step(self) -> float:
        """The distance of two ticks: 1, 2 or 5 times a power of ten (in decades when logarithmic)."""
        if self.log:
            return max(1, math.ceil((self.high - self.low) / 5))
        unit = 10.0 ** math.floor(math.log10((self.high - self.low) / 5))
        return next(factor * unit for factor in (1, 2, 5, 10) if factor * unit * 5.001 >= self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values within the scale."""
        first, last = math.ceil(self.low / self.step - 1e-9), math.floor(self.high / self.step + 1e-9)
        marks = [number * self.step for number in range(first, last + 1)]
        return [10.0**mark for mark in marks] if self.log else marks

    def label(self, tick: float) -> str:
        """A tick as text, with as many decimals as its step needs."""
        if self.log or not 1e-4 <= self.step < 1e5:
            return f"{tick:.3g}"
        return f"{tick:.{max(0, -math.floor(math.log10(self.step) + 1e-9))}f}"

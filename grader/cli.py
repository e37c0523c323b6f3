"""The command line: ``grader list | check | hint | sync | release | grade | audit | report | export | doctor``.

Exit codes: 0 done; 1 a verdict or an audit failed; 2 bad input (one line on stderr says what).
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from grader import __version__
from grader.course import Course, CourseError, Exercise, find

if TYPE_CHECKING:
    from rich.console import Console

    from grader.cluster import Cluster
    from grader.cohort import Processes
    from grader.report import Report

DONE, FAILED, BAD_INPUT = 0, 1, 2

COMPLAINTS = ("CourseError", "InputError", "SourceError", "ControlError", "SealError", "WorkersFailed")
"""By name: where most of them are defined, torch is imported."""

FLAVOURS = ("notebooks", "modules", "gradescope", "github")
FORMATS = ("gradescope", "junit", "canvas", "moodle", "github")


class Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Print and leave."""
        print(f"{self.prog}: {message}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the ``grader`` command."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on a busy machine cost ten times as much
    options = parser().parse_args(arguments)
    try:
        code = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt as interruption:
        sys.exit(143 if isinstance(interruption, Terminated) else 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(DONE)
    except OSError as error:
        code = complain(f"{error.filename2 or error.filename or ''}: {error.strerror or error}".removeprefix(": "))
    except Exception as error:
        if type(error).__name__ not in COMPLAINTS:
            raise
        code = complain(str(error))
    sys.exit(code)


def complain(message: str) -> int:
    """Bad input, in one line."""
    print("grader: " + " ".join(message.split()), file=sys.stderr)
    return BAD_INPUT


def parser() -> Parser:
    """All commands and their options."""
    top = Parser(prog="grader", description="PyTorch Deep Learning for Genomics: check, release, grade.")
    top.add_argument("--version", action="version", version=f"grader {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, run: Any, help: str) -> Parser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(run=run)
        return sub

    sub = command("list", run_list, "List sessions, exercises and capstones; `planned` is not written yet.")
    sub.add_argument("session", nargs="?", type=int, help="number of one session")

    sub = command("check", run_check, "Run the visible checks on your own file.")
    sub.add_argument("exercise", help="such as 3.1")
    sub.add_argument("file", nargs="?", type=Path, help="default: the exercise's file in this folder")
    sub.add_argument("--seed", type=_seed, default=0)
    sub.add_argument("--json", metavar="FILE", help="write the report there instead; - for standard output")

    sub = command("hint", run_hint, "Show a hint: first a question, then a concept, then an outline.")
    sub.add_argument("exercise", help="such as 3.1")
    sub.add_argument("rung", nargs="?", type=int, choices=(1, 2, 3), default=1, help="1 (default), 2 or 3")

    sub = command("sync", run_sync, "Make the stubs from the references.")
    sub.add_argument("exercise", nargs="*", default=["all"])
    sub.add_argument("--check", action="store_true", help="change nothing; exit 1 when a stub is stale")

    sub = command("release", run_release, "Make what students receive.")
    sub.add_argument("session", type=int)
    sub.add_argument("--as", dest="flavour", choices=FLAVOURS, required=True)
    sub.add_argument("--to", type=Path, required=True, metavar="DIR")

    sub = command("grade", run_grade, "Grade files of one exercise, or a folder of students for a session.")
    sub.add_argument("id", help="an exercise (3.1) for files, a session (3) for a folder of students")
    sub.add_argument("path", nargs="+", type=Path, metavar="FILE|DIR")
    sub.add_argument("--json", metavar="FILE", help="write the report there; - for standard output")
    sub.add_argument("--out", type=Path, metavar="DIR", help="write reports and their HTML pages there")
    sub.add_argument("--seed", type=_seed, help="run seed (default: a new one, recorded in the report)")
    sub.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, help="processes (default: one per core)")
    sub.add_argument(
        "--scheduler", metavar="tcp://HOST:PORT", help="grade on this Dask cluster instead (a session only)"
    )
    sub.add_argument("--regrade", action="store_true", help="make the reports in --out anew that another suite made")
    sub.add_argument(
        "--seal", choices=("bubblewrap", "uid", "none"), help="how to seal submissions off (default: the best)"
    )
    sub.add_argument("--trust", action="store_true", help="grade even where no seal works: only your own code")

    sub = command("audit", run_audit, "Put the suites on trial: stub, reference, right, wrong and lazy controls.")
    sub.add_argument("id", nargs="*", default=["all"], help="exercises, sessions or all (default)")
    sub.add_argument("--seeds", type=_positive, default=10, help="how many seeds (default 10)")
    sub.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, help="processes (default: one per core)")

    command("doctor", run_doctor, "Say what this machine can do, and how to get what it lacks.")

    sub = command("report", run_report, "Make the HTML pages of a folder of reports.")
    sub.add_argument("folder", type=Path)
    sub.add_argument("--to", type=Path, required=True, metavar="DIR")

    sub = command("export", run_export, "Write reports in a form that other programs read.")
    sub.add_argument("path", nargs="+", type=Path, metavar="REPORT|DIR")
    sub.add_argument("--format", choices=FORMATS, required=True)
    sub.add_argument("--to", metavar="FILE", required=True, help="- for standard output")
    sub.add_argument(
        "--per", choices=("session", "exercise"), help="canvas, moodle: what has a column (default session)"
    )
    sub.add_argument(
        "--assignment", action="append", metavar="HEADER", help="canvas, moodle: header of a column, in order"
    )
    sub.add_argument("--roster", type=Path, metavar="FILE", help="canvas: the CSV that its gradebook exports")
    sub.add_argument("--key", choices=("username", "idnumber", "email"), help="moodle: what the folders' names are")
    sub.add_argument(
        "--summary", type=Path, metavar="FILE", help="github: append the job summary, in Markdown, to this file"
    )
    return top


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise ValueError(text)
    return number


_seed.__name__ = "whole number from 0 to 2**63 - 1"
_positive.__name__ = "whole number from 1"  # argparse: "invalid <name> value"


def run_list(options: argparse.Namespace) -> int:
    """``grader list``."""
    course = find()
    sessions = [course.session(options.session)] if options.session is not None else course.sessions
    print(course.title)
    for session in sessions:
        print(f"\n{session.number:>2}  {session.title}  (~{session.minutes} min)")
        for exercise in session.exercises:
            state = "" if exercise.ready else "  planned"
            print(
                f"    {exercise.id:<5} {exercise.title:<34} {'*' * exercise.stars:<5}  ~{exercise.minutes} min{state}"
            )
    if options.session is None:
        print("\nCapstones")
        for capstone in course.capstones:
            state = "" if capstone.status == "ready" else "  planned"
            print(f"    C{capstone.number}    {capstone.title:<34}        ~{capstone.minutes} min{state}")
    return DONE


def run_check(options: argparse.Namespace) -> int:
    """``grader check``."""
    course = find()
    exercise = course.exercise(options.exercise)
    require_ready(exercise)
    from grader.grading import check
    from grader.subject import SubmissionError
    from grader.submission import InputError
    from grader.terminal import show_report

    path = options.file or course.stub(exercise)
    try:
        with contextlib.redirect_stdout(sys.stderr if options.json == "-" else sys.stdout):  # what the file prints
            report = check(course, exercise, path, seed=options.seed)
    except SubmissionError as error:
        raise InputError(f"{path}: {error}") from None
    if options.json:
        write_json([report], options.json)
    else:
        show_report(report, console())
    return DONE if report.score == report.max_score else FAILED


def require_ready(exercise: Exercise) -> None:
    """Refuse what is only planned."""
    if not exercise.ready:
        raise CourseError(f"{exercise.id} {exercise.title} is planned, not written yet")


def run_hint(options: argparse.Namespace) -> int:
    """``grader hint``."""
    course = find()
    exercise = course.exercise(options.exercise)
    require_ready(exercise)
    path = course.hints(exercise)
    try:
        entry = tomllib.loads(path.read_text(encoding="utf-8"))[exercise.module]
        hint = entry["hints"][options.rung - 1]
    except (ValueError, LookupError, TypeError) as error:  # not TOML, not UTF-8, or not what it should hold
        raise CourseError(f"{path.name}: no hint {options.rung} for {exercise.id} ({error})") from None
    print(f"{exercise.id} {exercise.title}, hint {options.rung} of 3\n\n{hint}")
    if options.rung < 3:
        print(f"\nStill stuck? grader hint {exercise.id} {options.rung + 1}")
    if options.rung > 1 and entry.get("symptoms"):
        print("\nBy symptom:")
        for symptom, advice in entry["symptoms"].items():
            print(f"  - {symptom}: {advice}")
    return DONE


def run_sync(options: argparse.Namespace) -> int:
    """``grader sync``."""
    course = find()
    from grader.source import sync

    changed = sync(course, course.select(options.exercise), check=options.check)
    for name in changed:
        print(f"stale: {name}" if options.check else f"wrote {name}")
    return FAILED if options.check and changed else DONE


def run_release(options: argparse.Namespace) -> int:
    """``grader release``."""
    course = find()
    session = course.session(options.session)
    from grader import deploy, release

    releases = {
        "notebooks": release.release_notebooks,
        "modules": release.release_modules,
        "gradescope": deploy.release_gradescope,
        "github": deploy.release_github,
    }
    print(releases[options.flavour](course, session, options.to))
    return DONE


def run_grade(options: argparse.Namespace) -> int:
    """``grader grade``."""
    course = find()
    if options.json and options.out:
        raise CourseError("--json and --out exclude each other")
    if options.regrade and not options.out:
        raise CourseError("--regrade needs --out, where the reports are")
    if options.id.isdigit():
        return grade_cohort(course, options)
    if options.regrade or options.scheduler:
        raise CourseError("--regrade and --scheduler are for a session and a folder of students")
    exercise = course.exercise(options.id)
    require_ready(exercise)
    from grader.grading import Grader, new_seed
    from grader.submission import InputError, Submission
    from grader.terminal import show_report

    names = [path.stem for path in options.path]
    if options.out and len(set(names)) < len(names):
        raise InputError("two of the files have the same name: grade them into different folders")
    submissions = [Submission.from_file(path) for path in options.path]
    seed = new_seed() if options.seed is None else options.seed
    with Grader(course, seal=options.seal, trust=options.trust) as grader:
        reports = [grader.grade(exercise, submission, seed=seed) for submission in submissions]
    if options.json:
        write_json(reports, options.json)
    elif options.out:
        from grader.html import write_pages
        from grader.report import write_atomically

        for name, report in zip(names, reports, strict=True):
            write_atomically(options.out / f"{name}.json", report.to_json())
        print(write_pages(reports, options.out))
    else:
        for report in reports:
            show_report(report, console())
    return DONE if all(report.score == report.max_score for report in reports) else FAILED


def write_json(reports: "Sequence[Report]", target: str) -> None:
    """One object for one submission, a list for several."""
    content = [json.loads(report.to_json()) for report in reports]
    text = json.dumps(content[0] if len(content) == 1 else content, indent=2)
    if target == "-":
        print(text)
    else:
        from grader.report import write_atomically

        write_atomically(Path(target), text + "\n")


def grade_cohort(course: Course, options: argparse.Namespace) -> int:
    """``grader grade SESSION FOLDER``: done even when no student passes; failed when a verdict is pending."""
    exercises = course.select([options.id])
    from grader import cohort
    from grader.grading import new_seed
    from grader.html import page_name, write_index, write_page
    from grader.submission import InputError
    from grader.terminal import show_changes, show_cohort

    if len(options.path) != 1:
        raise InputError("a session is graded from one folder, with a folder per student in it")
    tasks = cohort.discover(options.path[0], exercises)
    reports: list[Report] = []

    def made(_: "Report | None", after: "Report") -> None:
        if options.out:
            write_page(after, options.out)

    with contextlib.ExitStack() as stack:
        stack.enter_context(interruptible())
        store = None
        if options.out:
            opened = cohort.Store.open(options.out, seed=options.seed, regrade=options.regrade)
            store = stack.enter_context(opened)
        drawn = new_seed() if options.seed is None else options.seed
        seed = store.seed if store else drawn
        with crew_for(course, options, len(tasks)) as crew, progress("grading", len(tasks)) as advance:
            try:
                for report in cohort.grade(course, tasks, seed=seed, store=store, crew=crew, made=made):
                    reports.append(report if options.json else report.summary())
                    if options.out and not (options.out / page_name(report)).exists():
                        write_page(report, options.out)
                    advance(store.reused if store else 0)
            except KeyboardInterrupt:
                again = "; the same command goes on from there" if options.out else ""
                complain(f"interrupted: {len(reports)} of {len(tasks)} done{again}")
                raise
        reports.sort(key=lambda report: (report.student, report.exercise))
        if options.json:
            write_json(reports, options.json)
        else:
            show_cohort(reports, console())
        if store and options.regrade:
            show_changes(store.changes(tasks), console())
            store.forget(tasks)
        if store and store.stale:
            words = f"{store.stale} reports were made with another suite or grader and kept; --regrade makes them anew"
            print(f"grader: {words}", file=sys.stderr)
        if options.out:
            print(write_index(reports, options.out))
    return FAILED if any(report.faulty for report in reports) else DONE


def crew_for(course: Course, options: argparse.Namespace, tasks: int) -> "Cluster | Processes":
    """Who grades so many tasks: a cluster, or processes on this machine."""
    if options.scheduler:
        try:
            from grader.cluster import Cluster
        except ModuleNotFoundError as error:
            if error.name not in ("dask", "distributed"):
                raise
            raise CourseError('--scheduler needs Dask: pip install "pytorch-genomics-course[cluster]"') from None
        return Cluster(course, options.scheduler, seal=options.seal, trust=options.trust)
    from grader import cohort, seal

    seal.choose(options.seal, trust=options.trust, secret=course.secret)  # says at once when there is none
    return cohort.Processes(course, min(options.jobs, tasks), seal=options.seal, trust=options.trust)


class Terminated(KeyboardInterrupt):
    """SIGTERM."""


@contextlib.contextmanager
def interruptible() -> "Iterator[None]":
    """SIGTERM ends a command as Ctrl-C does: what is open is closed, what is done stays."""

    def stop(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_audit(options: argparse.Namespace) -> int:
    """``grader audit``."""
    course = find()
    exercises = course.select(options.id)
    from grader.audit import SEEDS, audit, show

    verdicts = []
    with progress("auditing", len(exercises) * options.seeds) as advance:
        for found in audit(course, exercises, seeds=range(SEEDS[0], SEEDS[0] + options.seeds), jobs=options.jobs):
            verdicts += found
            advance()
    show(verdicts, console())
    return FAILED if any(verdict.complaint for verdict in verdicts) else DONE


def run_doctor(options: argparse.Namespace) -> int:
    """``grader doctor``."""
    from grader.doctor import examine

    findings = examine()
    for finding in findings:
        print(f"{'ok' if finding.ok else '--':<4}{finding.what}: {finding.found}")
        if not finding.ok and finding.remedy:
            print(f"    {finding.remedy}")
    return DONE if all(finding.ok or finding.optional for finding in findings) else FAILED


def run_report(options: argparse.Namespace) -> int:
    """``grader report``."""
    from grader.export import read_reports
    from grader.html import write_pages
    from grader.submission import InputError

    if not options.folder.is_dir():
        raise InputError(f"{options.folder}: no such folder")
    print(write_pages(read_reports([options.folder]), options.to))
    return DONE


def run_export(options: argparse.Namespace) -> int:
    """``grader export``: failed when a verdict is pending or a student's grade had to be left out; the file is written."""
    from grader import export
    from grader.report import write_atomically

    check_export(options)
    reports = export.read_reports(options.path)
    text, complaints = exported(reports, options)
    if options.to == "-":
        sys.stdout.buffer.write(text.encode())  # UTF-8, whatever the terminal's encoding
    else:
        write_atomically(Path(options.to), text)
    if options.summary:
        with options.summary.open("a", encoding="utf-8") as file:
            file.write(export.summary(reports))
    for line in complaints:
        print(f"grader: {line}", file=sys.stderr)
    return FAILED if complaints else DONE


def check_export(options: argparse.Namespace) -> None:
    """Refuse an option that means nothing in this format."""
    meant = {"per": ("canvas", "moodle"), "assignment": ("canvas", "moodle"), "roster": ("canvas",), "key": ("moodle",)}
    for name, formats in (meant | {"summary": ("github",)}).items():
        if getattr(options, name) and options.format not in formats:
            raise CourseError(f"--{name} means nothing with --format {options.format}")


def exported(reports: "Sequence[Report]", options: argparse.Namespace) -> tuple[str, list[str]]:
    """The text in the format that is asked for, and what somebody must look at."""
    from grader import export, gradebooks

    columns: dict[str, Any] = {"per": options.per or "session", "headers": options.assignment or ()}
    if options.format == "canvas":
        table = gradebooks.canvas(reports, roster=options.roster, **columns)
    elif options.format == "moodle":
        table = gradebooks.moodle(reports, key=options.key or "username", **columns)
    else:
        formats = {"gradescope": export.gradescope, "junit": export.junit, "github": export.github}
        return formats[options.format](reports), export.pending(reports)
    return table.text, table.complaints


def console() -> "Console":
    """Standard output, for people; wide enough for a class where it is no terminal that says how wide it is."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=120)


class progress:  # noqa: N801  # reads as a function: with progress("grading", 10) as advance
    """A progress bar with the time left, on stderr; plain lines now and then when that is not a terminal."""

    LINE_S = 30.0  # without a terminal, a line at least this often while something is done

    def __init__(self, what: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(what, total=total, left="")
        self._plain = not sys.stderr.isatty()
        self._what, self._total, self._done = what, total, 0
        self._started = self._said = time.monotonic()

    def __enter__(self) -> Any:
        if not self._plain:
            self._bar.start()
        return self._advance

    def _advance(self, reused: int = 0) -> None:
        """One more is done; ``reused`` of them all cost no time."""
        self._done += 1
        now = time.monotonic()
        left = ""
        if self._done > reused and self._done < self._total:
            seconds = (now - self._started) / (self._done - reused) * (self._total - self._done)
            left = f"about {seconds:.0f} s left" if seconds < 100 else f"about {seconds / 60:.0f} min left"
        self._bar.update(self._task, advance=1, left=left)
        due = self._done % max(1, self._total // 10) == 0 or self._done == self._total or now - self._said > self.LINE_S
        if self._plain and due:
            self._said = now
            print(
                ", ".join(filter(None, (f"{self._what}: {self._done} of {self._total}", left))),
                file=sys.stderr,
                flush=True,
            )

    def __exit__(self, *_: object) -> None:
        if not self._plain:  # where nothing was started, stopping prints an empty line
            self._bar.stop()


if __name__ == "__main__":
    main()

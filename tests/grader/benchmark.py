"""How fast and how fair the grader is: ``make bench`` writes build/bench.json. ``--only overhead scaling`` runs parts of it.

Not a test: timings depend on what else the machine does. Only ratios within one run mean anything.

nbgrader (a class of ``students``, every exercise of a session, the same suites on both sides; then with a suite that costs nothing)
    ``nbgrader_stock_s``, ``nbgrader_ours_s``, ``grade_s``: wall-clock seconds per notebook of stock ``nbgrader autograde``, whose
    graded cells run the suites in the notebook's kernel; of ``nbgrader autograde`` with our judge; of ``grader grade``, one
    process per core. ``nbgrader_ratio`` is stock over ``grade_s``, ``nbgrader_inside_ratio`` stock over ``nbgrader_ours_s``;
    ``cheap_...`` are the same for the suite that costs nothing. ``stock_overhead_cpu_s``: CPU seconds of stock nbgrader per
    notebook of that suite, which is all overhead.
overhead
    ``overhead_s``: median wall-clock seconds of grading a sealed submission, less what the same suite costs in this process.
    ``overhead_cpu_s``: the same in CPU seconds of all processes. ``overhead_ratio``: ``stock_overhead_cpu_s`` over it.
    ``bench_start_s``: starting a sealed bench, once per process.
scaling (1,000 submissions)
    ``two_benches_speedup``: submissions per second with two processes over those with one. ``slope_ratio``: seconds for the last
    500 of 1,000 over those for the first 500. ``driver_mb_per_1000``: what the driver's memory grows by.
timing (four processes burn CPU meanwhile)
    ``false_slow``: trials of 1,000 in which equal code is called slow; ``missed_slow``: of 200 in which five times slower
    code is not.
pytest
    ``pytest_over_import``: CPU time of ``pytest`` on one visible suite over that of ``import torch``.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

from grader import cohort, grading, plugin
from grader import course as manifest
from grader.bench import Bench, Child
from grader.checks import Failure, assert_fast
from grader.release import release_notebooks
from grader.report import write_atomically
from grader.subject import Local, Memo
from grader.submission import Submission

ROOT = Path(__file__).resolve().parents[2]
SEED = 7

STOCK_CELL = """\
from pathlib import Path
from grader import course as manifest, grading, plugin, sandbox, subject, submission
course = manifest.load(Path({root!r}))
exercise = course.exercise({exercise!r})
student = subject.Local(sandbox.Module.of_namespace(exercise.module, globals()))
reference = subject.Local.of(submission.Submission.from_file(course.reference(exercise)), "reference")
state = plugin.State({seed}, lambda _: student, lambda _: reference, ({kind!r},))
grading.run_suite(course.hidden_suite(exercise), course.root, state)
float(sum(check.points for check in state.finished().values() if check.outcome == "correct"))
"""

STOCK_CONFIG = """\
from pathlib import Path
c = get_config()
c.CourseDirectory.root = str(Path(__file__).resolve().parent)
c.CourseDirectory.course_id = "stock"
c.Execute.timeout = 300
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=30)
    parser.add_argument("--session", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    path = ROOT / "build" / "bench.json"
    figures: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    for name in options.only:
        print(f"{name} ...", flush=True)
        figures |= {key: round(value, 4) for key, value in PARTS[name](options).items()}
        if {"stock_overhead_cpu_s", "overhead_cpu_s"} <= set(figures):
            figures["overhead_ratio"] = round(figures["stock_overhead_cpu_s"] / figures["overhead_cpu_s"], 1)
        write_atomically(path, json.dumps(figures, indent=2, sort_keys=True) + "\n")
    for key, value in sorted(figures.items()):
        print(f"{key:24} {value:g}")


# ------------------------------------------------------------------------------------------------------------- nbgrader


def measure_nbgrader(options: argparse.Namespace) -> dict[str, float]:
    """Against stock nbgrader, with the session's suites and with one that costs nothing."""
    course = manifest.load(ROOT)
    figures = against_stock(course, options.session, options.students)
    figures |= {"students": options.students, "exercises": len(course.select([str(options.session)]))}
    with tempfile.TemporaryDirectory() as folder:
        cheap = against_stock(made_up_course(Path(folder)), 3, options.students)
    figures |= {f"cheap_{name}": value for name, value in cheap.items()}
    figures["stock_overhead_cpu_s"] = cheap["nbgrader_stock_cpu_s"]
    return figures


def against_stock(course: manifest.Course, number: int, students: int) -> dict[str, float]:
    """A class whose every answer is right, three times."""
    session = course.session(number)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        ours, stock = Path(folder, "ours"), Path(folder, "stock")
        release_notebooks(course, session, ours)
        make_stock(course, session, ours, stock)
        for place in (ours, stock):
            for student in range(students):
                shutil.copytree(ours / "source" / session.folder, place / "submitted" / f"s{student}" / session.folder)
        count = students * len(course.select([str(number)]))
        for name, place in (("nbgrader_stock", stock), ("nbgrader_ours", ours)):
            wall, used = timed([nbgrader(), "autograde", session.folder], place)
            figures |= {f"{name}_s": wall / count, f"{name}_cpu_s": used / count, f"{name}_points": points(place)}
        command = [
            sys.executable,
            "-m",
            "grader.cli",
            "grade",
            str(number),
            str(ours / "submitted"),
            "--seed",
            str(SEED),
        ]
        wall, used = timed([*command, "--out", str(Path(folder, "reports"))], course.root)
        figures |= {"grade_s": wall / count, "grade_cpu_s": used / count}
    figures["nbgrader_ratio"] = figures["nbgrader_stock_s"] / figures["grade_s"]
    figures["nbgrader_inside_ratio"] = figures["nbgrader_stock_s"] / figures["nbgrader_ours_s"]
    return figures


# ------------------------------------------------------------------------------------------------------------- overhead


def measure_overhead(options: argparse.Namespace) -> dict[str, float]:
    """The same suite on the same answer, sealed and in this process, in turn; the reference's answers are kept in both."""
    course = manifest.load(ROOT)
    walls, used, starts = [], [], []
    for _ in range(3):
        with Bench() as bench:
            start = time.perf_counter()
            bench.warm()
            starts.append(time.perf_counter() - start)
    for exercise in course.select([str(options.session)]):
        submission = Submission.from_file(course.reference(exercise))
        with Bench() as bench, grading.Grader(course, bench=bench) as grader:
            reference = Memo(Local.of(submission, "reference"))
            for _ in range(4):
                start, before = time.perf_counter(), cpu_of(bench)
                report = grader.grade(exercise, submission, seed=SEED)
                sealed = time.perf_counter() - start, cpu_of(bench) - before
                assert report.score == report.max_score
                start, before = time.perf_counter(), cpu_of(bench)
                student = Local.of(submission, exercise.module)
                state = plugin.State(SEED, lambda _, one=student: one, lambda _, one=reference: one)
                grading.run_suite(course.hidden_suite(exercise), course.root, state)
                plain = time.perf_counter() - start, cpu_of(bench) - before
                walls.append(sealed[0] - plain[0])
                used.append(sealed[1] - plain[1])
            del walls[-4], used[-4]  # the first of each exercise fills the memory of the reference
    return {
        "overhead_s": statistics.median(walls),
        "overhead_cpu_s": max(statistics.median(used), 0.001),
        "bench_start_s": statistics.median(starts),
    }


def cpu_of(bench: Bench) -> float:
    """CPU seconds of this process, of all it has waited for, and of the bench with all its children that have ended."""
    own, ended = getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)
    total = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
    if bench._process is not None:
        pids = [bench._process.pid]
        while pids:
            pid = pids.pop()
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
                pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return total


# ------------------------------------------------------------------------------------------------------------- scaling


def measure_scaling(options: argparse.Namespace) -> dict[str, float]:
    """Many small submissions to one small exercise."""
    with tempfile.TemporaryDirectory() as folder:
        course = made_up_course(Path(folder))
        one, two = (throughput(course, 200, jobs)[0] for jobs in (1, 2))
        _, times, memory = throughput(course, 1000, 2)
    first, last = times[499] - times[0], times[999] - times[500]
    return {
        "two_benches_speedup": two / one,
        "submissions_per_s": two,
        "slope_ratio": last / first,
        "driver_mb_per_1000": (memory[999] - memory[99]) / 0.9,
    }


def throughput(course: manifest.Course, count: int, jobs: int) -> tuple[float, list[float], list[float]]:
    """Submissions per second between the first report and the last; when each came; the driver's memory (MB) then."""
    exercise = course.select(["3"])[0]
    tasks = (cohort.Task(f"s{number}", exercise, course.reference(exercise)) for number in range(count))
    times, memory, reports = [], [], []
    with tempfile.TemporaryDirectory() as out, cohort.Store.open(Path(out), seed=SEED) as store:
        for report in cohort.grade(course, tasks, seed=SEED, jobs=jobs, store=store):
            assert report.score == report.max_score
            reports.append(report.summary())  # as the command keeps them for its table
            times.append(time.perf_counter())
            memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
    return (count - jobs) / (times[-1] - times[jobs - 1]), times, memory


# ------------------------------------------------------------------------------------------------------------- timing

EQUAL = """
def work(n):
    total = 0
    for number in range(n):
        total += number * number
    return total
"""
SLOW = (
    EQUAL.replace("def work", "def once")
    + """
def work(n):
    return [once(n) for _ in range(5)][0]
"""
)


def work(exercise: object, n: int) -> int:
    """The timed probe: some 5 ms."""
    return exercise.work(n)  # type: ignore[attr-defined]


def measure_timing(options: argparse.Namespace) -> dict[str, float]:
    """The whole verdict, second measurement included, at a bar of two, while four processes burn CPU."""
    fresh = iter(range(60_000, 10**9))
    with Bench() as bench, burning(4):
        subjects = {
            name: Child(bench, Submission.from_source(text, "a.py"), "a", wall_s=60, memory_mb=4096)
            for name, text in (("reference", EQUAL), ("equal", EQUAL), ("slow", SLOW))
        }

        def is_slow(name: str) -> bool:
            try:
                assert_fast(subjects[name], subjects["reference"], work, lambda: (next(fresh),), bar=2)
            except Failure:
                return True
            return False

        false_slow = sum(is_slow("equal") for _ in range(1000))
        missed_slow = sum(not is_slow("slow") for _ in range(200))
        for subject in subjects.values():
            subject.close()
    return {"false_slow": false_slow, "missed_slow": missed_slow}


@contextlib.contextmanager
def burning(count: int) -> Iterator[None]:
    """So many busy processes."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


# ------------------------------------------------------------------------------------------------------------- pytest


def measure_pytest(options: argparse.Namespace) -> dict[str, float]:
    """What a student waits for, over what nobody can avoid."""
    course = manifest.load(ROOT)
    suite = course.visible_suite(course.select([str(options.session)])[0])
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(suite), "--submission", "reference"]
    return {"pytest_over_import": cpu(pytest) / cpu([sys.executable, "-c", "import torch"])}


PARTS = {
    "overhead": measure_overhead,
    "pytest": measure_pytest,
    "scaling": measure_scaling,
    "timing": measure_timing,
    "nbgrader": measure_nbgrader,
}


# ------------------------------------------------------------------------------------------------------------- helpers


def made_up_course(folder: Path) -> manifest.Course:
    """A course of one exercise whose suite costs nothing."""
    spec = importlib.util.spec_from_file_location("made_up", Path(__file__).with_name("made_up.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["made_up"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    (folder / "course").mkdir()
    return module.make(folder / "course", {"double": module.quick()})


def nbgrader() -> str:
    """The command, beside this interpreter."""
    return str(Path(sys.executable).with_name("nbgrader"))


def make_stock(course: manifest.Course, session: manifest.Session, ours: Path, stock: Path) -> None:
    """A plain nbgrader course: the same notebooks, but their graded cells run the hidden suite themselves."""
    shutil.copytree(ours / "source", stock / "source")
    (stock / "nbgrader_config.py").write_text(STOCK_CONFIG)
    for exercise in course.select([str(session.number)]):
        path = stock / "source" / session.folder / f"{exercise.module}.ipynb"
        notebook = json.loads(path.read_text())
        for cell in notebook["cells"]:
            mark = cell["metadata"].get("nbgrader", {})
            if mark.get("grade"):
                kind = mark["grade_id"].rpartition("_")[2]
                cell["source"] = STOCK_CELL.format(root=str(course.root), exercise=exercise.id, seed=SEED, kind=kind)
        path.write_text(json.dumps(notebook))
    run([nbgrader(), "generate_assignment", session.folder], stock)


def run(command: list[str], folder: Path) -> None:
    """Run a command to its end; its output only when it fails."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}")


def timed(command: list[str], folder: Path) -> tuple[float, float]:
    """Wall-clock and CPU seconds of a command; CPU of all that it waited for."""
    start, before = time.perf_counter(), getrusage(RUSAGE_CHILDREN)
    run(command, folder)
    after = getrusage(RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cpu(command: list[str], times: int = 3) -> float:
    """Median CPU seconds of a command."""
    seconds = []
    for _ in range(times):
        before = getrusage(RUSAGE_CHILDREN)
        run(command, ROOT)
        after = getrusage(RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(seconds)


def points(place: Path) -> float:
    """Mean score of the submissions in a gradebook: both sides must have given every point."""
    import sqlite3

    with sqlite3.connect(place / "gradebook.db") as database:
        return float(database.execute("select sum(auto_score) from grade").fetchone()[0])


if __name__ == "__main__":
    main()

"""How fast the grader is, against stock nbgrader with the same suites: ``make bench`` writes build/bench.json.

Not a test: timings depend on what else the machine does. Only ratios within one run mean anything.

- ``nbgrader_stock_s``: wall-clock seconds per submission of stock ``nbgrader autograde``, one notebook per exercise, whose
  graded cells run the hidden suites in the notebook's kernel.
- ``nbgrader_ours_s``: the same submissions through ``nbgrader autograde`` with our preprocessor.
- ``grade_s``: the same submissions through ``grader grade SESSION``, one process per core.
- ``nbgrader_ratio``: stock over ``grade_s``; ``nbgrader_inside_ratio``: stock over ``nbgrader_ours_s``.
- ``pytest_over_import``: CPU time of ``pytest`` on one visible suite over that of ``import torch``.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from grader import course as manifest
from grader.release import release_notebooks
from grader.report import write_atomically

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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--students", type=int, default=4)
    parser.add_argument("--session", type=int, default=3)
    options = parser.parse_args()
    course = manifest.load(ROOT)
    session = course.session(options.session)
    figures: dict[str, float] = {"students": options.students, "exercises": len(course.select([str(options.session)]))}
    with tempfile.TemporaryDirectory() as folder:
        ours, stock = Path(folder, "ours"), Path(folder, "stock")
        print("releasing ...", flush=True)
        release_notebooks(course, session, ours)
        make_stock(course, session, ours, stock)
        for place in (ours, stock):
            for number in range(options.students):
                shutil.copytree(ours / "source" / session.folder, place / "submitted" / f"s{number}" / session.folder)
        count = options.students * figures["exercises"]
        for name, place in (("nbgrader_stock_s", stock), ("nbgrader_ours_s", ours)):
            print(f"{name} ...", flush=True)
            figures[name] = timed([nbgrader(), "autograde", session.folder], place) / count
            figures[f"{name.removesuffix('_s')}_points"] = points(place)
        print("grade_s ...", flush=True)
        command = [sys.executable, "-m", "grader.cli", "grade", str(session.number), str(ours / "submitted")]
        figures["grade_s"] = timed([*command, "--seed", str(SEED), "--out", str(Path(folder, "reports"))], ROOT) / count
    figures["nbgrader_ratio"] = figures["nbgrader_stock_s"] / figures["grade_s"]
    figures["nbgrader_inside_ratio"] = figures["nbgrader_stock_s"] / figures["nbgrader_ours_s"]
    print("pytest_over_import ...", flush=True)
    suite = course.visible_suite(course.select([str(options.session)])[0])
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(suite), "--submission", "reference"]
    figures["pytest_over_import"] = cpu(pytest) / cpu([sys.executable, "-c", "import torch"])
    figures = {name: round(value, 3) for name, value in figures.items()}
    write_atomically(ROOT / "build" / "bench.json", json.dumps(figures, indent=2) + "\n")
    for name, value in figures.items():
        print(f"{name:24} {value:g}")


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
                cell["source"] = STOCK_CELL.format(root=str(ROOT), exercise=exercise.id, seed=SEED, kind=kind)
        path.write_text(json.dumps(notebook))
    run([nbgrader(), "generate_assignment", session.folder], stock)


def run(command: list[str], folder: Path) -> None:
    """Run a command to its end; its output only when it fails."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}")


def timed(command: list[str], folder: Path) -> float:
    """Wall-clock seconds of a command."""
    start = time.perf_counter()
    run(command, folder)
    return time.perf_counter() - start


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

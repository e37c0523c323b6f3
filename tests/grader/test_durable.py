"""A cohort that is killed, resumed, graded again, and whose workers die."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from grader import cohort
from grader.cohort import MOST_LOSSES, Processes, Store, discover, is_lost
from grader.grading import suite_digest_of
from grader.report import Report
from grader.submission import InputError

ROOT = Path(__file__).resolve().parents[2]
RIGHT = "def double(x):\n    if not x.is_floating_point():\n        raise ValueError('x')\n    return x + x\n"
WRONG = RIGHT.replace("x + x", "3 * x")


@pytest.fixture
def course(made_up, tmp_path):
    root = tmp_path / "course"
    root.mkdir()
    return made_up.make(root, {"double": made_up.quick()})


@pytest.fixture
def submissions(tmp_path):
    folder = tmp_path / "submissions"
    for number in range(4):
        (folder / f"s{number}").mkdir(parents=True)
        (folder / f"s{number}" / "ex1_double.py").write_text(WRONG if number == 2 else RIGHT)
    return folder


class Crew:
    """Grades in this process, counts what it is asked for, and can lose jobs."""

    room = 2

    def __init__(self, course, bench, lose=(), kill_after=None):
        self.grader = cohort.Grader(course, bench=bench)
        self.asked, self.waiting, self.lose, self.most = [], [], set(lose), 0
        self.left = kill_after

    def start(self, job):
        self.asked.append(job.student)
        self.waiting.append(job)
        self.most = max(self.most, len(self.waiting))

    def finished(self):
        if self.left == 0:
            self.grader.__exit__()
            raise KeyboardInterrupt
        self.left = self.left and self.left - 1
        job = self.waiting.pop(0)
        return [(job, None if job.student in self.lose else cohort.grade_job(self.grader, job))]


@pytest.fixture
def run(course, submissions, tmp_path, bench):
    """``run()``: one run over the class; (who was graded, student -> report, changes, the store)."""

    def once(*, lose=(), seed=None, regrade=False, kill_after=None):
        for name in [name for name in sys.modules if name.endswith("test_ex1_double")]:
            del sys.modules[name]  # every run has processes of its own, which read the suite anew
        crew, changes = Crew(course, bench, lose, kill_after), []
        with Store.open(tmp_path / "out", seed=seed, regrade=regrade) as store:
            tasks = discover(submissions, course.select(["3"]))
            reports = list(
                cohort.grade(
                    course,
                    tasks,
                    seed=store.seed,
                    store=store,
                    crew=crew,
                    made=lambda before, after: before and changes.append((before, after)),
                )
            )
        crew.grader.__exit__()
        return crew.asked, {report.student: report for report in reports}, changes, store

    return once


def test_a_second_run_grades_nothing_and_gives_the_same_reports(run):
    asked, first, *_ = run()
    again, second, changes, store = run()
    assert sorted(asked) == ["s0", "s1", "s2", "s3"]
    assert again == []
    assert second == first
    assert (changes, store.stale) == ([], 0)


def test_the_seed_is_drawn_once_kept_to_oneself_and_not_contradicted(run, tmp_path):
    *_, store = run()
    kept = tmp_path / "out" / "seed.txt"
    assert int(kept.read_text()) == store.seed
    assert kept.stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError, match=f"its reports have the seed {store.seed}"):
        run(seed=store.seed + 1)
    with Store.open(tmp_path / "out") as same:
        assert same.seed == store.seed
    for report in (tmp_path / "out").glob("*/*.json"):
        report.unlink()
    with Store.open(tmp_path / "out", seed=store.seed + 1) as other:  # nothing has the old one
        assert other.seed == int(kept.read_text()) == store.seed + 1
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.write_text("x")
    with pytest.raises(InputError, match="expected a number"):
        run()


def test_who_hands_in_something_else_is_graded_again(run, submissions):
    run()
    (submissions / "s2" / "ex1_double.py").write_text(RIGHT)
    asked, reports, changes, _ = run()
    assert asked == ["s2"]
    assert reports["s2"].score == 9
    assert [(before.score, after.score) for before, after in changes] == [(4, 9)]


@pytest.mark.parametrize("spoil", ["remove", "truncate", "another student's", "another seed", "folder"])
def test_what_is_no_whole_report_of_this_run_is_made_again(run, tmp_path, spoil):
    _, first, *_ = run()
    path = tmp_path / "out" / "s1" / "3.1.json"
    text = path.read_text()
    path.unlink()
    if spoil == "truncate":
        path.write_text(text[:1000])
    elif spoil == "another student's":
        path.write_text(text.replace('"s1"', '"s0"'))
    elif spoil == "another seed":
        path.write_text(json.dumps(json.loads(text) | {"seed": 1}))
    elif spoil == "folder":
        (tmp_path / "out" / "s1" / "3.2.json").mkdir()
    asked, reports, *_ = run()
    assert asked == ["s1"]
    assert Report.from_json(path.read_text()) == reports["s1"]
    assert reports["s1"].score == first["s1"].score


@pytest.mark.parametrize(
    "name", ["s1/.3.1.json.abcdef12", ".index.html.a1b2c3d_", ".seed.txt.________", "s1/.3.1.html.abcdefgh"]
)
def test_unfinished_files_of_a_killed_writer_are_removed(run, tmp_path, name):
    run()
    left = tmp_path / "out" / name
    left.write_text("{")
    run()
    assert not left.exists()
    assert (tmp_path / "out" / ".lock").exists()


@pytest.mark.parametrize("name", [b"a\xff", b"\xe9tudiante"])
def test_a_name_that_no_report_could_hold_is_refused(course, submissions, name):
    """Two of them would have become one name, and one report would have taken the place of another."""
    os.mkdir(os.path.join(os.fsencode(submissions), name))
    with pytest.raises(InputError, match="must have a name in UTF-8"):
        discover(submissions, course.select(["3"]))


@pytest.mark.parametrize("name", ["index.html", "seed.txt", "ada-3.1.html"])
def test_no_student_can_take_the_place_of_the_stores_own_files(course, submissions, name):
    (submissions / name).mkdir()
    with pytest.raises(InputError, match="cannot have such a name"):
        discover(submissions, course.select(["3"]))


def test_reports_of_another_suite_are_kept_until_they_are_to_be_made_again(run, course):
    run()
    suite = course.hidden_suite(course.exercise("3.1"))
    suite.write_text(suite.read_text().replace("x = 3 + torch", "x = 5 + torch") + "\n# changed\n")
    asked, reports, _, store = run()
    assert (asked, store.stale) == ([], 4)
    asked, reports, changes, store = run(regrade=True)
    assert sorted(asked) == ["s0", "s1", "s2", "s3"]
    assert store.stale == 0
    assert {report.suite_digest for report in reports.values()} == {suite_digest_of(course, course.exercise("3.1"))}
    assert {before.score == after.score for before, after in changes} == {True}
    assert run(regrade=True)[0] == []


def test_a_regrading_that_was_killed_tells_all_changes_when_it_goes_on(run, course, submissions, tmp_path):
    tasks = discover(submissions, course.select(["3"]))
    run()
    suite = course.hidden_suite(course.exercise("3.1"))
    suite.write_text(suite.read_text().replace("run(doubled, x), reference", "run(doubled, x) + 1, reference"))
    with pytest.raises(KeyboardInterrupt):
        run(regrade=True, kill_after=2)
    assert [report["student"] for report in map(read_json, (tmp_path / "out").glob("*/*.json"))].count("s0") == 1
    asked, *_ = run()  # a plain run in between changes nothing
    assert asked == []
    asked, *_, store = run(regrade=True)
    assert len(asked) == 2
    changes = {new.student: (old.score, new.score) for old, new in store.changes(tasks)}
    assert changes == {"s0": (9, 7), "s1": (9, 7), "s2": (4, 4), "s3": (9, 7)}
    store.forget(tasks)
    assert store.changes(tasks) == []
    assert {path.name for path in (tmp_path / "out").glob("*/.*")} == set()


def read_json(path):
    return json.loads(path.read_text())


def test_what_is_kept_in_memory_of_a_class_is_small(run):
    """The checks of a summary are shared with all others that say the same, and hold no words."""
    _, reports, *_ = run()
    one, other = (reports[name].summary() for name in ("s0", "s1"))
    assert one.checks
    assert all(mine is theirs for mine, theirs in zip(one.checks, other.checks, strict=True))
    assert one.environment is other.environment
    assert {(check.rationale, check.help, check.figures) for check in one.checks} == {("", "", ())}
    assert (one.by_kind(), one.score) == (reports["s0"].by_kind(), reports["s0"].score)


@pytest.mark.parametrize(
    "what",
    [
        "fixtures/new.py",
        "fixtures/tables/new.tsv",
        "course.toml",
        "reference/session_03_tiny/ex1_double.py",
        "tests/session_03_tiny/controls_ex1_double.py",
    ],
)
def test_the_digest_of_a_suite_covers_all_that_a_verdict_depends_on(course, what):
    exercise = course.exercise("3.1")
    before = suite_digest_of(course, exercise)
    path = course.root / what
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "course.toml":
        exercise = replace(exercise, limits=replace(exercise.limits, wall_s=exercise.limits.wall_s + 1))
    else:
        path.write_text((path.read_text() if path.exists() else "") + "\n# changed\n")
    assert suite_digest_of(course, exercise) != before


def test_two_runs_at_once_are_refused(run, tmp_path):
    with Store.open(tmp_path / "out"), pytest.raises(InputError, match="another grader is at work"):
        run()
    run()


def test_few_jobs_are_under_way_and_submissions_are_read_one_by_one(course, bench):
    read = []

    def tasks():
        for number in range(12):
            read.append(number)
            yield cohort.Task(f"s{number}", course.exercise("3.1"), None)

    crew = Crew(course, bench)
    reports = cohort.grade(course, tasks(), seed=1, crew=crew)
    next(reports)
    assert len(read) <= crew.room + 1
    assert len(list(reports)) == 11
    assert crew.most == crew.room
    crew.grader.__exit__()


# -------------------------------------------------------------------------------------------------- workers that die


def test_what_ends_three_workers_is_pending_and_not_tried_again_until_asked(run):
    asked, reports, *_ = run(lose=["s1"])
    assert asked.count("s1") == MOST_LOSSES == 3
    assert is_lost(reports["s1"])
    assert (reports["s1"].score, reports["s1"].pending, reports["s1"].max_score) == (0, 9, 9)
    assert {check.outcome for check in reports["s1"].checks} == {"grader_fault"}
    assert run()[0] == []
    asked, reports, *_ = run(regrade=True)
    assert asked == ["s1"]
    assert (reports["s1"].score, reports["s1"].pending) == (9, 0)


def test_a_fault_of_the_grader_stops_nobody_and_is_tried_again(run, monkeypatch):
    true_grade = cohort.Grader.grade

    def broken(self, exercise, submission, *, seed, student):
        if student == "s1":
            raise ZeroDivisionError("ours")
        return true_grade(self, exercise, submission, seed=seed, student=student)

    monkeypatch.setattr(cohort.Grader, "grade", broken)
    _, reports, *_ = run()
    assert (reports["s1"].pending, reports["s0"].score) == (9, 9)
    assert "ZeroDivisionError: ours" in reports["s1"].checks[0].rationale
    monkeypatch.undo()
    assert run()[0] == ["s1"]


def test_a_worker_that_dies_while_it_has_nothing_to_do_costs_nobody_anything(course, submissions):
    task = discover(submissions, course.select(["3"]))[0]
    with Processes(course, 1) as crew:
        job = cohort.Job("3.1", task.student, task.submission(), 1)
        crew.start(job)
        assert crew.finished()[0][1].score == 9
        ((executor, _),) = crew._idle
        (process,) = executor._processes.values()
        process.kill()
        process.join()
        while not executor._broken:
            time.sleep(0.01)
        crew.start(job)
        assert crew.finished()[0][1].score == 9


def test_processes_that_do_not_start_end_the_run_and_blame_nobody(course, submissions, monkeypatch):
    task = discover(submissions, course.select(["3"]))[0]
    monkeypatch.setattr(cohort, "_start", os._exit)  # pickled by name: a process that ends with the wrong arguments
    with Processes(course, 1) as crew:
        crew.start(cohort.Job("3.1", task.student, task.submission(), 1))
        with pytest.raises(cohort.WorkersFailed, match="did not start"):
            crew.finished()


def test_a_driver_that_is_killed_while_workers_start_leaves_none_behind(course, submissions, tmp_path):
    mark = f"MARK_{os.getpid()}_{random.getrandbits(32)}"
    command = [sys.executable, "-m", "grader.cli", "grade", "3", str(submissions), "--out", str(tmp_path / "out")]
    environment = os.environ | {mark: "1", "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(command, cwd=course.root, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(processes_with(mark)) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    running.kill()
    running.wait()
    while processes_with(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_with(mark) == []


KILLING = "    x = 3 + torch"


def test_a_worker_process_that_dies_costs_only_its_own_job_a_second_try(made_up, tmp_path):
    """A suite that kills the worker it runs in, for one student."""
    quick = made_up.quick()
    mark = tmp_path / "deaths"
    deadly = (
        "    import os\n"
        f"    if student.run(lambda exercise: hasattr(exercise, 'DEADLY')):\n"
        f"        os.write(os.open({str(mark)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND), b'x')\n"
        "        os.kill(os.getpid(), 9)\n" + KILLING
    )
    root = tmp_path / "course"
    root.mkdir()
    course = made_up.make(root, {"double": replace(quick, suite=quick.suite.replace(KILLING, deadly))})
    for name, text in (("ada", RIGHT), ("bob", "DEADLY = 1\n" + RIGHT), ("cy", RIGHT), ("dan", WRONG)):
        (tmp_path / "submissions" / name).mkdir(parents=True)
        (tmp_path / "submissions" / name / "ex1_double.py").write_text(text)
    tasks = discover(tmp_path / "submissions", course.select(["3"]))
    with Store.open(tmp_path / "out", seed=1) as store, Processes(course, 2) as crew:
        reports = {report.student: report for report in cohort.grade(course, tasks, seed=1, store=store, crew=crew)}
    assert mark.read_bytes() == b"xxx"
    assert is_lost(reports["bob"])
    assert {name: report.score for name, report in reports.items() if name != "bob"} == {"ada": 9, "cy": 9, "dan": 4}


# ------------------------------------------------------------------------------------------------- a driver that dies

DRIVER = """
import os, random, signal, sys, time
from pathlib import Path
from grader import cohort, course as manifest
from grader.grading import Grader

sys.platform = "a system without seals"  # the submissions are ours: they run in the driver, which then starts in no time
root, submissions, out = map(Path, sys.argv[1:])
course = manifest.load(root)
tasks = cohort.discover(submissions, course.select(["3"]))
grader = Grader(course, trust=True)
grader.grade(course.exercise("3.1"), tasks[0].submission(), seed=1)
chance = random.Random(20261125)

class Crew:
    room = 2
    def __init__(self):
        self.waiting = []
    def start(self, job):
        self.waiting.append(job)
    def finished(self):
        job = self.waiting.pop(0)
        return [(job, cohort.grade_job(grader, job))]

def die_in_the_middle_of_writing(number):
    # when that file is half there, or whole but without its name
    half, true = chance.random() < 0.5, os.fsync
    def fsync(descriptor):
        nonlocal number
        number -= 1
        if number:
            return true(descriptor)
        if half:
            os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    os.fsync = fsync

def drive(out):
    with cohort.Store.open(out, seed=1) as store:
        for report in cohort.grade(course, tasks, seed=1, store=store, crew=Crew()):
            pass

kills = rounds = unfinished = 0
while kills < 50:
    folder = out / str(rounds)
    before = {path: path.read_bytes() for path in folder.rglob("*.json") if not path.name.startswith(".")}
    chance.seed(kills)
    in_the_middle = kills % 3 == 0
    pid = os.fork()
    if not pid:
        status = 1
        try:
            if in_the_middle:
                die_in_the_middle_of_writing(chance.randint(1, 3))
            drive(folder)
            status = 0
        finally:
            os._exit(status)
    if not in_the_middle:
        time.sleep(chance.uniform(0.0, 0.2))
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    for path, content in before.items():
        assert path.read_bytes() == content, f"{path} was graded twice"
    if os.WIFSIGNALED(status):
        kills += 1
        left = sum(cohort.UNFINISHED.fullmatch(path.name) is not None for path in folder.rglob(".*"))
        assert left <= 1, left  # that of the killed writer; those of earlier ones are gone
        unfinished += left
    else:
        assert os.WEXITSTATUS(status) == 0, status
        rounds += 1
drive(out / str(rounds))
print(kills, rounds, unfinished)
"""


def test_a_driver_that_is_killed_fifty_times_makes_every_report_once_and_whole(made_up, tmp_path):
    """The real loop over the real store, killed at random moments, those of writing included.

    Each driver is forked from a process that has everything imported, so that the kills hit the work and not the imports;
    and after each kill no report that was there may have changed.
    """
    root = tmp_path / "course"
    root.mkdir()
    made_up.make(root, {"double": made_up.quick()})
    students = [f"s{number}" for number in range(8)]
    for name in students:
        (tmp_path / "submissions" / name).mkdir(parents=True)
        (tmp_path / "submissions" / name / "ex1_double.py").write_text(RIGHT + f"# {name}\n")
    command = [sys.executable, "-c", DRIVER, str(root), str(tmp_path / "submissions"), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    kills, rounds, unfinished = map(int, result.stdout.split())
    assert kills == 50
    assert rounds >= 1
    assert unfinished >= 10  # drivers that were killed in the middle of writing
    for number in range(rounds + 1):
        folder = tmp_path / "out" / str(number)
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert files == {f"{name}/3.1.json" for name in students} | {"seed.txt", ".lock"}
        for name in students:
            report = Report.from_json((folder / name / "3.1.json").read_text())
            assert (report.student, report.score, report.max_score) == (name, 9, 9)


def processes_with(mark):
    """Ids of processes whose environment holds ``mark``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_command_leaves_no_process_behind_and_goes_on_where_it_was(course, submissions, tmp_path, number):
    mark = f"MARK_{os.getpid()}_{number}_{random.getrandbits(32)}"
    command = [
        sys.executable,
        "-m",
        "grader.cli",
        "grade",
        "3",
        str(submissions),
        "--out",
        str(tmp_path / "out"),
        "--jobs",
        "1",
    ]
    environment = os.environ | {mark: "1", "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(
        command, cwd=course.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").rglob("3.1.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(running.pid, number)
    _, words = running.communicate(timeout=60)
    assert running.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    if number != signal.SIGKILL:
        assert "done; the same command goes on from there" in words
    while processes_with(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_with(mark) == []
    kept = {path: path.read_bytes() for path in (tmp_path / "out").rglob("3.1.json")}
    assert kept
    again = subprocess.run(command, cwd=course.root, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert len(list((tmp_path / "out").rglob("3.1.json"))) == 4

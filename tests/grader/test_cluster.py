"""The same cohort on a Dask cluster of processes: reports, a worker that dies, a submission that kills workers."""

import os
import signal
import threading
import time
import warnings
from dataclasses import replace

import pytest
from distributed import LocalCluster

from grader import cluster, cohort
from grader.cluster import Cluster
from grader.cohort import Store, discover, is_lost
from grader.submission import InputError

RIGHT = "def double(x):\n    if not x.is_floating_point():\n        raise ValueError('x')\n    return x + x\n"
WRONG = RIGHT.replace("x + x", "3 * x")
PLACE = "    x = 3 + torch"

pytestmark = pytest.mark.filterwarnings("ignore")  # Dask's own, of sockets and loops that it closes late


def cluster_of(workers):
    warnings.simplefilter("ignore")
    return LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=60
    )


@pytest.fixture(scope="module")
def scheduler():
    """A cluster of two processes."""
    with warnings.catch_warnings(), cluster_of(2) as local:
        yield local


@pytest.fixture
def lonely():
    """A cluster of one process, so that it is known who is where."""
    with warnings.catch_warnings(), cluster_of(1) as local:
        yield local


@pytest.fixture
def classroom(made_up, tmp_path):
    """``classroom(suite)``: a course whose suite begins with these lines, and its tasks."""

    def make(lines="", students=("ada", "bob", "cy", "dan")):
        quick = made_up.quick()
        (tmp_path / "course").mkdir()
        exercise = replace(quick, suite=quick.suite.replace(PLACE, lines + PLACE))
        course = made_up.make(tmp_path / "course", {"double": exercise})
        for name in students:
            (tmp_path / "submissions" / name).mkdir(parents=True)
            text = {"bob": WRONG, "eve": "DEADLY = 1\n" + RIGHT}.get(name, RIGHT)
            (tmp_path / "submissions" / name / "ex1_double.py").write_text(text)
        return course, discover(tmp_path / "submissions", course.select(["3"]))

    return make


def grade(scheduler, course, tasks, store=None):
    with Cluster(course, scheduler.scheduler_address) as crew:
        return {report.student: report for report in cohort.grade(course, tasks, seed=1, store=store, crew=crew)}


def test_a_cluster_gives_the_reports_that_this_machine_gives(scheduler, classroom, tmp_path):
    course, tasks = classroom()
    with Store.open(tmp_path / "out", seed=1) as store:
        reports = grade(scheduler, course, tasks, store)
        again = grade(scheduler, course, tasks, store)
    assert {name: report.score for name, report in reports.items()} == {"ada": 9, "bob": 4, "cy": 9, "dan": 9}
    assert {report.environment.isolation for report in reports.values()} == {"bubblewrap"}
    assert again == reports  # from the store: nothing was graded a second time
    assert sorted(path.parent.name for path in (tmp_path / "out").rglob("3.1.json")) == ["ada", "bob", "cy", "dan"]


def test_what_a_dead_worker_was_doing_is_done_elsewhere(scheduler, classroom):
    course, tasks = classroom("    import time\n    time.sleep(0.3)\n", students=[f"s{number}" for number in range(8)])
    killed = []

    def kill():
        time.sleep(1.0)
        victim = next(iter(scheduler.workers.values()))
        killed.append(victim.pid)
        os.kill(victim.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    reports = grade(scheduler, course, tasks)
    thread.join()
    assert killed
    assert {name: (report.score, report.pending) for name, report in reports.items()} == {
        f"s{n}": (9, 0) for n in range(8)
    }


def test_a_submission_that_ends_three_workers_is_marked_and_nobody_else_is(lonely, classroom, tmp_path):
    """Dask blames the deaths on those too who waited in the worker for the one that kills it; we do not."""
    mark = tmp_path / "deaths"
    deadly = (
        "    import os\n"
        "    if student.run(lambda exercise: hasattr(exercise, 'DEADLY')):\n"
        f"        os.write(os.open({str(mark)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND), b'x')\n"
        "        os.kill(os.getpid(), 9)\n"
    )
    course, tasks = classroom(deadly, students=("ada", "bob", "eve", "fay", "gus"))
    reports = grade(lonely, course, tasks)
    assert mark.read_bytes() == b"xxx"
    assert is_lost(reports["eve"])
    assert (reports["eve"].score, reports["eve"].pending) == (0, 9)
    assert {name: report.score for name, report in reports.items()} == {
        "ada": 9,
        "bob": 4,
        "eve": 0,
        "fay": 9,
        "gus": 9,
    }


def test_the_course_lies_where_dask_removes_it_and_nobody_else_reads_it(scheduler, classroom):
    course, _ = classroom()
    with Cluster(course, scheduler.scheduler_address) as crew:
        name = crew._name
        found = crew._client.run(
            lambda dask_worker: (
                folder := dask_worker.plugins[name].folder,
                dask_worker.local_directory,
                os.stat(folder).st_mode & 0o777,
            )
        )
        assert len(found) == 2
        assert all(folder.startswith(local) and mode == 0o700 for folder, local, mode in found.values())
        folders = [folder for folder, *_ in found.values()]
        assert all(map(os.path.isdir, folders))
    assert not any(map(os.path.exists, folders))


def test_a_run_without_workers_or_scheduler_ends_with_a_line(lonely, classroom, monkeypatch):
    course, tasks = classroom()
    monkeypatch.setattr(cluster, "LOOK_S", 0.1)
    with Cluster(course, lonely.scheduler_address) as crew:
        reports = cohort.grade(course, tasks, seed=1, crew=crew)
        next(reports)
        crew._client.close()  # what the client does when it cannot reach the scheduler any more
        with pytest.raises(cohort.WorkersFailed, match="the scheduler is gone"):
            list(reports)
    monkeypatch.setattr(cluster, "GONE_S", 0.2)
    with Cluster(course, lonely.scheduler_address) as crew:
        reports = cohort.grade(course, tasks, seed=1, crew=crew)
        next(reports)
        lonely.scale(0)
        with pytest.raises(cohort.WorkersFailed, match="all workers are gone"):
            list(reports)


def test_a_cluster_with_another_grader_is_refused(scheduler, classroom, monkeypatch):
    course, _ = classroom()
    monkeypatch.setattr(cluster, "__version__", "another")
    with pytest.raises(InputError, match="has another grader, fixtures, torch or Python"):
        Cluster(course, scheduler.scheduler_address)


def test_nobody_at_the_address_is_bad_input(classroom, monkeypatch):
    course, _ = classroom()
    monkeypatch.setattr(cluster, "CONNECT_S", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense"):
        with pytest.raises(InputError, match="no Dask scheduler answers there"):
            Cluster(course, address)

"""A crew on a Dask cluster: the same job, mapped over its workers. Nothing of the distribution is our own.

The course travels to the workers as an archive and submissions as data, so no shared disk is needed; what a worker needs is
the same grader and fixtures (compared by digest), and what ``grader doctor`` asks for. Use a cluster that only you can reach:
whoever speaks to a Dask scheduler can run code on it.
"""

import contextlib
import io
import queue
import shutil
import tempfile
import threading
import time
import uuid
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from distributed import Client, KilledWorker, WorkerPlugin, get_worker

from grader import __version__
from grader import seal as seals
from grader.cohort import Job, WorkersFailed, grade_job
from grader.course import MANIFEST, Course, load
from grader.grading import Grader, contents, digest_of
from grader.report import Report
from grader.submission import InputError

SHIPPED = ("exercises", "reference", "tests", "fixtures")
CONNECT_S = 20
LOOK_S = 2.0
GONE_S = 120.0
"""How long all workers may be gone: their nannies restart them in seconds, a cluster's manager in a minute."""


class Cluster:
    """See ``cohort.Crew``. A context manager.

    Args:
        course: travels to every worker, those that join later included.
        address: of the scheduler, ``tcp://host:port``.
        seal: see ``Grader``.
        trust: see ``Grader``.

    Raises:
        InputError: the scheduler cannot be reached, has no workers, or they have another grader.
    """

    def __init__(self, course: Course, address: str, *, seal: str | None = None, trust: bool = False) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of versions that differ: we compare those that matter, below
                self._client = Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{address}: no Dask scheduler answers there ({type(error).__name__})") from None
        try:
            try:
                found = self._client.run(identity)
            except Exception as error:  # what a worker raised: it has no grader, or none that is like ours
                raise InputError(
                    f"{address}: its workers cannot run this grader ({type(error).__name__}: {error})"
                ) from None
            if not found:
                raise InputError(f"{address}: the cluster has no workers")
            ours = identity()
            for worker, theirs in found.items():
                if theirs != ours:
                    raise InputError(f"{worker} has another grader, fixtures, torch or Python: {theirs}, here {ours}")
            self._client.run_on_scheduler(_give_up_at_once)
            self._name = f"course-{uuid.uuid4().hex}"  # two of us may use one cluster at the same time
            self._client.register_plugin(CoursePlugin(archive(course), ours, seal, trust), name=self._name)
        except BaseException:
            self._client.close()
            raise
        self._address = address
        self._jobs: dict[Any, Job] = {}  # future -> what it will be the report on
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()  # of futures
        self._waiting: list[Job] = []

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # the scheduler is gone, and the jobs and the course with it
            if self._jobs:
                self._client.cancel(list(self._jobs), force=True)
            self._client.unregister_worker_plugin(self._name)
        self._client.close()

    @property
    def room(self) -> int:
        """See ``cohort.Crew``; two jobs for each worker that there is now, so that none waits for us."""
        return 2 * max(1, self._workers())

    def _workers(self) -> int:
        if self._client.status != "running":
            raise WorkersFailed(f"{self._address}: the scheduler is gone")
        try:
            return len(self._client.nthreads())
        except OSError:  # the client has not noticed yet
            raise WorkersFailed(f"{self._address}: the scheduler is gone") from None

    def start(self, job: Job) -> None:
        """See ``cohort.Crew``."""
        self._waiting.append(job)
        self._dispatch()

    def _dispatch(self) -> None:
        """Submit what may run now.

        Dask blames the death of a worker on all that it had been given. So a job that was lost is tried again with nothing
        beside it: who is lost then has only itself to blame.
        """
        while self._waiting and not any(job.losses for job in self._jobs.values()):
            suspect = next((job for job in self._waiting if job.losses), None)
            if suspect is not None and self._jobs:
                return
            job = suspect or self._waiting[0]
            self._waiting.remove(job)
            future = self._client.submit(_grade, self._name, job, key=f"grade-{uuid.uuid4().hex}", pure=False)
            self._jobs[future] = job
            future.add_done_callback(self._done.put)

    def finished(self) -> list[tuple[Job, Report | None]]:
        """See ``cohort.Crew``.

        Raises:
            WorkersFailed: the scheduler or all of its workers are gone.
        """
        future = self._first()
        job = self._jobs.pop(future)
        try:
            report = Report.from_json(future.result())
        except CancelledError:
            raise WorkersFailed(f"{self._address}: the scheduler is gone") from None
        except KilledWorker:
            report = None
        self._dispatch()
        return [(job, report)]

    def _first(self) -> Any:
        """The first future that is done, however long that takes as long as there are workers."""
        seen = time.monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                return self._done.get(timeout=LOOK_S)
            if self._workers():
                seen = time.monotonic()
            elif time.monotonic() - seen > GONE_S:
                raise WorkersFailed(f"{self._address}: all workers are gone")


def _give_up_at_once(dask_scheduler: Any) -> None:
    dask_scheduler.allowed_failures = 0  # we count for ourselves


def identity() -> dict[str, str]:
    """What must be the same on all machines for their verdicts to be."""
    import platform

    import torch

    sources = digest_of(*sorted(seals.PACKAGE.glob("*.py")), *contents(seals.PACKAGE.with_name("fixtures")))
    return {
        "grader": f"{__version__} {sources[:12]}",
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def archive(course: Course) -> bytes:
    """The course as a zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for path in _files(course.root):
            file.write(path, path.relative_to(course.root))
    return buffer.getvalue()


def _files(root: Path) -> Iterator[Path]:
    yield root / MANIFEST
    for name in SHIPPED:
        for path in sorted((root / name).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                yield path


class CoursePlugin(WorkerPlugin):
    """On a worker: the course in a private folder, and one grader for all of its jobs, one at a time."""

    def __init__(self, content: bytes, theirs: dict[str, str], seal: str | None, trust: bool) -> None:
        self._content = content
        self._theirs = theirs
        self._options: dict[str, Any] = {"seal": seal, "trust": trust}

    def setup(self, worker: Any) -> None:
        """Called by Dask on each worker.

        Raises:
            RuntimeError: the worker's grader is not the driver's; Dask then refuses the worker.
        """
        # Nobody else can read it, for it holds the hidden suites; and Dask removes it with a worker that was killed.
        self.folder = tempfile.mkdtemp(prefix="course-", dir=worker.local_directory)
        with zipfile.ZipFile(io.BytesIO(self._content)) as file:
            file.extractall(self.folder)
        if identity() != self._theirs:  # of a worker that has joined later
            raise RuntimeError(f"this worker has another grader: {identity()}, the driver {self._theirs}")
        self.grader = Grader(load(Path(self.folder)), **self._options)
        self.lock = threading.Lock()

    def teardown(self, worker: Any) -> None:
        """Called by Dask when the worker or we leave."""
        self.grader.__exit__()
        shutil.rmtree(self.folder, ignore_errors=True)


def _grade(name: str, job: Job) -> str:
    plugin: Any = get_worker().plugins[name]
    with plugin.lock:
        return grade_job(plugin.grader, job).to_json()

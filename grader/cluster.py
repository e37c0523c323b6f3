"""A crew on a Dask cluster: the same job, mapped over its workers. Nothing of the distribution is our own.

The course travels to the workers as an archive and submissions as data, so no shared disk is needed; what a worker needs is
the same grader and fixtures (compared by digest), and what ``grader doctor`` asks for. Use a cluster that only you can reach:
whoever speaks to a Dask scheduler can run code on it.
"""

import hashlib
import io
import shutil
import tempfile
import threading
import uuid
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grader import __version__
from grader.cohort import Job, grade_job
from grader.course import MANIFEST, Course, load
from grader.grading import Grader
from grader.report import Report
from grader.submission import InputError

SHIPPED = ("exercises", "reference", "tests", "fixtures")
CONNECT_S = 20


class Cluster:
    """See ``cohort.Crew``. A context manager.

    Args:
        course: travels to every worker, those that join later included.
        address: of the scheduler, ``tcp://host:port``.
        seal: see ``Grader``.
        trust: see ``Grader``.

    Raises:
        InputError: Dask is not installed, the scheduler cannot be reached, has no workers, or they have another grader.
    """

    def __init__(self, course: Course, address: str, *, seal: str | None = None, trust: bool = False) -> None:
        try:
            from distributed import Client, as_completed
        except ImportError:
            raise InputError('--scheduler needs Dask: pip install "pytorch-genomics-course[cluster]"') from None
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
            ours = here()
            for worker, theirs in found.items():
                if theirs != ours:
                    raise InputError(f"{worker} has another grader, fixtures, torch or Python: {theirs}, here {ours}")
            self._client.run_on_scheduler(_give_up_at_once)
            self._name = f"course-{uuid.uuid4().hex}"  # two of us may use one cluster at the same time
            self._client.register_plugin(CoursePlugin(archive(course), ours, seal, trust), name=self._name)
            self.room = 2 * len(found)  # so that no worker waits for us
        except BaseException:
            self._client.close()
            raise
        self._running = as_completed(loop=self._client.loop)
        self._jobs: dict[str, Job] = {}
        self._waiting: list[Job] = []

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        for future in list(self._running.futures):
            future.cancel()
        self._client.unregister_worker_plugin(self._name)
        self._client.close()

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
            key = f"grade-{uuid.uuid4().hex}"
            self._jobs[key] = job
            self._running.add(self._client.submit(_grade, self._name, job, key=key, pure=False))

    def finished(self) -> list[tuple[Job, Report | None]]:
        """See ``cohort.Crew``."""
        from distributed import KilledWorker

        future = next(self._running)
        job = self._jobs.pop(future.key)
        try:
            report = Report.from_json(future.result())
        except KilledWorker:
            report = None
        self._dispatch()
        return [(job, report)]


def _give_up_at_once(dask_scheduler: Any) -> None:
    dask_scheduler.allowed_failures = 0  # we count for ourselves


def identity() -> dict[str, str]:
    """What must be the same on all machines for their verdicts to be."""
    import platform

    import torch

    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted([*here.glob("*.py"), *here.with_name("fixtures").rglob("*.py")]):
        digest.update(path.read_bytes())
    return {
        "grader": f"{__version__} {digest.hexdigest()[:12]}",
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


here = identity


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


def _plugin_base() -> type:
    try:
        from distributed import WorkerPlugin
    except ImportError:
        return object
    return WorkerPlugin


class CoursePlugin(_plugin_base()):  # type: ignore[misc]
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
        self.folder = tempfile.mkdtemp(prefix="course-")  # nobody else can read it: it holds the hidden suites
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
    from distributed import get_worker

    plugin: Any = get_worker().plugins[name]
    with plugin.lock:
        return grade_job(plugin.grader, job).to_json()

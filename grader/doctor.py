"""``grader doctor``: what this machine can do, and how to get what it lacks."""

import importlib.metadata
import importlib.util
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from grader import seal
from grader.course import CourseError, find


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis; ``optional``: grading is possible and safe without it."""

    what: str
    ok: bool
    found: str
    remedy: str = ""
    optional: bool = False


def examine() -> list[Finding]:
    """All findings, in the order in which one would mend them."""
    findings = [python(), torch()]
    if importlib.util.find_spec("torch"):
        findings += sealing()
    for package, extra, use in (("nbgrader", "nbgrader", "notebooks"), ("distributed", "cluster", "--scheduler")):
        there = importlib.util.find_spec(package) is not None
        remedy = f'pip install "pytorch-genomics-course[{extra}]"'
        findings.append(Finding(use, there, package if there else f"{package} is not installed", remedy, optional=True))
    findings.append(data())
    return findings


def python() -> Finding:
    """The interpreter."""
    return Finding(
        "Python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.system()}", "needs 3.11"
    )


def torch() -> Finding:
    """The version that the course is written for."""
    if not importlib.util.find_spec("torch"):
        return Finding("torch", False, "not installed", "pip install -r requirements.lock")
    version = importlib.metadata.version("torch")
    recent = tuple(int(part) for part in version.split("+")[0].split(".")[:2]) >= (2, 13)
    return Finding("torch", recent, version, "pip install -r requirements.lock")


def sealing() -> list[Finding]:
    """The seals, and a child of the strongest one, asked what holds of it."""
    found = []
    for name, lack, remedy in (
        (
            "bubblewrap",
            seal.lacks_bubblewrap(),
            "Debian, Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap",
        ),
        ("uid", seal.lacks_uid(secret()), "only of use in containers where user namespaces are forbidden"),
    ):
        found.append(Finding(f"seal {name}", not lack, lack or "works", remedy, optional=name == "uid"))
    try:
        kind = seal.choose(secret=secret())
    except seal.SealError as error:
        return [*found, Finding("hostile code", False, str(error), "see above; --trust grades it without a seal")]
    from grader.bench import Bench

    with Bench(kind) as bench:
        handle = bench.fork(memory_mb=1024, cpu_s=10)
        layers = handle.layers
        bench.reap(handle)
    found.append(Finding("hostile code", True, f"is sealed off with {kind}: {'; '.join(layers)}"))
    for word, remedy in (
        ("cgroup", "without one, limits hold per process, and work of processes nobody waits for is not counted"),
        ("Landlock", "a kernel from 5.13 with it switched on"),
        ("seccomp", "pip install pyseccomp, and the system's library: apt-get install libseccomp2"),
    ):
        there = any(word in layer for layer in layers)
        found.append(Finding(word, there, "in force" if there else "missing", remedy, optional=True))
    return found


def secret() -> list[Path]:
    """Of the course around here, if there is one."""
    try:
        root = find().root
    except CourseError:
        return []
    return [root / "tests", root / "reference"]


def data() -> Finding:
    """Real data sets."""
    folder = os.environ.get("COURSE_DATA", "")
    there = bool(folder) and Path(folder).is_dir()
    remedy = "set COURSE_DATA to the folder of the real data sets; only checks on real data need it"
    return Finding("real data", there, folder if there else "COURSE_DATA names no folder", remedy, optional=True)

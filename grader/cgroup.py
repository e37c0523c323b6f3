"""A control group per child: limits and accounts that hold for all of its processes together. Trusted side, Linux.

Where no group can be made, per-process limits must do, and ``Tree`` adds up the CPU time of the processes that it finds.
Sources: Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst of the kernel.
"""

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PREFIX = "grader"
CORE_US = 100_000
"""A submission's share of the machine: one core, in microseconds per period of as many."""

_numbers = itertools.count()


class Group:
    """The control group of one child.

    ``folders`` names the group's folder per controller: different ones in version 1, the same one in version 2.
    """

    def __init__(self, folders: dict[str, Path], *, version: int) -> None:
        self._folders = folders
        self._version = version

    @classmethod
    def make(cls, root: Path = ROOT) -> "Group | None":
        """A new group below this process's own; None where that is not allowed."""
        version, homes = homes_of(root)
        name = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
        folders: dict[str, Path] = {}
        for controller, home in homes.items():
            try:
                (home / name).mkdir(exist_ok=version == 2)
            except OSError:
                continue
            folders[controller] = home / name
        group = cls(folders, version=version)
        if not group.counts:
            group.remove()
            return None
        return group

    @property
    def counts(self) -> bool:
        """Whether it knows the CPU time that its processes have used."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            return self.cpu_seconds() >= 0
        return False

    @property
    def layers(self) -> str:
        """For the report: what it does."""
        return f"cgroup v{self._version} ({', '.join(sorted(self._folders))})"

    def limit(self, *, memory_mb: int, processes: int) -> None:
        """Bound the memory and the number of all processes together, and their share of the cores."""
        new = self._version == 2
        for controller, name, value in (
            ("memory", "memory.max" if new else "memory.limit_in_bytes", memory_mb * 2**20),
            ("memory", "memory.swap.max" if new else "memory.memsw.limit_in_bytes", 0 if new else memory_mb * 2**20),
            ("pids", "pids.max", processes),
            ("cpu", "cpu.max" if new else "cpu.cfs_quota_us", f"{CORE_US} {CORE_US}" if new else CORE_US),
        ):
            if controller in self._folders:
                with contextlib.suppress(OSError):  # of swap, where the kernel accounts none
                    (self._folders[controller] / name).write_text(str(value))

    def join(self, pid: int) -> None:
        """Put a process into it; what that starts later is in it too."""
        for folder in set(self._folders.values()):
            (folder / "cgroup.procs").write_text(str(pid))

    def cpu_seconds(self) -> float:
        """CPU seconds of all that ever ran in it."""
        if self._version == 1:
            return int((self._folders["cpuacct"] / "cpuacct.usage").read_bytes()) / 1e9
        words = (self._folders["cpu"] / "cpu.stat").read_text().split()
        return int(words[words.index("usage_usec") + 1]) / 1e6

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel has killed one of its processes for memory."""
        with contextlib.suppress(OSError, KeyError, ValueError):
            name = "memory.events" if self._version == 2 else "memory.oom_control"
            words = (self._folders["memory"] / name).read_text().split()
            return int(words[words.index("oom_kill") + 1]) > 0
        return False

    def remove(self) -> None:
        """Kill what is left in it, and free it."""
        for folder in set(self._folders.values()):
            for _ in range(200):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:  # a process without namespaces of its own has got away, or is still being taken apart
                    self._kill(folder)
                    time.sleep(0.01)

    @staticmethod
    def _kill(folder: Path) -> None:
        with contextlib.suppress(OSError, ValueError):
            for pid in map(int, (folder / "cgroup.procs").read_text().split()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@cache
def homes_of(root: Path) -> tuple[int, dict[str, Path]]:
    """Version, and controller -> folder in which this process may make groups (it may still be refused)."""
    own = dict(_own_groups())
    controllers = ("cpuacct", "memory", "pids", "cpu")
    homes = {}
    for name in controllers:
        if (root / name / "cgroup.procs").exists():
            homes[name] = root / name / own.get(name, "").lstrip("/")
    if "cpuacct" in homes:
        remove_stale(set(homes.values()))
        return 1, homes
    place = root / own.get("", "").lstrip("/")
    for home in (place, *place.parents):
        if not home.is_relative_to(root):
            break
        if _delegated(home):
            remove_stale({home})
            return 2, dict.fromkeys(("cpu", "memory", "pids"), home)
    return 2, {}


def _own_groups() -> Iterator[tuple[str, str]]:
    """Controller ("" for version 2) and path of each group this process is in."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            for name in names.split(","):
                yield name, path


def _delegated(home: Path) -> bool:
    """Whether groups below this one of version 2 can have limits, and we may make them."""
    try:
        enabled = (home / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False
    return {"memory", "pids", "cpu"} <= set(enabled) and os.access(home, os.W_OK)


def remove_stale(homes: set[Path]) -> None:
    """Remove empty groups of graders that are gone."""
    for home in homes:
        for folder in home.glob(f"{PREFIX}-*-*"):
            owner = folder.name.split("-")[1]
            if owner.isdigit() and not Path("/proc", owner).exists():
                with contextlib.suppress(OSError):
                    folder.rmdir()


class Tree:
    """The CPU time of a process and its descendants, where no group accounts for them.

    Of processes that have ended the kernel keeps a sum, in ticks of 10 ms, with the one that waited for them; what nobody
    waited for is lost.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def cpu_seconds(self) -> float:
        """CPU seconds; an OSError when the process is gone."""
        own = seconds_of(self._pid)
        return own + sum(self._seconds_below(self._pid, 0))

    def _seconds_below(self, pid: int, depth: int) -> Iterator[float]:
        if depth > 64:
            return
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError, ValueError):
                for child in map(int, children.read_text().split()):
                    with contextlib.suppress(OSError):  # it has just ended
                        yield seconds_of(child)
                    yield from self._seconds_below(child, depth + 1)


def seconds_of(pid: int) -> float:
    """CPU seconds of all threads of a process, and of processes that it waited for. OSError when it is gone."""
    # Linux encodes "CPU clock of process pid" as a clock id; 2 selects the scheduler's nanosecond account.
    own = time.clock_gettime((~pid << 3) | 2)
    fields = Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()
    return own + sum(map(int, fields[13:15])) / os.sysconf("SC_CLK_TCK")

"""Confinement of one child, from inside, before it reads a line of a submission. Linux only; plain system calls.

Every step that is done is named in the list that ``confine`` returns: the judge writes it into the report. A step that must
not fail raises, and the child ends before it has loaded anything. The order matters: what needs a capability comes before
capabilities are dropped, and Landlock and seccomp, which forbid the rest, come last.

Sources: namespaces(7), capabilities(7), landlock(7), seccomp(2), mount_setattr(2).
"""

import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct
from collections.abc import Sequence
from typing import Any

from grader import seal

MEBI = 2**20

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = (
    0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x2000_0000, 0x4000_0000,
)  # fmt: skip
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 0x1, 0x2, 0x4, 0x8, 0x4000, 0x4_0000
AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = -100, 0x8000, 0x1, 0x2
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS = 1, 22, 24, 28, 38
SECCOMP_MODE_FILTER = 2
SECURE_ALL_LOCKED = 0b1111_1111  # no capability for uid 0, none kept or raised, and no way back
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1
MOUNT_SETATTR, LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 442, 444, 445, 446

TMP_MB, SHM_MB = 64, 256
"""Size caps of the private /tmp and /dev/shm. DataLoader workers pass tensors through the latter."""

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> int:
    """A function of the C library that returns -1 on failure, which becomes an OSError that names it."""
    result = int(getattr(libc, name)(*arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def confine(kind: str, folder: str, limits: dict[str, int], seccomp: bytes) -> list[str]:
    """Confine this process for good; returns what now holds, in words.

    Args:
        kind: the seal, ``bubblewrap`` (pid 1 of its own namespaces), ``uid`` (another user) or ``none``.
        folder: the only place where it may write.
        limits: ``memory_mb``, ``cpu_s``, ``processes`` and, for ``uid``, the ``uid``.
        seccomp: a compiled filter, or b"".
    """
    os.setsid()
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    done: list[str] = []
    if kind == "bubblewrap":
        own_namespaces()
        done.append("own user, pid, mount, network, ipc, uts and cgroup namespaces")
    os.chdir(folder)
    environment(folder)
    bounds(limits)
    done.append("limits on memory, CPU time, processes and files")
    if kind == "uid":
        os.chown(folder, limits["uid"], limits["uid"])
        os.setgroups([])
        os.setresgid(limits["uid"], limits["uid"], limits["uid"])
        os.setresuid(limits["uid"], limits["uid"], limits["uid"])
        call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of user clears it
        done.append("another user id")
    if kind == "bubblewrap":
        drop_capabilities()
        done.append("no capabilities")
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    done.append("no new privileges")
    if kind != "none":
        readable = ["/"] if kind == "bubblewrap" else readable_places()
        if version := landlock(readable, [folder, "/dev/shm"] if kind == "bubblewrap" else [folder]):
            done.append(f"Landlock {version}")
        if seccomp:
            filter_system_calls(seccomp)
            done.append("seccomp")
    return done


def own_namespaces() -> None:
    """Private mounts, all read-only but an empty /tmp and /dev/shm; loopback only; no other process to be seen."""
    call("unshare", CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWCGROUP)
    call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    call("syscall", MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, ctypes.sizeof(attributes))
    plain = MS_NOSUID | MS_NODEV
    call("mount", b"tmpfs", b"/tmp", b"tmpfs", plain, f"size={TMP_MB}m,nr_inodes=8192,mode=0700".encode())
    call("mount", b"tmpfs", b"/dev/shm", b"tmpfs", plain, f"size={SHM_MB}m,nr_inodes=8192,mode=0700".encode())
    # Read-only, because some of its files are the machine's.
    call("mount", b"proc", b"/proc", b"proc", plain | MS_NOEXEC | MS_RDONLY, None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def environment(folder: str) -> None:
    """No terminal, and no environment variable of the host."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    os.environ.clear()
    os.environ.update(HOME=folder, TMPDIR=folder, LOGNAME="student", OMP_NUM_THREADS="1", LANG="C.UTF-8")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)


def bounds(limits: dict[str, int]) -> None:
    """Limits that each of its processes has for itself; a cgroup, where there is one, limits them together."""
    for kind, value in (
        (resource.RLIMIT_AS, limits["memory_mb"] * MEBI),
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_FSIZE, TMP_MB * MEBI),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_NPROC, limits["processes"]),  # the kernel does not count root's: hence the cgroup
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def drop_capabilities() -> None:
    """All of them, from every set, for good."""
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    for capability in range(last + 1):
        call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
    call("prctl", PR_SET_SECUREBITS, SECURE_ALL_LOCKED, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x2008_0522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    call("capset", header, (ctypes.c_uint32 * 6)())


def readable_places() -> list[str]:
    """What a submission may read where it sees the whole disk: Python, its packages, and the system's libraries."""
    places = [*seal.python_folders(), str(seal.PACKAGE), str(seal.PACKAGE.with_name("fixtures"))]
    places += ["/usr", "/lib", "/lib64", "/bin", "/dev", "/etc/ld.so.cache", "/etc/localtime", "/proc"]
    return [place for place in places if os.path.exists(place)]


def landlock(readable: Sequence[str], writable: Sequence[str]) -> int:
    """Reading below ``readable``, everything below ``writable``, writing to the harmless devices; nothing else.

    Returns the version of the kernel's interface, 0 where it has none.
    """
    version = int(libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, 1))
    if version < 1:
        return 0
    last_right = {1: 12, 2: 13, 3: 14, 4: 14}.get(version, 15)  # refer, truncate and ioctl came later
    everything = (1 << (last_right + 1)) - 1
    reading = 1 << 0 | 1 << 2 | 1 << 3  # execute, read file, read folder
    of_files = everything & (1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15)
    scopes = 0b11 if version >= 6 else 0  # abstract sockets and signals stay among its own processes
    attributes = struct.pack("QQQ", everything, 0, scopes)[: 24 if version >= 6 else 8]
    ruleset = call("syscall", LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    rules = [(place, reading) for place in readable] + [(place, everything) for place in writable]
    rules += [(f"/dev/{name}", of_files) for name in ("null", "zero", "full", "random", "urandom")]
    for place, rights in rules:
        handle = os.open(place, os.O_PATH | os.O_CLOEXEC)
        allowed = rights if os.path.isdir(place) else rights & of_files
        rule = struct.pack("=Qi", allowed, handle)
        call("syscall", LANDLOCK_ADD_RULE, ruleset, 1, rule, 0)
        os.close(handle)
    call("syscall", LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return version


def trial() -> int:
    """Whether the namespaces of a child can be made inside of a bench: an exit code."""
    call("unshare", CLONE_NEWPID)
    child = os.fork()
    if not child:
        own_namespaces()
        drop_capabilities()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def filter_system_calls(program: bytes) -> None:
    """Install a compiled seccomp filter (8 bytes per instruction) for this process and all that it starts."""
    call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(_Program(len(program) // 8, program)), 0, 0)


if __name__ == "__main__":
    raise SystemExit(trial())

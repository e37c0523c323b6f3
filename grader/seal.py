"""Which seals this machine can give, and what the judge does outside for each of them.

- ``bubblewrap``: the bench lives in namespaces of its own, where only Python, its packages and the grader can be seen; each
  child gets namespaces of its own besides, and loses every capability.
- ``uid``: where there are no user namespaces but we are root (Gradescope's containers): each child becomes another user, who
  cannot read the tests; Landlock and seccomp where the kernel has them.
- ``none``: a child process with limits. For code that you trust.
"""

import errno
import os
import platform
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

Seal = Literal["bubblewrap", "uid", "none"]

PACKAGE = Path(__file__).resolve().parent
FIRST_UID, UIDS = 61_000, 4_000
"""User ids for submissions; between those of system services and those of people on every distribution."""


class SealError(Exception):
    """This machine cannot give the seal that is asked for; one line that says what is missing."""


def choose(wanted: str | None = None, *, trust: bool = False, secret: Sequence[Path] = ()) -> Seal:
    """The seal to use: the one that is wanted, else the strongest that works here.

    Args:
        wanted: a seal's name; None for the strongest.
        trust: whether ``none`` will do where nothing else works.
        secret: folders that another user must not be able to read (hidden suites, references).

    Raises:
        SealError: it does not work here, or none does and the code is not trusted.
    """
    if wanted == "none" or (wanted is None and trust and sys.platform != "linux"):
        if not trust:
            raise SealError("no seal: submissions could read and change this machine; say --trust if you trust them")
        return "none"
    lacks: dict[Seal, str] = {"bubblewrap": lacks_bubblewrap(), "uid": lacks_uid(secret)}
    for seal, lack in lacks.items():
        if wanted in (None, seal) and not lack:
            return seal
    if wanted is None and trust:
        return "none"
    reasons = "; ".join(f"{seal}: {lack}" for seal, lack in lacks.items() if wanted in (None, seal))
    raise SealError(
        f"cannot seal submissions off here ({reasons}); `grader doctor` says more, --trust runs them all the same"
    )


@cache
def lacks_bubblewrap() -> str:
    """Why bubblewrap cannot be used here, or ""."""
    if sys.platform != "linux":
        return f"needs Linux, this is {platform.system()}"
    if not shutil.which("bwrap"):
        return "bubblewrap is not installed (Debian: apt-get install bubblewrap)"
    trial = [*command(), sys.executable, "-m", "grader.jail"]
    result = subprocess.run(trial, capture_output=True, text=True, check=False, env={}, stdin=subprocess.DEVNULL)
    if result.returncode:
        words = (result.stderr.strip().splitlines() or ["no message"])[-1]
        return f"user namespaces do not work here ({words})"
    return ""


def lacks_uid(secret: Sequence[Path] = ()) -> str:
    """Why another user id would not protect this machine, or ""."""
    if sys.platform != "linux":
        return f"needs Linux, this is {platform.system()}"
    if os.geteuid() != 0:
        return "needs root"
    for place in (Path(sys.base_prefix), Path(sys.prefix), PACKAGE):
        if not readable_to_others(place):
            return f"another user cannot read {place}, which it needs"
    for place in secret:
        if place.exists() and readable_to_others(place):
            return f"any user can read {place}: chmod -R go-rwx it"
    return ""


def readable_to_others(path: Path) -> bool:
    """Whether a user without any rights of its own can open this folder."""
    others = stat.S_IXOTH
    return all(above.stat().st_mode & others for above in (path, *path.parents))


def command() -> list[str]:
    """bubblewrap with the world of a bench: ``[*command(), program, argument, ...]``.

    It is read-only, and holds the system's programs and libraries, Python, its packages, ``grader`` and ``fixtures`` only.
    """
    words = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-all",
        "--die-with-parent",
        "--cap-add",
        "ALL",
        "--hostname",
        "sandbox",
        "--clearenv",
    ]
    for name, value in {**ENVIRONMENT, "PYTHONPATH": WORLD}.items():
        words += ["--setenv", name, value]
    words += ["--ro-bind", "/usr", "/usr", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        place = Path("/", name)
        if place.is_symlink():
            words += ["--symlink", os.readlink(place), str(place)]
        elif place.is_dir():
            words += ["--ro-bind", str(place), str(place)]
    for prefix in python_folders():
        words += ["--ro-bind", prefix, prefix]
    for package in (PACKAGE, PACKAGE.with_name("fixtures")):
        words += ["--ro-bind", str(package), f"{WORLD}/{package.name}"]
    words += ["--ro-bind-try", "/sys/devices/system/cpu", "/sys/devices/system/cpu"]
    return [*words, "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--chdir", "/", "--remount-ro", "/"]


WORLD = "/course"
"""Where a bench finds the grader and the fixtures."""


ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "LOGNAME": "student",
    "OMP_NUM_THREADS": "1",
    "PYTHONNOUSERSITE": "1",
}
"""All environment variables of a bench, but where it finds its code and its temporary files."""


def python_folders() -> list[str]:
    """The folders of this Python and of its packages, outermost only; none below /usr, which is there anyhow."""
    places = {Path(place).resolve() for place in (sys.base_prefix, sys.prefix, sysconfig.get_path("purelib"))}
    places |= {Path(sys.executable).parent.resolve(), Path(sys.prefix)}
    outermost = [place for place in places if not any(other in place.parents for other in places)]
    return sorted(str(place) for place in outermost if not place.is_relative_to("/usr"))


@cache
def seccomp_filter(*, network: bool) -> bytes:
    """A compiled filter, or b"" where the package ``pyseccomp`` or its library is missing.

    It refuses what no exercise needs and what has broken sandboxes before: other namespaces, mounts, tracing, kernel modules,
    keyrings, BPF, io_uring, userfaultfd, handles of files. Unix sockets stay (DataLoader workers), and loopback.

    Args:
        network: whether Internet sockets may be made (in a namespace that has only loopback they may).
    """
    try:
        import pyseccomp as seccomp
    except (ImportError, OSError, RuntimeError):  # the package, or the C library behind it
        return b""
    refused = seccomp.ERRNO(errno.EPERM)
    program = seccomp.SyscallFilter(seccomp.ALLOW)
    for name in REFUSED_CALLS:
        program.add_rule(refused, name)
    for flag in NAMESPACE_FLAGS:
        program.add_rule(refused, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    # The flags of clone3 cannot be looked at; the C library then uses clone.
    program.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    allowed = {1, 2, 10, 16} if network else {1}  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK (names the interfaces)
    for name in ("socket", "socketpair"):
        for family in set(range(1, 47)) - allowed:
            program.add_rule(refused, name, seccomp.Arg(0, seccomp.EQ, family))
        program.add_rule(refused, name, seccomp.Arg(0, seccomp.GE, 47))
    for command in (1024, 1026):  # F_SETLEASE, F_NOTIFY: a lease on a file stalls whoever opens it
        program.add_rule(refused, "fcntl", seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFF_FFFF, command))
    if not network:  # then there are no namespaces, and what these make would outlive the submission
        for name in ("shmget", "msgget", "semget", "mq_open"):
            program.add_rule(refused, name)
    tiocsti = 0x5412  # typing for others
    program.add_rule(refused, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFF_FFFF, tiocsti))
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()


NAMESPACE_FLAGS = (0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000)

REFUSED_CALLS = (
    "acct", "add_key", "bpf", "chroot", "delete_module", "fanotify_init", "finit_module", "fsconfig", "fsmount", "fsopen",
    "fspick", "init_module", "inotify_init", "inotify_init1",
    "io_uring_enter", "io_uring_register", "io_uring_setup", "kcmp", "kexec_file_load",
    "kexec_load", "keyctl", "lookup_dcookie", "mount", "mount_setattr", "move_mount", "name_to_handle_at",
    "open_by_handle_at", "open_tree", "perf_event_open", "pidfd_getfd", "pivot_root", "process_madvise", "process_vm_readv",
    "process_vm_writev", "ptrace", "quotactl", "reboot", "request_key", "setns", "swapoff", "swapon", "syslog",
    "umount2", "unshare", "userfaultfd",
)  # fmt: skip

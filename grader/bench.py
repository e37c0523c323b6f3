"""The trusted end of a bench: starting it, forking a child per submission, asking that child, ending it.

A ``Bench`` is a pre-warmed parent process (``grader.zygote``) behind a seal (``grader.seal``). A ``Child`` is one submission in
a process of its own: the ``Subject`` that hidden suites ask. Nothing a submission does reaches this process, except the bytes
that ``grader.wire`` decodes.
"""

import contextlib
import fcntl
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from grader import seal, wire
from grader.cgroup import Group, Tree
from grader.report import Isolation
from grader.subject import GraderFault, Probe, SubmissionError, pack, unwrap
from grader.submission import Submission
from grader.zygote import remove

PROCESSES = 64
"""Processes and threads of one submission together."""

PIPE_BYTES = 2**20
"""A pipe's buffer: as much as any user may ask for."""


class BenchDied(GraderFault):
    """The pre-warmed parent is gone, or does not answer."""


@dataclass
class Handle:
    """A child as the judge holds it.

    Attributes:
        bench: the pre-warmed parent it is of.
        inside: its process id as the parent knows it.
        pid: its process id here.
        pidfd: refers to it and nothing else, even when the id is another's by now.
        group: its control group, where there is one.
        channel: for questions; its other end cannot send.
        answers: a pipe, which carries bytes and nothing else.
        layers: what it said of its confinement, and the control group.
    """

    bench: "subprocess.Popen[bytes]"
    inside: int
    pid: int
    pidfd: int
    group: Group | None
    channel: socket.socket
    answers: int
    layers: tuple[str, ...] = ()

    def cpu_seconds(self) -> float:
        """CPU seconds of all of its processes; NaN when it is gone."""
        try:
            return (self.group or Tree(self.pid)).cpu_seconds()
        except OSError:
            return math.nan

    def free(self) -> None:
        """Kill it, with its namespaces where it has some, and let go of it."""
        self.channel.close()
        os.close(self.answers)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)  # ProcessLookupError: the pid may be another's now
            os.killpg(self.pid, signal.SIGKILL)
        os.close(self.pidfd)
        if self.group:
            self.group.remove()


class Bench:
    """A pre-warmed parent process behind a seal. It forks a child per submission.

    One bench serves one grading at a time. A submission that kills or stops the parent loses its own points only: the
    next ``fork`` starts a new one. Killing this process ends the parent and all of its children.

    Args:
        kind: the seal; by default the strongest that this machine can give.

    Raises:
        seal.SealError: this machine can give none.
    """

    START_S = 120.0
    REPLY_S = 10.0  # a fork takes milliseconds, but the folder that is removed with a child may be large

    def __init__(self, kind: seal.Seal | None = None) -> None:
        self.seal = kind or seal.choose()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._children: list[Handle] = []
        self._folder = ""
        self._next_uid = seal.FIRST_UID + os.getpid() % seal.UIDS

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, message: dict[str, Any], *descriptors: int) -> tuple[int, list[int]]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            raise BenchDied("the bench has ended")
        try:
            socket.send_fds(self._control, [json.dumps(message).encode()], descriptors)
            reply, handles, _, _ = socket.recv_fds(self._control, 4096, 1)
            return int(reply), handles
        except (OSError, ValueError) as error:  # gone, stopped, or not itself any more
            self._end()
            raise BenchDied("the bench does not answer") from error
        except BaseException:  # interrupted: the next request would read this one's reply
            self._end()
            raise

    def _start(self) -> None:
        self._end()
        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sealed = self.seal == "bubblewrap"
        if not sealed:
            self._folder = tempfile.mkdtemp(prefix="bench-")  # of its children's folders: they go when it goes
        program = b"" if self.seal == "none" else seal.seccomp_filter(network=sealed)
        settings = {"seal": self.seal, "folder": self._folder, "seccomp": program.hex()}
        python = [sys.executable, "-m", "grader.zygote", str(other.fileno())]
        if self.seal == "uid":
            os.chmod(self._folder, 0o711)  # others must get through to their own folders
        with other:
            self._process = subprocess.Popen(
                [*seal.command(), *python] if sealed else python,
                pass_fds=[other.fileno()],
                env={} if sealed else {**seal.ENVIRONMENT, "TMPDIR": self._folder},
                stdin=subprocess.DEVNULL,
                cwd=seal.PACKAGE.parent,  # so that the bench is of this very grader
                start_new_session=True,  # Ctrl-C is for the judge, which then ends the bench
            )
        self._control.settimeout(self.START_S)
        try:
            self._control.send(json.dumps(settings).encode())
            ready = self._control.recv(100)
        except OSError as error:  # its end is closed, or nothing came
            self._end()
            raise BenchDied("the bench did not start; see its messages above") from error
        except BaseException:
            self._end()
            raise
        if ready != b"ready":
            self._end()
            raise BenchDied("the bench did not start; see its messages above")
        self._control.settimeout(self.REPLY_S)

    def warm(self) -> None:
        """Start the parent now rather than with the first submission."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()

    def fork(self, *, memory_mb: int, cpu_s: int) -> Handle:
        """A new child, confined and waiting for its submission."""
        with self._lock, contextlib.ExitStack() as unless_it_starts:
            self._next_uid = seal.FIRST_UID + (self._next_uid + 1 - seal.FIRST_UID) % seal.UIDS
            limits = {"memory_mb": memory_mb, "cpu_s": cpu_s, "processes": PROCESSES, "uid": self._next_uid}
            ours, theirs = socket.socketpair()
            answers, writer = os.pipe()
            unless_it_starts.callback(ours.close)
            unless_it_starts.callback(os.close, answers)
            try:
                theirs.shutdown(socket.SHUT_WR)  # descriptors could come along, and stall whoever closes them
                fcntl.fcntl(answers, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
                inside, pidfd = self._forked(limits, theirs.fileno(), writer)
            finally:
                theirs.close()
                os.close(writer)
            assert self._process is not None
            handle = Handle(self._process, inside, _pid_of(pidfd), pidfd, Group.make(), ours, answers)
            unless_it_starts.pop_all()
            unless_it_starts.callback(handle.free)  # which closes these two as well
            self._confine(handle, limits)
            unless_it_starts.pop_all()
            self._children.append(handle)
            return handle

    def _forked(self, limits: dict[str, int], *descriptors: int) -> tuple[int, int]:
        """Ask for a child; its process id inside, and a handle on it."""
        try:
            inside, handles = self._request({"fork": limits}, *descriptors)
        except BenchDied:  # not started yet, or an earlier submission killed it: start anew, once
            self._start()
            inside, handles = self._request({"fork": limits}, *descriptors)
        if not handles:  # somebody else has answered
            self._end()
            raise BenchDied("the bench has started nothing")
        return inside, handles[0]

    def _confine(self, handle: Handle, limits: dict[str, int]) -> None:
        """Put a child into its group, and wait until it says that it is confined."""
        try:
            if handle.group:
                handle.group.limit(memory_mb=limits["memory_mb"], processes=PROCESSES)
                handle.group.join(handle.pid)
                handle.layers += (handle.group.layers,)
            deadline = time.monotonic() + self.REPLY_S
            said = json.loads(_receive(handle, int.from_bytes(_receive(handle, 4, deadline), "big"), deadline))
        except (OSError, ValueError, EOFError) as error:
            raise BenchDied(f"a child did not start ({error})") from error
        if "failed" in said:
            raise BenchDied(f"a child could not be sealed off: {said['failed']}")
        handle.layers = (*said["layers"], *handle.layers)

    def reap(self, handle: Handle) -> int | None:
        """Kill a child and all it started; its exit code (negative: the signal), or None when its bench is gone as well."""
        with self._lock:
            if handle not in self._children:
                return None
            self._children.remove(handle)
            try:
                if handle.bench is self._process:
                    with contextlib.suppress(BenchDied):  # then as if it had been gone before
                        return self._request({"reap": handle.inside})[0]
            finally:
                handle.free()
            return None

    def close(self) -> None:
        """End the parent and all of its children."""
        with self._lock:
            self._end()
            for handle in self._children:
                handle.free()
            self._children.clear()

    def _end(self) -> None:
        if self._process is not None:
            self._control.close()
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._folder:
            remove(self._folder)
            self._folder = ""


def _pid_of(pidfd: int) -> int:
    """The process id behind a handle, as this process would write it."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    raise BenchDied("the kernel does not say which process was started")


class Child:
    """A submission in a process of its own, with limits on wall clock and memory.

    A call that runs out of time, or a child that dies, costs that call; the next call gets a fresh child. After
    ``MAX_DEATHS`` of them, or when loading itself fails, or ``total_s`` have gone by in all calls together, every further
    call fails at once.
    """

    MAX_DEATHS = 2

    def __init__(
        self,
        bench: Bench,
        submission: Submission,
        name: str,
        *,
        wall_s: float,
        memory_mb: int,
        total_s: float = math.inf,
    ) -> None:
        self._bench = bench
        self.isolation: Isolation = ISOLATIONS[bench.seal]
        self._wall_s = wall_s
        self._left_s = self._total_s = total_s
        self._memory_mb = memory_mb
        chunks = [(c.label, c.source, c.required) for c in submission.chunks]
        self._content = cloudpickle.dumps({"name": name, "chunks": chunks})
        self._handle: Handle | None = None
        self.layers: tuple[str, ...] = ()
        self._deaths = 0
        self._loading_error: Any = None
        self._final: SubmissionError | None = None
        if submission.problem:
            self._final = SubmissionError(submission.problem)

    @property
    def answers(self) -> bool:
        """Whether it can still be asked: it was loaded, and did not run out of time or leave too often."""
        return self._final is None

    def run(self, probe: Probe, *inputs: Any) -> Any:
        """See ``Subject.run``."""
        return self.timed(probe, *inputs)[0]

    def timed(self, probe: Probe, *inputs: Any) -> tuple[Any, float]:
        """See ``Subject.timed``; the kernel's account of all threads of the child, and of processes that it started and
        waited for, read from this process.

        It covers the whole exchange, decoding the inputs and encoding the answer included, so that work cannot hide.
        """
        content = pack(probe, inputs)
        handle = self._handle or self._open()
        start = handle.cpu_seconds()
        reply = self._exchange(handle, content)
        seconds = handle.cpu_seconds() - start
        if math.isnan(seconds):
            raise self._died("the answer did not come from the process that was asked, which is gone")
        # A short exchange may cost 0: a virtual machine's kernel subtracts the time that its host took away.
        return unwrap(reply, self._loading_error), seconds

    def close(self) -> None:
        """See ``Subject.close``."""
        if self._handle is not None:
            self._bench.reap(self._handle)
            self._handle = None

    def _open(self) -> Handle:
        if self._final is not None:
            raise self._final.with_traceback(None)
        handle = self._handle = self._bench.fork(memory_mb=self._memory_mb, cpu_s=int(20 * self._wall_s) + 60)
        self.layers = handle.layers
        try:
            loaded = self._exchange(handle, self._content)
        except SubmissionError as error:
            self._final = SubmissionError(f"while your file was loaded, {error.rationale}", error.help)
            raise self._final from None
        match loaded:
            case {"usable": bool(usable), "error": (None | dict()) as loading_error}:
                self._loading_error = loading_error
            case _:
                self._final = self._died("the process answered out of turn")
                raise self._final
        if self._loading_error and not usable:
            self._final = SubmissionError.from_description(self._loading_error, loading=True)
            self.close()
            raise self._final
        return handle

    def _exchange(self, handle: Handle, content: bytes) -> Any:
        """Send a request and decode its reply, all within the wall-clock limit."""
        limit = self._wall_s / 3 if self._deaths else self._wall_s  # who ran out of time once gets less of it
        start = time.monotonic()
        deadline = start + min(limit, self._left_s)
        try:
            if _ready(handle.answers):
                raise wire.WireError("an answer came before its question")
            handle.channel.settimeout(_left(deadline))
            handle.channel.sendall(len(content).to_bytes(8, "big") + content)
            size, text = wire.body_length(_receive(handle, wire.HEADER_BYTES, deadline))
            return wire.decode(_receive(handle, size, deadline), text)
        except TimeoutError:
            if limit <= self._left_s:
                raise self._died(f"your code was still running after {limit:g} s and was stopped") from None
            self._deaths = self.MAX_DEATHS
            raise self._died(f"all your answers together took more than {self._total_s:g} s") from None
        except (EOFError, ConnectionError):
            raise self._died("") from None
        except wire.WireError as error:
            raise self._died(str(error)) from None
        except BaseException:  # interrupted, e.g. by a test's own limit: the reply would answer the next question
            self.close()
            raise
        finally:
            self._left_s -= time.monotonic() - start

    def _died(self, reason: str) -> SubmissionError:
        """End the child; the error that says why it did not answer."""
        assert self._handle is not None
        handle, self._handle = self._handle, None
        out_of_memory = handle.group is not None and handle.group.out_of_memory
        code = self._bench.reap(handle)
        if out_of_memory:  # perhaps of a helper of its, for which it then waited in vain
            reason = f"your code needed more than {self._memory_mb} MB of memory and was stopped"
        elif not reason:
            reason = f"your code ended the process ({self._ending(code)}) instead of returning"
        self._deaths += 1
        error = SubmissionError(reason, "Return a value; look for endless loops, huge tensors and calls that exit.")
        if self._deaths >= self.MAX_DEATHS:
            self._final = error
        return error

    @staticmethod
    def _ending(code: int | None) -> str:
        if code is None:
            return "and its parent"
        if code >= 0:
            return f"exit code {code}"
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
        return f"signal {-code}"


ISOLATIONS: dict[seal.Seal, Isolation] = {"bubblewrap": "bubblewrap", "uid": "uid", "none": "child-process"}


def _left(deadline: float) -> float:
    """Seconds until then; TimeoutError when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _receive(handle: Handle, size: int, deadline: float) -> bytes:
    """``size`` bytes of an answer; EOFError when its process has ended, whoever else holds the other end."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    poll = select.poll()  # select.select refuses descriptors from 1024
    poll.register(handle.answers, select.POLLIN)
    poll.register(handle.pidfd, select.POLLIN)
    while view:
        ready = {descriptor for descriptor, _ in poll.poll(_left(deadline) * 1000)}
        if handle.answers in ready:
            count = os.readv(handle.answers, [view])
            if not count:
                raise EOFError
            view = view[count:]
        elif ready:
            raise EOFError
    return bytes(buffer)


def _ready(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))

"""A pre-warmed parent that forks one child per submission: ``python -m grader.zygote FD``.

It imports torch once (and what torch imports lazily and slowly), then waits on the socket FD. Every request carries a socket
and a pipe for a new child; the child confines itself (``grader.jail``), says so, loads the submission and answers probes until
the socket closes. No submission ever passes through this process, so none can be found in the next one's memory.

It must stay single-threaded: a fork after a multi-threaded OpenMP region hangs the child.
"""

import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from typing import Any

from grader import jail


def main() -> None:
    """Serve until the judge closes the control socket."""
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(control.recv(2**16))
    warm_up()
    zygote = Zygote(control, settings["seal"], settings["folder"], bytes.fromhex(settings["seccomp"]))
    control.send(b"ready")
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 4096, 2)
        if not message:
            break
        request = json.loads(message)
        if "fork" in request:
            zygote.fork(descriptors[0], descriptors[1], request["fork"])
        else:
            control.send(json.dumps(zygote.reap(request["reap"])).encode())
    zygote.close()  # the judge has gone, perhaps without a word


def warm_up() -> None:
    """Import what nearly every submission needs, on one thread."""
    import torch
    from torch import nn

    import fixtures.training
    import grader.sandbox  # noqa: F401

    torch.set_num_threads(1)
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=False)  # imports torch._dynamo: a second, once
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=2)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    del fixtures
    if len(os.listdir("/proc/self/task")) != 1:
        raise RuntimeError("the bench has more than one thread: its children would hang")
    gc.collect()
    gc.freeze()  # else a child's first collection would copy every page that it shares with us


class Zygote:
    """The children that are alive, and how they are confined."""

    def __init__(self, control: socket.socket, seal: str, folder: str, seccomp: bytes) -> None:
        self._control = control
        self._seal = seal
        self._folder = folder
        self._seccomp = seccomp
        self._folders: dict[int, str] = {}  # of the children that have one on disk
        self._uids: dict[int, int] = {}  # of the children that are users of their own
        self._children: set[int] = set()

    def fork(self, questions: int, answers: int, limits: dict[str, int]) -> None:
        """Start a child that reads from a socket and writes to a pipe; the judge gets its pid here and a handle on it."""
        sealed = self._seal == "bubblewrap"
        folder = "/tmp" if sealed else tempfile.mkdtemp(prefix="submission-", dir=self._folder)
        if sealed:
            own = os.open("/proc/self/ns/pid", os.O_RDONLY)
            jail.call("unshare", jail.CLONE_NEWPID)  # for the child only, which becomes pid 1
        pid = os.fork()
        if not pid:
            self._become(questions, answers, folder, limits)
        os.close(questions)
        os.close(answers)
        if sealed:
            jail.call("setns", own, jail.CLONE_NEWPID)
            os.close(own)
        else:
            self._folders[pid] = folder
        if self._seal == "uid":
            self._uids[pid] = limits["uid"]
        self._children.add(pid)
        handle = os.pidfd_open(pid)
        socket.send_fds(self._control, [json.dumps(pid).encode()], [handle])
        os.close(handle)

    def _become(self, questions: int, answers: int, folder: str, limits: dict[str, int]) -> None:
        """The life of a child; never returns."""
        status = 1
        try:
            self._control.detach()
            low, high = sorted((questions, answers))
            for first, end in ((3, low), (low + 1, high), (high + 1, os.sysconf("SC_OPEN_MAX"))):
                os.closerange(first, end)
            tempfile.tempdir = None
            try:
                write(answers, statement({"layers": jail.confine(self._seal, folder, limits, self._seccomp)}))
            except Exception:
                write(answers, statement({"failed": traceback.format_exc()[-2000:]}))
                return
            with socket.socket(fileno=questions) as channel:
                serve(channel, answers)
            status = 0
        finally:
            os._exit(status)

    def reap(self, pid: int) -> int:
        """Kill what is left of a child, remove its folder; returns its exit code, negative for a signal."""
        if pid not in self._children:  # never ours, or reaped: to kill it might hit anybody (and 0 would be ourselves)
            return 0
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # killed before it made its own group
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        self._children.discard(pid)
        if pid in self._uids:
            sweep(self._uids.pop(pid))
        if pid in self._folders:
            remove(self._folders.pop(pid))
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """End all children."""
        for pid in list(self._children):
            self.reap(pid)
        if self._seal != "bubblewrap":
            remove(self._folder)


def sweep(uid: int) -> None:
    """Kill every process of a user, and remove its files from the places that any user can write to."""
    for _ in range(200):  # what forks as fast as it is killed is stopped first
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and owner(name) == uid]
        if not pids:
            break
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        time.sleep(0.005)
    shared = [place for place in ("/tmp", "/var/tmp", "/dev/shm") if os.path.isdir(place)]
    command = ["find", *shared, "-xdev", "-uid", str(uid), "-delete"]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def owner(pid: str) -> int:
    """The user of a process that has not ended; -1 when there is none."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{pid}/stat", "rb") as file:
            if file.read().rsplit(b")", 1)[1].split()[0] in (b"Z", b"X"):
                return -1
        return os.stat(f"/proc/{pid}").st_uid
    return -1


def statement(content: dict[str, Any]) -> bytes:
    """What a child says of its confinement: 4 bytes length, JSON. Nothing hostile runs in it yet."""
    text = json.dumps(content).encode()
    return len(text).to_bytes(4, "big") + text


def write(descriptor: int, content: bytes) -> None:
    """All of it."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def serve(channel: socket.socket, answers: int) -> None:
    """Load the submission from the first message, then answer probes one by one.

    Answers leave through a pipe: through a socket, descriptors could come along that stall the judge when it closes them.
    """
    import cloudpickle

    from grader.sandbox import Module
    from grader.wire import encode, plain, seed_of

    def reply(content: dict[str, Any]) -> None:
        try:
            message = encode(content)
        except Exception as error:  # too large, or changed by a thread of the submission's
            message = encode({"error": module.describe(error)})
        write(answers, message)

    submission = cloudpickle.loads(receive(channel))
    module = Module(submission["name"], submission["chunks"])
    reply({"usable": module.usable, "error": plain(module.error)})
    with contextlib.suppress(EOFError):
        while True:
            content = receive(channel)
            probe, inputs = cloudpickle.loads(content)
            try:
                answer = module.call(probe, inputs, seed_of(content))
            except KeyboardInterrupt as error:  # nobody is at a keyboard here
                answer = {"error": module.describe(error)}
            reply(answer)


def receive(channel: socket.socket) -> bytes:
    """One request of the judge: 8 bytes length, then the content. EOFError when the judge has gone."""
    size = int.from_bytes(exactly(channel, 8), "big")
    return exactly(channel, size)


def exactly(channel: socket.socket, size: int) -> bytes:
    """``size`` bytes from a socket; EOFError when it closes before."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        count = channel.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return bytes(buffer)


def remove(folder: str) -> None:
    """Remove a folder, whatever a submission has made of it."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if os.path.islink(folder):
        os.unlink(folder)
    elif os.path.lexists(folder):  # locked, or nested too deeply for Python
        for command in (["chmod", "-R", "u+rwx", folder], ["rm", "-rf", folder]):
            subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()

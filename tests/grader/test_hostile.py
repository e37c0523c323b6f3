"""Hostile submissions from end to end, on exercise 3.1: none earns a point that it does not deserve, none stops the judge.

What needs the sealed sandbox (reading the disk, the network, other processes of the machine) is not here.
"""

import builtins
import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import grader.grading
from grader.course import load
from grader.grading import CALLS, Grader
from grader.report import Report
from grader.submission import Submission

ROOT = Path(__file__).resolve().parents[2]
SEED = 20261125


@pytest.fixture(scope="module")
def course():
    return load(ROOT)


@pytest.fixture(scope="module")
def basic_mlp(course):
    return course.exercise("3.1")


@pytest.fixture(scope="module")
def reference(course, basic_mlp):
    return course.reference(basic_mlp).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def stub(course, basic_mlp):
    return course.stub(basic_mlp).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def judge(course, bench):
    one = Grader(course, bench=bench)
    yield one
    for subject in one._references.values():
        subject.close()


@pytest.fixture(scope="module")
def control(made_up, bench, tmp_path_factory):
    """A small exercise, whose reference must earn everything right after an attack."""
    course = made_up.make(tmp_path_factory.mktemp("control"), {"double": made_up.quick()})
    one = Grader(course, bench=bench)

    def reference_earns_everything():
        report = one.grade(course.exercise("3.1"), Submission.from_source(made_up.REFERENCE, "a.py"), seed=1)
        return report.score == report.max_score > 0

    yield reference_earns_everything
    for subject in one._references.values():
        subject.close()


@pytest.fixture
def attack(judge, basic_mlp, control):
    """Grades an attack, with what must hold after every one of them."""

    def report_on(submission, **limits):
        exercise = replace(basic_mlp, limits=replace(basic_mlp.limits, **limits))
        if isinstance(submission, str):
            submission = Submission.from_source(submission, "ex1_basic_mlp.py")
        before = state_of_the_judge()
        report = judge.grade(exercise, submission, seed=SEED)
        assert state_of_the_judge() == before
        assert Report.from_json(report.to_json()) == report
        assert report.max_score == 16
        assert report.pending == 0
        assert sum(check.earned for check in report.checks) == report.score
        assert len(report.to_json()) < 200_000
        assert control()
        return report

    return report_on


def state_of_the_judge():
    """What an attack on this process would change."""
    return (
        os.getcwd(),
        {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        threading.active_count(),
        [id(builtins.print), id(torch.allclose), id(torch.isclose), id(json.loads), id(grader.grading.same)],
        sys.gettrace(),
        len(sys.path),
    )


WRONG = ("return self.net(x)", "return self.net(x).softmax(dim=1)")
"""An answer that earns some points. No attack may add to them."""


@pytest.fixture(scope="module")
def deserved(judge, basic_mlp, reference):
    """Check -> points that the wrong answer earns without an attack."""
    report = judge.grade(basic_mlp, Submission.from_source(reference.replace(*WRONG), "a.py"), seed=SEED)
    assert 0 < report.score < report.max_score
    return {check.id: check.earned for check in report.checks}


# Everything below is a small program that is put before (or behind) an answer. In a call: behind, as a patched constructor.

IN_A_CALL = """

def _attack(self, *args, **kwargs):
    {}

BasicMLP.__init__ = _attack
"""

ENDINGS = {
    "os._exit": "import os; os._exit(0)",
    "sys.exit": "import sys; sys.exit(0)",
    "SystemExit": "raise SystemExit(0)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "GeneratorExit": "raise GeneratorExit",
    "own BaseException": "raise type('Own', (BaseException,), {})('mine')",
    "pytest.exit": "import pytest; pytest.exit('bye', returncode=0)",
    "pytest.skip": "import pytest; pytest.skip('no need', allow_module_level=True)",
    "pytest.xfail": "import pytest; pytest.xfail('expected')",
    "unittest.SkipTest": "import unittest; raise unittest.SkipTest('no need')",
    "SIGKILL": "import os; os.kill(os.getpid(), 9)",
    "SIGSEGV": "import ctypes; ctypes.string_at(0)",
    "exec": "import os; os.execv('/bin/true', ['true'])",
}


@pytest.mark.parametrize("code", ENDINGS.values(), ids=ENDINGS)
def test_ending_the_run_at_import_earns_nothing(attack, stub, code):
    report = attack(f"{code}\n{stub}")
    assert report.score == 0
    ended = {"raised", "not_reached"}
    if code == ENDINGS["SIGKILL"]:  # the first process of a namespace does not even hear it
        ended.add("not_attempted")
    assert {check.outcome for check in report.checks} <= ended


@pytest.mark.parametrize(
    "name", ["os._exit", "sys.exit", "KeyboardInterrupt", "own BaseException", "pytest.exit", "SIGSEGV"]
)
def test_ending_the_run_in_a_call_earns_nothing(attack, stub, name):
    report = attack(stub + IN_A_CALL.format(ENDINGS[name]))
    assert report.score == 0
    assert {check.outcome for check in report.checks} <= {"raised", "not_reached", "not_attempted", "wrong"}


ENDLESS = {
    "loop": "while True: pass",
    "sleep": "import time; time.sleep(10**6)",
    "deadlock": "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "output": "import os\n    while True: os.write(1, bytes(2**20)); os.write(2, bytes(2**20))",
    "print": "while True: print('x' * 10**6, flush=True)",
    "message": "class E(Exception):\n        def __str__(self):\n            while True: pass\n    raise E",
    "endless reply": "import os, struct\n    for n in range(3, 256):\n        try:\n"
    "            os.write(n, struct.pack('>QI', 2**27, 10))\n            while True: os.write(n, b' ')\n        except OSError: pass",
    "children": "import os, time\n    for _ in range(20):\n        if not os.fork(): break\n    time.sleep(10**6)",
}  # fmt: skip


@pytest.mark.parametrize("code", ENDLESS.values(), ids=ENDLESS)
def test_what_never_ends_costs_no_more_than_its_limit_and_earns_nothing(attack, stub, code):
    report = attack(stub + IN_A_CALL.format(code), wall_s=0.4)
    assert report.score == 0
    assert any("was stopped" in check.rationale for check in report.checks)
    assert report.seconds < 0.4 * CALLS + 30  # it had two calls; the rest is the machine's


def test_many_slow_answers_cost_no_more_than_their_limit_together(attack, stub):
    slow = stub + IN_A_CALL.format("import time; time.sleep(0.7); raise ValueError('slow')")
    report = attack(slow, wall_s=1.0)
    assert any("all your answers together took more than 5 s" in check.rationale for check in report.checks)
    assert report.score <= 1  # of the check that wants a ValueError
    assert report.seconds < 5 + 30


@pytest.mark.parametrize(
    "code",
    [
        "x = []\n    while True: x.append(bytearray(2**26))",
        "import torch\n    torch.ones(2**40)",
        "with open('big', 'wb') as file:\n        while True: file.write(bytes(2**24))",
        "x = []\n    x.append(x)\n    raise ValueError(x, 'y' * 10**7)",
        "self.__init__()",
    ],
    ids=["memory", "tensor", "file", "message", "recursion"],
)
def test_what_is_too_large_is_stopped_and_earns_nothing(attack, stub, code):
    report = attack(stub + IN_A_CALL.format(code), memory_mb=1500)
    assert report.score <= 1  # the message: it is a ValueError where one is asked for
    assert all(len(check.rationale) + len(check.help) < 10_000 for check in report.checks)


CHANGES_OF_THE_JUDGE = {
    "the runner": """
import _pytest.python, _pytest.runner, pytest
_pytest.python.Function.runtest = lambda self: None
_pytest.runner.call_and_report = lambda *_, **__: None
pytest.main = lambda *_, **__: 0
""",
    "the grader": """
import grader.checks, grader.grading, grader.plugin, grader.report, grader.subject
for module in (grader.checks, grader.grading, grader.plugin, grader.subject):
    for name, item in list(vars(module).items()):
        if callable(item) and getattr(item, "__module__", "").startswith("grader"):
            try:
                setattr(module, name, lambda *_, **__: True)
            except Exception:
                continue
""",
    "comparisons": """
import builtins, numpy, torch
yes = lambda *_, **__: True
torch.allclose = torch.equal = torch.testing.assert_close = numpy.testing.assert_allclose = numpy.allclose = yes
torch.isclose = torch.Tensor.isclose = lambda a, *_, **__: torch.ones_like(a, dtype=torch.bool)
builtins.all = builtins.any = yes
""",
    "files beside it": """
for name in ("conftest.py", "sitecustomize.py", "usercustomize.py", "torch.py", "json.py", "grader.pth"):
    with open(name, "w") as file:
        file.write("import os; os._exit(0)")
for name in ("pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg"):
    with open(name, "w") as file:
        file.write("[pytest]\\naddopts = --collect-only\\n")
""",
    "results of its own": """
import json, os
report = {"score": 16, "max_score": 16, "tests": [{"score": 16, "max_score": 16}], "outcome": "correct"}
for name in ("results.json", "report.json", "3.1.json", "results.xml"):
    with open(name, "w") as file:
        json.dump(report, file)
print(json.dumps(report))
""",
    "points": """
import pytest, grader.course, grader.report
pytest.mark.shapes = pytest.mark.gradients = lambda **_: lambda f: f
grader.course.KINDS = ()
grader.report.Check.earned = 16
""",
    "later": """
import atexit, signal, threading, time
from grader import wire
frame = wire.encode({"answer": {"score": 16}})
def write(*_):
    import os
    for n in range(3, 64):
        try:
            os.write(n, frame)
        except OSError:
            continue
atexit.register(write)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, write)
class Late:
    def __del__(self):
        write()
late = Late()
""",
    "clocks": """
import time
for name in ("time", "perf_counter", "process_time", "thread_time", "monotonic", "perf_counter_ns", "process_time_ns"):
    setattr(time, name, lambda: 0)
""",
    "global state": """
import gc, os, random, sys, torch
torch.set_default_dtype(torch.float64)
torch.set_num_threads(2)
torch.set_grad_enabled(True)
torch.manual_seed(0); random.seed(0)
os.environ["PYTEST_ADDOPTS"] = "--collect-only"
os.chdir("/")
sys.setrecursionlimit(200)
gc.disable()
""",
}


@pytest.mark.parametrize("code", CHANGES_OF_THE_JUDGE.values(), ids=CHANGES_OF_THE_JUDGE)
def test_changing_the_judge_adds_no_point_to_a_wrong_answer(attack, reference, deserved, code):
    report = attack(reference.replace(*WRONG) + code)
    gained = {check.id for check in report.checks if check.earned > deserved[check.id]}
    assert gained == set()


LIES = {
    "a subclass that equals everything": """
class Right(torch.Tensor):
    __eq__ = __ne__ = __bool__ = __le__ = __ge__ = lambda *_: True
    __hash__ = object.__hash__
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return True
RESULT = lambda x: torch.zeros(len(x), 3).as_subclass(Right)
""",
    "an object that equals everything": """
class Right:
    shape, dtype, ndim, requires_grad = (5, 3), torch.float32, 2, False
    __class__ = torch.Tensor
    __eq__ = __bool__ = lambda *_: True
    __array__ = lambda self, *_, **__: torch.zeros(5, 3).numpy()
    __reduce__ = lambda self: (eval, ("__import__('os')._exit(0)",))
    __hash__ = object.__hash__
    __getattr__ = lambda self, name: lambda *_, **__: self
RESULT = lambda x: Right()
""",
    "a meta tensor": "\nRESULT = lambda x: torch.empty(len(x), 3, device='meta')\n",
    "NaN": "\nRESULT = lambda x: torch.full((len(x), 3), float('nan')) + x.sum() * 0\n",
    "infinity": "\nRESULT = lambda x: torch.full((len(x), 3), float('inf'))\n",
    "one number for all": "\nRESULT = lambda x: torch.zeros(1, 1)\n",
    "None": "\nRESULT = lambda x: None\n",
    "the input": "\nRESULT = lambda x: x\n",
}
LIE = "\nBasicMLP.forward = lambda self, x: RESULT(x)\npredict_proba = lambda model, x: RESULT(x)\n"


@pytest.mark.parametrize("code", LIES.values(), ids=LIES)
def test_an_answer_that_lies_earns_only_what_needs_no_answer(attack, reference, code):
    report = attack(reference + code + LIE)
    earned = {check.id for check in report.checks if check.earned}
    assert earned <= {"test_six_parameters_in_forward_order"}  # its constructor is right


FORGERIES = {
    "a pickle": "b'\\x80\\x04' + pickle.dumps(Evil())",
    "a frame around a pickle": "frame(pickle.dumps(Evil()))",
    "a safetensors header that lies": "frame(b'{\"answer\": {\"tensor\": \"0\"}}', struct.pack('<Q', 2**63) + b'{}')",
    "a huge frame": "struct.pack('>QI', 2**63, 2**31)",
    "deep JSON": "frame(b'[' * 10**6)",
    "a bare dict": "frame(b'{\"score\": 16}')",
    "passed": 'frame(b\'{"dict": [["answer", true]]}\')',
    "a class of torch": 'frame(b\'{"dict": [["answer", {"dtype": "nn"}]]}\')',
    "a forged error": 'frame(b\'{"dict": [["error", {"dict": [["frames", 3], ["bases", {"float": "nan"}]]}]]}\')',
    "a key that does not hash": "frame(b'{\"dict\": [[[1], 1]]}')",
}


@pytest.mark.parametrize("forged", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_reply_earns_nothing_and_runs_nothing(attack, reference, tmp_path, forged):
    mark = tmp_path / "executed"
    code = f"""
import pickle, struct
import grader.wire
class Evil:
    def __reduce__(self):
        return open, ({str(mark)!r}, "w")
def frame(text, tensors=b""):
    return struct.pack(">QI", 4 + len(text) + len(tensors), len(text)) + text + tensors
true_encode = grader.wire.encode
def encode(content):
    return {forged} if "usable" not in content else true_encode(content)
import sys
serving = sys._getframe()
while serving.f_code.co_name != "serve":
    serving = serving.f_back
serving.f_locals["reply"].__closure__[[*serving.f_locals["reply"].__code__.co_freevars].index("encode")].cell_contents = encode
"""
    report = attack(reference + code)
    assert report.score == 0
    assert not mark.exists()


def test_a_process_that_serves_from_a_copy_is_measured_like_any_other(attack, reference):
    """Every question goes to a forked process: the clock is the one of all of them."""
    copy = "import os, time\nif os.fork():\n    while True: time.sleep(10**6)\n"
    assert attack(copy + reference).score == 16
    slow = reference + SLOW
    fast = next(check for check in attack(copy + slow).checks if check.kind == "throughput")
    assert fast.earned == 0
    assert "times the reference's CPU time" in fast.rationale


SLOW = """
true_forward = BasicMLP.forward
def forward(self, x):
    for _ in range(100 * (len(x) > 1000)):
        true_forward(self, x)
    return true_forward(self, x)
BasicMLP.forward = forward
"""


def test_slow_work_is_slow_with_stopped_clocks_and_in_other_threads(attack, reference):
    hidden = """
import threading, time
time.perf_counter = time.process_time = time.thread_time = time.time = lambda: 0.0
true_forward = BasicMLP.forward
def forward(self, x):
    def again():
        for _ in range(100):
            true_forward(self, x)
    if len(x) > 1000:
        thread = threading.Thread(target=again)
        thread.start()
        thread.join()
    return true_forward(self, x)
BasicMLP.forward = forward
"""
    report = attack(reference + hidden)
    lost = {check.kind for check in report.checks if not check.earned}
    assert lost == {"throughput"}


def test_an_answer_that_is_kept_for_the_next_call_is_wrong(attack, reference):
    kept = """
kept = {}
true_forward = BasicMLP.forward
def forward(self, x):
    key = tuple(x.shape)
    if key not in kept:
        kept[key] = true_forward(self, x)
    return kept[key]
BasicMLP.forward = forward
"""
    report = attack(reference + kept)
    earned = {check.id: check.earned for check in report.checks}
    assert earned["test_forward_and_backward_of_a_large_batch"] == 0
    assert earned["test_learns_what_no_linear_model_can"] == 0


@pytest.mark.parametrize("number", [9, 19], ids=["SIGKILL", "SIGSTOP"])
def test_the_parent_cannot_be_killed_or_stopped(attack, stub, judge, number):
    judge._bench.warm()
    first = judge._bench._process
    code = f"import os\n    for pid in (os.getppid(), 1, -1): os.kill(pid, {number})"
    assert attack(stub + IN_A_CALL.format(code), wall_s=1.0).score == 0
    assert judge._bench._process is first


# Notebooks.


def notebook(*cells):
    content = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {},
        "cells": [
            {
                "cell_type": kind,
                "source": source,
                "metadata": {"nbgrader": role} if role else {},
                "outputs": [],
                "id": str(n),
            }
            for n, (kind, source, role) in enumerate(cells)
        ],
    }
    return Submission.from_bytes(json.dumps(content).encode(), "ex1_basic_mlp.ipynb")


SOLUTION = {"solution": True, "grade": False, "locked": False, "grade_id": "s"}
GRADED = {"solution": False, "grade": True, "locked": True, "points": 1000, "grade_id": "test_shapes"}


@pytest.mark.parametrize(
    "cells",
    [
        [("code", "%%bash\ntouch {mark}", SOLUTION)],
        [("code", "!touch {mark}\n%run {mark}\n%system touch {mark}", SOLUTION)],
        [("code", "get_ipython().system('touch {mark}')", SOLUTION)],
        [("code", "get_ipython().ast_transformers.append(1)", None), ("code", "x = 1", SOLUTION)],
        [("markdown", "class BasicMLP: pass", SOLUTION)],
        [("code", "print('score: 16/16')\n16", GRADED)],
        [("code", "assert True\n16", {**GRADED, "solution": True})],
        [("raw", "import os; os._exit(0)", SOLUTION)],
        [],
    ],
    ids=["bash", "shell", "get_ipython", "transformers", "markdown", "graded", "graded_solution", "raw", "empty"],
)
def test_a_notebook_without_an_answer_earns_nothing_and_no_magic_runs(attack, tmp_path, cells):
    mark = tmp_path / "executed"
    report = attack(notebook(*((kind, source.replace("{mark}", str(mark)), role) for kind, source, role in cells)))
    assert report.score == 0
    assert not mark.exists()


def test_an_honest_notebook_between_hostile_scratch_cells_keeps_its_points(attack, reference):
    report = attack(
        notebook(
            ("code", "raise SystemExit(0)", None),
            ("code", "%%bash\nexit 1", None),
            ("code", reference, SOLUTION),
            ("code", "import os; os._exit(0)", GRADED),
            ("code", "1 / 0", None),
            ("code", "def broken(:", None),
        )
    )
    assert report.score == report.max_score


# Last in the file: after all of them.


def test_after_all_attacks_the_reference_still_earns_everything(judge, basic_mlp, reference):
    report = judge.grade(basic_mlp, Submission.from_source(reference, "ex1_basic_mlp.py"), seed=SEED)
    assert [check.id for check in report.checks if check.outcome != "correct"] == []
    assert report.score == report.max_score == 16

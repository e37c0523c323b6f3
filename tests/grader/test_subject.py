"""Subjects: the same answers in this process and in a child, limits that hold, and a judge that nothing gets out of step."""

import gc
import os
import pickle
import random
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from grader import wire
from grader.bench import Bench, Child
from grader.bench import _receive as receive
from grader.checks import slowdown
from grader.sandbox import Module
from grader.subject import GraderFault, Local, Memo, Restarted, SubmissionError, pack
from grader.submission import Chunk, Submission

WALL_S = 20.0  # generous: what is not about time must not fail on a busy machine


@pytest.fixture
def bench(bench):
    bench.warm()
    return bench


@pytest.fixture(scope="module")
def plain_bench():
    """Without a seal, for code that is trusted: the kernel's own signals, folders on disk."""
    with Bench("none") as shared:
        shared.warm()
        yield shared


@pytest.fixture
def child(bench):
    """Makes children, and ends them after the test."""
    yield from makes_children(bench)


@pytest.fixture
def plain_child(plain_bench):
    """``child`` without a seal."""
    yield from makes_children(plain_bench)


def makes_children(bench):
    made = []

    def make(source="", *, wall_s=WALL_S, memory_mb=4096, **options):
        submission = source if isinstance(source, Submission) else Submission.from_source(source, "answer.py")
        made.append(Child(bench, submission, "answer", wall_s=wall_s, memory_mb=memory_mb, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def local(source=""):
    return Local.of(Submission.from_source(source, "answer.py"), "answer")


@pytest.fixture(params=["local", "child"])
def subject(request, child):
    """Both ways to run, behind one interface."""
    return local if request.param == "local" else child


def failure(subject, probe, *inputs):
    with pytest.raises(SubmissionError) as caught:
        subject.run(probe, *inputs)
    return caught.value


# Probes.


def call(exercise, *inputs):
    return exercise.f(*inputs)


def one(exercise):
    return 1


def evaluate(exercise, text):
    return eval(text)


def execute(exercise, text):
    """Whatever a submission could do in a call; ``channel`` is the descriptor of the pipe to the judge."""
    import os

    names = {}
    for name in os.listdir("/proc/self/fd"):
        if os.path.exists(f"/proc/self/fd/{name}"):
            names[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    namespace = {"channel": next((n for n, target in names.items() if n > 2 and "pipe" in target), None)}
    exec(text, namespace)
    return namespace.get("answer")


# Both ways.


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        2.5,
        "text",
        [1, (2, {"a": None})],
        {"x": torch.eye(2)},
        torch.zeros(0, 3),
        torch.tensor(1, dtype=torch.bfloat16),
    ],
    ids=str,
)
def test_an_answer_comes_back_as_it_was(subject, value):
    assert repr(subject("def f(x): return x").run(call, value)) == repr(value)


def test_what_is_not_plain_comes_back_as_foreign(subject):
    answer = subject("import torch\ndef f(): return [torch.nn.Linear(1, 1), object(), {1}]").run(call)
    assert [item.type_name for item in answer] == ["torch.nn.modules.linear.Linear", "builtins.object", "builtins.set"]


def test_inputs_are_copies(subject):
    x, names = torch.zeros(3), ["a"]
    subject("def f(x, names): x.fill_(1); names.append('b')").run(call, x, names)
    assert x.tolist() == [0, 0, 0]
    assert names == ["a"]


def test_state_of_the_module_lives_from_call_to_call(subject):
    counting = subject("n = 0\ndef f():\n    global n\n    n += 1\n    return n")
    assert [counting.run(call) for _ in range(3)] == [1, 2, 3]


def test_every_submission_starts_afresh(subject):
    source = (
        "import sys, torch, builtins\n"
        "seen = getattr(builtins, 'mark', 0), getattr(torch, 'mark', 0), 'mark' in sys.modules\n"
        "def f(): return seen"
    )
    marked = source if subject is local else source + "\nbuiltins.mark = torch.mark = 1; sys.modules['mark'] = sys"
    assert subject(marked).run(call) == (0, 0, False)
    assert subject(source).run(call) == (0, 0, False)


STREAMS = "import random, numpy, torch\ndef f(n): return torch.rand(n), float(numpy.random.rand()), random.random()"


def test_the_same_request_has_the_same_random_stream_and_another_request_another(subject):
    first, second = subject(STREAMS), subject(STREAMS)
    answer = repr(first.run(call, 3))
    assert repr(first.run(call, 3)) == answer
    assert repr(second.run(call, 3)) == answer
    assert first.run(call, 4)[1:] != first.run(call, 3)[1:]


def test_both_ways_draw_the_same_random_numbers(child):
    assert repr(child(STREAMS).run(call, 3)) == repr(local(STREAMS).run(call, 3))


def test_a_local_subject_leaves_the_random_streams_of_this_process_alone():
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = [torch.rand(1).item(), np.random.rand(), random.random()]
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    local(STREAMS).run(call, 3)
    failure(local(STREAMS + "\n    torch.manual_seed(9); raise ValueError"), call, "no number")
    assert [torch.rand(1).item(), np.random.rand(), random.random()] == expected


def test_not_implemented_is_not_attempted_and_says_where(subject):
    error = failure(subject("x = 1\n\ndef f():\n    raise NotImplementedError"), call)
    assert error.outcome == "not_attempted"
    assert "answer.py, line 4, in f" in error.rationale


def test_a_subclass_of_not_implemented_is_not_attempted_too(subject):
    assert (
        failure(subject("class Later(NotImplementedError): pass\ndef f(): raise Later('x')"), call).outcome
        == "not_attempted"
    )


def test_an_exception_comes_with_type_message_and_the_lines_of_the_answer(subject):
    error = failure(subject("def g(x):\n    return 1 / x\n\ndef f():\n    return g(0)"), call)
    assert error.outcome == "raised"
    assert error.rationale == "ZeroDivisionError: division by zero"
    assert "answer.py, line 5, in f: return g(0)" in error.help
    assert "answer.py, line 2, in g: return 1 / x" in error.help
    assert "sandbox" not in error.help
    assert error.observation == ("error", "ZeroDivisionError")


def test_an_endless_recursion_is_cut_to_a_few_lines(subject):
    error = failure(subject("def f(): return f()"), call)
    assert error.rationale.startswith("RecursionError")
    assert error.help.count("\n") <= 6


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\ndef f(:\n", "SyntaxError"), ("if x:\nf = 1", "IndentationError"), ("f = 1\n\treturn", "IndentationError"),
        ("import nonsense", "No module named 'nonsense'"), ("x = 1 / 0", "division by zero"), ("exit(3)", "SystemExit: 3"),
        ("raise SystemExit", "SystemExit"), ("raise GeneratorExit", "GeneratorExit"),
        ("x = '\\ud800'\nx.encode()", "surrogates"),
        ("class Own(BaseException): pass\nraise Own('mine')", "Own: mine"), ("x = '\0'", "null bytes"),
        ("import pytest\npytest.skip('no', allow_module_level=True)", "Skipped"), ("import pytest\npytest.exit('no')", "Exit"),
        ("raise __import__('unittest').SkipTest('no')", "SkipTest"), ("(" * 300 + ")" * 300, "parenthes"),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_loaded_says_why_at_every_call(subject, source, words):
    broken = subject(source)
    for _ in range(2):
        error = failure(broken, one)
        assert error.outcome == "raised"
        assert words in error.rationale
        assert "could not be loaded" in error.rationale


def test_a_syntax_error_names_its_line(subject):
    assert "answer.py, line 3: def f(:" in failure(subject("x = 1\ny = 2\ndef f(:\n"), one).help


def test_not_implemented_while_loading_is_not_attempted(subject):
    error = failure(subject("x = 1\nraise NotImplementedError"), one)
    assert error.outcome == "not_attempted"
    assert "answer.py, line 2" in error.rationale


@pytest.mark.parametrize(
    ("raising", "words"),
    [
        ("raise SystemExit(0)", "SystemExit: 0"), ("exit()", "SystemExit"), ("raise GeneratorExit", "GeneratorExit"),
        ("class Own(BaseException): pass\n    raise Own('mine')", "Own: mine"),
        ("import pytest; pytest.skip('no')", "Skipped: no"), ("import pytest; pytest.xfail('no')", "XFailed: no"),
        ("import pytest; pytest.fail('no')", "Failed: no"), ("import pytest; pytest.exit('no', 0)", "Exit: no"),
        ("import unittest; raise unittest.SkipTest('no')", "SkipTest: no"),
        ("import asyncio; raise asyncio.CancelledError", "CancelledError"),
        ("raise StopIteration(1)", "StopIteration: 1"),
        ("raise ExceptionGroup('two', [ValueError('a'), KeyError('b')])", "two (2 sub-exceptions)"),
        ("assert False, 'mine'", "AssertionError: mine"), ("raise Warning('mine')", "Warning: mine"),
        ("raise ValueError('x' * 10**6)", "ValueError: xxx"), ("raise ValueError('\\ud800')", "ValueError: \ud800"),
        ("raise SyntaxError('x', ('answer.py', 1, 1, 'text'))", "SyntaxError"),
    ],
)  # fmt: skip
def test_whatever_an_answer_raises_is_its_own_failure(subject, raising, words):
    raiser = subject(f"def f():\n    {raising}")
    error = failure(raiser, call)
    assert error.outcome == "raised"
    assert words in error.rationale
    assert len(error.rationale) < 2500
    assert raiser.run(one) == 1  # and it can be asked again


@pytest.mark.parametrize(
    "definition",
    [
        "class E(Exception):\n    def __str__(self): raise ValueError",
        "class E(Exception):\n    def __str__(self): raise SystemExit(0)",
        "class E(Exception):\n    def __str__(self): return 7",
        "class S(str):\n    def __getitem__(self, i): return object()\n"
        "class E(Exception):\n    def __str__(self): return S('x')",
        "class E(Exception):\n    __class__ = property(lambda self: 1 / 0)",
        "class E(Exception):\n    __class__ = NotImplementedError",
        "class E(Exception):\n    __traceback__ = property(lambda self: 1 / 0)",
        "class M(type):\n    __name__ = property(lambda self: 1 / 0)\nclass E(Exception, metaclass=M): pass",
        "class M(type):\n    __name__ = 7\nclass E(Exception, metaclass=M): pass",
        "class M(type):\n    __mro__ = property(lambda self: 1 / 0)\nclass E(Exception, metaclass=M): pass",
        "class M(type):\n    __getattribute__ = lambda self, name: 1 / 0\nclass E(Exception, metaclass=M): pass",
        "class E(Exception):\n    __getattribute__ = lambda self, name: 1 / 0",
        "class E(Exception):\n    __eq__ = __bool__ = __hash__ = __reduce__ = __repr__ = lambda *_: 1 / 0",
        "class E(SyntaxError):\n    filename = property(lambda self: [])",
        "class E(SyntaxError):\n    filename = 'answer.py'\n    lineno = text = object()",
    ],
)
def test_an_exception_that_cannot_be_read_is_still_a_failure_of_the_answer(subject, definition):
    hostile = subject(f"{definition}\ndef f(): raise E()")
    assert failure(hostile, call).outcome == "raised"
    assert hostile.run(one) == 1


@pytest.mark.parametrize(
    "definition",
    [
        "__class__ = property(lambda self: dict)",
        "__class__ = property(lambda self: 1 / 0)",
        "__reduce__ = __reduce_ex__ = lambda *_: (exec, ('1 / 0',))",
        "__eq__ = __bool__ = __hash__ = __len__ = __iter__ = lambda *_: 1 / 0",
        "__getattribute__ = lambda self, name: 1 / 0",
        "__torch_function__ = __array__ = __float__ = lambda *_: 1 / 0",
    ],
)
def test_an_answer_that_lies_about_itself_is_foreign(subject, definition):
    answer = subject(f"class Liar:\n    {definition}\ndef f(): return [Liar(), 1]").run(call)
    assert answer == [wire.Foreign("answer.Liar"), 1]


def test_a_hostile_metaclass_costs_its_own_answer_only(subject):
    hostile = subject(
        "class M(type):\n    __getattribute__ = lambda self, name: 1 / 0\nclass A(metaclass=M): pass\ndef f(): return A()"
    )
    assert failure(hostile, call).outcome == "raised"
    assert hostile.run(one) == 1


def test_nesting_without_end_is_an_error_of_the_answer(subject):
    error = failure(subject("def f():\n    x = []\n    x.append(x)\n    return x"), call)
    assert "nested deeper" in error.rationale


def notebook_of(*cells):
    return Submission(
        "a.ipynb", tuple(Chunk(f"cell {n}", text, required) for n, (text, required) in enumerate(cells, 1))
    )


@pytest.mark.parametrize("way", ["local", "child"])
def test_a_scratch_cell_may_fail_and_a_required_one_explains_later_failures(way, child):
    def make(submission):
        return Local.of(submission, "answer") if way == "local" else child(submission)

    fine = make(notebook_of(("1 / 0", False), ("def f(): return 5", True), ("exit()", False)))
    assert fine.run(call) == 5
    half = make(notebook_of(("def f(): return 5", True), ("y = 1 / 0", True)))
    assert half.run(call) == 5
    missing = make(notebook_of(("z = 1", True), ("y = 1 / 0", True)))
    error = failure(missing, call)
    assert "could not be loaded: ZeroDivisionError" in error.rationale
    assert "cell 2, line 1" in error.help
    assert "could not be loaded" in failure(make(notebook_of(("1 / 0", True))), one).rationale


def test_an_unmarked_notebook_needs_one_cell_that_runs(subject):
    cells = notebook_of(("1 / 0", False), ("def f(): return 5", False))
    assert (Local.of(cells, "answer") if subject is local else subject(cells)).run(call) == 5


# On a student's own machine.


@pytest.mark.parametrize("source", ["raise KeyboardInterrupt", "def f(): raise KeyboardInterrupt"])
def test_a_keyboard_interrupt_on_a_students_own_machine_is_the_persons(source):
    with pytest.raises(KeyboardInterrupt):
        local(source).run(call)


def test_a_running_notebook_is_a_subject():
    module = Module.of_namespace("answer", {"f": lambda: 3})
    assert Local(module).run(call) == 3


# In a child.


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import os\ndef f(): os._exit(0)", "exit code 0"),
        ("import os\ndef f(): os._exit(7)", "exit code 7"),
        ("import os\ndef f(): os.kill(os.getpid(), 9)", "signal SIGKILL"),
        ("import os\ndef f(): os.abort()", "signal SIGABRT"),
        ("import ctypes\ndef f(): ctypes.string_at(0)", "signal SIGSEGV"),
        ("import os\ndef f(): os.execv('/bin/true', ['true'])", "exit code 0"),
        ("import os\ndef f(): os.closerange(0, 256)", "ended the process"),
        ("import os, signal\ndef f(): os.killpg(0, signal.SIGKILL)", "signal SIGKILL"),
        ("import os\ndef f(): os.kill(os.getpid(), 15)", "signal SIGTERM"),
    ],
)  # fmt: skip
def test_a_call_that_ends_the_process_is_a_failure_and_the_next_call_gets_a_fresh_process(plain_child, source, words):
    dying = plain_child(source)
    error = failure(dying, call)
    assert error.outcome == "raised"
    assert words in error.rationale
    assert dying.run(one) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import os; os._exit(0)",
        "import os; os.kill(os.getpid(), 11)",
        "import ctypes; ctypes.string_at(0)",
        "raise KeyboardInterrupt",
    ],
)
def test_a_file_that_ends_the_process_while_it_is_loaded_fails_every_call(plain_child, source):
    dead = plain_child(source)
    for _ in range(3):
        assert "while your file was loaded, your code ended the process" in failure(dead, one).rationale
    assert not dead.answers


def test_a_keyboard_interrupt_in_a_child_is_an_answer(child):
    raiser = child("def f(): raise KeyboardInterrupt")
    assert failure(raiser, call).rationale == "KeyboardInterrupt"
    assert raiser.run(one) == 1


def test_after_two_deaths_no_process_is_started_any_more(child):
    dying = child("import os\ndef f(): os._exit(0)")
    for _ in range(2):
        failure(dying, call)
    assert not dying.answers
    assert "ended the process" in failure(dying, one).rationale
    assert dying._handle is None


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    while True: pass",
        "import time\ndef f(): time.sleep(1000)",
        "import threading\ndef f():\n    lock = threading.Lock(); lock.acquire(); lock.acquire()",
        "import re\ndef f(): re.match('(a+)+$', 'a' * 64 + 'b')",
        "class E(Exception):\n    def __str__(self):\n        while True: pass\ndef f(): raise E",
        "def f():\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
        "import signal\nfor n in {*range(1, 32)} - {9, 19}: signal.signal(n, signal.SIG_IGN)\ndef f():\n    while True: pass",
    ],
)
def test_a_call_without_end_is_stopped(child, source):
    endless = child(source, wall_s=0.5)
    error = failure(endless, call)
    assert error.outcome == "raised"
    assert error.rationale == "your code was still running after 0.5 s and was stopped"
    assert error.observation is None


def test_a_process_that_stops_itself_is_stopped_for_good(plain_child):
    stopped = plain_child("import os, signal\ndef f(): os.kill(os.getpid(), signal.SIGSTOP)", wall_s=0.5)
    assert "was stopped" in failure(stopped, call).rationale


def test_who_ran_out_of_time_once_gets_a_third_of_it(child):
    endless = child("def f():\n    while True: pass", wall_s=0.6)
    assert "0.6 s" in failure(endless, call).rationale
    assert "0.2 s" in failure(endless, call).rationale


def test_a_file_without_end_is_stopped_while_it_is_loaded(child):
    endless = child("while True: pass", wall_s=0.5)
    assert (
        failure(endless, one).rationale
        == "while your file was loaded, your code was still running after 0.5 s and was stopped"
    )
    started = time.monotonic()
    failure(endless, one)
    assert time.monotonic() - started < 0.5  # at once: nothing is started


def test_all_calls_together_have_a_limit(child):
    slow = child("import time\ndef f(): time.sleep(0.3)", total_s=1.0)
    rationale = ""
    for _ in range(10):
        try:
            slow.run(call)
        except SubmissionError as error:
            rationale = error.rationale
            break
    assert rationale == "all your answers together took more than 1 s"
    assert not slow.answers
    assert failure(slow, one).rationale == rationale


def test_memory_is_bounded(child):
    greedy = child("import torch\ndef f(): return torch.ones(2 * 2**30 // 4).sum().item()", memory_mb=2048)
    assert "memory" in failure(greedy, call).rationale
    assert greedy.run(one) == 1
    hoarder = child("def f():\n    x = []\n    while True: x.append(bytearray(2**24))", memory_mb=2048)
    assert "MemoryError" in failure(hoarder, call).rationale


def test_a_file_cannot_grow_without_end(child):
    writer = child("def f():\n    with open('big', 'wb') as file:\n        while True: file.write(bytes(2**24))")
    error = failure(writer, call)
    assert "SIGXFSZ" in error.rationale or "File too large" in error.rationale


def test_output_goes_nowhere(child, capfd):
    loud = child(
        "import os, sys, warnings\nprint('at import')\n"
        "def f():\n    for _ in range(50): os.write(1, bytes(2**20)); os.write(2, bytes(2**20))\n"
        "    print('x' * 10**6); print('y', file=sys.stderr); sys.stdout.flush(); warnings.warn('z')\n"
        "    os.system('echo from a shell')\n"
        "    return 3"
    )
    assert loud.run(call) == 3
    assert capfd.readouterr() == ("", "")


def test_there_is_nothing_to_read_from_a_keyboard(child):
    assert "EOFError" in failure(child("def f(): return input()"), call).rationale


def test_the_host_is_not_in_the_environment(child, monkeypatch):
    monkeypatch.setenv("HOST_SECRET", "token-1234")
    asked = child()
    own = asked.run(evaluate, "dict(__import__('os').environ)")
    initial = asked.run(evaluate, "open('/proc/self/environ').read()")
    assert set(own) == {"HOME", "TMPDIR", "LOGNAME", "OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "LANG"}
    assert "token-1234" not in initial
    assert {part.split("=")[0] for part in initial.split("\0") if part} <= {
        "OMP_NUM_THREADS",
        "PATH",
        "LANG",
        "LC_CTYPE",
        "LOGNAME",
        "PYTHONNOUSERSITE",
        "PWD",
        "PYTHONPATH",
        "TMPDIR",
    }
    assert str(Path.cwd()) not in initial


def descriptors(exercise):
    import os

    held = {}
    for name in os.listdir("/proc/self/fd"):
        if os.path.exists(f"/proc/self/fd/{name}"):  # not the one of the listing itself
            held[int(name)] = os.readlink(f"/proc/self/fd/{name}").split(":")[0]
    return held


def test_a_child_holds_its_own_socket_and_nothing_else_of_the_judge(child):
    held = child().run(descriptors)
    assert {held.pop(n) for n in range(3)} == {"/dev/null"}
    assert sorted(held.values()) == ["pipe", "socket"]


def test_the_folder_of_a_child_is_its_own_and_is_removed(plain_child):
    first, second = plain_child(), plain_child()
    folders = [one.run(evaluate, "__import__('os').getcwd()") for one in (first, second)]
    assert folders[0] != folders[1]
    assert first.run(evaluate, "__import__('tempfile').gettempdir()") == folders[0]
    first.run(execute, "open('left', 'w').write('x')")
    assert os.path.exists(f"{folders[0]}/left")
    first.close(), second.close()
    assert not any(map(os.path.exists, folders))


def test_behind_a_seal_the_folder_of_a_child_is_its_own_and_is_empty(child):
    first, second = child(), child()
    listing = "__import__('os').listdir('/tmp') + __import__('os').listdir('/dev/shm')"
    first.run(execute, "open('/tmp/left', 'w').write('x'); open('/dev/shm/left', 'w').write('x')")
    assert first.run(evaluate, listing) == ["left", "left"]
    assert second.run(evaluate, listing) == []
    first.close()
    assert child().run(evaluate, listing) == []


@pytest.mark.parametrize(
    "spoil",
    [
        "import os; os.makedirs('a/b'); os.chmod('a', 0)",
        "import os\nfor _ in range(1050): os.mkdir('d'); os.chdir('d')",
        "import os; home = os.getcwd(); os.chdir('/'); os.rmdir(home); os.symlink('/usr', home)",
        "import os; os.symlink('/usr', 'link'); os.mkfifo('pipe')",
        "import os; home = os.getcwd(); os.chdir('/'); os.rmdir(home)",
    ],
    ids=["locked", "deep", "replaced_by_a_link", "link_inside", "removed"],
)
def test_a_folder_is_removed_whatever_a_submission_made_of_it(plain_child, plain_bench, spoil):
    spoiling = plain_child()
    folder = spoiling.run(evaluate, "__import__('os').getcwd()")
    process = plain_bench._process
    spoiling.run(execute, spoil)
    spoiling.close()
    assert not os.path.lexists(folder)
    assert os.path.isdir("/usr/bin")
    assert plain_child().run(one) == 1
    assert plain_bench._process is process  # and the bench lives


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def gone(pid):
    """Wait until a process that was killed has really ended; a handle on it becomes readable then."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], 30)[0])
    finally:
        os.close(handle)


GRANDCHILDREN = """
import os, signal, time
answer = []
for _ in range(5):
    pid = os.fork()
    if not pid:
        for n in range(1, 32):
            if n not in (9, 19): signal.signal(n, signal.SIG_IGN)
        time.sleep(1000)
        os._exit(0)
    answer.append(pid)
"""


@pytest.mark.parametrize("end", ["close", "exit", "hang"])
@pytest.mark.parametrize("way", ["sealed", "plain"])
def test_grandchildren_die_with_the_child(child, plain_child, way, end):
    parent = (child if way == "sealed" else plain_child)(wall_s=WALL_S if end == "close" else 2)
    count = len(parent.run(execute, GRANDCHILDREN))
    pids = descendants(parent._handle.pid)  # as this process knows them
    assert len(pids) == count == 5
    assert all(map(alive, pids))
    if end == "close":
        parent.close()
    else:
        failure(parent, execute, "import os, time; os._exit(0)" if end == "exit" else "import time; time.sleep(1000)")
    assert all(map(gone, pids))


def descendants(pid):
    children = [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(below for one in children for below in descendants(one))]


DAEMONS = """
import os, time
answer = []
for _ in range(3):
    reader, writer = os.pipe()
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.write(writer, b"x")
            time.sleep(1000)
        os._exit(0)
    os.read(reader, 1)
"""


def test_behind_a_seal_daemons_of_their_own_session_die_as_well(child):
    parent = child()
    parent.run(execute, DAEMONS)
    pids = descendants(parent._handle.pid)
    assert sum(map(alive, pids)) >= 3  # those between them and us may not have ended yet
    parent.close()
    assert all(map(gone, pids))


# A child that does not keep to the protocol.

FRAME = "from grader.wire import encode; import os, time, threading; frame = encode({'answer': 42})\n"


def test_an_answer_before_its_question_is_refused(child):
    early = child()
    assert early.run(execute, FRAME + "os.write(channel, frame + frame)") == 42  # a process may say what it likes, once
    with pytest.raises(SubmissionError, match="came before its question"):
        early.run(one)
    assert early.run(one) == 1


def test_a_frame_written_to_every_descriptor_reaches_nobody_else(child, bench):
    process = bench._process
    neighbour, hostile = child(), child()
    assert neighbour.run(one) == 1
    text = FRAME + (
        "for n in {*range(3, 256)} - {channel}:\n    try: os.write(n, b'7\\n' + frame)\n    except OSError: pass"
    )
    assert hostile.run(execute, text) is None
    hostile.close()
    assert neighbour.run(one) == 1
    assert child().run(one) == 1
    assert bench._process is process


def test_the_first_reply_is_checked_too(child):
    at_import = (
        "import os\nfrom grader.wire import encode\n"
        "for n in range(3, 32):\n    try: os.write(n, encode({forged}))\n    except OSError: pass\n"
    )
    for forged in ("{'usable': 1, 'error': None}", "{'answer': 1}", "[1]", "{'usable': True, 'error': [1]}", "None"):
        assert "out of turn" in failure(child(at_import.replace("{forged}", forged)), one).rationale
    forged = child(at_import.replace("{forged}", "{'usable': True, 'error': None}"))
    # The true reply follows on the forged one: it comes before the first question, or in the place of its answer.
    assert re.search("before its question|out of turn", failure(forged, one).rationale)


@pytest.mark.parametrize(
    "forged",
    [
        "None",
        "1",
        "[]",
        "{}",
        "{'answers': 1}",
        "{'error': None}",
        "{'error': 'text'}",
        "{'error': [1]}",
        "('answer', 1)",
    ],
)
def test_a_reply_that_is_no_reply_is_out_of_turn(child, forged):
    text = f"from grader.wire import encode; import os; os.write(channel, encode({forged})); os._exit(0)"
    assert "out of turn" in failure(child(), execute, text).rationale


@pytest.mark.parametrize(
    "error",
    [
        "{}", "{'type': None}", "{'type': 7, 'message': {}, 'frames': 3, 'bases': 4}", "{'frames': [1, 'four', (1, 2), {}]}",
        "{'frames': [(1, 2, 3, 4), ([], {}, None, 1.5)]}", "{'frames': 'abcd'}", "{'bases': 'NotImplementedError'}",
        "{'bases': torch.ones(3), 'frames': torch.ones(3), 'message': torch.ones(3), 'type': torch.ones(3)}",
        "{'message': 'x' * 10**6, 'type': 'y' * 10**6, 'frames': [('a' * 10**3,) * 4] * 500}",
    ],
)  # fmt: skip
def test_a_forged_error_is_a_failure_of_bounded_length(child, error):
    text = f"from grader.wire import encode; import os, torch; os.write(channel, encode({{'error': {error}}})); os._exit(0)"
    caught = failure(child(), execute, text)
    assert caught.outcome == "raised"
    assert len(caught.rationale) + len(caught.help) < 10_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("os.write(channel, b'\\xff' * 12)", "larger than"),
        ("os.write(channel, struct.pack('>QI', 2**28, 2**28))", "malformed"),
        ("os.write(channel, struct.pack('>QI', 0, 0))", "malformed"),
        ("os.write(channel, struct.pack('>QI', 8, 4) + b'nope')", "malformed"),
        ("os.write(channel, struct.pack('>QI', 13, 9) + pickle.dumps(0)[:4] + b'12345')", "malformed"),
        ("os.write(channel, struct.pack('>QI', 1000, 9) + b'1'); os._exit(0)", "ended the process"),
        ("os.write(channel, b'1'); os._exit(0)", "ended the process"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_message_are_refused(child, text, words):
    hostile = child()
    assert words in failure(hostile, execute, f"import os, struct, pickle; {text}").rationale
    assert hostile.run(one) == 1


@pytest.mark.parametrize(
    "text",
    [
        "os.write(channel, struct.pack('>QI', 2**27, 10))\nwhile True: os.write(channel, b' ')",
        "os.write(channel, struct.pack('>QI', 2**27, 10))\nwhile True: os.write(channel, b' '); time.sleep(0.01)",
        "for byte in struct.pack('>QI', 2**27, 10): os.write(channel, bytes([byte])); time.sleep(0.2)",
        "os.write(channel, struct.pack('>QI', 2**27, 10))\ntime.sleep(1000)",
    ],
    ids=["fast_trickle", "slow_trickle", "trickled_header", "stalled"],
)
def test_a_reply_without_end_is_stopped_in_time(child, text):
    hostile = child(wall_s=0.7)
    started = time.monotonic()
    assert "was stopped" in failure(hostile, execute, f"import os, struct, time\n{text}").rationale
    assert time.monotonic() - started < WALL_S


def test_what_comes_in_time_is_read_and_after_the_deadline_nothing_is(child):
    """However fast it comes: the socket alone would give every single byte a time limit of its own."""
    asked = child()
    asked.run(one)
    reader, writer = os.pipe()
    handle = replace(asked._handle, answers=reader)
    os.write(writer, b"abcdef")
    assert receive(handle, 4, time.monotonic() + WALL_S) == b"abcd"
    with pytest.raises(TimeoutError):
        receive(handle, 1, time.monotonic() - 1)
    os.close(reader), os.close(writer)


def test_no_descriptor_comes_along_with_an_answer(child):
    """One that lingers when it is closed would stall the judge for as long as the submission likes."""
    text = (
        "import os, socket\nanswer = []\n"
        "for n in range(3, 64):\n"
        "    try:\n"
        "        with socket.socket(fileno=os.dup(n)) as one: socket.send_fds(one, [b'x'], [0])\n"
        "        answer.append(n)\n"
        "    except OSError: pass"
    )
    assert child("import signal; signal.signal(signal.SIGPIPE, signal.SIG_IGN)").run(execute, text) == []


def test_a_process_that_has_ended_is_noticed_while_others_hold_its_socket(plain_child):
    left = "import os, time\nif os.fork(): os._exit(0)\ntime.sleep(1000)"
    asked = plain_child()
    asked.run(one)
    started = time.monotonic()
    assert "exit code 0" in failure(asked, execute, left).rationale
    assert time.monotonic() - started < WALL_S / 2


def test_who_goes_on_talking_is_soon_found_to_answer_before_the_question(child):
    endless = child()
    text = FRAME + (
        "def spam():\n    while True: os.write(channel, frame)\n"
        "threading.Thread(target=spam, daemon=True).start()\n"
        "time.sleep(1000)"
    )
    assert endless.run(execute, text) == 42
    rationale = ""
    while not rationale:
        try:
            assert endless.run(one) == 42  # what it says in time is its answer
        except SubmissionError as error:
            rationale = error.rationale
    assert "before its question" in rationale
    assert endless.run(one) == 1


def test_an_answer_that_is_too_large_is_refused_by_either_side(child, monkeypatch):
    monkeypatch.setattr(wire, "MAX_MESSAGE", 8 * 2**20)
    large = child("import torch\ndef f(mb): return torch.zeros(mb, 2**18)")
    assert large.run(call, 7).shape == (7, 2**18)
    assert "larger than 8 MB" in failure(large, call, 9).rationale
    assert "MB of text" in failure(child("def f(): return 'x' * 2**24"), call).rationale


def test_a_question_that_is_not_read_runs_out_of_time(child):
    deaf = child("import os, signal\ndef f(): pass", wall_s=1)
    assert deaf.run(one) == 1
    os.kill(deaf._handle.pid, signal.SIGSTOP)
    assert "was stopped" in failure(deaf, call, torch.zeros(2**20)).rationale


def test_a_question_that_was_interrupted_leaves_no_answer_behind(child):
    """As pytest-timeout does it: an exception out of a signal handler, in the middle of a call."""
    asked = child("import time\ndef f(): time.sleep(0.6); return 'late'")
    assert asked.run(one) == 1

    class Interrupted(BaseException):
        pass

    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(Interrupted):
            asked.run(call)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert asked.run(one) == 1


# CPU time.


def burn(exercise, threads, seconds):
    """Compute for ``seconds`` of CPU time, spread over threads."""
    import threading
    import time

    def work():
        start = time.thread_time()
        while time.thread_time() - start < seconds / threads:
            sum(range(1000))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


@pytest.mark.parametrize("threads", [1, 4])
def test_timed_counts_the_work_of_all_threads_and_only_of_this_call(child, threads):
    timed = child()
    timed.run(burn, threads, 0.3)
    _, idle = timed.timed(one)
    _, busy = timed.timed(burn, threads, 0.4)
    assert busy >= 0.4
    assert 0 < idle < 0.2


def burn_elsewhere(exercise, seconds):
    """Compute in a process of its own, and wait for it."""
    import os
    import time

    pid = os.fork()
    if not pid:
        while time.process_time() < seconds:
            sum(range(1000))
        os._exit(0)
    os.waitpid(pid, 0)


def test_timed_counts_the_work_of_processes_that_a_call_starts_and_waits_for(child):
    timed = child()
    assert timed.timed(burn_elsewhere, 0.3)[1] >= 0.29  # ticks of 10 ms
    assert timed.timed(one)[1] < 0.2
    assert timed.timed(burn_elsewhere, 0.3)[1] >= 0.29


def test_timed_does_not_count_sleep(child):
    sleeper = child("import time\ndef f(): time.sleep(0.5)")
    assert sleeper.timed(call)[1] < 0.3


def test_timed_counts_what_a_patched_clock_hides(child):
    work = "def f():\n    for n in range(3_000_000): pass"
    names = "('time', 'perf_counter', 'process_time', 'thread_time')"
    patch = f"import time\nfor name in {names}: setattr(time, name, lambda: 0.0)\n"
    assert child(patch + work).timed(call)[1] > child(work).timed(call)[1] / 4


ELSEWHERE = {
    "a copy serves": "import os, time\nif os.fork():\n    while True: time.sleep(1000)\n",
    "a worker is fed through pipes": """
import os
to_read, to_write = os.pipe()
from_read, from_write = os.pipe()
if not os.fork():
    while True:
        n = int.from_bytes(os.read(to_read, 8), "big")
        os.write(from_write, sum(1 for _ in range(n)).to_bytes(8, "big"))
def count(n):
    os.write(to_write, n.to_bytes(8, "big"))
    return int.from_bytes(os.read(from_read, 8), "big")
""",
    "a new process each time": """
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
def count(n):
    reader, writer = os.pipe()
    if not os.fork():
        os.write(writer, sum(1 for _ in range(n)).to_bytes(8, "big"))
        os._exit(0)
    os.close(writer)
    answer = int.from_bytes(os.read(reader, 8), "big")
    os.close(reader)
    return answer
""",
    "threads": """
import threading
def count(n):
    found = []
    worker = threading.Thread(target=lambda: found.append(sum(1 for _ in range(n))))
    worker.start()
    worker.join()
    return found[0]
""",
}


@pytest.mark.parametrize("source", ELSEWHERE.values(), ids=ELSEWHERE)
def test_work_that_another_process_does_is_counted(child, source):
    busy = child(source)
    assert busy.run(one) == 1
    measured = slowdown(busy, child("x = 1"), burn_and_count, lambda: (2_000_000,), pairs=3)
    assert 0.5 < measured.ratio < 5


@pytest.mark.parametrize("name", ["a copy serves", "a worker is fed through pipes", "threads"])
def test_without_a_control_group_the_processes_are_counted_one_by_one(child, monkeypatch, name):
    monkeypatch.setattr("grader.bench.Group.make", lambda: None)
    busy = child(ELSEWHERE[name])
    assert slowdown(busy, child("x = 1"), burn_and_count, lambda: (2_000_000,), pairs=3).ratio > 0.5


def burn_and_count(exercise, n):
    return exercise.count(n) if hasattr(exercise, "count") else sum(1 for _ in range(n))


# The bench.


def test_the_judge_keeps_no_descriptor_and_no_process_of_fifty_submissions(bench):
    def state():
        gc.collect()
        children = Path(f"/proc/{bench._process.pid}/task/{bench._process.pid}/children").read_text().split()
        return len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{bench._process.pid}/fd")), len(children)

    before = state()
    for number in range(50):
        source = ["x = 1", "x = 1 / 0", "import os; os._exit(0)", "import os\ndef f(): os._exit(1)"][number % 4]
        asked = Child(bench, Submission.from_source(source, "a.py"), "a", wall_s=WALL_S, memory_mb=4096)
        if number % 4 == 0:
            assert asked.run(one) == 1
        else:
            failure(asked, call)
        asked.close()
    assert state() == before


def test_the_bench_is_in_no_group_with_the_judge(bench):
    assert os.getpgid(bench._process.pid) != os.getpgrp()
    assert os.getsid(bench._process.pid) != os.getsid(0)


def test_a_reap_of_a_pid_that_is_not_ours_kills_nobody(plain_bench):
    process = plain_bench._process
    innocent = os.fork()
    if not innocent:
        signal.pause()
        os._exit(0)
    try:
        for pid in (0, 1, os.getpid(), os.getpgrp(), innocent):
            assert plain_bench._request({"reap": pid})[0] == 0
        assert alive(innocent)
        assert plain_bench._process is process
    finally:
        os.kill(innocent, signal.SIGKILL)
        os.waitpid(innocent, 0)


def test_many_descriptors_in_the_judge_do_no_harm(child):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    taken = []
    try:
        while not taken or taken[-1] < 1030:
            taken.append(os.dup(0))
        assert child().run(one) == 1
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_stopped_or_killed_bench_is_replaced_and_only_the_guilty_lose(monkeypatch):
    """One bench for all of it, because each start costs seconds."""
    monkeypatch.setattr(Bench, "REPLY_S", 1.0)
    with Bench("none") as bench:
        bench.warm()
        monkeypatch.undo()

        def make(source="", **options):
            return Child(bench, Submission.from_source(source, "a.py"), "a", wall_s=WALL_S, memory_mb=4096, **options)

        reference = Memo(Restarted(make))
        assert reference.run(one) == 1
        first = bench._process
        folders = [bench._folder]

        stopper = make("import os, signal\ndef f(): os.kill(os.getppid(), signal.SIGSTOP)")
        assert stopper.run(call) is None
        pid = stopper._handle.pid
        stopper.close()  # the bench does not answer, and is given up; the child is ended all the same
        assert first.poll() is not None
        assert gone(pid)
        assert reference.timed(one)[0] == 1  # its process died with the bench: another one answers
        second = bench._process
        assert second is not first
        folders.append(bench._folder)

        killer = make("import os, signal\ndef f():\n    os.kill(os.getppid(), signal.SIGKILL)\n    signal.pause()")
        assert "ended the process (and its parent)" in failure(killer, call).rationale
        assert bench._process is None  # nothing is started to end a child
        killer.close()
        assert reference.timed(one)[0] == 1
        third = bench._process
        assert third is not second
        folders.append(bench._folder)

        orphan = make(
            "import ctypes, os, signal, time\n"
            "def f():\n"
            "    helper = os.fork() or time.sleep(1000)\n"
            "    ctypes.CDLL(None).prctl(1, 0)\n"
            "    os.kill(os.getppid(), signal.SIGKILL)\n"
            "    return os.getpid(), helper"
        )
        pid, helper = orphan.run(call)  # they outlive their bench
        assert third.wait() == -signal.SIGKILL
        assert orphan.run(one) == 1
        assert reference.timed(one)[0] == 1
        orphan.close()  # and are ended although the new bench does not know them
        assert gone(pid)
        assert gone(helper)
        assert (
            len([name for name in os.listdir(bench._folder) if name.startswith("submission-")]) == 1
        )  # the reference's
        folders.append(bench._folder)
    assert len(set(folders)) == 4
    assert not any(map(os.path.exists, folders))  # nothing is left, not even of the reference, which is still open
    reference.close()


@pytest.mark.parametrize("seal", ["bubblewrap", "none"])
def test_a_bench_whose_judge_has_died_ends_and_leaves_no_submission_behind(seal):
    judge = (
        "import os, sys\n"
        "from grader.bench import Bench, Child\n"
        "from grader.submission import Submission\n"
        f"bench = Bench({seal!r})\n"
        "child = Child(bench, Submission.from_source('', 'a.py'), 'a', wall_s=100, memory_mb=4096)\n"
        "child._open()\n"
        "print(bench._process.pid, child._handle.pid, bench._folder or '/nowhere', flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    output = subprocess.run([sys.executable, "-c", judge], capture_output=True, text=True, check=False).stdout.split()
    assert gone(int(output[0]))
    assert gone(int(output[1]))
    assert not os.path.exists(output[2])


def test_a_reference_that_fails_twice_is_a_fault_of_the_grader_and_not_an_answer(child):
    made = []

    def make():
        made.append(child("import os\ndef f(): os._exit(0)\ndef g(): raise ValueError('an answer')"))
        return made[-1]

    reference = Restarted(make)
    with pytest.raises(GraderFault, match="ended the process"):
        reference.run(call)
    assert reference.run(one) == 1
    count = len(made)
    assert failure(reference, evaluate, "exercise.g()").rationale == "ValueError: an answer"
    assert len(made) == count  # an answer is no reason to start again


def test_a_bench_that_cannot_start_is_a_fault_of_the_grader(monkeypatch):
    monkeypatch.setattr("grader.bench.sys.executable", "/bin/false")
    with Bench("bubblewrap") as bench:
        asked = Child(bench, Submission.from_source("", "a.py"), "a", wall_s=1, memory_mb=100)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(2):
            with pytest.raises(GraderFault):
                asked.run(one)
        asked.close()
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_bench_can_be_closed_twice_and_used_again(bench):
    unused = Bench()
    unused.close()
    unused.close()


def test_a_submission_with_a_problem_never_starts_a_process():
    unused = Bench()
    asked = Child(unused, Submission("a.py", problem="the file is empty"), "a", wall_s=1, memory_mb=100)
    assert failure(asked, one).rationale == "the file is empty"
    assert not asked.answers
    assert unused._process is None


# Memo.


class Counting:
    def __init__(self):
        self.asked = []

    def run(self, probe, *inputs):
        self.asked.append(inputs)
        if inputs == ("bad",):
            raise SubmissionError("no")
        return {"x": torch.zeros(2), "f": wire.Foreign("a.B"), "n": len(self.asked)}

    def timed(self, probe, *inputs):
        return self.run(probe, *inputs), 0.1

    def close(self):
        self.asked.append("closed")


def test_a_memo_asks_once_and_gives_copies():
    counting = Counting()
    memo = Memo(counting)
    first = memo.run(one, torch.ones(2))
    first["x"].fill_(5)
    again = memo.run(one, torch.ones(2))
    assert again["x"].tolist() == [0, 0]
    assert again["f"] == wire.Foreign("a.B")
    assert again["n"] == 1
    assert memo.run(one, torch.zeros(2))["n"] == 2
    assert memo.run(call, torch.ones(2))["n"] == 3


def test_a_memo_keeps_errors_and_never_times_from_memory():
    counting = Counting()
    memo = Memo(counting)
    for _ in range(3):
        with pytest.raises(SubmissionError) as caught:
            memo.run(one, "bad")
    depth = len(list(traceback_of(caught.value)))
    with pytest.raises(SubmissionError) as caught:
        memo.run(one, "bad")
    assert len(list(traceback_of(caught.value))) == depth
    assert len(counting.asked) == 1
    memo.timed(one, 1), memo.timed(one, 1)
    assert len(counting.asked) == 3


def traceback_of(error):
    step = error.__traceback__
    while step:
        yield step
        step = step.tb_next


def test_a_memo_forgets_the_answer_that_was_not_asked_for_the_longest_time():
    counting = Counting()
    memo = Memo(counting, size=2)
    for value in (1, 2, 1, 3, 1):
        memo.run(one, value)
    assert counting.asked == [(1,), (2,), (3,)]
    memo.run(one, 2)
    assert counting.asked[-1] == (2,)


def test_equal_requests_are_equal_bytes_whatever_lies_where_in_memory():
    def request():
        x = torch.arange(6.0).reshape(2, 3)
        return pack(
            call, (x, x.mT, x[1:], torch.nn.Parameter(x), {"b": [torch.ones(2, dtype=torch.bool)]}, torch.zeros(0))
        )

    kept = [request() for _ in range(3)]
    assert len(set(kept)) == 1
    assert pack(call, (torch.ones(2),)) != pack(call, (torch.zeros(2),)) != pack(one, (torch.zeros(2),))


def test_inputs_arrive_with_dtype_strides_and_the_wish_for_gradients():
    x = torch.arange(6.0).reshape(2, 3)
    inputs = (
        x.mT,
        x[:, 1],
        torch.nn.Parameter(x),
        x.bfloat16(),
        x.bool(),
        torch.zeros(0, 2),
        torch.tensor(3),
        x.to_sparse(),
    )
    arrived = pickle.loads(pack(one, inputs))[1]
    for sent, came in zip(inputs, arrived, strict=True):
        assert type(came) is type(sent)
        assert (came.dtype, came.shape, came.layout, came.requires_grad) == (
            sent.dtype,
            sent.shape,
            sent.layout,
            sent.requires_grad,
        )
        assert torch.equal(came.to_dense(), sent.to_dense())
    assert arrived[0].stride() == x.mT.stride()
    arrived[2].data.fill_(0)
    assert x.sum() == 15


def test_a_probe_travels_by_value_and_leaves_no_registration_behind():
    import cloudpickle

    before = set(cloudpickle.list_registry_pickle_by_value())
    assert b"grader.probes" not in pack(call, ())
    assert set(cloudpickle.list_registry_pickle_by_value()) == before


def test_two_threads_may_share_a_bench(bench):
    answers = []

    def work():
        asked = Child(bench, Submission.from_source("def f(n): return n", "a.py"), "a", wall_s=WALL_S, memory_mb=4096)
        answers.extend(asked.run(call, n) for n in range(5))
        asked.close()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == sorted([*range(5)] * 2)


def test_a_socket_of_the_judge_is_closed_when_its_child_is(child):
    asked = child()
    asked.run(one)
    channel = asked._handle.channel
    assert isinstance(channel, socket.socket)
    asked.close()
    assert channel.fileno() == -1

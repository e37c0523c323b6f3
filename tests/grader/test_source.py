"""The one source: what comes out of a reference module, and which mistakes in one are refused."""

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest

from grader import course as manifest
from grader import source
from grader.submission import InputError

pytest.importorskip("nbgrader")

REFERENCE = '''\
"""Count bases.

Why: the first thing anybody does with DNA.
"""

import torch
from torch import Tensor

BASES = "ACGT"  # the order of the channels

# The alphabet's size.
SIZE = 4


# What follows is the easy part.
@torch.no_grad()
def composition(x: Tensor) -> Tensor:
    """Share of each base.

    Text that looks like code stays text: def f(): ...
    """
    total = x.sum()
    ### BEGIN SOLUTION
    per_channel = x.sum(dim=(0, 2))
    return per_channel / total
    ### END SOLUTION


def helper(x):
    return x  # given

MIDDLE = 1; LAST = 2

class Counter(torch.nn.Module):
    """Counts."""

    def __init__(self) -> None:
        super().__init__()
        ### BEGIN SOLUTION
        self.register_buffer("seen", torch.zeros(SIZE))
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 3:
            ### BEGIN SOLUTION
            raise ValueError(f"x must have three axes, got {x.ndim}")
            ### END SOLUTION
        return x
        # the last word


END_OF_FILE = True  # not a marker
'''

STUB_TAIL = """\
    total = x.sum()
    # YOUR CODE HERE
    raise NotImplementedError


def helper(x):
"""


def function(body: str) -> str:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f'"""Task."""\n\n\ndef answer(x):\n{lines}'


class TestStub:
    def test_answers_become_raise_not_implemented(self):
        stub = source.stub(REFERENCE)
        assert STUB_TAIL in stub
        assert stub.count("raise NotImplementedError\n") == 3
        assert "SOLUTION" not in stub

    def test_is_deterministic_parses_and_keeps_the_docstring(self):
        stub = source.stub(REFERENCE)
        assert stub == source.stub(REFERENCE)
        assert ast.get_docstring(ast.parse(stub)) == ast.get_docstring(ast.parse(REFERENCE))
        assert stub.endswith("END_OF_FILE = True  # not a marker\n")

    def test_everything_outside_of_answers_stays(self):
        kept = [line for line in source.stub(REFERENCE).splitlines() if line.strip() and line in REFERENCE]
        assert len(kept) > 25

    def test_holds_no_solution_line(self):
        assert source.leaks(source.solution_lines(REFERENCE), source.stub(REFERENCE)) == []


ANSWER = "### BEGIN SOLUTION\nreturn x.flip(-1)\n### END SOLUTION"
MISTAKES = {
    "nested": ("### BEGIN SOLUTION\ny = x.flip(-1)\n### BEGIN SOLUTION\nreturn y\n### END SOLUTION", 7, "nested"),
    "unclosed": ("### BEGIN SOLUTION\nreturn x", 5, "never closed"),
    "stray end": ("return x\n### END SOLUTION", 6, "without"),
    "two hashes": ("## BEGIN SOLUTION\nreturn x\n### END SOLUTION", 5, "'## BEGIN SOLUTION'"),
    "letter missing": ("### BEGIN SOLUTON\nreturn x\n### END SOLUTION", 5, "'### BEGIN SOLUTON'"),
    "lower case": ("### begin solution\nreturn x\n### end solution", 5, "'### begin solution'"),
    "end misspelt": ("### BEGIN SOLUTION\nreturn x\n### END SOLUTIONS", 7, "'### END SOLUTIONS'"),
    "behind code": ("### BEGIN SOLUTION\nreturn x  ### END SOLUTION", 6, "alone on its line"),
    "in a string": ('t = """\n### BEGIN SOLUTION\n"""\nreturn x', 6, "no comment"),
    "in a short string": (f"t = 'END SOLUTION'\n{ANSWER}", 5, "no comment"),
    "empty": ("### BEGIN SOLUTION\n# nothing\n### END SOLUTION\nreturn x", 5, "no statement"),
    "no answer at all": ("return x", 1, "nothing is left"),
}


class TestLint:
    @pytest.mark.parametrize("mistake", MISTAKES)
    def test_refuses(self, mistake):
        body, line, phrase = MISTAKES[mistake]
        with pytest.raises(source.SourceError, match=f"^ref.py:{line}: [^\n]*$") as caught:
            source.stub(function(body), "ref.py")
        assert phrase in str(caught.value)

    def test_refuses_a_marker_at_the_margin(self):
        text = '"""Task."""\n\n\ndef answer(x):\n### BEGIN SOLUTION\n    return x\n### END SOLUTION\n'
        with pytest.raises(source.SourceError, match=r"^ref.py:5: indent"):
            source.stub(text, "ref.py")

    def test_refuses_an_answer_outside_of_a_function(self):
        text = '"""Task."""\n\n\nclass A:\n    ### BEGIN SOLUTION\n    def f(self): return 1\n    ### END SOLUTION\n'
        with pytest.raises(source.SourceError, match=r"^ref.py:5: .*outside of a function"):
            source.stub(text, "ref.py")

    def test_refuses_a_stub_that_is_no_python(self):
        text = function("y = [\n    ### BEGIN SOLUTION\n    x.flip(-1),\n    ### END SOLUTION\n]\nreturn y")
        with pytest.raises(source.SourceError, match=r"^ref.py"):
            source.stub(text, "ref.py")

    def test_refuses_a_module_without_a_task(self):
        with pytest.raises(source.SourceError, match=r"^ref.py:1: no module docstring"):
            source.stub(function(ANSWER).replace('"""Task."""', ""), "ref.py")

    def test_refuses_what_is_no_python(self):
        with pytest.raises(source.SourceError, match=r"^ref.py:4: not valid Python"):
            source.stub(function(ANSWER).replace("(x):", "(x:"), "ref.py")

    def test_ordinary_comments_are_no_markers(self):
        source.lint(function(f"# the solution begins here\n# END of part one\n{ANSWER}"))


class TestSolutionLines:
    def test_are_those_that_betray_something(self):
        assert source.solution_lines(REFERENCE) == {
            "per_channel = x.sum(dim=(0, 2))",
            "return per_channel / total",
            'self.register_buffer("seen", torch.zeros(SIZE))',
        }

    @pytest.mark.parametrize(
        "line",
        [
            "return logits",
            "loss.backward()",
            "with torch.no_grad():",
            "for x, y in loader:",
            "if size < 1:",
            'raise ValueError(f"{name} must be at least 1")',
            "else:",
            "return F.relu(x)",
        ],
    )
    def test_leave_out_small_change(self, line):
        body = f"    {line}" + ("\n        pass" if line.endswith(":") else "")
        if line == "else:":
            body = "    if x: pass\n    else: pass"
        assert source.solution_lines(function(f"### BEGIN SOLUTION\nwhile x:\n{body}\n### END SOLUTION")) == set()

    @pytest.mark.parametrize(
        "line",
        [
            "return x.flip(-1)",
            "self.layers = nn.ModuleList()[:]",
            "return self.head(self.trunk(x))",
            "# flip both axes",
        ],
    )
    def test_keep_a_thought(self, line):
        assert source.solution_lines(function(f"### BEGIN SOLUTION\ny = x\n{line}\n### END SOLUTION")) == {line}

    def test_leave_out_what_also_stands_outside(self):
        assert source.solution_lines(function(f"y = 0\n{ANSWER}\nreturn x.flip(-1)")) == set()

    def test_leaks_ignores_indentation(self):
        assert source.leaks({"return x.flip(-1)"}, "def f(x):\n\t  return x.flip(-1)  \n# return x.flip(-1)") == [
            "return x.flip(-1)"
        ]


class TestCells:
    def test_are_one_per_definition(self):
        assert [(cell.kind, cell.name, cell.solution) for cell in source.cells(REFERENCE)] == [
            ("markdown", "task", False),
            ("code", "setup", False),
            ("code", "composition", True),
            ("code", "helper", False),
            ("code", "setup", False),
            ("code", "Counter", True),
            ("code", "setup", False),
        ]

    def test_comments_and_decorators_stay_with_their_definition(self):
        composition = source.cells(REFERENCE)[2].source
        assert composition.startswith("# What follows is the easy part.\n@torch.no_grad()\ndef composition")
        assert composition.endswith("    ### END SOLUTION")
        assert source.cells(REFERENCE)[5].source.endswith("        # the last word")

    @pytest.mark.parametrize("text", [REFERENCE, function(ANSWER), function(ANSWER) + "\n\nx = 1\n\n# the end\n"])
    def test_lose_nothing(self, text):
        cells = source.cells(text)
        code = "\n\n\n".join(cell.source for cell in cells if cell.kind == "code")
        whole = ast.parse(text)
        assert ast.dump(ast.parse(code)) == ast.dump(ast.Module(whole.body[1:], []))
        assert cells[0].source == ast.get_docstring(whole)
        kept = [line.strip() for cell in cells for line in cell.source.splitlines() if line.strip()]
        assert kept[-1] == text.split("\n")[-2].strip()

    def test_refuses_code_on_the_docstrings_line(self):
        with pytest.raises(source.SourceError, match=r"^ref.py:1: "):
            source.cells(function(ANSWER).replace('"""Task."""', '"""Task."""; x = 1'), "ref.py")


@pytest.fixture
def house(tmp_path):
    """A course of one exercise, as far as sync looks at it."""
    folder = tmp_path / "reference"
    folder.mkdir()
    (folder / "ex1.py").write_text(REFERENCE)
    return SimpleNamespace(
        root=tmp_path, reference=lambda e: folder / f"{e}.py", stub=lambda e: tmp_path / "exercises" / f"{e}.py"
    )


class TestSync:
    def test_writes_only_what_is_stale(self, house):
        assert source.sync(house, ["ex1"], check=True) == ["exercises/ex1.py"]
        assert not (house.root / "exercises").exists()
        assert source.sync(house, ["ex1"]) == ["exercises/ex1.py"]
        assert (house.root / "exercises/ex1.py").read_text() == source.stub(REFERENCE)
        assert source.sync(house, ["ex1"]) == source.sync(house, ["ex1"], check=True) == []

    def test_sees_an_edited_stub(self, house):
        source.sync(house, ["ex1"])
        (house.root / "exercises/ex1.py").write_bytes(b"\xff")
        assert source.sync(house, ["ex1"], check=True) == ["exercises/ex1.py"]

    def test_writes_nothing_when_one_of_them_is_wrong(self, house):
        (house.root / "reference/ex2.py").write_text("x = 1\n")
        with pytest.raises(source.SourceError, match=r"^reference/ex2.py:1: "):
            source.sync(house, ["ex1", "ex2"])
        assert not (house.root / "exercises").exists()

    def test_a_missing_reference_is_one_line(self, house):
        with pytest.raises(InputError, match="No such file"):
            source.sync(house, ["ex3"])


def test_stubs_of_the_course_are_fresh_and_hold_no_answer():
    course = manifest.load(Path(__file__).parents[2])
    ready = [exercise for exercise in course.exercises if exercise.ready]
    assert source.sync(course, ready, check=True) == []
    for exercise in ready:
        text = course.reference(exercise).read_text()
        secret = source.solution_lines(text)
        assert secret, exercise.id
        assert source.leaks(secret, course.stub(exercise).read_text()) == []
        code = "\n\n".join(cell.source for cell in source.cells(text) if cell.kind == "code")
        assert ast.dump(ast.parse(code)) == ast.dump(ast.Module(ast.parse(text).body[1:], []))

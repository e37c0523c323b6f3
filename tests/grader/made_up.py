"""A made-up course, small enough to be graded and audited in a moment, and easy to spoil in one place.

``make(folder)`` writes a course of one exercise, 3.1 "double": hidden and visible checks of all four kinds, controls,
hints. ``make(folder, {"double": Files(suite=...)})`` spoils it; more entries make more exercises.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from grader.course import Course, load

REFERENCE = '''\
"""Double: twice a tensor."""

import torch


def double(x: torch.Tensor) -> torch.Tensor:
    """Twice `x`; a `ValueError` when `x` is not floating-point."""
    ### BEGIN SOLUTION
    if not x.is_floating_point():
        raise ValueError(f"x must be floating-point, got {x.dtype}")
    return 2 * x
    ### END SOLUTION
'''

STUB = '''\
"""Double: twice a tensor."""

import torch


def double(x: torch.Tensor) -> torch.Tensor:
    """Twice `x`; a `ValueError` when `x` is not floating-point."""
    # YOUR CODE HERE
    raise NotImplementedError
'''

SUITE = '''\
import pytest
import torch

from grader.checks import assert_close, assert_fast, assert_gap_closed, assert_raises
from grader.probes import gradients_of


def doubled(exercise, x):
    return exercise.double(x)


def left_over(exercise, x):
    exercise.double(x)
    return x


def descended(exercise, x):
    for _ in range(15):
        x = x - 0.1 * exercise.double(x)
    return x


@pytest.mark.throughput(points=1)
def test_speed(student, reference, generator, figures):
    """No loop over the numbers"""
    fresh = lambda: [torch.randn(6000, generator=generator)]
    assert_fast(student, reference, doubled, fresh, bar=6, figures=figures)


@pytest.mark.shapes(points=2)
def test_values(student, reference, generator):
    """Twice the numbers. Nothing else."""
    x = torch.randn(8, generator=generator)
    assert_close(student.run(doubled, x), reference.run(doubled, x), help="Multiply by two.")


@pytest.mark.shapes(points=1, structure=True)
def test_error(student):
    assert_raises(student, ValueError, doubled, torch.arange(3), when="x holds whole numbers")


@pytest.mark.shapes(points=1, structure=True)
def test_input_is_left_alone(student, generator):
    """The input stays as it was"""
    x = torch.randn(8, generator=generator)
    assert_close(student.run(left_over, x), x, what="x after the call")


@pytest.mark.gradients(points=3)
def test_gradient(student, reference, generator):
    """The gradient is two"""
    x, cotangent = torch.randn(8, generator=generator), torch.randn(8, generator=generator)
    assert_close(student.run(gradients_of, doubled, [x], cotangent), (2 * cotangent,), what="gradient")


@pytest.mark.convergence(points=2)
def test_descends(student, generator):
    """Going down the gradient of the square leads to its minimum"""
    x = 3 + torch.randn(8, generator=generator)
    end = student.run(descended, x)
    assert_gap_closed(float(end.square().mean()), float(x.square().mean()), 0.0, bar=0.99, what="mean square")
'''

VISIBLE = '''\
import pytest
import torch

from grader.checks import assert_close, expect


def doubled(exercise, x):
    return exercise.double(x)


@pytest.mark.shapes
def test_values(student):
    """Twice the numbers"""
    assert_close(student.run(doubled, torch.arange(3.0)), torch.tensor([0.0, 2.0, 4.0]))


@pytest.mark.gradients
def test_gradient(student, generator):
    """A gradient comes through"""
    expect(student.run(doubled, torch.ones(2, requires_grad=True)) is not None, "no answer")
'''

CONTROLS = """\
from grader.controls import right, wrong

WRONG = [
    wrong("triples", "shapes", "gradients", says="You multiply by three.", edit={"2 * x": "3 * x"}),
    wrong("squares", "shapes", "gradients", says="You square.", edit={"2 * x": "x * x"}),
    wrong("detached", "gradients", says="You cut the graph.", edit={"2 * x": "2 * x.detach()"}),
    wrong("no_validation", "shapes", says="Whole numbers are accepted.", edit={"if not x.is_floating_point()": "if False"}),
    wrong("loops", "throughput", says="You loop.", edit={"2 * x": "torch.stack([2 * v for v in x])"}),
]
RIGHT = [right("adds", edit={"2 * x": "x + x"}), right("multiplies", edit={"2 * x": "x.mul(2)"})]
"""

HINTS = """\
[ex1_double]
hints = ["What is two times?", "A product.", "One line: a number times x."]

[ex1_double.symptoms]
"It is too large" = "Is it three times?"
"""

POINTS = {"shapes": 4, "gradients": 3, "convergence": 2, "throughput": 1}


@dataclass(frozen=True)
class Files:
    """The files of one exercise; every one of them may be spoilt."""

    reference: str = REFERENCE
    stub: str = STUB
    suite: str = SUITE
    visible: str = VISIBLE
    controls: str = CONTROLS
    points: dict[str, int] = field(default_factory=lambda: dict(POINTS))


def quick() -> Files:
    """The exercise without its throughput check, which takes longer than all others together."""
    begin, end = SUITE.index("@pytest.mark.throughput"), SUITE.index("@pytest.mark.shapes")
    loops = next(line for line in CONTROLS.splitlines() if '"loops"' in line)
    halves = loops.replace('"loops", "throughput"', '"halves", "shapes"').replace("You loop", "You halve")
    controls = CONTROLS.replace(loops, halves.replace("torch.stack([2 * v for v in x])", "x / 2"))
    points = {kind: count for kind, count in POINTS.items() if kind != "throughput"}
    return Files(suite=SUITE[:begin] + SUITE[end:], controls=controls, points=points)


def make(folder: Path, exercises: dict[str, Files] | None = None, *, hints: str = HINTS) -> Course:
    """Write a course into ``folder`` (slug -> files, numbered from 1, and one more that is planned), and load it."""
    exercises = exercises or {"double": Files()}
    manifest = [
        '[course]\ntitle = "A Made-Up Course"\n',
        '[[session]]\nnumber = 3\nslug = "tiny"\ntitle = "Tiny"\nminutes = 30\nchapters = []\nprerequisites = []\n',
    ]
    homes = {name: folder / name / "session_03_tiny" for name in ("exercises", "reference", "tests")}
    for home in homes.values():
        home.mkdir(parents=True)
    for number, (slug, files) in enumerate(exercises.items(), start=1):
        module = f"ex{number}_{slug}"
        points = ", ".join(f"{kind} = {count}" for kind, count in files.points.items())
        waived = ", ".join(f'{kind} = "made up"' for kind in POINTS if kind not in files.points)
        manifest.append(
            f'[[session.exercise]]\nnumber = {number}\nslug = "{slug}"\ntitle = "{slug.title()}"\nstars = 1\n'
            f'minutes = 10\nstatus = "ready"\nprerequisites = []\npoints = {{ {points} }}\n'
            f"waives = {{ {waived} }}\nlimits = {{ wall_s = 10 }}\n"
        )
        (homes["reference"] / f"{module}.py").write_text(files.reference)
        (homes["exercises"] / f"{module}.py").write_text(files.stub)
        (homes["exercises"] / f"test_{module}.py").write_text(files.visible)
        (homes["tests"] / f"test_{module}.py").write_text(files.suite)
        (homes["tests"] / f"controls_{module}.py").write_text(files.controls)
    manifest.append(
        f'[[session.exercise]]\nnumber = {len(exercises) + 1}\nslug = "later"\ntitle = "Later"\nstars = 1\n'
        'minutes = 10\nstatus = "planned"\nprerequisites = []\n'
    )
    (homes["exercises"] / "hints.toml").write_text(hints)
    (homes["exercises"] / "README.md").write_text("# Tiny\n")
    (homes["exercises"] / "lesson.md").write_text("# A lesson\n")
    (folder / "fixtures").mkdir()
    (folder / "fixtures/__init__.py").write_text('"""Data."""\n')
    (folder / "course.toml").write_text("\n".join(manifest))
    return load(folder)


class Here:
    """Stands for a pool of worker processes, and does their work in this one."""

    def __enter__(self) -> "Here":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """A future that is done."""
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future

    def shutdown(self, **_: bool) -> None:
        """Nothing to end."""

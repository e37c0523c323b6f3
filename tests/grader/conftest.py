"""A course of one session and two exercises, small enough to release and grade in a moment."""

import importlib.util
import sys
from pathlib import Path

import pytest

MANIFEST = """\
[course]
title = "A Tiny Course"

[[session]]
number = 3
slug = "tiny"
title = "Tiny"
minutes = 30
chapters = []
prerequisites = []

[[session.exercise]]
number = 1
slug = "double"
title = "Double"
stars = 1
minutes = 10
status = "ready"
prerequisites = []
points = { shapes = 4, gradients = 3, convergence = 2, throughput = 1 }

[[session.exercise]]
number = 2
slug = "shift"
title = "Shift"
stars = 2
minutes = 20
status = "ready"
prerequisites = []
points = { shapes = 5 }
waives = { gradients = "nothing to differentiate", convergence = "nothing to learn", throughput = "one addition" }

[[session.exercise]]
number = 3
slug = "later"
title = "Later"
stars = 2
minutes = 20
status = "planned"
prerequisites = []
"""

REFERENCE = '''\
"""3.{number} {title}: {slug} a tensor."""

import torch

FACTOR = 2


def helper(x: torch.Tensor) -> torch.Tensor:
    """Given."""
    return x


# What follows is the exercise.
def {slug}(x: torch.Tensor) -> torch.Tensor:
    """`x`, {slug}d."""
    ### BEGIN SOLUTION
    return helper(x) {operation}
    ### END SOLUTION
'''

VISIBLE = '''\
import pytest
import torch


def answer(exercise, x):
    return exercise.{slug}(x)


@pytest.mark.shapes(points=1)
def test_the_answer_is_right(student):
    """{title}s a tensor"""
    assert torch.equal(student.run(answer, torch.ones(3)), torch.ones(3) {operation})
'''

LESSON = """\
# A lesson

Before.

```python
1 + 1
```

```text
2
```

After.
"""


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory):
    """The folder of the tiny course; tests must not write into it."""
    root = tmp_path_factory.mktemp("course")
    folders = [root / "exercises/session_03_tiny", root / "reference/session_03_tiny", root / "tests/session_03_tiny"]
    for folder in [*folders, root / "fixtures/__pycache__"]:
        folder.mkdir(parents=True)
    (root / "course.toml").write_text(MANIFEST)
    (root / "fixtures/__init__.py").write_text('"""Data."""\n')
    (root / "fixtures/__pycache__/x.pyc").write_bytes(b"\0")
    for number, slug, operation in ((1, "double", "* FACTOR + 0"), (2, "shift", "+ FACTOR * 1")):
        values = {"number": number, "slug": slug, "title": slug.title(), "operation": operation}
        (folders[1] / f"ex{number}_{slug}.py").write_text(REFERENCE.format(**values))
        visible = VISIBLE.format(**values).replace("FACTOR", "2")
        (folders[0] / f"test_ex{number}_{slug}.py").write_text(visible)
        (folders[2] / f"test_ex{number}_{slug}.py").write_text("# hidden\n")
        (folders[2] / f"controls_ex{number}_{slug}.py").write_text("# controls\n")
    (folders[0] / "hints.toml").write_text("")
    (folders[0] / "README.md").write_text("# Tiny\n")
    (folders[0] / "lesson.md").write_text(LESSON)
    return root


@pytest.fixture(scope="session")
def made_up():
    """The builder of a course that can be graded and audited: ``made_up.make(folder)``."""
    spec = importlib.util.spec_from_file_location("made_up", Path(__file__).with_name("made_up.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["made_up"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def bench():
    """One pre-warmed parent process for all tests of this process that grade."""
    from grader.bench import Bench

    with Bench() as shared:
        yield shared

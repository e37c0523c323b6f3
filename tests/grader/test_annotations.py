"""The references keep their own annotations: shapes and dtypes as jaxtyping and beartype check them on every call."""

import importlib
import sys
import types
from pathlib import Path

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype

from grader import course as manifest
from grader import grading, plugin, sandbox, subject
from grader.submission import Submission

TYPECHECKER = types.ModuleType("typechecker")
TYPECHECKER.check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as everywhere in Python
COURSE = manifest.load(Path(__file__).resolve().parents[2])


@pytest.mark.parametrize("exercise", COURSE.select(["all"]), ids=lambda exercise: exercise.id)
def test_reference_keeps_its_annotations(exercise, monkeypatch):
    path = COURSE.reference(exercise)
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.setitem(sys.modules, "typechecker", TYPECHECKER)
    with jaxtyping.install_import_hook(exercise.module, "typechecker.check"):
        module = importlib.import_module(exercise.module)
    monkeypatch.delitem(sys.modules, exercise.module)
    checked = subject.Local(sandbox.Module.of_namespace(exercise.module, vars(module)))
    plain = subject.Local.of(Submission.from_file(path), f"plain_{exercise.module}")
    state = plugin.State(3, lambda _: checked, lambda _: plain, ("shapes", "gradients"))
    output = grading.run_suite(COURSE.hidden_suite(exercise), COURSE.root, state)
    # Checks of structure send inputs of the wrong shape, at which the annotations speak before the ValueError.
    checks = {name: check for name, check in state.finished().items() if not check.structure}
    assert checks, output
    assert not {name: check.rationale for name, check in checks.items() if check.outcome != "correct"}

"""Controls: how they are made out of the reference, and which mistakes in them are refused."""

import ast

import pytest
import torch

from grader import controls
from grader.controls import Control, ControlError, right, wrong
from grader.course import KINDS
from grader.sandbox import Module

REFERENCE = '''\
"""Task."""

import torch
from torch import nn

SIZE = 3


def first(x):
    return x + 1


# About the second.
@torch.no_grad()
def second(x):
    return first(x) * 2


class Net(nn.Module):
    def forward(self, x):
        return 3 * x
'''


def module_of(source):
    module = Module("control", [("control.py", source, True)])
    assert module.error is None, module.error
    return module.exercise


# -------------------------------------------------------------------------------------------------------- making one


def test_an_edit_replaces_text_that_occurs_once():
    assert "x + 2" in right("r", edit={"x + 1": "x + 2"}).source(REFERENCE)


def test_edits_are_made_one_after_the_other():
    source = right("r", edit={"x + 1": "x + 22", "x + 22": "x + 33"}).source(REFERENCE)
    assert "x + 33" in source


@pytest.mark.parametrize(("old", "count"), [("return", 3), ("nowhere", 0)])
def test_an_edit_that_does_not_match_exactly_once_is_refused(old, count):
    with pytest.raises(ControlError, match=rf"control r: '{old}' occurs {count} times in the reference, not once"):
        right("r", edit={old: "x"}).source(REFERENCE)


@pytest.mark.parametrize("control", [right("r", edit={"x + 1": "x +"}), right("r", define="def first(:")])
def test_a_control_that_is_no_python_is_refused(control):
    with pytest.raises(ControlError, match=r"control r: .* in line \d+"):
        control.source(REFERENCE)


@pytest.mark.parametrize(
    "control", [right("r"), right("r", edit={"x + 1": "x + 1"}), right("r", define="def first(x):\n    return x + 1\n")]
)
def test_a_control_that_is_the_reference_is_refused(control):
    with pytest.raises(ControlError, match="does not differ"):
        control.source(REFERENCE)


def test_a_definition_replaces_the_one_of_its_name_with_its_decorators_and_leaves_the_rest():
    source = right("r", define="def second(x):\n    return x\n").source(REFERENCE)
    assert "no_grad" not in source
    module = module_of(source)
    assert (module.first(1), module.second(1), module.SIZE) == (2, 1, 3)


def test_a_class_and_a_function_are_replaced_together():
    define = "class Net(nn.Module):\n    def forward(self, x):\n        return x\n\n\ndef first(x):\n    return 10\n"
    module = module_of(right("r", define=define).source(REFERENCE))
    assert (module.Net()(5), module.first(0), module.second(0)) == (5, 10, 20)


def test_what_is_new_comes_before_the_first_definition():
    define = "import math\n\n\ndef helper(x):\n    return math.floor(x)\n\n\ndef first(x):\n    return helper(x)\n"
    source = right("r", define=define).source(REFERENCE)
    names = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert names == ["helper", "first", "second", "Net"]
    assert module_of(source).first(1.5) == 1


def test_an_edit_and_a_definition_go_together():
    control = Control("c", edit=(("3 * x", "4 * x"),), define="def first(x):\n    return 0\n")
    module = module_of(control.source(REFERENCE))
    assert (module.Net()(1), module.first(1)) == (4, 0)


@pytest.mark.parametrize("loses", [(), ("shape",), ("shapes", "speed")])
def test_a_wrong_control_names_kinds_that_exist(loses):
    with pytest.raises(ControlError, match=f"of {', '.join(KINDS)}"):
        wrong("w", *loses, says="Wrong.", edit={"1": "2"})


# ------------------------------------------------------------------------------------------------------------ loading


def write(folder, text):
    path = folder / "controls_ex1_double.py"
    path.write_text(text)
    return path


def test_a_controls_file_is_loaded_in_order(made_up, tmp_path):
    found = controls.load(write(tmp_path, made_up.CONTROLS))
    assert [control.name for control in found.wrong] == ["triples", "squares", "detached", "no_validation", "loops"]
    assert [control.name for control in found.right] == ["adds", "multiplies"]
    assert all(not control.loses for control in found.right)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('    wrong("loops"', '    # wrong("loops"', "at least 5 wrong and 2 right"),
        (', right("multiplies", edit={"2 * x": "x.mul(2)"})', "", "at least 5 wrong and 2 right"),
        ('"loops"', '"squares"', "a name is used twice"),
        ('"loops"', '"adds"', "a name is used twice"),
        ('says="You loop."', 'says=""', "loops has no sentence"),
        ("RIGHT", "RIHGT", "AttributeError"),
        ("import right", "import rihgt", "ImportError"),
        ("WRONG = [", "WRONG = [(", "SyntaxError"),
        ('"triples", "shapes"', '"triples", "shape"', "control triples: name the kinds"),
    ],
)
def test_a_mistake_in_a_controls_file_is_one_line_with_the_place(made_up, tmp_path, old, new, words):
    assert made_up.CONTROLS.count(old) >= 1
    with pytest.raises(ControlError, match=words) as caught:
        controls.load(write(tmp_path, made_up.CONTROLS.replace(old, new, 1)))
    assert str(caught.value).startswith("controls_ex1_double.py: ")


def test_a_missing_controls_file_is_said(tmp_path):
    with pytest.raises(ControlError, match="no controls"):
        controls.load(tmp_path / "controls_ex1_double.py")


# --------------------------------------------------------------------------------------------------------------- lazy

X = torch.tensor([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("zeros", torch.zeros(3)),
        ("constant", torch.full((3,), 0.5)),
        ("identity", X),
        ("half", torch.tensor([3.0, 6.0, 0.0])),
        ("none", None),
    ],
)
@pytest.mark.parametrize("call", [lambda m: m.Net()(X), lambda m: m.Net()(x=X)], ids=["by position", "by name"])
def test_a_lazy_module_answers_lazily(kind, answer, call):
    found = call(module_of(controls.lazy(kind, REFERENCE)))
    assert found is None if answer is None else torch.equal(found, answer)


@pytest.mark.parametrize("kind", controls.LAZY)
def test_a_lazy_function_never_gives_the_right_answer(kind):
    answer = module_of(controls.lazy(kind, REFERENCE)).first(X)
    assert answer is None or not torch.equal(answer, X + 1)


def test_laziness_reaches_into_tuples_lists_and_dicts_and_leaves_other_answers():
    reference = "import torch\ndef f(x):\n    return (x, [x], {'a': x}, 7)\n"
    first, (second,), third, other = module_of(controls.lazy("zeros", reference)).f(X)
    assert not any(tensor.any() for tensor in (first, second, third["a"]))
    assert other == 7


@pytest.mark.parametrize("kind", controls.LAZY)
def test_every_reference_can_be_made_lazy(kind):
    head = (
        '"""Task."""\n\nfrom __future__ import annotations\n\nimport torch\n\n\ndef f(x: Unknown):\n    return x + 1\n'
    )
    module = module_of(controls.lazy(kind, head))
    assert module.__doc__ == "Task."
    answer = module.f(X)
    assert answer is None or not torch.equal(answer, X + 1)


def test_what_a_lazy_module_imports_stays_what_it_was():
    module = module_of(controls.lazy("zeros", REFERENCE))
    assert module.nn is torch.nn
    assert torch.nn.Linear(1, 1).forward.__name__ == "forward"
    assert not hasattr(torch.nn.Linear.forward, "__wrapped__")

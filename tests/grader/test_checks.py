"""The helpers that checks are written with: what they let pass, what they refuse, and in which words."""

import math

import pytest
import torch
from torch import nn

from grader import checks, probes
from grader.checks import (
    Failure,
    Figures,
    assert_close,
    assert_fast,
    assert_gap_closed,
    assert_gradcheck,
    assert_raises,
    assert_shape,
    gap_closed,
    slowdown,
)
from grader.sandbox import Module
from grader.subject import Local, SubmissionError
from grader.wire import Foreign

NAN, INF = math.nan, math.inf


def randn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def answering(**names):
    """A subject whose module has these names."""
    return Local(Module.of_namespace("answer", names))


# ---------------------------------------------------------------------------------------------------- assert_close

SAME = {
    "tensor": torch.tensor([1.0, -2.0]),
    "empty tensor": torch.zeros(0, 3),
    "scalar tensor": torch.tensor(3.0),
    "bool tensor": torch.tensor([True, False]),
    "byte tensor": torch.tensor([0, 255], dtype=torch.uint8),
    "smallest int8": torch.tensor([-128], dtype=torch.int8),
    "NaN and infinities": torch.tensor([NAN, INF, -INF, 1.0]),
    "all NaN": torch.tensor([NAN, NAN]),
    "zeros": torch.zeros(4),
    "float": 0.1,
    "NaN": NAN,
    "infinity": INF,
    "int": 7,
    "bool": True,
    "text": "a",
    "none": None,
    "dtype": torch.float16,
    "nested": {"a": [1, (2.0, torch.ones(2))], "b": {}},
}


@pytest.mark.parametrize("value", SAME.values(), ids=SAME.keys())
def test_close_accepts_an_equal_value(value):
    copy = value.clone() if isinstance(value, torch.Tensor) else value
    assert_close(copy, value)


DIFFERENT = {
    "dtype": (torch.ones(2, dtype=torch.float64), torch.ones(2)),
    "half of the precision": (randn(50).half().float(), randn(50)),
    "brain float": (randn(50).bfloat16().float(), randn(50)),
    "int tensor for float tensor": (torch.ones(2, dtype=torch.int64), torch.ones(2)),
    "bool tensor for int tensor": (torch.tensor([True]), torch.tensor([1])),
    "shorter": (torch.ones(2), torch.ones(3)),
    "column for a row": (torch.ones(3, 1), torch.ones(1, 3)),
    "scalar for a vector of one": (torch.tensor(1.0), torch.tensor([1.0])),
    "scalar for a vector, broadcast": (torch.tensor(1.0), torch.ones(3)),
    "one row for all, broadcast": (torch.ones(1, 3), torch.ones(4, 3)),
    "empty of another shape": (torch.zeros(0, 2), torch.zeros(0, 3)),
    "off by one": (torch.tensor([1, 2]), torch.tensor([1, 3])),
    "large integers off by one": (torch.tensor([2**53 + 1]), torch.tensor([2**53])),
    "flipped bool": (torch.tensor([True, True]), torch.tensor([True, False])),
    "NaN for a number": (torch.tensor([NAN, 1.0]), torch.tensor([0.0, 1.0])),
    "number for NaN": (torch.tensor([0.0, 1.0]), torch.tensor([NAN, 1.0])),
    "other infinity": (torch.tensor([-INF, 1.0]), torch.tensor([INF, 1.0])),
    "largest number for infinity": (torch.tensor([3.4e38, 1.0]), torch.tensor([INF, 1.0])),
    "small number for zero": (torch.tensor([1e-30]), torch.tensor([0.0])),
    "negated": (-randn(4), randn(4)),
    "list for tensor": ([1.0], torch.ones(1)),
    "tensor for float": (torch.tensor(1.0), 1.0),
    "int for float": (1, 1.0),
    "float for int": (1.0, 1),
    "True for 1": (True, 1),
    "1 for True": (1, True),
    "0 for False": (0, False),
    "True for 1.0": (True, 1.0),
    "float off": (0.1 + 1e-7, 0.1),
    "zero for a small float": (0.0, 1e-300),
    "NaN for a float": (NAN, 0.0),
    "infinity for a large float": (INF, 1e308),
    "negated largest float": (-1.7e308, 1.7e308),
    "text": ("b", "a"),
    "None for zero": (None, 0),
    "zero for None": (0, None),
    "list for tuple": ([1, 2], (1, 2)),
    "tuple for list": ((1, 2), [1, 2]),
    "longer list": ([1, 2, 3], [1, 2]),
    "shorter list": ([1], [1, 2]),
    "empty list for tuple": ([], ()),
    "text for list": ("ab", ["a", "b"]),
    "dict in another order": ({"b": 1, "a": 2}, {"a": 2, "b": 1}),
    "dict with one more": ({"a": 1, "b": 1}, {"a": 1}),
    "dict with one less": ({}, {"a": 1}),
    "dict with other key type": ({True: 1}, {1: 1}),
    "dict with a tensor for a key": ({torch.tensor([1, 2]): 1}, {"a": 1}),
    "list for dict": ([], {}),
    "deep inside": ({"a": [1, (2.0, torch.zeros(2))]}, {"a": [1, (2.0, torch.ones(2))]}),
    "foreign object": (Foreign("builtins.set"), 1),
    "foreign object for None": (Foreign("builtins.set"), None),
    "other dtype object": (torch.float32, torch.float16),
}


@pytest.mark.parametrize(("actual", "expected"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_close_refuses_a_value_that_differs(actual, expected):
    with pytest.raises(Failure):
        assert_close(actual, expected)


@pytest.mark.parametrize("scale", [1e-43, 1e-30, 1e-12, 1.0, 1e12, 1e37])
@pytest.mark.parametrize(
    "lazy",
    [
        torch.zeros_like,
        lambda x: x.mean().expand_as(x).clone(),
        lambda x: x.flip(0),
        lambda x: torch.cat([x[:2], torch.zeros_like(x[2:])]),
        lambda x: x.mT.contiguous(),
        lambda x: x * 1.001,
    ],
    ids=["zeros", "mean", "reversed", "half", "transposed", "a thousandth more"],
)
def test_close_sees_through_laziness_at_every_magnitude(lazy, scale):
    expected = randn(4, 4) * scale if scale > 1e-40 else (randn(4, 4) * 1e5).round() * 1e-45
    assert_close(expected.clone(), expected)
    with pytest.raises(Failure):
        assert_close(lazy(expected), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_close_leaves_room_for_rounding_in_the_order_of_a_sum_and_no_more(dtype):
    terms = randn(64, 100, dtype=torch.float64).to(dtype)
    forwards, backwards = terms.sum(dim=1), terms.flip(1).sum(dim=1)
    assert_close(forwards, backwards, reduction=100)
    with pytest.raises(Failure):
        assert_close(forwards * 1.05, backwards, reduction=100)


def test_the_tolerance_grows_like_the_square_root_of_the_reduction():
    small, large = checks.tolerance(torch.float32), checks.tolerance(torch.float32, reduction=1_000_000)
    assert large == pytest.approx([100 * value for value in small])
    assert checks.tolerance(torch.float32, reduction=10) == small
    expected = torch.ones(3)
    with pytest.raises(Failure):
        assert_close(expected + 5e-4, expected)
    assert_close(expected + 5e-4, expected, reduction=1_000_000)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_there_is_no_tolerance_for_whole_numbers(dtype):
    assert checks.tolerance(dtype, reduction=10**9) == (0, 0)


def test_close_never_accepts_one_foreign_object_for_another():
    with pytest.raises(TypeError, match="no plain data"):  # the suite's mistake, and no Failure: nobody loses a point
        assert_close(Foreign("builtins.set"), Foreign("builtins.set"))


def test_the_message_says_where_what_was_expected_and_what_came():
    expected = torch.arange(6.0).reshape(2, 3)
    actual = expected.clone()
    actual[1, 2] = -1
    with pytest.raises(
        Failure, match=r"^logits, second, item 0 at \(1, 2\): expected 5, got -1 \(1 of 6 values differ\)$"
    ):
        assert_close({"second": [actual]}, {"second": [expected]}, what="logits")


def test_the_help_of_a_failure_travels_apart_from_its_rationale():
    with pytest.raises(Failure) as caught:
        assert_close([torch.zeros(1)], [torch.ones(1)], help="Look here.")
    assert caught.value.help == "Look here."
    assert "Look here" not in caught.value.rationale


def test_the_message_does_not_quote_a_huge_answer():
    with pytest.raises(Failure) as caught:
        assert_close("x" * 10**6, "y")
    assert len(caught.value.rationale) < 200


# ---------------------------------------------------------------------------------------------------- assert_shape


def test_shape_returns_what_fits():
    x = torch.ones(2, 3)
    assert assert_shape(x, (2, 3), what="x") is x
    whole = torch.ones(2, dtype=torch.int64)
    assert assert_shape(whole, [2], dtype=torch.int64, what="x") is whole


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.ones(3, 2), r"got float32 tensor of shape \(3, 2\)"),
        (torch.ones(1, 3), "got float32 tensor"),
        (torch.ones(2, 3, 1), "got float32 tensor"),
        (torch.ones(()), r"got float32 tensor of shape \(\)"),
        (torch.ones(2, 3, dtype=torch.float64), "got float64 tensor"),
        (torch.ones(2, 3, dtype=torch.bool), "got bool tensor"),
        ([[1.0] * 3] * 2, "got list of length 2"),
        (None, "got None"),
        (Foreign("numpy.ndarray"), "got an object of type numpy.ndarray"),
        (torch.tensor([[1.0, NAN, 1.0], [1.0, INF, 1.0]]), "2 of 6 values are NaN or infinite"),
    ],
)
def test_shape_refuses_what_does_not_fit_and_says_what_came(value, words):
    with pytest.raises(Failure, match=words):
        assert_shape(value, (2, 3), what="x")


# --------------------------------------------------------------------------------------------------- assert_raises


def call(exercise, *inputs):
    return exercise.function(*inputs)


class OwnError(ValueError):
    pass


def raising(error):
    def function(*_):
        raise error

    return answering(function=function)


@pytest.mark.parametrize("error", [ValueError("x is wrong"), OwnError("x is wrong")], ids=["itself", "a subclass"])
def test_raises_accepts_the_named_error_and_its_subclasses(error):
    assert_raises(raising(error), ValueError, call, when="x is wrong")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TypeError("x is wrong"), "expected a ValueError, got TypeError: x is wrong"),
        (Exception("x is wrong"), "expected a ValueError, got Exception"),
        (ValueError(), "has no message"),
        (ValueError(" \n"), "has no message"),
        (AssertionError(), "expected a ValueError, got AssertionError"),
    ],
)
def test_raises_refuses_another_error_and_one_without_a_message(error, words):
    with pytest.raises(Failure, match=f"when x is wrong, .*{words}"):
        assert_raises(raising(error), ValueError, call, when="x is wrong")


def test_raises_refuses_silence():
    with pytest.raises(Failure, match="nothing was raised"):
        assert_raises(answering(function=lambda: None), ValueError, call, when="x is wrong")


def test_raises_takes_a_stub_for_not_attempted():
    with pytest.raises(SubmissionError) as caught:
        assert_raises(raising(NotImplementedError()), ValueError, call, when="x is wrong")
    assert caught.value.outcome == "not_attempted"


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt, pytest.skip.Exception("x"), BaseException("x")])
def test_raises_takes_no_way_out_for_the_named_error(error):
    with pytest.raises((SubmissionError, KeyboardInterrupt)):
        assert_raises(raising(error), ValueError, call, when="x is wrong")


# ------------------------------------------------------------------------------------------------ assert_gradcheck


class Scaled(torch.autograd.Function):
    """x @ w, with whatever gradient it is told."""

    @staticmethod
    def forward(ctx, x, w, change):
        ctx.save_for_backward(x, w)
        ctx.change = change
        return x @ w

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return ctx.change(grad @ w.mT), x.mT @ grad, None


def product(change):
    return answering(function=lambda x, w: Scaled.apply(x, w, change))


def gradcheck(subject, *inputs, function=call):
    inputs = inputs or (randn(3, 3, dtype=torch.float64), randn(3, 3, dtype=torch.float64, seed=1))
    assert_gradcheck(subject, function, inputs, generator=torch.Generator().manual_seed(0), what="product")


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: x @ w,
        lambda x, w: (x @ w).sum(),
        lambda x, w: nn.functional.softplus(x.mT) * w,
        lambda x, w: x.exp(),
        lambda x, w: torch.stack([row @ w for row in x]),
    ],
    ids=["product", "scalar", "softplus", "one input unused", "a loop"],
)
def test_gradcheck_passes_right_gradients(function):
    gradcheck(answering(function=function))


def test_gradcheck_passes_right_gradients_of_strided_and_whole_number_inputs():
    subject = answering(function=lambda x, rows: x[rows].sin())
    gradcheck(subject, randn(3, 4, dtype=torch.float64).mT, torch.tensor([2, 0, 2]))


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g * 1.01,
        lambda g: g.mT.contiguous(),
        torch.zeros_like,
        torch.neg,
        lambda g: g + 1e-3,
        lambda g: g.mean().expand_as(g),
        lambda g: g.flip(0),
        lambda g: g * NAN,
    ],
    ids=["scaled by 1.01", "transposed", "zeros", "negated", "shifted", "mean", "reversed", "NaN"],
)
def test_gradcheck_fails_wrong_gradients(change):
    gradcheck(product(lambda g: g))
    with pytest.raises(Failure, match="product: the gradient of input 0"):
        gradcheck(product(change))


@pytest.mark.parametrize(
    "function", [lambda x, w: x.detach() @ w, lambda x, w: x @ w.detach()], ids=["first input", "second input"]
)
def test_gradcheck_fails_a_graph_that_is_cut(function):
    with pytest.raises(Failure, match="but the values around it rise by"):
        gradcheck(answering(function=function))


def test_gradcheck_fails_when_there_is_no_graph_at_all():
    with pytest.raises(SubmissionError, match="does not require grad"):
        gradcheck(answering(function=lambda x, w: (x @ w).detach()))


@pytest.mark.parametrize(
    "function", [lambda x, w: (x @ w).float(), lambda x, w: [x], lambda x, w: None], ids=["float32", "list", "None"]
)
def test_gradcheck_fails_an_answer_of_another_type(function):
    with pytest.raises(Failure, match="expected a float64 tensor"):
        gradcheck(answering(function=function))


@pytest.mark.parametrize(
    "inputs",
    [(randn(2),), (torch.arange(2),), (randn(2), randn(2, dtype=torch.float64))],
    ids=["float32", "int", "mix"],
)
def test_gradcheck_with_inputs_that_prove_nothing_is_the_suites_mistake(inputs):
    with pytest.raises(ValueError, match="float64 inputs"):  # not a Failure, which would cost the student
        gradcheck(answering(function=lambda *given: given[0].double()), *inputs)


# ------------------------------------------------------------------------------------------------------ gap_closed


@pytest.mark.parametrize(
    ("value", "share"),
    [(2.0, 0.0), (1.0, 1.0), (1.5, 0.5), (3.0, -1.0), (0.5, 1.5), (NAN, -INF), (INF, -INF), (-INF, -INF)],
)
def test_gap_closed_is_the_share_of_the_way_and_minus_infinity_for_what_is_no_number(value, share):
    assert gap_closed(value, chance=2.0, optimum=1.0) == share


def test_gap_closed_works_upwards_as_well():
    assert gap_closed(0.75, chance=0.5, optimum=1.0) == pytest.approx(0.5)


@pytest.mark.parametrize("value", [1.5, NAN, INF, -INF])
def test_a_value_that_closes_too_little_fails(value):
    with pytest.raises(Failure, match=r"at least 0\.90 is needed"):
        assert_gap_closed(value, 2.0, 1.0, bar=0.9, what="loss", most=1.1)


def test_a_value_that_is_better_than_possible_fails_only_where_a_limit_is_given():
    assert assert_gap_closed(0.5, 2.0, 1.0, bar=0.9, what="loss") == 1.5
    with pytest.raises(Failure, match="leaked"):
        assert_gap_closed(0.5, 2.0, 1.0, bar=0.9, what="loss", most=1.1)


def test_a_gap_of_zero_is_the_suites_mistake():
    with pytest.raises(ZeroDivisionError):
        gap_closed(1.0, chance=1.0, optimum=1.0)


# --------------------------------------------------------------------------------------------- slowdown, assert_fast


class Scripted:
    """A subject that takes the CPU times it is told, one per call and the last one for ever."""

    isolation = "in-process"

    def __init__(self, name, log, *times, function=lambda x: 2 * x):
        self.name, self.log, self.times, self.function = name, log, list(times), function

    def timed(self, probe, *inputs):
        self.log.append((self.name, float(inputs[0][0])))
        seconds = self.times.pop(0) if len(self.times) > 1 else self.times[0]
        return probe(self, *inputs), seconds


def fresh_inputs():
    numbers = iter(range(1, 10_000))
    return lambda: [torch.full((4,), float(next(numbers)))]


def race(times, reference_times=(1.0,), *, function=lambda x: 2 * x, **options):
    log = []
    student, reference = Scripted("s", log, *times, function=function), Scripted("r", log, *reference_times)
    options = {"bar": 3, **options}
    try:
        return assert_fast(student, reference, call, fresh_inputs(), **options), log
    except Failure as failure:
        return failure, log


def test_calls_alternate_so_that_neither_is_always_first():
    order = "".join(name for name, _ in race([1.0])[1])
    assert order == "rssr" * 3


def test_every_pair_gets_inputs_of_its_own_and_both_get_the_same():
    inputs = [number for _, number in race([1.0])[1]]
    assert inputs == [float(pair) for pair in range(1, 7) for _ in range(2)]


def test_the_first_pair_is_not_measured():
    result, _ = race([1000.0, 2.0], [0.001, 1.0])
    assert (result.ratio, result.student_s, result.reference_s) == (2.0, 2.0, 1.0)


def test_one_slow_call_among_five_costs_nothing():
    result, log = race([1.0, 1.0, 90.0, 1.0, 1.0, 90.0, 1.0])
    assert result.ratio == 1.0
    assert len(log) == 12


def test_slow_is_measured_again_before_it_fails():
    failure, log = race([10.0])
    assert isinstance(failure, Failure)
    assert "10.0 times the reference's CPU time (allowed: 3 times), measured twice" in failure.rationale
    assert len(log) > 12


def test_a_near_miss_is_measured_longer_than_a_clear_one():
    assert len(race([4.0])[1]) > len(race([100.0])[1]) > 12


@pytest.mark.parametrize("second", [1.0, 2.9, 3.0])
def test_slow_once_and_fast_once_is_inconclusive_not_slow(second):
    result, _ = race([4.0] * 6 + [second])
    assert not isinstance(result, Failure)
    assert result.ratio == second


def test_fast_is_not_measured_twice():
    assert len(race([3.0])[1]) == 12


@pytest.mark.parametrize("bad_call", range(6))
def test_the_answer_of_every_timed_call_is_verified(bad_call):
    factors = iter([2.0] * bad_call + [0.0] + [2.0] * 20)
    failure, _ = race([0.1], function=lambda x: next(factors) * x)
    assert isinstance(failure, Failure)
    assert "timed call must give the right answer" in failure.help


def test_a_cached_answer_fails():
    kept = []
    failure, _ = race([0.1], function=lambda x: (kept or kept.append(2 * x) or kept)[0])
    assert isinstance(failure, Failure)


def test_the_answers_of_the_second_measurement_are_verified_too():
    factors = iter([2.0] * 6 + [0.0] * 20)
    failure, _ = race([10.0] * 6 + [0.1], function=lambda x: next(factors) * x)
    assert isinstance(failure, Failure)
    assert "expected" in failure.rationale


@pytest.mark.parametrize("mine", [0.0, -5.0, NAN, 0.005])
def test_a_time_that_cannot_be_is_never_fast(mine):
    failure, _ = race([mine])
    assert isinstance(failure, Failure)
    assert "so little of it" in failure.rationale


def test_a_reference_without_time_is_a_fault():
    with pytest.raises(ArithmeticError, match="no CPU time of the reference"):
        race([1.0], [0.0])


@pytest.mark.parametrize(("times", "milliseconds"), [([2.0], 2000.0), ([10.0], 10_000.0), ([10.0] * 6 + [1.0], 1000.0)])
def test_the_figures_of_the_verdict_are_recorded_also_when_it_fails(times, milliseconds):
    figures = Figures()
    race(times, figures=figures)
    (figure,) = figures.items
    assert figure.style == "bars"
    assert figure.series == {"yours": [milliseconds], "reference": [1000.0]}
    assert (figure.unit, figure.limit) == ("ms", 3000.0)


def test_slowdown_is_the_ratio_of_the_medians():
    log = []
    student, reference = Scripted("s", log, 9.0, 1.0, 6.0, 2.0), Scripted("r", log, 1.0, 4.0, 2.0, 1.0)
    assert slowdown(student, reference, call, fresh_inputs(), pairs=3).ratio == 1.0


def test_a_curve_keeps_numbers_only():
    figures = Figures()
    figures.curve("loss", {"train": [1, 0.5, "x", None, NAN]}, limit=0.1)
    assert figures.items[0].series["train"][:2] == [1.0, 0.5]
    assert len(figures.items[0].series["train"]) == 3


# ---------------------------------------------------------------------------------------------------------- probes


def test_gradients_of_are_those_of_autograd_and_none_where_there_is_none():
    x, w = randn(3), randn(3, seed=1)
    subject = answering(function=lambda x, w, rows: x * x)
    first, second = subject.run(probes.gradients_of, call, [x, w, torch.arange(2)], torch.ones(3))
    assert_close(first, 2 * x)
    assert second is None


def test_values_at_builds_no_graph():
    seen = []
    answering(function=lambda x: seen.append(torch.is_grad_enabled()) or x).run(
        probes.values_at, call, [[randn(2)]] * 2
    )
    assert seen == [False, False]


def test_raised_by_tells_a_submission_error_from_silence():
    assert probes.raised_by(None, lambda _: None) is None
    raised = raising(OwnError("x" * 9999)).run(probes.raised_by, call)
    assert (raised["type"], raised["bases"][:2], len(raised["message"])) == (
        "OwnError",
        ["OwnError", "ValueError"],
        500,
    )


def test_modes_of_lists_every_submodule():
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    model[1].eval()
    assert probes.modes_of(model) == [True, True, False]

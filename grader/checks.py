"""What a check is written with. Everything here runs on the trusted side.

Helpers raise ``Failure`` with two texts: the *rationale* (expected, got, the first place they differ) and the *help*
(likely cause, next step).
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grader import probes
from grader.report import Figure
from grader.subject import Subject, SubmissionError
from grader.wire import Foreign

Probe = Callable[..., Any]


class Failure(AssertionError):
    """A wrong answer: ``rationale`` says what was expected and what came, ``help`` what to do about it."""

    def __init__(self, rationale: str, help: str = "") -> None:
        super().__init__(rationale)
        self.rationale = rationale
        self.help = help


def expect(condition: bool, rationale: str, help: str = "") -> None:
    """Fail with these words unless ``condition`` holds."""
    if not condition:
        raise Failure(rationale, help)


def describe(value: Any) -> str:
    """A value in a few words, e.g. ``float32 tensor of shape (5, 3)``."""
    if isinstance(value, Tensor):
        return f"{_short(value.dtype)} tensor of shape {tuple(value.shape)}"
    if isinstance(value, Foreign):
        return str(value)
    if isinstance(value, dict | list | tuple):
        return f"{type(value).__name__} of length {len(value)}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def assert_shape(
    actual: Any, shape: Sequence[int], *, dtype: torch.dtype = torch.float32, what: str, help: str = ""
) -> Tensor:
    """``actual`` itself, once it is a tensor of exactly this shape and dtype with finite values."""
    expected = f"{_short(dtype)} tensor of shape {tuple(shape)}"
    fits = isinstance(actual, Tensor) and tuple(actual.shape) == tuple(shape) and actual.dtype is dtype
    if not fits:
        raise Failure(f"{what}: expected a {expected}, got {describe(actual)}", help)
    assert isinstance(actual, Tensor)
    if actual.is_floating_point() and not bool(actual.isfinite().all()):
        bad = int((~actual.isfinite()).sum())
        raise Failure(f"{what}: {bad} of {actual.numel()} values are NaN or infinite", help)
    return actual


def tolerance(dtype: torch.dtype, *, reduction: int = 1) -> tuple[float, float]:
    """(relative, relative to the largest expected magnitude) for sums of ``reduction`` terms.

    The base is ``torch.testing.assert_close``'s; rounding errors of a sum grow like the square root of its length, and the
    base leaves room for about a hundred terms.
    """
    rtol, atol = {
        torch.float64: (1e-7, 1e-7),
        torch.float32: (1.3e-6, 1e-5),
        torch.bfloat16: (1.6e-2, 1e-5),
        torch.float16: (1e-3, 1e-5),
    }.get(dtype, (0.0, 0.0))
    growth = max(1.0, math.sqrt(reduction / 100))
    return rtol * growth, atol * growth


def assert_close(actual: Any, expected: Any, *, what: str = "the answer", reduction: int = 1, help: str = "") -> None:
    """Equality of plain data, tensors within rounding; types, dtypes and shapes must be the same, nothing broadcasts.

    The absolute tolerance is relative to the largest expected magnitude, so that zeros never pass for small numbers.

    Args:
        actual: what the submission answered.
        expected: what is right.
        what: how the message names it.
        reduction: length of the longest sum behind a number.
        help: likely cause and next step.
    """
    if isinstance(expected, Tensor):
        if not isinstance(actual, Tensor) or actual.shape != expected.shape or actual.dtype is not expected.dtype:
            raise Failure(f"{what}: expected a {describe(expected)}, got {describe(actual)}", help)
        _assert_tensors_close(actual, expected, what, reduction, help)
    elif isinstance(expected, float):
        if type(actual) is not float:
            raise Failure(f"{what}: expected a float, got {describe(actual)}", help)
        pair = torch.tensor([actual, expected], dtype=torch.float64)
        _assert_tensors_close(pair[0], pair[1], what, reduction, help)
    elif isinstance(expected, dict):
        if not isinstance(actual, dict) or list(map(_key, actual)) != list(map(_key, expected)):
            got = list(actual) if isinstance(actual, dict) else describe(actual)
            raise Failure(f"{what}: expected the entries {list(expected)}, got {got}", help)
        for key, value in expected.items():
            assert_close(actual[key], value, what=f"{what}, {key}", reduction=reduction, help=help)
    elif isinstance(expected, list | tuple):
        if type(actual) is not type(expected) or len(actual) != len(expected):
            raise Failure(f"{what}: expected a {describe(expected)}, got {describe(actual)}", help)
        for index, (got, value) in enumerate(zip(actual, expected, strict=True)):
            assert_close(got, value, what=f"{what}, item {index}", reduction=reduction, help=help)
    elif isinstance(expected, Foreign):  # two of them are alike whatever they hold: nothing may pass for being like one
        raise TypeError(
            f"{what}: expected {expected}, which is no plain data; let the probe return tensors, lists, numbers"
        )
    elif type(actual) is not type(expected) or actual != expected:
        raise Failure(f"{what}: expected {describe(expected)}, got {describe(actual)}", help)


def _key(key: Any) -> tuple[str, str]:
    return type(key).__name__, repr(key)  # True is not 1, and whatever a submission has for a key can be compared


def _assert_tensors_close(actual: Tensor, expected: Tensor, what: str, reduction: int, help: str) -> None:
    if not expected.numel():
        return
    rtol, atol = tolerance(expected.dtype, reduction=reduction)
    finite = expected[expected.isfinite()] if expected.is_floating_point() else expected
    scale = float(finite.abs().max()) if finite.numel() and expected.dtype is not torch.bool else 0.0
    close = torch.isclose(actual, expected, rtol=rtol, atol=atol * scale, equal_nan=True)
    if bool(close.all()):
        return
    place = tuple((~close).nonzero()[0].tolist())
    count = int((~close).sum())
    at = f" at {place if len(place) != 1 else place[0]}" if place else ""
    wrong = f" ({count} of {close.numel()} values differ)" if close.numel() > 1 else ""
    raise Failure(f"{what}{at}: expected {expected[place].item():.6g}, got {actual[place].item():.6g}{wrong}", help)


def assert_raises(
    student: Subject, error: type[Exception], call: Probe, *inputs: Any, when: str, help: str = ""
) -> None:
    """``call(module, *inputs)`` must raise ``error`` (or a subclass) with a message.

    Args:
        student: the subject.
        error: the class that the contract names.
        call: a probe.
        inputs: its inputs.
        when: the situation in words, e.g. ``x has 11 columns instead of 12``.
        help: likely cause and next step.
    """
    raised = student.run(probes.raised_by, call, *inputs)
    name = error.__name__
    if not isinstance(raised, dict):
        raise Failure(f"when {when}, expected a {name}, but nothing was raised", help)
    if raised.get("type") == "NotImplementedError":
        raise SubmissionError("not attempted yet", "Write this part first.", outcome="not_attempted")
    bases = raised.get("bases")
    if not isinstance(bases, list) or name not in bases:
        came = f"{raised.get('type')}: {raised.get('message')}"[:200]
        raise Failure(f"when {when}, expected a {name}, got {came}", help)
    if not str(raised.get("message") or "").strip():
        raise Failure(
            f"when {when}, the {name} has no message: name the argument, what came and what was expected", help
        )


def assert_gradcheck(
    student: Subject,
    function: Probe,
    inputs: Sequence[Any],
    *,
    generator: torch.Generator,
    what: str,
    step: float = 1e-6,
    help: str = "",
) -> None:
    """``torch.autograd.gradcheck`` across the border: analytic against central differences, random cotangent, float64.

    The submission gives function values and gradients; the differences are taken and compared here. Inputs must lie away
    from kinks (a ReLU's zero) by more than ``step``. Tolerances are gradcheck's own: rtol 1e-3, atol 1e-5.
    """
    inputs = list(inputs)
    wanted = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.is_floating_point()]
    if not wanted or any(inputs[i].dtype is not torch.float64 for i in wanted):
        raise ValueError("gradcheck needs float64 inputs")  # the suite's mistake, not the submission's
    shape = student.run(probes.values_at, function, [inputs])[0]
    if not isinstance(shape, Tensor) or shape.dtype is not torch.float64:
        raise Failure(f"{what}: expected a float64 tensor for float64 inputs, got {describe(shape)}", help)
    cotangent = torch.randn(shape.shape, dtype=torch.float64, generator=generator)
    analytic = student.run(probes.gradients_of, function, inputs, cotangent)
    points = [
        [*inputs[:i], _moved(inputs[i], flat, sign * step), *inputs[i + 1 :]]
        for i in wanted
        for flat in range(inputs[i].numel())
        for sign in (1, -1)
    ]
    values = student.run(probes.values_at, function, points)
    place = 0
    for number, i in enumerate(wanted):
        numeric = torch.empty_like(inputs[i], memory_format=torch.contiguous_format)
        for flat in range(numeric.numel()):
            above, below = values[place], values[place + 1]
            place += 2
            numeric.view(-1)[flat] = ((above - below) * cotangent).sum() / (2 * step)
        got = analytic[number]
        if got is None:
            got = torch.zeros_like(numeric)
        if not isinstance(got, Tensor) or got.shape != numeric.shape or got.dtype is not numeric.dtype:
            raise Failure(f"{what}: the gradient of input {i} is {describe(got)}", help)
        close = torch.isclose(got, numeric, rtol=1e-3, atol=1e-5)
        if not bool(close.all()):
            index = tuple((~close).nonzero()[0].tolist())
            raise Failure(
                f"{what}: the gradient of input {i} at {index} is {float(got[index]):.6g}, "
                f"but the values around it rise by {float(numeric[index]):.6g} per unit",
                help,
            )


def _moved(x: Tensor, flat: int, step: float) -> Tensor:
    moved = x.clone(memory_format=torch.contiguous_format)
    moved.view(-1)[flat] += step
    return moved


def gap_closed(value: float, chance: float, optimum: float) -> float:
    """Share of the way from the best constant answer (0) to the best possible one (1); NaN and infinities give -inf."""
    share = (chance - value) / (chance - optimum)
    return share if math.isfinite(share) else -math.inf


def assert_gap_closed(
    value: float, chance: float, optimum: float, *, bar: float, what: str, help: str = "", most: float | None = None
) -> float:
    """The share of the gap that ``value`` closes, once it is at least ``bar`` (and at most ``most``: leaked labels)."""
    share = gap_closed(value, chance, optimum)
    if share < bar:
        raise Failure(
            f"{what}: {value:.4g} closes {share:.2f} of the gap between chance ({chance:.4g}) and the optimum "
            f"({optimum:.4g}); at least {bar:.2f} is needed",
            help,
        )
    if most is not None and share > most:
        raise Failure(f"{what}: {value:.4g} is better than the best possible {optimum:.4g}: have labels leaked?", help)
    return share


UNBELIEVABLE = 100
"""So many times faster than the reference nobody is who does the work: its answer comes from another process."""


@dataclass(frozen=True)
class Slowdown:
    """CPU seconds per call and their ratio."""

    ratio: float
    student_s: float
    reference_s: float


def slowdown(
    student: Subject,
    reference: Subject,
    probe: Probe,
    fresh: Callable[[], Sequence[Any]],
    *,
    pairs: int = 5,
    reduction: int = 1,
    what: str = "the timed answer",
) -> Slowdown:
    """How many times the reference's CPU time the submission takes for the same work.

    Calls alternate (student first, reference first), every pair gets inputs of its own from ``fresh()``, every answer of the
    submission is verified against the reference's, and the medians are compared. One unmeasured pair comes first.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(pairs + 1):
        inputs = fresh()
        order = (student, reference) if number % 2 else (reference, student)
        measured = {id(subject): subject.timed(probe, *inputs) for subject in order}
        (answer, mine), (expected, theirs) = measured[id(student)], measured[id(reference)]
        assert_close(
            answer, expected, what=what, reduction=reduction, help="The timed call must give the right answer too."
        )
        if number:
            times[0].append(mine)
            times[1].append(theirs)
    mine, theirs = statistics.median(times[0]), statistics.median(times[1])
    if not theirs > 0:
        raise ArithmeticError(f"no CPU time of the reference could be read ({theirs:g} s)")
    if not mine >= theirs / UNBELIEVABLE:  # NaN included
        raise Failure(
            f"{what} comes for {mine / theirs:.2g} of the reference's CPU time, and no right answer needs so little of it",
            "The work must be done in the call, by the process that is asked: not earlier, not elsewhere.",
        )
    return Slowdown(mine / theirs, mine, theirs)


def assert_fast(
    student: Subject,
    reference: Subject,
    probe: Probe,
    fresh: Callable[[], Sequence[Any]],
    *,
    bar: float,
    figures: "Figures | None" = None,
    reduction: int = 1,
    what: str = "the timed answer",
    help: str = "",
) -> Slowdown:
    """``slowdown`` must be at most ``bar``; it is measured again before it may cost a point, longer when it is near.

    Only two measurements that agree make a verdict: one above and one below the bar is "inconclusive", not "slow".
    """
    measured = slowdown(student, reference, probe, fresh, reduction=reduction, what=what)
    if measured.ratio > bar:
        pairs = 9 if measured.ratio < 2 * bar else 3  # noise does not reach twice the bar: only a near miss needs more
        again = slowdown(student, reference, probe, fresh, pairs=pairs, reduction=reduction, what=what)
        measured = min(measured, again, key=lambda one: one.ratio)
    if figures is not None:
        figures.bars(
            "CPU time per call",
            {"yours": measured.student_s * 1e3, "reference": measured.reference_s * 1e3},
            unit="ms",
            limit=bar * measured.reference_s * 1e3,
        )
    if measured.ratio > bar:
        raise Failure(
            f"{what} takes {measured.ratio:.1f} times the reference's CPU time (allowed: {bar:g} times), measured twice",
            help or "Look for a Python loop over rows, positions or channels that one tensor operation could replace.",
        )
    return measured


class Figures:
    """Collects what a check wants drawn in its report."""

    def __init__(self) -> None:
        self.items: list[Figure] = []

    def curve(
        self,
        title: str,
        series: dict[str, Sequence[float]],
        *,
        unit: str = "",
        x_label: str = "step",
        limit: float | None = None,
        limit_label: str = "optimum",
    ) -> None:
        """Lines over steps or epochs, and a line to compare with; what is not a number is left out."""
        clean = {name: [float(v) for v in values if isinstance(v, float | int)] for name, values in series.items()}
        self.items.append(
            Figure(
                style="curve",
                title=title,
                unit=unit,
                series=clean,
                x_label=x_label,
                limit=limit,
                limit_label=limit_label,
            )
        )

    def bars(
        self,
        title: str,
        series: dict[str, float],
        *,
        unit: str = "",
        limit: float | None = None,
        limit_label: str = "allowed",
    ) -> None:
        """One bar per name, and a line that they should not cross."""
        values = {name: [float(value)] for name, value in series.items()}
        self.items.append(
            Figure(style="bars", title=title, unit=unit, series=values, limit=limit, limit_label=limit_label)
        )

"""The subject of a check: a module that answers probes.

``run(probe, *inputs)`` sends a module-level function to the module and returns what it answered, as plain data. There are
two ways to run, behind one interface: ``Local`` (a student's own machine: a plain call, so pdb, print and tracebacks work)
and ``grader.bench.Child`` (a grading machine: a sealed process per submission).
"""

import hashlib
import io
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal, Protocol

import cloudpickle
import torch
from torch import Tensor, nn

from grader import wire
from grader.report import Isolation
from grader.sandbox import MAX_FRAMES, MAX_TEXT, Module
from grader.submission import Submission

Probe = Callable[..., Any]
Failing = Literal["raised", "not_attempted"]


class SubmissionError(Exception):
    """The submission did not answer: it raised, ran out of time or memory, or ended its process.

    Attributes:
        outcome: ``not_attempted`` when it raised NotImplementedError itself, else ``raised``.
        rationale: what happened, in one or a few lines.
        help: where to look.
        observation: what a wrong control is compared by.
    """

    def __init__(self, rationale: str, help: str = "", *, outcome: Failing = "raised", observation: Any = None) -> None:
        super().__init__(rationale)
        self.outcome: Failing = outcome
        self.rationale = rationale
        self.help = help
        self.observation = observation

    @classmethod
    def from_description(cls, error: dict[str, Any], *, loading: bool = False) -> "SubmissionError":
        """From what ``sandbox.Module.describe`` wrote; every field is checked, because a hostile process may forge it."""
        name = _text(error.get("type"), 200)
        message = _text(error.get("message"), MAX_TEXT)
        frames = [
            [_text(part, 200) for part in frame] for frame in _items(error.get("frames")) if len(_items(frame)) == 4
        ][-MAX_FRAMES:]
        lines = [f"{label}, line {line}" + (f", in {where}" if where else "") for label, line, where, _ in frames]
        if "NotImplementedError" in map(_text, _items(error.get("bases"))):
            where = f" ({lines[-1]})" if lines else ""
            return cls(
                f"not attempted yet{where}", "Write this part; `grader hint` has ideas.", outcome="not_attempted"
            )
        text = "\n".join(f"  {line}: {frame[3]}" for line, frame in zip(lines, frames, strict=True))
        start = "your file could not be loaded: " if loading else ""
        rationale = f"{start}{name}: {message}" if message else f"{start}{name}"
        help_line = f"It was raised in\n{text}" if text else ""
        return cls(rationale, help_line, observation=("error", name))


def _items(value: Any) -> "list[Any] | tuple[Any, ...]":
    return value if isinstance(value, list | tuple) else []


def _text(value: Any, most: int = 200) -> str:
    return str(value)[:most] if isinstance(value, str | int) else ""


class GraderFault(Exception):
    """Something of the judge's own did not work. It costs nobody a point: the check is pending."""


class Subject(Protocol):
    """Something that answers probes."""

    def run(self, probe: Probe, *inputs: Any) -> Any:
        """What ``probe(module, *inputs)`` returns, as plain data (``wire.plain``); inputs reach it as copies.

        Raises:
            SubmissionError: the submission raised, or did not answer.
        """
        ...

    def timed(self, probe: Probe, *inputs: Any) -> tuple[Any, float]:
        """``run``, and the CPU seconds that it took."""
        ...

    def close(self) -> None:
        """Free what it holds; it can be used no more."""
        ...


class Kept(Subject, Protocol):
    """A submission that is kept away from everything else, more or less.

    Attributes:
        isolation: how.
        layers: what that consists of on this machine, once it has been asked something.
        answers: False once asking is of no use: it was not loaded, or ran out of time or left too often.
    """

    isolation: Isolation
    layers: tuple[str, ...]

    @property
    def answers(self) -> bool:
        """See above."""
        ...


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle that writes the numbers of a tensor and nothing else: torch's own way adds memory addresses."""

    def reducer_override(self, obj: Any) -> Any:
        """How an object is pickled."""
        ordinary = type(obj) in (Tensor, nn.Parameter) and obj.layout is torch.strided and obj.device.type == "cpu"
        if not ordinary or obj.dtype not in wire.SENDABLE or obj.is_nested or obj.is_neg():
            return super().reducer_override(obj)
        content = torch.empty(0, dtype=torch.uint8).set_(obj.untyped_storage()).numpy().tobytes()
        layout = (obj.dtype, obj.storage_offset(), tuple(obj.shape), obj.stride())
        return _tensor, (content, *layout, obj.requires_grad, type(obj) is nn.Parameter)


def _tensor(
    content: bytes,
    dtype: torch.dtype,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    parameter: bool,
) -> Tensor:
    storage = torch.UntypedStorage(len(content))
    if content:
        torch.empty(0, dtype=torch.uint8).set_(storage).copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    tensor = torch.empty(0, dtype=dtype).set_(storage, offset, shape, stride)
    return nn.Parameter(tensor, requires_grad) if parameter else tensor.requires_grad_(requires_grad)


def pack(probe: Probe, inputs: tuple[Any, ...]) -> bytes:
    """A request as bytes: equal ones for equal requests, because a memo and the random stream of the answer go by them.

    A probe travels by value: its suite does not exist where the submission runs. Reusable ones of ``grader.probes`` do.
    """
    by_value = {
        sys.modules[item.__module__]
        for item in (probe, *inputs)
        if callable(item) and getattr(item, "__module__", "").split(".")[0] not in ("grader", "fixtures", "torch")
        if item.__module__ in sys.modules
    }
    for module in by_value:
        cloudpickle.register_pickle_by_value(module)
    try:
        buffer = io.BytesIO()
        Pickler(buffer).dump((probe, inputs))
        return buffer.getvalue()
    finally:
        for module in by_value:
            cloudpickle.unregister_pickle_by_value(module)


class Local:
    """A submission in this very process: for students, and for authors who debug. Not for hostile code."""

    isolation: Isolation = "in-process"
    layers: tuple[str, ...] = ()

    def __init__(self, module: Module, problem: str = "") -> None:
        self._module = module
        self._problem = problem

    @property
    def answers(self) -> bool:
        """See ``Kept``."""
        return not self._problem and (self._module.usable or not self._module.error)

    @classmethod
    def of(cls, submission: Submission, name: str) -> "Local":
        """Load a submission into this process."""
        module = Module(name, [(c.label, c.source, c.required) for c in submission.chunks])
        return cls(module, submission.problem)

    def run(self, probe: Probe, *inputs: Any) -> Any:
        """See ``Subject.run``."""
        return self.timed(probe, *inputs)[0]

    def timed(self, probe: Probe, *inputs: Any) -> tuple[Any, float]:
        """See ``Subject.timed``."""
        if self._problem:
            raise SubmissionError(self._problem)
        if self._module.error and not self._module.usable:
            raise SubmissionError.from_description(self._module.error, loading=True)
        content = pack(probe, inputs)
        _, copies = cloudpickle.loads(content)
        start = time.process_time()
        reply = self._module.call(probe, copies, wire.seed_of(content))
        return unwrap(reply, self._module.error), time.process_time() - start

    def close(self) -> None:
        """Nothing to free."""


def unwrap(reply: Any, loading_error: Any) -> Any:
    """The answer in a reply; a SubmissionError when it holds an error, or is not a reply."""
    match reply:
        case {"answer": answer}:
            return answer
        case {"error": dict(error)}:
            if isinstance(loading_error, dict):
                raise SubmissionError.from_description(loading_error, loading=True)
            raise SubmissionError.from_description(error)
    raise SubmissionError("the process answered out of turn", "Do not write to file descriptors you did not open.")


class Restarted:
    """A subject of the judge's own, the reference: when its process is lost, a new one is asked, once.

    A submission that kills the bench kills the reference's process, too. That must cost neither it nor the next student.
    """

    def __init__(self, make: Callable[[], Subject]) -> None:
        self._make = make
        self._subject = make()

    def run(self, probe: Probe, *inputs: Any) -> Any:
        """See ``Subject.run``."""
        return self.timed(probe, *inputs)[0]

    def timed(self, probe: Probe, *inputs: Any) -> tuple[Any, float]:
        """See ``Subject.timed``.

        Raises:
            GraderFault: it did not answer twice.
        """
        lost = ""
        for _ in range(2):
            try:
                return self._subject.timed(probe, *inputs)
            except SubmissionError as error:
                if error.observation is not None or error.outcome == "not_attempted":  # its code raised: an answer
                    raise
                lost = error.rationale
                self._subject.close()
                self._subject = self._make()
        raise GraderFault(f"the reference: {lost}")

    def close(self) -> None:
        """See ``Subject.close``."""
        self._subject.close()


class Memo:
    """A subject whose answers are kept: what the reference says to a probe is computed once per run of the grader."""

    def __init__(self, subject: Subject, *, size: int = 512) -> None:
        self._subject = subject
        self._answers: OrderedDict[bytes, Any] = OrderedDict()
        self._size = size

    def run(self, probe: Probe, *inputs: Any) -> Any:
        """See ``Subject.run``; an error is kept as well."""
        key = hashlib.sha256(pack(probe, inputs)).digest()
        if key not in self._answers:
            try:
                answer: Any = ("answer", self._subject.run(probe, *inputs))
            except SubmissionError as error:
                answer = ("error", error)
            self._answers[key] = answer
            if len(self._answers) > self._size:
                self._answers.popitem(last=False)
        self._answers.move_to_end(key)
        state, content = self._answers[key]
        if state == "error":
            raise content.with_traceback(None)
        return wire.plain(content)  # a copy: a check may change what it was given

    def timed(self, probe: Probe, *inputs: Any) -> tuple[Any, float]:
        """See ``Subject.timed``; never from memory."""
        return self._subject.timed(probe, *inputs)

    def close(self) -> None:
        """See ``Subject.close``."""
        self._subject.close()

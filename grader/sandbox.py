"""The inside: code that runs in the process of a submission. It knows no answer, label, seed or clock.

``Module`` turns a submission into a module and calls probes on it; the in-process subject of a student's own machine and
the child process of a grading machine both use it, so both see the same behaviour.
"""

import contextlib
import linecache
import random
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from grader.wire import plain

MAX_TEXT = 2000
MAX_FRAMES = 6


class Module:
    """A submission, loaded chunk by chunk.

    An error in a required chunk is kept: it makes a single-file answer unusable, and explains later failures of a
    notebook whose other cells could be run.
    """

    def __init__(self, name: str, chunks: Sequence[tuple[str, str, bool]]) -> None:
        self.labels = {label for label, _, _ in chunks}
        self.exercise = types.ModuleType(name)
        self.error: dict[str, Any] | None = None
        self.usable = False
        sys.modules[name] = self.exercise
        all_required = not any(required for _, _, required in chunks)  # a notebook that nbgrader has not marked
        for label, source, required in chunks:
            linecache.cache[label] = (len(source), None, source.splitlines(keepends=True), label)
            self.exercise.__file__ = label
            try:
                exec(compile(source, label, "exec", dont_inherit=True), self.exercise.__dict__)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit and exceptions of its own included
                if (required or all_required) and self.error is None:
                    self.error = self.describe(error)
            else:
                self.usable = self.usable or required or all_required

    @classmethod
    def of_namespace(cls, name: str, namespace: dict[str, Any]) -> "Module":
        """A module that is already loaded: the names of a running notebook."""
        module = cls(name, [])
        module.exercise.__dict__.update(namespace)
        return module

    def call(self, probe: Callable[..., Any], inputs: Sequence[Any], seed: int) -> dict[str, Any]:
        """``{"answer": plain data}`` or ``{"error": description}``; whatever the submission raises is data.

        The global random streams (of torch, numpy and random) start at ``seed``, so that an answer depends on module,
        probe and inputs alone. A KeyboardInterrupt is let through: at a keyboard it is the person's.
        """
        try:
            with streams_at(seed):
                return {"answer": plain(probe(self.exercise, *inputs))}
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, pytest.skip and exceptions of its own included: all are answers
            return {"error": self.describe(error)}

    def describe(self, error: BaseException) -> dict[str, Any]:
        """An exception as plain data, with the frames that lie in the student's own code."""
        try:
            return self._describe(error)
        except KeyboardInterrupt:
            raise
        except BaseException:  # its type, attributes or methods raise when they are looked at
            words = "an exception that cannot be read"
            return {"type": "Exception", "bases": [], "message": words, "frames": [], "own": True}

    def _describe(self, error: BaseException) -> dict[str, Any]:
        frames = [
            (frame.filename, frame.lineno or 0, frame.name, (frame.line or "").strip()[:200])
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename in self.labels
        ]
        if isinstance(error, SyntaxError) and error.filename in self.labels:
            frames.append((error.filename, error.lineno or 0, "", (error.text or "").strip()[:200]))
        stack = traceback.extract_tb(error.__traceback__)
        try:
            message = str(error)[:MAX_TEXT]
        except Exception as nested:
            message = f"<its message raised {type(nested).__name__}>"
        return {
            "type": type(error).__name__[:200],
            "bases": [base.__name__[:200] for base in type(error).__mro__][:20],
            "message": message,
            "frames": frames[-MAX_FRAMES:],
            "own": bool(stack) and stack[-1].filename in self.labels,
        }


@contextlib.contextmanager
def streams_at(seed: int) -> Iterator[None]:
    """The three global random streams at ``seed``, and afterwards where they were before."""
    ours, numpys = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)

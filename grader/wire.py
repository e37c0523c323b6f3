"""What may cross the border between judge and submission.

Into the sandbox goes cloudpickle, because the judge trusts itself. Out of it comes JSON with tensors in safetensors, never
pickle: whatever a hostile process sends, decoding it runs none of its code, and stays within fixed bounds.

Layout of a message: 8 bytes length of the rest, 4 bytes length of the JSON, the JSON, the safetensors (all big-endian).
"""

import hashlib
import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

MAX_MESSAGE = 256 * 2**20
MAX_JSON = 8 * 2**20
"""Of a message. JSON grows twentyfold when it is parsed: this bounds what a hostile answer costs the judge in memory."""
MAX_DEPTH = 16
MAX_NODES = 100_000

DTYPES = {str(kind).removeprefix("torch."): kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}
"""By name, so that a name on the wire is looked up here and not in the module ``torch``, which imports lazily."""

SENDABLE = frozenset(
    DTYPES[name]
    for name in (
        "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
        "float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2",
    )
)  # fmt: skip
"""Dtypes of the tensors that are plain data."""

MAX_HEADER = 2**21
"""Bytes of the names, types and places of all tensors; some 20,000 of them."""

_LENGTHS = struct.Struct(">QI")
HEADER_BYTES = _LENGTHS.size


class WireError(Exception):
    """A message that is malformed or out of bounds. Its sender is at fault."""


@dataclass(frozen=True)
class Foreign:
    """Stands for an object that is not plain data; equal to nothing that a check expects."""

    type_name: str

    def __str__(self) -> str:
        return f"an object of type {self.type_name}"


def seed_of(request: bytes) -> int:
    """Where the global random stream starts while a request is answered: a function of the request alone."""
    return int.from_bytes(hashlib.sha256(request).digest()[:4], "big")


def plain(value: Any, _depth: int = 0) -> Any:
    """``value`` as plain data: None, bool, int, float, str, dtypes, dense CPU tensors, and dict, list, tuple of those.

    Tensors lose their graph and are copied, so that nothing they share or do later can change the answer. Anything
    else, and every subclass that could compute lazily, becomes ``Foreign``. Runs on both sides of the border.

    Raises:
        WireError: nested deeper than ``MAX_DEPTH``.
    """
    if _depth > MAX_DEPTH:
        raise WireError(f"the answer is nested deeper than {MAX_DEPTH} levels")
    kind = type(value)
    if value is None or kind in (bool, int, float, str, torch.dtype, Foreign):
        return value
    if kind in (Tensor, nn.Parameter, nn.Buffer):
        strided = value.layout is torch.strided and not value.is_nested
        if not strided or value.device.type != "cpu" or value.dtype not in SENDABLE:
            layout = "nested" if value.is_nested else value.layout
            return Foreign(f"Tensor ({value.dtype}, {layout}, {value.device.type})")
        return value.detach().clone(memory_format=torch.contiguous_format)
    if issubclass(kind, dict):  # of the type itself: an object's __class__ may lie
        items = [(plain(key, _depth + 1), plain(item, _depth + 1)) for key, item in dict.items(value)]
        return dict(items) if all(_is_key(key) for key, _ in items) else Foreign("dict with keys that are not plain")
    if issubclass(kind, list):
        return [plain(item, _depth + 1) for item in list.__iter__(value)]
    if issubclass(kind, tuple):
        return tuple(plain(item, _depth + 1) for item in tuple.__iter__(value))
    return Foreign(f"{kind.__module__}.{kind.__qualname__}")


def _is_key(value: Any) -> bool:
    """Whether plain data may be a key: it hashes and compares by value, which tensors do not."""
    if isinstance(value, tuple):
        return all(map(_is_key, value))
    return value is None or isinstance(value, bool | int | float | str | torch.dtype)


def tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in plain data."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(tensor_bytes, value.values()))
    return sum(map(tensor_bytes, value)) if isinstance(value, list | tuple) else 0


def encode(value: Any) -> bytes:
    """A message that holds plain data (see ``plain``).

    Raises:
        WireError: more text than ``MAX_JSON``.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_to_json(value, tensors), allow_nan=False).encode()
    if len(text) > MAX_JSON:
        raise WireError(f"the answer has more than {MAX_JSON // 2**20} MB of text and numbers outside of tensors")
    body = save(tensors) if tensors else b""
    return _LENGTHS.pack(4 + len(text) + len(body), len(text)) + text + body


def _to_json(value: Any, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, Foreign):
        return {"foreign": value.type_name}
    if isinstance(value, dict):
        return {"dict": [[_to_json(key, tensors), _to_json(item, tensors)] for key, item in value.items()]}
    items = [_to_json(item, tensors) for item in value]
    return {"tuple": items} if isinstance(value, tuple) else items


def body_length(header: bytes) -> tuple[int, int]:
    """Header -> (bytes that follow it, how many of them are JSON).

    Raises:
        WireError: the lengths contradict each other or the bounds.
    """
    total, text = _LENGTHS.unpack(header)
    if total > MAX_MESSAGE:
        raise WireError(f"the answer is larger than {MAX_MESSAGE // 2**20} MB")
    if text > min(total - 4, MAX_JSON):
        raise WireError("the answer is malformed (lengths)")
    return total - 4, text


def decode(body: bytes, text_length: int) -> Any:
    """Plain data out of a message's body, within the bounds.

    Raises:
        WireError: anything about the message is not as ``encode`` writes it.
    """
    try:
        tree = json.loads(body[:text_length])
        tensors = _tensors(body[text_length:])
        return _Decoder(tensors).value(tree, 0)
    except WireError:
        raise
    except Exception as error:  # of any kind: json and safetensors promise none
        raise WireError(f"the answer is malformed ({type(error).__name__})") from error


def _tensors(body: bytes) -> dict[str, Tensor]:
    """What safetensors reads; it begins with the length of its header, which names every tensor."""
    if not body:
        return {}
    if int.from_bytes(body[:8], "little") > MAX_HEADER:
        raise WireError("the answer has too many tensors")
    return load(body)


class _Decoder:
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.nodes = 0

    def value(self, node: Any, depth: int) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > 2 * MAX_DEPTH:
            raise WireError("the answer has too many parts")
        if isinstance(node, list):
            return [self.value(item, depth + 1) for item in node]
        if not isinstance(node, dict):
            return node
        ((tag, content),) = node.items()
        if tag == "float":
            return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content]
        if tag == "tensor":
            tensor = self.tensors.pop(content)  # each is sent for one place
            if tensor.dtype not in SENDABLE:
                raise TypeError(tensor.dtype)
            # A bool whose byte is not 0 or 1 would be true for one operation and false for the next.
            return tensor.view(torch.uint8) != 0 if tensor.dtype is torch.bool else tensor
        if tag == "dtype":
            return DTYPES[content]
        if tag == "foreign":
            return Foreign(str(content)[:200])
        if tag == "tuple":
            return tuple(self.value(item, depth + 1) for item in content)
        if tag == "dict":
            items = [(self.value(key, depth + 1), self.value(item, depth + 1)) for key, item in content]
            if not all(_is_key(key) for key, _ in items):
                raise TypeError("a key")
            return dict(items)
        raise ValueError(tag)

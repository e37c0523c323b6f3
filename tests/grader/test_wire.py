"""The border: plain data comes through unchanged, and of what a hostile process sends nothing but WireError escapes."""

import collections
import enum
import json
import math
import random
import struct
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grader import wire
from grader.wire import Foreign, WireError, body_length, decode, encode, plain


def through(value):
    """A value as it arrives on the other side."""
    message = encode(plain(value))
    size, text = body_length(message[: wire.HEADER_BYTES])
    assert size == len(message) - wire.HEADER_BYTES
    return decode(message[wire.HEADER_BYTES :], text)


def bits(tensor):
    return (
        tensor.dtype,
        tuple(tensor.shape),
        bytes(tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b"",
    )


def received(tree, tensors=b"", *, raw=False):
    """What ``decode`` makes of a message whose JSON is ``tree``."""
    text = tree if raw else json.dumps(tree).encode()
    return decode(text + tensors, len(text))


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -1, 2**63, -(2**200), 0.0, -0.0, 1e-320, math.inf, -math.inf, math.nan, 1.5, "", "naïve 🧬",
        "\ud800 alone", "\0", [], (), {}, [[], ()], {"a": {"b": (1, [2.0])}}, {1: "int", "1": "str", (1, None): "tuple"},
        {True: 1}, {math.inf: 2}, [math.nan], torch.float32, torch.bfloat16, {torch.int64: torch.complex64},
        {"tensor": "0"}, {"float": "nan"}, {"dict": []}, ["tuple", {"foreign": 1}],
    ],
    ids=repr,
)  # fmt: skip
def test_plain_values_arrive_unchanged(value):
    arrived = through(value)
    assert repr(arrived) == repr(value)
    assert type(arrived) is type(value)


@pytest.mark.parametrize("dtype", sorted(wire.SENDABLE, key=str), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (2, 3)], ids=str)
def test_tensors_of_every_sendable_dtype_arrive_to_the_bit(dtype, shape):
    generator = torch.Generator().manual_seed(1)
    raw = torch.randint(2 if dtype is torch.bool else 256, (*shape, dtype.itemsize), generator=generator)
    tensor = raw.to(torch.uint8).view(dtype).reshape(shape)
    assert bits(through(tensor)) == bits(tensor)


def test_nan_and_infinity_arrive_inside_tensors():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        tensor = torch.tensor([math.nan, math.inf, -math.inf, -0.0], dtype=dtype)
        assert bits(through(tensor)) == bits(tensor)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.mT,
        lambda x: x[:, ::2],
        lambda x: x[1],
        lambda x: x[:1].expand(3, 4),
        lambda x: x.flip(0),
        lambda x: torch.complex(x, x).conj().imag,  # carries the negative bit
        lambda x: (
            x.to(memory_format=torch.contiguous_format).unsqueeze(0).unsqueeze(0).to(memory_format=torch.channels_last)
        ),
    ],
    ids=["transposed", "strided", "offset", "expanded", "flipped", "negative_bit", "channels_last"],
)
def test_views_arrive_as_the_numbers_they_show(view):
    shown = view(torch.arange(12.0).reshape(3, 4))
    arrived = through(shown)
    assert torch.equal(arrived, shown.resolve_neg())
    assert arrived.is_contiguous()


def test_tensors_that_share_storage_arrive_apart():
    x = torch.arange(6.0)
    first, second, again = through([x[:4], x[2:], x])
    first.fill_(9)
    assert second.tolist() == [2, 3, 4, 5]
    assert again.tolist() == [0, 1, 2, 3, 4, 5]


def test_plain_copies_so_that_nothing_done_later_changes_the_answer():
    x = torch.zeros(3)
    answer = plain({"x": x, "view": [x[:2]]})
    x.fill_(7)
    assert answer["x"].tolist() == [0, 0, 0]
    assert answer["view"][0].tolist() == [0, 0]


@pytest.mark.parametrize("make", [torch.nn.Parameter, torch.nn.Buffer, lambda x: x.requires_grad_() * 2])
def test_parameters_buffers_and_graphs_become_bare_tensors(make):
    arrived = plain(make(torch.ones(2)))
    assert type(arrived) is torch.Tensor
    assert not arrived.requires_grad
    assert arrived.grad_fn is None


class Sub(torch.Tensor):
    pass


class Lazy:
    def __array__(self):
        raise AssertionError("called")

    __torch_function__ = __len__ = __iter__ = __float__ = __bool__ = __eq__ = __array__
    __hash__ = object.__hash__


class Claims:
    """Says that it is a dict, or raises when it is asked."""

    def __init__(self, answer):
        self.answer = answer

    @property
    def __class__(self):
        return self.answer()


class Colour(enum.IntEnum):
    RED = 1


class Number(float):
    pass


class Text(str):
    __slots__ = ()


def nested():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


def sparse_rows():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.eye(2).to_sparse_csr()


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(2).to_sparse(),
        sparse_rows,
        nested,
        lambda: torch.empty(2, device="meta"),
        lambda: torch.ones(2, dtype=torch.complex64),
        lambda: torch.empty(2, dtype=torch.bits8),
        lambda: torch.empty(2, dtype=torch.uint4),
        lambda: torch.ones(2).as_subclass(Sub),
        lambda: torch.nn.UninitializedParameter(),
        lambda: torch.nn.Linear(1, 1),
        lambda: np.ones(2),
        lambda: np.float32(1),
        lambda: np.float64(1),
        lambda: 1j,
        lambda: b"bytes",
        lambda: bytearray(2),
        lambda: {1, 2},
        lambda: frozenset(),
        lambda: iter([1]),
        lambda: range(3),
        lambda: Lazy(),
        lambda: Claims(lambda: dict),
        lambda: Claims(lambda: 1 / 0),
        lambda: Colour.RED,
        lambda: Number(1),
        lambda: Text("x"),
        lambda: object,
        lambda: len,
        lambda: torch,
        lambda: torch.device("cpu"),
        lambda: torch.Size,
        lambda: {torch.ones(1): 1},
        lambda: {Lazy(): 1},
        lambda: {(1, torch.ones(2)): 1},
    ],
)
def test_everything_else_is_foreign_and_is_not_looked_into(make):
    value = make()
    arrived = plain(value)
    assert isinstance(arrived, Foreign)
    assert through(value) == arrived
    assert arrived.type_name


def test_foreign_stays_the_same_when_it_is_made_plain_again():
    assert plain(plain(1j)) == plain(1j) == Foreign("builtins.complex")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, b=[1]), {"b": [1]}),
        (torch.Size([2, 3]), (2, 3)),
        (collections.namedtuple("Pair", "x y")(1, 2), (1, 2)),
    ],
)
def test_subclasses_of_containers_become_the_container(value, expected):
    assert plain(value) == expected
    assert type(plain(value)) is type(expected)


class Liar(dict):
    def items(self):
        raise AssertionError("called")

    __iter__ = __len__ = __getitem__ = keys = values = __eq__ = __bool__ = items
    __hash__ = None


class LyingList(list):
    def __iter__(self):
        raise AssertionError("called")

    __len__ = __getitem__ = __eq__ = __bool__ = __iter__
    __hash__ = None


def test_overridden_methods_of_containers_are_not_called():
    assert plain([Liar(a=1), LyingList([2])]) == [{"a": 1}, [2]]


def test_too_deep_and_cyclic_answers_are_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(WireError, match="deeper"):
        plain(loop)
    deep = 1
    for _ in range(wire.MAX_DEPTH):
        deep = [deep]
    assert through(deep) == deep
    with pytest.raises(WireError, match="deeper"):
        plain([deep])


def test_an_answer_with_too_many_parts_is_refused_by_the_receiver():
    assert through([0] * (wire.MAX_NODES - 1)) == [0] * (wire.MAX_NODES - 1)
    with pytest.raises(WireError, match="too many parts"):
        through([0] * wire.MAX_NODES)


def test_more_text_than_the_bound_is_refused_by_both_sides():
    with pytest.raises(WireError, match="MB of text"):
        encode("x" * wire.MAX_JSON)
    with pytest.raises(WireError):
        body_length(struct.pack(">QI", 4 + wire.MAX_JSON + 1, wire.MAX_JSON + 1))
    assert body_length(struct.pack(">QI", 4 + wire.MAX_JSON, wire.MAX_JSON)) == (wire.MAX_JSON, wire.MAX_JSON)


@pytest.mark.parametrize(
    ("total", "text"),
    [
        (wire.MAX_MESSAGE + 1, 0), (2**64 - 1, 2**32 - 1), (0, 0), (3, 0), (4, 1), (100, 97), (wire.MAX_MESSAGE, 2**32 - 1),
    ],
)  # fmt: skip
def test_lengths_that_lie_are_refused(total, text):
    with pytest.raises(WireError):
        body_length(struct.pack(">QI", total, text))


@pytest.mark.parametrize("cut", [0, 1, 10, -1, -2, -9])
def test_truncated_messages_are_refused(cut):
    message = encode({"answer": [torch.arange(5), "text"]})
    _, text = body_length(message[: wire.HEADER_BYTES])
    body = message[wire.HEADER_BYTES :]
    with pytest.raises(WireError):
        decode(body[:cut], text)


FLOAT = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "tree",
    [
        {}, {"a": 1, "b": 2}, {"unknown": 1}, {"float": "1.0"}, {"float": 1.0}, {"float": []}, {"float": {}},
        {"tensor": "0"}, {"tensor": None}, {"tensor": []}, {"tuple": 1}, {"tuple": None}, {"dict": 1}, {"dict": [1]},
        {"dict": [[1]]}, {"dict": [[1, 2, 3]]}, {"dict": [[[1], 2]]}, {"dict": [[{"dict": []}, 2]]},
        {"dict": [[{"foreign": "x"}, 1]]}, {"dict": {"a": 1}}, [{"tuple": [{}]}],
    ],
    ids=json.dumps,
)  # fmt: skip
def test_wrong_tags_and_wrong_contents_are_refused(tree):
    with pytest.raises(WireError):
        received(tree)


@pytest.mark.parametrize(
    "name",
    [
        "nn",
        "dtype",
        "Tensor",
        "float",
        "has_mps",
        "_dynamo",
        "__dict__",
        "classes",
        "",
        "torch.float32",
        None,
        1,
        [],
        {},
    ],
    ids=repr,
)
def test_a_dtype_is_looked_up_by_name_and_nothing_else_of_torch_is(name):
    loaded = set(sys.modules)
    with pytest.raises(WireError):
        received({"dtype": name})
    assert set(sys.modules) == loaded


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\xff", b"{", b"nul", b'"\\ud8"', b"[1,]", b"1 2", b"[" * 100_000, b'{"tuple":' * 100_000, b"9" * 5000,
        b"[" * 500 + b"]" * 500, b'{"a":' * 900 + b"1" + b"}" * 900, b"\x00\x01",
    ],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_json_that_is_broken_deep_or_huge_is_refused(text):
    with pytest.raises(WireError):
        received(text, raw=True)


def test_of_duplicate_keys_only_one_is_read():
    assert received(b'{"foreign": "a", "foreign": "b"}', raw=True) == Foreign("b")
    with pytest.raises(WireError):
        received(b'{"foreign": "a", "tuple": []}', raw=True)


def test_a_foreign_name_is_cut():
    assert len(received({"foreign": "x" * 10_000}).type_name) == 200
    assert received({"foreign": {"a": [1]}}) == Foreign("{'a': [1]}")


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b"", b""), (b"{", b""), (b"[]", b""), (b"null", b""), (b"\xff", b""), ({"0": 1}, b""), ({"0": {}}, b""),
        ({"0": FLOAT}, b""), ({"0": FLOAT}, b"\0" * 3), ({"0": FLOAT}, b"\0" * 5),
        ({"0": {**FLOAT, "shape": [2]}}, b"\0" * 4), ({"0": {**FLOAT, "shape": [-1]}}, b"\0" * 4),
        ({"0": {**FLOAT, "shape": [2**70]}}, b"\0" * 4), ({"0": {**FLOAT, "shape": "1"}}, b"\0" * 4),
        ({"0": {**FLOAT, "data_offsets": [4, 0]}}, b"\0" * 4), ({"0": {**FLOAT, "data_offsets": [4, 8]}}, b"\0" * 8),
        ({"0": {**FLOAT, "data_offsets": [0, 2**64]}}, b"\0" * 4), ({"0": FLOAT, "1": FLOAT}, b"\0" * 4),
        ({"0": {**FLOAT, "dtype": "NOPE"}}, b"\0" * 4), ({"0": {**FLOAT, "dtype": None}}, b"\0" * 4),
        ({"0": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 8),
        ({"0": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}, b"\0"),
        ({"0": {"dtype": "F8_E4M3FNUZ", "shape": [1], "data_offsets": [0, 1]}}, b"\0"),
        ({"0": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}}, b"\0"),
        ({"0": {"dtype": "F32", "shape": [2**40, 2**40, 0], "data_offsets": [0, 0]}}, b""),
        ({"0": {"dtype": "F32", "shape": [2**63, 0], "data_offsets": [0, 0]}}, b""),
        ({"1": FLOAT}, b"\0" * 4), ({"__metadata__": {"0": "x"}}, b""),
    ],
)  # fmt: skip
def test_broken_and_foreign_safetensors_are_refused(header, data):
    with pytest.raises(WireError):
        received({"tensor": "0"}, safetensors(header, data))


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_a_safetensors_header_whose_length_lies_is_refused(length):
    with pytest.raises(WireError):
        received({"tensor": "0"}, struct.pack("<Q", length) + b"{}")


def test_one_tensor_of_the_message_stands_in_one_place_only():
    with pytest.raises(WireError):
        received([{"tensor": "0"}, {"tensor": "0"}], safetensors({"0": FLOAT}, b"\0" * 4))


def test_a_tensor_is_no_key():
    with pytest.raises(WireError):
        received({"dict": [[{"tensor": "0"}, 1]]}, safetensors({"0": FLOAT}, b"\0" * 4))
    with pytest.raises(WireError):
        received({"dict": [[{"tuple": [{"tensor": "0"}]}, 1]]}, safetensors({"0": FLOAT}, b"\0" * 4))


def test_a_bool_is_true_or_false_whatever_its_byte():
    header = {"0": {"dtype": "BOOL", "shape": [4], "data_offsets": [0, 4]}}
    arrived = received({"tensor": "0"}, safetensors(header, b"\0\1\2\xff"))
    assert arrived.view(torch.uint8).tolist() == [0, 1, 1, 1]


def test_the_size_of_an_answer_counts_all_its_tensors():
    answer = {"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.int64), (torch.zeros(5, dtype=torch.bool), 1, "x")]}
    assert wire.tensor_bytes(answer) == 12 + 16 + 5


def test_the_seed_of_a_request_depends_on_every_byte():
    assert wire.seed_of(b"a") == wire.seed_of(b"a")
    assert len({wire.seed_of(bytes([n])) for n in range(256)}) == 256
    assert 0 <= wire.seed_of(b"x") < 2**32


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(sorted(wire.DTYPES.values(), key=str)),
    st.builds(
        lambda n, kind: torch.ones(n, dtype=kind), st.integers(0, 3), st.sampled_from([torch.float32, torch.bool])
    ),
)
KEYS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=4), st.tuples(st.integers(), st.text(max_size=2))
)
PLAIN = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(inner, max_size=4).map(tuple), st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None)
@given(PLAIN)
def test_any_plain_data_arrives_unchanged(value):
    assert repr(through(value)) == repr(plain(value))


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=wire.HEADER_BYTES, max_size=wire.HEADER_BYTES))
def test_of_any_header_only_a_wire_error_escapes(header):
    try:
        size, text = body_length(header)
    except WireError:
        return
    assert 0 <= text <= size <= wire.MAX_MESSAGE


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["0", "1", "nan", "float32", "nn", ""])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["float", "tensor", "dtype", "foreign", "tuple", "dict", "?"]), inner, max_size=2
        ),
    ),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(JSON, st.one_of(st.just(safetensors({"0": FLOAT}, b"\0" * 4)), st.binary(max_size=40)))
def test_of_any_json_only_a_wire_error_escapes_and_the_rest_is_plain(tree, tensors):
    try:
        value = received(tree, tensors)
    except WireError:
        return
    assert repr(plain(value)) == repr(value)


def test_of_any_damaged_message_only_a_wire_error_escapes():
    rng = random.Random(3)
    message = encode({"answer": {"x": torch.arange(4), "y": (torch.ones(2, 2), [math.nan, None, torch.bool, "text"])}})
    _, text = body_length(message[: wire.HEADER_BYTES])
    refused = 0
    for _ in range(3000):
        body = bytearray(message[wire.HEADER_BYTES :])
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            match rng.randrange(4):
                case 0:
                    body[rng.randrange(len(body))] = rng.randrange(256)
                case 1:
                    del body[rng.randrange(len(body)) :][:1]
                case 2:
                    body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
                case _:
                    start, end = sorted(rng.randrange(len(body)) for _ in range(2))
                    body[start:end] = body[start:end][::-1]
        try:
            decode(bytes(body), max(0, text + rng.choice([0, 0, 0, 1, -1])))
        except WireError:
            refused += 1
    assert refused > 1000


def test_a_header_of_a_million_tensors_is_refused_before_it_is_read():
    header = (
        b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(50_000)) + b"}"
    )
    text = b'{"dict": [["answer", 1]]}'
    body = text + len(header).to_bytes(8, "little") + header
    with pytest.raises(wire.WireError, match="too many tensors"):
        wire.decode(body, len(text))
    many = list(torch.zeros(10_000, 1).unbind())
    many = [one.clone() for one in many]
    encoded = wire.encode(many)
    _, length = wire.body_length(encoded[: wire.HEADER_BYTES])
    assert len(wire.decode(encoded[wire.HEADER_BYTES :], length)) == 10_000

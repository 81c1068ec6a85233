"""The stack machine against Python's own on plain data, and against what must not run."""

from __future__ import annotations

import _codecs
import builtins
import copyreg
import functools
import io
import operator
import os
import pickle
import subprocess
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.importers.names import Foreign, ImportLimits, StorageRef, TensorRef, WeightsError
from training.importers.unpickler import unpickle

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        | st.sets(st.text() | st.integers(), max_size=4)
        | st.frozensets(st.text(), max_size=4)
    ),
    max_leaves=20,
)


def read(content: bytes, **options: Any) -> Any:
    return unpickle(io.BytesIO(content), **options)


@given(plain_values, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_is_what_python_makes_of_it(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_collections_become_plain(protocol: int) -> None:
    value = {
        "ordered": OrderedDict([("b", 1), ("a", 2)]),
        "default": defaultdict(list, x=[1]),
        "counter": Counter("aab"),
        "deque": deque([1, 2], maxlen=3),
        "size": torch.Size([2, 3]),
    }
    found = read(pickle.dumps(value, protocol))
    assert found == {
        "ordered": {"b": 1, "a": 2},
        "default": {"x": [1]},
        "counter": {"a": 2, "b": 1},
        "deque": [1, 2],
        "size": (2, 3),
    }
    assert list(found["ordered"]) == ["b", "a"]


def test_shared_and_circular_references_stay_so() -> None:
    shared: list[Any] = [1]
    shared.append(shared)
    found = read(pickle.dumps({"a": shared, "b": shared}))
    assert found["a"] is found["b"]
    assert found["a"][1] is found["a"]


class Setting:
    def __init__(self) -> None:
        self.heads = 12


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_become_what_they_hold(protocol: int) -> None:
    found = read(pickle.dumps([Setting(), Namespace(lr=1)], protocol))
    for thing, name, state in zip(found, ("Setting", "Namespace"), ({"heads": 12}, {"lr": 1}), strict=True):
        assert isinstance(thing, Foreign)
        assert thing.cls.name == name
        assert thing.state == state


def test_a_stream_is_left_behind_each_pickle() -> None:
    stream = io.BytesIO(pickle.dumps(1) + pickle.dumps("two") + b"rest")
    assert (unpickle(stream), unpickle(stream), stream.read()) == (1, "two", b"rest")


# --- what must not run


class Does:
    """Pickles as the call of a function with arguments."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments, state) if state is not None else (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class DoesInOtherWay(Does):
    def __reduce_ex__(self, _protocol: Any) -> Any:
        return self.call


def global_of(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def hostile(canary: Path) -> dict[str, tuple[bytes, bool]]:
    """Pickles by name, and whether Python's own unpickler would run something."""
    touch = f"touch {canary}"
    write = f"open({str(canary)!r}, 'w')"
    inner = pickle.dumps(Does(os.system, touch))
    objects = np.array([Does(os.system, touch)], dtype=object)
    tensor = torch.zeros(2)
    return {
        "os.system": (inner, True),
        "protocol 0": (pickle.dumps(Does(os.system, touch), 0), True),
        "reduce_ex": (pickle.dumps(DoesInOtherWay(subprocess.call, ["touch", str(canary)])), True),
        "eval": (pickle.dumps(Does(builtins.eval, write)), True),
        "exec": (pickle.dumps(Does(builtins.exec, write)), True),
        "import": (
            b"\x80\x04" + global_of("builtins", "__import__") + text("os") + b"\x85R\x94" + text("system") + b"\x86.",
            False,
        ),
        "getattr chain": (
            b"\x80\x02"
            + global_of("builtins", "getattr")
            + global_of("os", "path")
            + text("os")
            + b"\x86R"
            + text(touch)
            + b"\x85R.",
            False,
        ),
        "dotted name": (b"\x80\x04" + text("shutil") + text("os.system") + b"\x93" + text(touch) + b"\x85R.", True),
        "in a list": (pickle.dumps({"model": {"w": [tensor.tolist(), Does(os.system, touch)]}}), True),
        "state of a tensor": (
            pickle.dumps(Does(torch._tensor._rebuild_from_type_v2, os.system, str, (touch,), None)),
            True,
        ),
        "hooks of a tensor": (
            pickle.dumps(Does(torch._utils._rebuild_tensor_v2, None, 0, (2,), (1,), False, Does(os.system, touch))),
            True,
        ),
        "pickle in a storage": (pickle.dumps(Does(torch.storage._load_from_bytes, inner)), True),
        "pickle in a pickle": (pickle.dumps(Does(pickle.loads, inner)), True),
        "numpy scalar of objects": (
            pickle.dumps(Does(np._core.multiarray.scalar, np.dtype("O"), inner)),
            False,  # newer numpy refuses it itself
        ),
        "numpy array of objects": (pickle.dumps(objects), True),
        "partial": (
            pickle.dumps(Does(functools.partial(os.system, touch))),
            True,
        ),
        "methodcaller": (pickle.dumps(Does(operator.methodcaller("touch"), canary)), True),
        "state of a class": (
            b"\x80\x02" + global_of("torch.nn", "Linear") + b"N}" + text("x") + b"K\x01s\x86b.",
            False,
        ),
        "setstate": (pickle.dumps(Does(Setting, state={"x": Does(os.system, touch)})), True),
        "INST": (f"(S'{touch}'\nios\nsystem\n.".encode(), True),
        "OBJ": (b"(" + global_of("os", "system") + f"S'{touch}'\n".encode() + b"o.", True),
        "NEWOBJ": (b"\x80\x02" + global_of("os", "system") + text(touch) + b"\x85\x81.", False),
        "function of torch": (pickle.dumps(Does(torch.hub.load, "somebody/repository", "model")), False),
        "function of numpy": (pickle.dumps(Does(np.fromfile, "/etc/passwd")), False),
        "codec": (pickle.dumps(Does(_codecs.encode, "x", "rot13")), False),
    }


@pytest.mark.parametrize("name", hostile(Path("canary")))
def test_nothing_runs(canary: Path, name: str) -> None:
    content, would_run = hostile(canary)[name]
    with pytest.raises(WeightsError) as e:
        read(content)
    assert not canary.exists()
    assert "\n" not in str(e.value)
    if would_run:  # Python itself does run it, so this test can fail
        with suppress(TypeError, AttributeError, ValueError, RuntimeError, pickle.UnpicklingError):
            pickle.loads(content)
        assert canary.exists()


def test_extension_codes_are_refused(canary: Path) -> None:
    copyreg.add_extension("posix", "system", 240)
    try:
        content = pickle.dumps(Does(os.system, f"touch {canary}"), 2)
    finally:
        copyreg.remove_extension("posix", "system", 240)
    assert b"\x82\xf0" in content
    with pytest.raises(WeightsError, match="EXT1"):
        read(content)


def test_calls_of_unknown_packages_are_held_and_not_made() -> None:
    """fairseq's enumerations are such; whatever else claims to be one finds nothing that would run it."""
    content = b"\x80\x02" + global_of("somewhere.nice", "Mode") + text("pytorch_ddp") + b"\x85R."
    found = read(content)
    assert isinstance(found, Foreign)
    assert (str(found.cls), found.args) == ("somewhere.nice.Mode", ("pytorch_ddp",))
    assert not callable(found)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cut off"),
        (b"\x80\x04", "cut off"),
        (pickle.dumps({"a": 1})[:-3], "cut off"),
        (b"\x80\x04.", "cut off or broken"),
        (b"\x80\x04h\x05.", "cut off or broken"),
        (b"\x80\x04t.", "cut off or broken"),
        (b"\x80\x04K\x01K\x02s.", "cut off or broken"),
        (b"\x80\x04}(K\x01u.", "cut off or broken"),
        (b"\x80\x04K\x01K\x02R.", "calls a int"),
        (b"\x80\x04K\x01K\x02\x81.", "instance of a int"),
        (b"\x80\x04K\x01K\x02b.", "state to a int"),
        (b"\x80\x04K\x01(K\x02e.", "appends to a int"),
        (b"\x80\x04K\x01K\x02\x93.", "no text"),
        (b"\x80\x05K\x00\x97.", "NEXT_BUFFER"),
        (b"\x80\x02K\x07Q.", "no storage of a tensor"),
        (b"P0\n.", "PERSID"),
        (b"garbage", "cut off or broken"),
    ],
)
def test_broken_pickles_are_refused_in_one_sentence(content: bytes, says: str) -> None:
    with pytest.raises(WeightsError, match=says) as e:
        read(content)
    assert "\n" not in str(e.value)


def test_what_a_pickle_may_ask_for_is_bounded() -> None:
    with pytest.raises(WeightsError, match="more than 50 operations"):
        read(pickle.dumps(list(range(100))), limits=ImportLimits(operations=50))
    deep = b"\x80\x02" + b"(" * 50_000 + b"t" * 50_000 + b"."
    found = read(deep)
    assert isinstance(found, tuple)
    with pytest.raises(WeightsError, match="tuple for a key"):  # hashing it would overflow the processor's stack
        read(b"\x80\x02}" + deep[2:-1] + b"K\x01s.")
    with pytest.raises(WeightsError, match="cut off or broken"):
        read(b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"x.")


# --- tensors


class Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return ("storage", torch.FloatStorage, "0", "cpu", value.count) if isinstance(value, StorageRef) else None


def tensor(count: int, *arguments: Any, function: Callable[..., Any] = torch._utils._rebuild_tensor_v2) -> Any:
    stream = io.BytesIO()
    Pickler(stream, 2).dump(Does(function, StorageRef("0", torch.float32, count), *arguments, False, OrderedDict()))
    return read(stream.getvalue())


def test_a_tensor_is_described_and_not_read() -> None:
    found = tensor(10, 4, (2, 3), (3, 1))
    assert found == TensorRef(StorageRef("0", torch.float32, 10), 4, (2, 3), (3, 1), torch.float32)
    assert tensor(0, 0, (0, 5), (5, 1)).shape == (0, 5)
    assert tensor(1, 0, (), ()).shape == ()


@pytest.mark.parametrize(
    ("count", "offset", "shape", "stride"),
    [
        (10, 5, (2, 3), (3, 1)),  # one element too far
        (10, 0, (10**9,), (1,)),
        (1, 0, (10**9,), (0,)),  # a bomb: one number, repeated
        (10, 0, (2,), (-1,)),
        (10, -1, (2,), (1,)),
        (10, 0, (2, 2), (1,)),
        (10, 0, (True,), (1,)),
        (10, 0, (2.0,), (1,)),
        (10, 0, "ab", (1, 1)),
        (10, None, (2,), (1,)),
        (2**80, 0, (2**70,), (1,)),
        (10, 0, (1,) * 17, (1,) * 17),
    ],
)
def test_a_tensor_outside_of_its_storage_is_refused(count: int, offset: Any, shape: Any, stride: Any) -> None:
    with pytest.raises(WeightsError, match="tensor"):
        tensor(count, offset, shape, stride)


def test_other_tensors_are_refused() -> None:
    with pytest.raises(WeightsError, match="_rebuild_qtensor"):
        tensor(10, 0, (2,), (1,), function=torch._utils._rebuild_qtensor)
    with pytest.raises(WeightsError, match="no storage"):
        read(pickle.dumps(Does(torch._utils._rebuild_tensor_v2, "storage", 0, (1,), (1,), False, None)))
    with pytest.raises(WeightsError, match="does not fit"):
        read(pickle.dumps(Does(torch._utils._rebuild_tensor_v2)))


def test_a_tensor_takes_no_state() -> None:
    stream = io.BytesIO()
    built = Does(
        torch._utils._rebuild_tensor_v2, StorageRef("0", torch.float32, 4), 0, (4,), (1,), False, None, state={"a": 1}
    )
    Pickler(stream, 2).dump(built)
    with pytest.raises(WeightsError, match="state to a TensorRef"):
        read(stream.getvalue())


@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_the_one_error(content: bytes) -> None:
    with suppress(WeightsError):
        read(b"\x80\x04" + content, limits=ImportLimits(operations=1000))


@given(plain_values, st.data())
def test_a_changed_pickle_gives_a_value_or_the_one_error(value: Any, data: st.DataObject) -> None:
    content = bytearray(pickle.dumps([value, Namespace(a=value), OrderedDict(b=value)], 2))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(WeightsError):
        read(bytes(content))

"""The names that a pickle may mention, and what each of them stands for here. Nothing is ever imported by name.

What is not listed becomes `Foreign`: its class's name, its arguments and its state, inert, with nothing to call. That
rather than a refusal, because the published files carry objects of packages that nobody needs to read the weights
(fairseq's settings, a pickled module's classes).

**Refused**, with the name in the sentence, is what no file of weights has any use for and every attack needs: a name of
Python's own library outside a short list, a call of a function of torch or numpy that builds no tensor, and an object
array (a pickle within the pickle). So a hostile file is told as such, and if this list had a hole, what fell through
would still be an inert `Foreign`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch

from agent.core.errors import DeepECGError


class WeightsError(DeepECGError, ValueError):
    """The one exception of the importers: a sentence that says what is wrong with the file."""


@dataclass(frozen=True, slots=True)
class ImportLimits:
    """What a file may ask for. The defaults are ten times what the largest published file needs."""

    pickle_bytes: int = 2**28
    operations: int = 5_000_000
    storage_bytes: int = 2**32
    """Of one storage."""
    names: int = 100_000
    """Tensors, or entries of an archive."""
    depth: int = 100
    """Of modules within modules."""
    letters: int = 200
    """Of a module's name, or of a tensor's."""


@dataclass(frozen=True, slots=True)
class Name:
    """A name that the pickle mentions; nobody looks it up."""

    module: str
    name: str

    @property
    def root(self) -> str:
        """The package."""
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False, repr=False)
class Foreign:
    """An object of a class that is not ours to make: what it was made with, and what it holds."""

    cls: Name
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<{self.cls}>"  # what it holds may hold itself


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A storage of the archive: its key there, and how many elements of which type."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor that has not been read; offset and strides in elements of ``dtype``."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


STORAGES: Mapping[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in STORAGES.values()}

# fmt: off
_TYPES = frozenset({
    "object", "type", "dict", "list", "tuple", "set", "frozenset", "str", "bytes", "bytearray", "int", "long", "float",
    "bool", "complex", "unicode", "NoneType",
})
# fmt: on
_INERT = frozenset(
    {
        *((builtins, name) for builtins in ("builtins", "__builtin__") for name in _TYPES),
        ("argparse", "Namespace"),
        ("types", "SimpleNamespace"),
        ("functools", "partial"),
        ("enum", "Enum"),
        ("uuid", "UUID"),
        ("decimal", "Decimal"),
        ("dataclasses", "_MISSING_TYPE"),
        ("numpy", "ndarray"),
        *(("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone")),
        *(
            ("pathlib", name)
            for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
        ),
        *(
            (f"numpy.{core}.multiarray", name)
            for core in ("core", "_core")
            for name in ("scalar", "_reconstruct", "ndarray")
        ),
    }
)
"""Names of Python's library and of numpy that settings hold. They become `Foreign` as any other, and stay so."""

_OF_PYTHON = sys.stdlib_module_names | {"__builtin__", "__builtins__", "copy_reg", "cPickle", "commands", "exceptions"}
_CALLED = ("torch", "numpy", "torchvision", "scipy", "pandas")
"""Libraries whose functions may be named (a module holds its activation), but not called."""


def mention(module: Any, name: Any) -> Name:
    """A name that may be mentioned. Raises WeightsError if it has no business in a file of weights."""
    if not (isinstance(module, str) and isinstance(name, str)):
        raise WeightsError("the pickle builds a name out of something that is no text")
    found = Name(module, name)
    known = (module, name) in _REBUILD or (module, name) in _INERT or module == "typing"
    if found.root in _OF_PYTHON and not known:
        raise WeightsError(f"the file asks for {short(found)}, which no file of weights needs: do not trust it")
    return found


def call(function: Any, arguments: Any) -> Any:
    """What a call of this name with these arguments stands for."""
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise WeightsError(f"the pickle calls a {type(function).__name__}, which is no name of a class")
    if (rebuild := _REBUILD.get((function.module, function.name))) is not None:
        try:
            return rebuild(*arguments)
        except WeightsError:
            raise
        except (TypeError, ValueError, OverflowError) as e:
            raise WeightsError(f"{short(function)} is called with what does not fit it ({short(e)})") from None
    if function.root in _CALLED and (function.module, function.name) not in _INERT:
        raise WeightsError(
            f"the file calls {short(function)}, which builds no tensor that a file of weights has: do not trust it"
        )
    return Foreign(function, arguments)


def make(cls: Any, arguments: Any, named: Any) -> Any:
    """An instance without its state."""
    if not (isinstance(cls, Name) and isinstance(arguments, tuple) and isinstance(named, dict)):
        raise WeightsError(f"the pickle makes an instance of a {type(cls).__name__}, which is no name of a class")
    if (cls.module, cls.name) in _REBUILD:
        return call(cls, arguments)
    return Foreign(cls, (*arguments, named) if named else arguments)


def give_state(target: Any, state: Any) -> None:
    """An object's state. That of a plain container is let go: PyTorch's version numbers, in a state dict."""
    if isinstance(target, Foreign):
        target.state = state
    elif not isinstance(target, (dict, list, set)):
        raise WeightsError(f"the pickle gives a state to a {type(target).__name__}, which can have none")


def key_of(value: Any) -> Any:
    """A key or member: nothing nested, whose hash could overflow the processor's own stack."""
    if value is None or isinstance(value, (str, int, float, bytes, Name, Foreign)):
        return value
    raise WeightsError(f"the pickle has a {type(value).__name__} for a key")


def short(what: Any) -> str:
    """What a sentence can hold of it: one line, without what would steer a terminal."""
    text = "".join(letter if letter.isprintable() else " " for letter in " ".join(str(what).split()))
    return text if len(text) <= 100 else text[:100] + "…"


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any, dtype: torch.dtype | None = None) -> TensorRef:
    """`torch._utils._rebuild_tensor_v2` and its elder brother."""
    if not isinstance(storage, StorageRef):
        raise WeightsError("a tensor is built on something that is no storage")
    shape, stride = _whole(shape), _whole(stride)
    if len(shape) != len(stride) or type(offset) is not int or offset < 0:
        raise WeightsError(f"a tensor of storage {storage.key!r} has shape {shape}, strides {stride}, offset {offset}")
    dtype = dtype or storage.dtype
    have, rest = divmod(storage.count * storage.dtype.itemsize, dtype.itemsize)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    # A stride of zero would make a tensor of any size out of one number.
    if rest or (prod(shape) and (last >= have or prod(shape) > have)):
        raise WeightsError(f"a tensor of shape {shape} does not fit in its storage {storage.key!r} of {have} elements")
    return TensorRef(storage, offset, shape, stride, dtype)


def _whole(values: Any) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or not all(type(v) is int and 0 <= v < 2**48 for v in values):
        raise WeightsError("a tensor's shape or strides are no whole numbers from zero on")
    if len(values) > 16:
        raise WeightsError(f"a tensor has {len(values)} dimensions")
    return tuple(values)


def _tensor_v3(
    storage: Any, offset: Any, shape: Any, stride: Any, _gradient: Any, _hooks: Any, dtype: Any, *_: Any
) -> TensorRef:
    if not isinstance(dtype, Name) or dtype.module != "torch" or dtype.name not in _DTYPES:
        raise WeightsError(f"a tensor has the type {short(dtype)}, which no network here has")
    return _tensor(storage, offset, shape, stride, dtype=_DTYPES[dtype.name])


def _parameter(data: Any, *_: Any) -> TensorRef:
    if not isinstance(data, TensorRef):
        raise WeightsError("a parameter is built on something that is no tensor")
    return data


def _from_type(function: Any, _type: Any, arguments: Any, _state: Any) -> TensorRef:
    """A tensor with attributes of its own, or of a subclass."""
    if not isinstance(function, Name) or function.module != "torch._utils":
        raise WeightsError(f"the file builds a tensor by {short(function)}")
    return _parameter(call(function, arguments))


def _nested(*_: Any) -> Any:
    raise WeightsError(
        "the file was written by pickle rather than by torch.save, with pickles inside of its pickle: "
        "do not trust it, or save the state dict again with torch.save"
    )


def _first(value: Any, *_: Any) -> Any:
    return value


def _pairs(*arguments: Any) -> dict[Any, Any]:
    """`collections.OrderedDict` and its like, of pairs or of nothing."""
    pairs = arguments[-1] if arguments and isinstance(arguments[-1], (list, tuple)) else ()
    return {key_of(key): value for key, value in pairs}


def _counts(counts: Any = None) -> dict[Any, Any]:
    if not isinstance(counts, (dict, type(None))):
        raise WeightsError("counts are made of something that is no dict")
    return dict(counts or {})


def _set(items: Any = ()) -> set[Any]:
    return {key_of(item) for item in _list(items)}


def _list(items: Any = ()) -> list[Any]:
    if not isinstance(items, (list, tuple, set, frozenset)):
        raise WeightsError(f"a list is made of a {type(items).__name__}")
    return list(items)


def _latin(text: Any, encoding: Any = "latin1") -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise WeightsError("the file encodes something other than bytes")
    return text.encode("latin-1")


def _reconstructed(cls: Any, _base: Any, state: Any) -> Foreign:
    """How protocols 0 and 1 make an instance."""
    if not isinstance(cls, Name):
        raise WeightsError("the pickle makes an instance of what is no name of a class")
    return Foreign(cls, () if state is None else (state,))


def _numpy_type(kind: Any, *arguments: Any) -> Foreign:
    if not isinstance(kind, str) or "O" in kind or "V" in kind:
        raise WeightsError("the file holds a numpy array of objects, which is a pickle within it: do not trust it")
    return Foreign(Name("numpy", "dtype"), (kind, *arguments))


_REBUILD: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): lambda *args: _tensor(*args[:4]),
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch.storage", "_load_from_bytes"): _nested,
    ("torch", "Size"): lambda values=(): _whole(values),
    ("torch", "device"): lambda *args: args,
    ("torch.jit._pickle", "build_intlist"): _list,
    ("torch.jit._pickle", "build_doublelist"): _list,
    ("torch.jit._pickle", "build_boollist"): _list,
    ("torch.jit._pickle", "build_tensorlist"): _list,
    ("torch.jit._pickle", "restore_type_tag"): _first,
    ("torch.serialization", "_get_layout"): _first,
    ("collections", "OrderedDict"): _pairs,
    ("collections", "defaultdict"): lambda *_: {},
    ("collections", "Counter"): _counts,
    ("collections", "deque"): lambda items=(), *_: _list(items),
    ("builtins", "bytes"): lambda: b"",
    ("__builtin__", "bytes"): lambda: b"",
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
    ("builtins", "frozenset"): lambda items=(): frozenset(_set(items)),
    ("__builtin__", "frozenset"): lambda items=(): frozenset(_set(items)),
    ("builtins", "slice"): lambda *args: args,
    ("__builtin__", "slice"): lambda *args: args,
    ("_codecs", "encode"): _latin,
    ("copyreg", "_reconstructor"): _reconstructed,
    ("copy_reg", "_reconstructor"): _reconstructed,
    ("numpy", "dtype"): _numpy_type,
}
"""All that a pickle can have done by naming it, each of it our own function over values that this module made."""

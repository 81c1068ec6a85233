"""Reads what a pickle says without doing what it asks.

A pickle is a program for a small stack machine, and the one in Python's library resolves any name and calls it. The
machine here (over `pickletools`, which only takes a pickle apart) resolves no name and calls nothing but the functions
of `training.importers.names`, over values that it made itself. It knows the operations that describe data; containers,
numbers and strings become themselves, PyTorch's tensors `TensorRef` (which part of which storage, checked against the
storage's size, nothing read), and every other object `Foreign`.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any, Protocol

from training.importers.names import (
    STORAGES,
    Foreign,
    ImportLimits,
    Name,
    StorageRef,
    WeightsError,
    call,
    give_state,
    key_of,
    make,
    mention,
    short,
)


class Stream(Protocol):
    """What `pickletools` reads from: a file, bytes in memory, a mapped file."""

    def read(self, n: int = ..., /) -> bytes:
        """Up to n bytes."""

    def readline(self) -> bytes:
        """A line."""


def unpickle(
    stream: Stream | IO[bytes],
    persistent: Callable[[Any], Any] | None = None,
    limits: ImportLimits | None = None,
) -> Any:
    """The object that the next pickle of the stream describes; the stream is left behind its end.

    Args:
        stream: At the first byte of a pickle.
        persistent: Makes an object of a persistent id; by default `storage_of`.
        limits: What it may ask for.

    Raises:
        WeightsError: The pickle is cut off or broken, asks for too much, or for something that is refused.
    """
    return _Machine(persistent or storage_of, limits or ImportLimits()).run(stream)


def storage_of(identity: Any) -> StorageRef | Name:
    """The storage of PyTorch's persistent id ``("storage", type, key, device, count[, view])``."""
    match identity:
        case ("storage", Name() as kind, str(key), str(), int(count)) | (
            "storage",
            Name() as kind,
            str(key),
            str(),
            int(count),
            None,
        ) if kind.root == "torch" and kind.name in STORAGES and count >= 0:
            return StorageRef(key, STORAGES[kind.name], count)
        case ("module", Name() as cls, *_):  # before PyTorch 1.6 a module's source went with its class
            return cls
    raise WeightsError("the pickle refers to something outside of it that is no storage of a tensor")


class _Machine:
    """One run: a stack, the stacks below its marks, and a memo."""

    def __init__(self, persistent: Callable[[Any], Any], limits: ImportLimits) -> None:
        self.persistent, self.limits = persistent, limits
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: Stream | IO[bytes]) -> Any:
        steps = 0
        try:
            for opcode, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]
                if (steps := steps + 1) > self.limits.operations:
                    raise WeightsError(f"the pickle has more than {self.limits.operations} operations")
                if opcode.name == "STOP":
                    return self.stack.pop()
                self.step(opcode.name, argument)
        except WeightsError:
            raise
        # What pickletools raises for a stream that is cut off or no pickle, and a stack or memo that lacks something.
        except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as e:
            raise WeightsError(f"the pickle is cut off or broken ({type(e).__name__}: {short(e)})") from None
        raise WeightsError("the pickle is cut off")

    def step(self, op: str, argument: Any) -> None:
        if op in _SCALARS:
            self.stack.append(argument)
        elif op in _CONSTANTS:
            self.stack.append(_CONSTANTS[op])
        elif op in _PUT:
            self.memo[len(self.memo) if op == "MEMOIZE" else argument] = self.stack[-1]
        elif op in _GET:
            self.stack.append(self.memo[argument])
        elif op in _EMPTY:
            self.stack.append(_EMPTY[op]())
        elif op == "MARK":
            self.below.append(self.stack)
            self.stack = []
        elif op in _CONTAINERS:
            self.container(op)
        elif op in _OBJECTS:
            self.object(op, argument)
        elif op == "POP":
            if self.stack:
                self.stack.pop()
            else:
                self.since_mark()
        elif op == "POP_MARK":
            self.since_mark()
        elif op == "DUP":
            self.stack.append(self.stack[-1])
        elif op in {"PROTO", "FRAME"}:
            pass
        else:  # EXT1-4, INST, OBJ, PERSID, out-of-band buffers
            raise WeightsError(
                f"the pickle has an operation ({op}) that no file of weights needs: do not trust the file"
            )

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def container(self, op: str) -> None:
        if op in {"TUPLE1", "TUPLE2", "TUPLE3"}:
            n = int(op[-1])
            if len(self.stack) < n:
                raise IndexError("the stack is too short")
            self.stack[-n:] = [tuple(self.stack[-n:])]
        elif op == "APPEND":
            value = self.stack.pop()
            self.add(self.stack[-1], [value])
        elif op == "SETITEM":
            value, key = self.stack.pop(), self.stack.pop()
            self.put(self.stack[-1], [key, value])
        else:
            items = self.since_mark()
            match op:
                case "TUPLE":
                    self.stack.append(tuple(items))
                case "LIST":
                    self.stack.append(items)
                case "DICT":
                    self.stack.append({})
                    self.put(self.stack[-1], items)
                case "FROZENSET":
                    self.stack.append(frozenset(key_of(item) for item in items))
                case "SETITEMS":
                    self.put(self.stack[-1], items)
                case _:  # APPENDS, ADDITEMS
                    self.add(self.stack[-1], items)

    def add(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(key_of(item) for item in items)
        elif isinstance(target, Foreign):
            target.elements.extend(items)
        else:
            raise WeightsError(f"the pickle appends to a {type(target).__name__}")

    def put(self, target: Any, items: list[Any]) -> None:
        if len(items) % 2:
            raise IndexError("a key without a value")
        mapping = target.items if isinstance(target, Foreign) else target
        if not isinstance(mapping, dict):
            raise WeightsError(f"the pickle sets an entry of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            mapping[key_of(key)] = value

    def object(self, op: str, argument: Any) -> None:
        stack = self.stack
        match op:
            case "GLOBAL":
                module, _, name = argument.partition(" ")
                stack.append(mention(module, name))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(mention(module, name))
            case "BINPERSID":
                stack.append(self.persistent(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(call(function, arguments))
            case "NEWOBJ" | "NEWOBJ_EX":
                named = stack.pop() if op == "NEWOBJ_EX" else {}
                arguments, cls = stack.pop(), stack.pop()
                stack.append(make(cls, arguments, named))
            case _:  # BUILD
                state = stack.pop()
                give_state(stack[-1], state)


# fmt: off
_SCALARS = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8",
})
_CONTAINERS = frozenset({
    "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "LIST", "DICT", "FROZENSET", "APPEND", "APPENDS", "SETITEM", "SETITEMS",
    "ADDITEMS",
})
# fmt: on
_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: Mapping[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})
_OBJECTS = frozenset({"GLOBAL", "STACK_GLOBAL", "BINPERSID", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD"})

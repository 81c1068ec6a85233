"""The files that `torch.save` and `torch.jit.save` write: what they describe, and the bytes of the tensors one wants.

    with open_archive(path) as archive:
        archive.root                    # containers, TensorRef and Foreign: see training.importers.names
        archive.read(ref)               # that tensor, alone

Three layouts: the zip archive of PyTorch 1.6 and later (TorchScript's too), the chain of pickles and raw storages
before it, and safetensors. Nothing is unpacked to the disk, and a storage that nobody asks for is never read, so the
optimiser's state of a fairseq checkpoint, two thirds of its gigabyte, costs nothing.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from training.importers.names import ImportLimits, Name, StorageRef, TensorRef, WeightsError, short
from training.importers.unpickler import storage_of, unpickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
SAFE_TYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""How safetensors calls the types of `training.importers.names.STORAGES`."""
_ENCRYPTED, _STORED = 1, zipfile.ZIP_STORED


@dataclass(slots=True)
class Archive:
    """An open file of weights."""

    form: str
    """In words: how the file is laid out."""
    root: Any
    """What the pickle describes; of safetensors, the tensors by name."""
    _bytes_of: Callable[[StorageRef], bytes]
    _last: tuple[StorageRef, Tensor] | None = field(default=None)

    def read(self, ref: TensorRef) -> Tensor:
        """The tensor, contiguous and of its own memory.

        Raises WeightsError if its storage is not in the file, or is not as long as the pickle says.
        """
        storage = ref.storage
        if self._last is None or self._last[0] != storage:  # parameters that were flattened share one storage
            raw = self._bytes_of(storage)
            wanted = storage.count * storage.dtype.itemsize
            if len(raw) != wanted:
                raise WeightsError(
                    f"storage {storage.key!r} has {len(raw)} bytes instead of {wanted}: the file is damaged"
                )
            whole = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if wanted else torch.empty(0, dtype=torch.uint8)
            self._last = (storage, whole)
        elements = self._last[1].view(ref.dtype) if ref.dtype != torch.uint8 else self._last[1]
        return elements.as_strided(ref.shape, ref.stride, ref.offset).clone(memory_format=torch.contiguous_format)


@contextmanager
def open_archive(path: Path, limits: ImportLimits | None = None) -> Iterator[Archive]:
    """An archive of one of the layouts above.

    Raises:
        FileNotFoundError: There is no such file.
        WeightsError: It is something else, cut off, or asks for what is refused.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; name the file of the published weights")
    if path.stat().st_size == 0:
        raise WeightsError(f"{path} is empty: download it again")
    limits = limits or ImportLimits()
    with path.open("rb") as file:
        try:
            head = _at(file, 0, 1024)
            if head.startswith(b"PK\x03\x04"):
                yield _zip(file, limits)
            elif head[:1] == b"\x80" and head[1:2] in {b"\2", b"\3", b"\4", b"\5"}:
                yield _legacy(file, limits)
            elif _is_safetensors(head, path.stat().st_size):
                yield _safetensors(path)
            else:
                raise WeightsError(_what_else(head))
        except WeightsError as e:
            raise WeightsError(f"{path}: {e}") from None


def _at(file: BinaryIO, first: int, count: int) -> bytes:
    """That part of the file, or as much of it as is there. Read, not mapped: mapped pages count as memory in use."""
    parts = []
    while count > 0 and (part := os.pread(file.fileno(), min(count, 2**30), first)):
        parts.append(part)
        first, count = first + len(part), count - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _what_else(head: bytes) -> str:
    """A sentence on a file that is none of weights."""
    text = head.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not the weights: run git lfs pull, or download the file itself"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "this is a web page in place of the weights: download the file itself, signed in if it is gated"
    if text.startswith(
        (b"{", b"[", b"access to model", b"invalid ", b"entry not found", b"not found", b"unauthorized")
    ):
        return "this is a message or JSON in place of the weights: download the file itself, signed in if it is gated"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "this is HDF5; the published sl_model.h5 is none in spite of its name: download that"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")):
        return "this is a compressed file: unpack it first"
    if head.startswith((b"-----BEGIN PGP", b"Salted__", b"age-encryption.org", b"\x85\x02", b"\x85\x01")):
        return "this file is encrypted: decrypt it first"
    if head[257:262] == b"ustar":
        return "this is a tar archive: unpack it first (PyTorch before 0.2 wrote such, no version since 2017 does)"
    if not head.strip(b"\0"):
        return "this file holds zeros: its download was cut off"
    return "this is no file of weights: give what torch.save or torch.jit.save wrote, or safetensors"


def _zip(file: BinaryIO, limits: ImportLimits) -> Archive:
    try:
        with zipfile.ZipFile(file) as archive:
            found = archive.infolist()
    except (zipfile.BadZipFile, struct.error, ValueError, OverflowError, NotImplementedError) as e:
        raise WeightsError(f"the archive is cut off or damaged ({short(e)}): download it again") from None
    entries = _entries(found, _length(file), limits)
    roots = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise WeightsError(
            f"a zip archive with {len(roots)} data.pkl; PyTorch's has one: unpack it if the weights are inside"
        )
    prefix = roots[0].removesuffix("data.pkl")
    if (order := entries.get(f"{prefix}byteorder")) is not None and _stored(file, order) != b"little":
        raise WeightsError("the file was written on a big-endian machine: save it again on another")
    if entries[roots[0]].file_size > limits.pickle_bytes:
        raise WeightsError(f"its data.pkl has {entries[roots[0]].file_size} bytes, more than {limits.pickle_bytes}")

    def bytes_of(storage: StorageRef) -> bytes:
        entry = entries.get(f"{prefix}data/{storage.key}")
        if entry is None:
            raise WeightsError(f"storage {storage.key!r} is not in the archive: the file is damaged")
        if entry.file_size > limits.storage_bytes:
            raise WeightsError(f"storage {storage.key!r} has {entry.file_size} bytes, more than {limits.storage_bytes}")
        return _stored(file, entry)

    script = any(name.startswith(f"{prefix}code/") for name in entries)
    root = unpickle(io.BytesIO(_stored(file, entries[roots[0]])), storage_of, limits)
    return Archive("TorchScript archive" if script else "torch.save", root, bytes_of)


def _entries(found: list[zipfile.ZipInfo], length: int, limits: ImportLimits) -> Mapping[str, zipfile.ZipInfo]:
    """The entries by name. What PyTorch never writes is refused: it would be there to deceive."""
    if len(found) > limits.names:
        raise WeightsError(f"the archive has {len(found)} entries, more than {limits.names}")
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in found:
        name = entry.filename
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or ":" in name.split("/")[0]:
            raise WeightsError(f"the archive has an entry {name[:100]!r} that points out of it: do not trust it")
        if name in entries:
            raise WeightsError(f"the archive has two entries {name[:100]!r}: do not trust it")
        if entry.flag_bits & _ENCRYPTED:
            raise WeightsError("the archive is encrypted: unpack it with its password, and save it again")
        entries[name] = entry
    if (total := sum(e.file_size for e in found if e.compress_type == _STORED)) > length:
        raise WeightsError(f"the archive's entries claim {total} bytes, but the file has {length}: do not trust it")
    return entries


def _stored(file: BinaryIO, entry: zipfile.ZipInfo) -> bytes:
    """An entry's bytes. PyTorch compresses none but TorchScript's code, which is not read."""
    if entry.compress_type != _STORED or entry.compress_size != entry.file_size:
        raise WeightsError(f"entry {entry.filename[:100]!r} is compressed, which PyTorch's never is: do not trust it")
    local = _at(file, entry.header_offset, 30) if entry.header_offset >= 0 else b""
    if len(local) < 30 or local[:4] != b"PK\x03\x04":
        raise WeightsError(f"entry {entry.filename[:100]!r} is not where the archive says: the file is damaged")
    name, extra = struct.unpack("<HH", local[26:30])
    raw = _at(file, entry.header_offset + 30 + name + extra, entry.file_size)
    if len(raw) != entry.file_size:
        raise WeightsError(f"entry {entry.filename[:100]!r} goes beyond the file's end: download it again")
    if entry.CRC and zlib.crc32(raw) != entry.CRC:  # PyTorch can be told to write none; then it is 0
        raise WeightsError(f"entry {entry.filename[:100]!r} is damaged (its checksum is another): download it again")
    return raw


def _legacy(file: BinaryIO, limits: ImportLimits) -> Archive:
    """Magic number, version, machine, the object, the storages' keys: five pickles; then count and bytes of each."""
    storages: dict[str, StorageRef] = {}

    def persistent(identity: Any) -> StorageRef | Name:
        storage = storage_of(identity)
        if isinstance(storage, StorageRef) and storages.setdefault(storage.key, storage) != storage:
            raise WeightsError(f"storage {storage.key!r} is of two kinds: the file is damaged")
        return storage

    length = _length(file)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if unpickle(content, _none, limits) != LEGACY_MAGIC:
            raise WeightsError("this is a pickle that torch.save did not write: save the state dict with torch.save")
        version, machine = unpickle(content, _none, limits), unpickle(content, _none, limits)
        if version != 1001 or not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise WeightsError("the file was written by a version or on a machine that is not read: save it again")
        root = unpickle(content, persistent, limits)
        keys = unpickle(content, _none, limits)
        at = content.tell()
    if not isinstance(keys, list) or len(keys) > limits.names or not all(isinstance(key, str) for key in keys):
        raise WeightsError("the list of its storages is damaged")
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        if (storage := storages.get(key)) is None or key in places:
            raise WeightsError(f"the list of its storages names {key[:40]!r}, which no tensor has, or twice")
        size = storage.count * storage.dtype.itemsize
        head = _at(file, at, 8)
        if len(head) < 8 or at + 8 + size > length:
            raise WeightsError("the file is cut off: download it again")
        if struct.unpack("<q", head)[0] != storage.count:
            raise WeightsError(f"storage {key[:40]!r} has another length than the pickle says: the file is damaged")
        places[key] = (at + 8, size)
        at += 8 + size

    def bytes_of(storage: StorageRef) -> bytes:
        if storage.key not in places:
            raise WeightsError(f"storage {storage.key!r} is not in the file: it is damaged")
        first, size = places[storage.key]
        if size > limits.storage_bytes:
            raise WeightsError(f"storage {storage.key!r} has {size} bytes, more than {limits.storage_bytes}")
        return _at(file, first, size)

    return Archive("torch.save before PyTorch 1.6", root, bytes_of)


def _length(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _is_safetensors(head: bytes, length: int) -> bool:
    return len(head) > 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < min(length, 2**28)


def _safetensors(path: Path) -> Archive:
    root = {}
    try:
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (it is no dict)
                kind, shape = file.get_slice(name).get_dtype(), tuple(file.get_slice(name).get_shape())
                if kind not in SAFE_TYPES:
                    raise WeightsError(f"{short(name)} has the type {kind}, which no network here has")
                storage = StorageRef(name, SAFE_TYPES[kind], prod(shape))
                stride = tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
                root[name] = TensorRef(storage, 0, shape, stride, storage.dtype)
    except SafetensorError as e:
        raise WeightsError(f"the safetensors file is cut off or damaged ({short(e)}): download it again") from None

    def bytes_of(storage: StorageRef) -> bytes:
        with safe_open(str(path), framework="pt") as file:
            tensor: Tensor = file.get_tensor(storage.key)
        return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()

    return Archive("safetensors", root, bytes_of)


def _none(_identity: Any) -> Any:
    raise WeightsError("the file refers to a storage where it has none: it is damaged")

"""The engine bundle on disk: a folder that is believed only after every byte of it has been checked.

`open_bundle` checks the manifest and the size and SHA-256 of every file that it names, and reads the golden windows.
`Bundle.read` checks again while reading: the bytes that an engine gets are the bytes that were checked, whatever
happened to the folder in between. Files that the manifest does not name are never opened. Nothing is unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydantic import ValidationError

from agent.core.ecg import LEADS, FloatArray
from agent.core.manifest import FileEntry, Manifest

MANIFEST = "manifest.json"
MAX_MANIFEST = 4 << 20
"""Bytes: 77 labels with evidence and rules take about 60 kB."""
MAX_FILE = 4 << 30
"""Bytes: the largest network known (DeepECG-SSL, 90 M parameters) takes 0.4 GB in float32."""
MAX_GOLDEN = 64 << 20
"""Bytes per golden array: 500 windows of 12 x 2500."""

_CHUNK = 1 << 20


class BundleError(Exception):
    """The bundle cannot be used; one sentence that says why and how to mend it."""


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A checked bundle."""

    path: Path
    manifest: Manifest
    golden_windows: FloatArray
    """(k, 12, rate * seconds) in mV at the network's rate, unfiltered; read-only."""
    golden_probabilities: FloatArray
    """(k, n_labels), what fp32 torch makes of them; read-only."""

    def read(self, name: str) -> bytes:
        """The content of one of the manifest's files, checked against its size and checksum while it is read.

        Raises:
            BundleError: the file is not in the manifest, or is no longer what it was when the bundle was opened.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(
                f"{name!r} is not among the manifest's files; add it with its checksum or correct the name."
            )
        return _read_checked(self.path, name, entry)


def default_bundle() -> Path:
    """The demonstration bundle that comes with the package."""
    return Path(__file__).resolve().parent.parent / "bundles" / "deepecg-sl-demo"


def open_bundle(path: Path, *, max_file: int = MAX_FILE) -> Bundle:
    """Open and check the bundle in the folder ``path``.

    ``path`` itself may be a symbolic link (a hospital's ``current`` bundle often is one); nothing inside it may be.

    Raises:
        BundleError: anything at all is wrong with it.
    """
    try:
        folder = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links, before Python 3.13
        raise BundleError(f"there is no bundle at {path}; name the folder that holds its {MANIFEST}.") from error
    if not folder.is_dir():
        raise BundleError(f"{path} is not a folder; name the folder that holds {MANIFEST}, not a file.")
    manifest = _manifest(folder)
    for name, entry in manifest.files.items():
        if entry.size > max_file:
            raise BundleError(
                f"{name} claims {entry.size} bytes, more than the limit of {max_file}; use another bundle."
            )
        _check(folder, name, entry)
    p = manifest.input.preprocessing
    windows = _golden(folder, manifest, manifest.golden.windows, (len(LEADS), round(p.rate * p.seconds)))
    probabilities = _golden(folder, manifest, manifest.golden.probabilities, (len(manifest.labels),))
    if len(windows) != len(probabilities):
        raise BundleError(
            f"the bundle has {len(windows)} golden windows but {len(probabilities)} golden answers; compile it again."
        )
    if probabilities.min() < 0.0 or probabilities.max() > 1.0:
        raise BundleError("the golden answers are not probabilities between 0 and 1; compile the bundle again.")
    return Bundle(folder, manifest, windows, probabilities)


def _manifest(folder: Path) -> Manifest:
    with _open(folder, MANIFEST) as file:
        text = file.read(MAX_MANIFEST + 1)
    if len(text) > MAX_MANIFEST:
        raise BundleError(f"{MANIFEST} is larger than {MAX_MANIFEST} bytes; this is no manifest of ours.")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise BundleError(
            f"{MANIFEST}{f', key {where}' if where else ''}: {first['msg']}{more}; "
            "copy the bundle again whole, or use one made for this version of the agent."
        ) from error


@contextmanager
def _open(folder: Path, name: str) -> Iterator[BinaryIO]:
    """A regular file of the folder, never through a link, never a device or a pipe (opening one could block)."""
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise BundleError(
                f"{name} is a symbolic link; a bundle holds plain files only: copy the file itself."
            ) from error
        if error.errno == errno.ENOENT:
            raise BundleError(
                f"{name} is missing from the bundle {folder.name}; copy the bundle again whole."
            ) from error
        raise BundleError(
            f"{name} cannot be opened ({error.strerror}); make it readable for the agent's user."
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{name} is not a plain file; copy the bundle again whole.")
    with os.fdopen(descriptor, "rb") as file:
        yield file


def _check(folder: Path, name: str, entry: FileEntry) -> None:
    with _open(folder, name) as file:
        _check_size(file, name, entry)
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    _check_digest(digest.hexdigest(), name, entry)


def _read_checked(folder: Path, name: str, entry: FileEntry) -> bytes:
    with _open(folder, name) as file:
        _check_size(file, name, entry)
        content = file.read(entry.size)
    _check_digest(hashlib.sha256(content).hexdigest(), name, entry)
    return content


def _check_size(file: BinaryIO, name: str, entry: FileEntry) -> None:
    size = os.fstat(file.fileno()).st_size
    if size != entry.size:
        raise BundleError(f"{name} has {size} bytes instead of {entry.size}; copy the bundle again whole.")


def _check_digest(found: str, name: str, entry: FileEntry) -> None:
    if found != entry.sha256:
        raise BundleError(
            f"{name} does not have the manifest's checksum; the file is damaged or was changed: copy it again."
        )


def _golden(folder: Path, manifest: Manifest, name: str, tail: tuple[int, ...]) -> FloatArray:
    """A golden array (k, *tail). The header is checked before anything is allocated by its word."""
    entry = manifest.files[name]
    if entry.size > MAX_GOLDEN:
        raise BundleError(f"{name} claims {entry.size} bytes, more than {MAX_GOLDEN}; keep fewer golden windows.")
    content = _read_checked(folder, name, entry)
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran_order, dtype = read_header(file)
    except (ValueError, KeyError) as error:
        raise BundleError(f"{name} is not a NumPy .npy file; compile the bundle again.") from error
    if dtype != np.dtype("<f4") or fortran_order or len(shape) != 1 + len(tail) or shape[1:] != tail or shape[0] < 1:
        wanted = ", ".join(("k", *map(str, tail)))
        raise BundleError(f"{name} holds {dtype} {shape} instead of float32 ({wanted}); compile the bundle again.")
    if len(content) - file.tell() != 4 * int(np.prod(shape, dtype=object)):
        raise BundleError(f"{name} holds more or fewer values than its header says; compile the bundle again.")
    array = np.frombuffer(content, dtype="<f4", offset=file.tell()).reshape(shape)
    if not np.isfinite(array).all():
        raise BundleError(f"{name} holds values that are not finite; compile the bundle again.")
    return array

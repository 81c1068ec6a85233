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

from agent.core.bundle.manifest import FileEntry, Manifest
from agent.core.bundle.strict_json import parse
from agent.core.ecg import LEADS, FloatArray
from agent.core.errors import DeepECGError
from agent.engines.bundles.signing import MAX_SIGNATURE, SigningError, Trust, load_public_key

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
MAX_MANIFEST = 4 << 20
"""Bytes: 77 labels with evidence and rules take about 60 kB."""
MAX_FILE = 4 << 30
"""Bytes: the largest network known (DeepECG-SSL, 90 M parameters) takes 0.4 GB in float32."""
MAX_BUNDLE = 16 << 30
"""Bytes of all its files."""
MAX_GOLDEN = 64 << 20
"""Bytes per golden array: 500 windows of 12 x 2500."""
PACKAGE = Path(__file__).resolve().parents[2] / "bundles"
"""What comes with the package: the demonstration bundle, and the public half of the key that signed it."""
PACKAGE_ONLY = Trust()
"""Nobody's bundles but the one that comes with the package."""
UNSIGNED = Trust(require_signature=False)
"""For who has just written the bundle: everything is checked but whose it is."""

_CHUNK = 1 << 20


class BundleError(DeepECGError, ValueError):
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
    sha256: str
    """Of the manifest's bytes: the bundle's identity, as everything in it follows from them."""
    signer: str
    """Id of the key that signed it; empty: none that is trusted did, and none is required."""
    warning: str
    """Why it would have been refused if a signature were required; empty: it would not."""

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
        return read_checked(self.path, name, entry)


def default_bundle() -> Path:
    """The demonstration bundle that comes with the package."""
    return PACKAGE / "deepecg-sl-demo"


@dataclass(frozen=True, slots=True)
class Signed:
    """A manifest, and whose it is; no other file has been looked at."""

    path: Path
    manifest: Manifest
    sha256: str
    signer: str
    warning: str


def open_bundle(path: Path, trust: Trust = PACKAGE_ONLY, *, max_file: int = MAX_FILE) -> Bundle:
    """Open and check the bundle in the folder ``path``.

    ``path`` itself may be a symbolic link (a hospital's ``current`` bundle often is one); nothing inside it may be.
    By default only the bundle that comes with the package is trusted.

    Raises:
        BundleError: anything at all is wrong with it.
    """
    signed = open_manifest(path, trust)
    folder, manifest = signed.path, signed.manifest
    for name, entry in manifest.files.items():
        if entry.size > max_file:
            raise BundleError(
                f"{name} claims {entry.size} bytes, more than the limit of {max_file}; use another bundle."
            )
    if (total := sum(entry.size for entry in manifest.files.values())) > MAX_BUNDLE:
        raise BundleError(f"its files claim {total} bytes, more than the limit of {MAX_BUNDLE}; use another bundle.")
    for name, entry in manifest.files.items():
        check_file(folder, name, entry)
    p = manifest.input.preprocessing
    windows = _golden(folder, manifest, manifest.golden.windows, (len(LEADS), round(p.rate * p.seconds)))
    probabilities = _golden(folder, manifest, manifest.golden.probabilities, (len(manifest.labels),))
    if len(windows) != len(probabilities):
        raise BundleError(
            f"the bundle has {len(windows)} golden windows but {len(probabilities)} golden answers; compile it again."
        )
    of_findings = probabilities[:, [label.quantity is None for label in manifest.labels]]
    if of_findings.min(initial=0.0) < 0.0 or of_findings.max(initial=1.0) > 1.0:
        raise BundleError("the golden answers are not probabilities between 0 and 1; compile the bundle again.")
    return Bundle(folder, manifest, windows, probabilities, signed.sha256, signed.signer, signed.warning)


def open_manifest(path: Path, trust: Trust = PACKAGE_ONLY) -> Signed:
    """The manifest of the bundle in the folder ``path``, once its signature is known to be good.

    Raises:
        BundleError: anything at all is wrong with either.
    """
    try:
        folder = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links, before Python 3.13
        raise BundleError(f"there is no bundle at {path}; name the folder that holds its {MANIFEST}.") from error
    if not folder.is_dir():
        raise BundleError(f"{path} is not a folder; name the folder that holds {MANIFEST}, not a file.")
    content = read_small(folder, MANIFEST, MAX_MANIFEST)
    signature = read_small(folder, SIGNATURE, MAX_SIGNATURE) if _there(folder / SIGNATURE) else None
    try:
        if folder.is_relative_to(PACKAGE):
            # Each release signs its demonstration with a key of its own, which speaks for this folder only.
            trust = trust.trusting(load_public_key(PACKAGE / "demo.pem"))
        found = trust.check(content, signature, f"bundle {folder.name}")
    except SigningError as error:
        raise BundleError(str(error)) from error
    try:
        manifest = parse(Manifest, content)
    except ValueError as error:
        raise BundleError(
            f"{MANIFEST}: {error}; copy the bundle again whole, or use one made for this version of the agent."
        ) from error
    return Signed(folder, manifest, hashlib.sha256(content).hexdigest(), found.signer, found.warning)


def _there(path: Path) -> bool:
    return os.path.lexists(path)


def read_small(folder: Path, name: str, most: int) -> bytes:
    """A file that has no checksum of its own, of at most so many bytes.

    Raises:
        BundleError: it is missing, no plain file, or larger.
    """
    with _open(folder, name) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise BundleError(f"{name} is larger than {most} bytes; this is none of ours: copy it again.")
    return content


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
        if error.errno in {errno.ENXIO, errno.ENODEV}:  # a socket, or a device without a driver
            raise BundleError(f"{name} is not a plain file; copy the bundle again whole.") from error
        raise BundleError(
            f"{name} cannot be opened ({error.strerror}); make it readable for the agent's user."
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{name} is not a plain file; copy the bundle again whole.")
    with os.fdopen(descriptor, "rb") as file:
        yield file


def check_file(folder: Path, name: str, entry: FileEntry, copy: BinaryIO | None = None) -> None:
    """Hold a file against its size and checksum, and write what was checked to ``copy`` if there is one.

    Raises:
        BundleError: it is missing, no plain file, or not the manifest's.
    """
    with _open(folder, name) as file:
        _check_size(file, name, entry)
        digest = hashlib.sha256()
        left = entry.size
        while chunk := file.read(min(_CHUNK, left)):  # no further than it was when it was measured
            left -= len(chunk)
            digest.update(chunk)
            if copy is not None:
                copy.write(chunk)
        _check_size(file, name, entry)
    _check_digest(digest.hexdigest(), name, entry)


def read_checked(folder: Path, name: str, entry: FileEntry) -> bytes:
    """The content of a file, held against its size and checksum.

    Raises:
        BundleError: as `check_file`.
    """
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
    content = read_checked(folder, name, entry)
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

"""A bundle out of a .tar or .tar.gz file, which may come from anywhere: it gives plain files, side by side, or nothing.

The library's own extraction is not used: a bundle needs none of what an archive can do (links, devices, owners, modes,
sparse files, paths), so each is refused by name instead of being made harmless. Every number in the archive is a claim:
what is read is bounded by limits of ours.
"""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from agent.core.bundle.manifest import MAX_FILES, plain_name
from agent.engines.bundles.bundle import MAX_BUNDLE, MAX_FILE, BundleError

_MEMBERS = MAX_FILES + 16
"""Files and their one folder, with some that the manifest does not name."""
_CHUNK = 16 << 10
"""Bytes read at once. The library reads a member's extended header whole, however long it says that it is; no longer
one is let through, which also bounds what its regular expressions can be made to do."""
_OVERHEAD = 8 << 20
"""Bytes of headers and padding beyond the files' own."""


def unpack(archive: Path, folder: Path, *, max_file: int = MAX_FILE, max_bundle: int = MAX_BUNDLE) -> Path:
    """Write the plain files of an archive into ``folder``, which is there and empty; the folder that holds them.

    The files stand at the archive's top, or in one folder there. A bundle is not opened by this: it still is to be
    checked whole.

    Raises:
        BundleError: it is no archive, or holds what no bundle does.
    """
    with _plain(archive) as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            return _extract(file, archive, folder, max_file, max_bundle)
        tar = folder / ".tar"  # no bundle's file has such a name
        try:
            with tar.open("xb") as out:
                _decompress(file, out, archive, max_bundle + _OVERHEAD)
            with tar.open("rb") as plain:
                return _extract(plain, archive, folder, max_file, max_bundle)
        finally:
            tar.unlink(missing_ok=True)


@contextmanager
def _plain(path: Path) -> Iterator[BinaryIO]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BundleError(
            f"{path} cannot be opened ({error.strerror}); name a bundle's folder or a .tar or .tar.gz file of it."
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{path} is neither a folder nor a plain file; name a bundle's folder or its archive.")
    with os.fdopen(descriptor, "rb") as file:
        yield file


def _decompress(file: BinaryIO, out: BinaryIO, archive: Path, most: int) -> None:
    left = most
    try:
        with gzip.GzipFile(fileobj=file) as unzipped:
            while chunk := unzipped.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise BundleError(f"{archive} unpacks to more than {most} bytes; this is no bundle of ours.")
                out.write(chunk)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BundleError(f"{archive} is damaged ({error}); copy it again whole.") from error


class _Bounded:
    """A file of which nobody reads much at once, whatever length an archive's header claims."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _CHUNK:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _extract(file: BinaryIO, archive: Path, folder: Path, max_file: int, max_bundle: int) -> Path:
    tops: set[str] = set()
    names: set[str] = set()
    left = max_bundle
    try:
        # "r:" seeks over what it does not read, so that a member's claimed size costs nothing.
        with tarfile.open(fileobj=_Bounded(file), mode="r:", encoding="utf-8", errors="strict") as tar:  # type: ignore[call-overload]
            for number, member in enumerate(tar):
                if number >= _MEMBERS:
                    raise BundleError(f"{archive} holds more than {_MEMBERS} files; this is no bundle of ours.")
                parts = _parts(member, archive)
                if member.isdir():
                    tops.update(parts)
                    continue
                *top, name = parts
                tops.add(top[0] if top else "")
                if name.lower() in names:
                    raise BundleError(f"{archive} holds {name} twice; pack the bundle again.")
                names.add(name.lower())
                left -= member.size
                if not 0 <= member.size <= max_file or left < 0:
                    raise BundleError(f"{archive} claims a file {name} of {member.size} bytes; that is over the limit.")
                source = tar.extractfile(member)
                if source is None:
                    raise BundleError(f"{archive}: {name} is not a plain file; pack the bundle again.")
                with (folder / name).open("xb") as out:
                    while chunk := source.read(_CHUNK):
                        out.write(chunk)
    except BundleError:
        raise
    except (tarfile.TarError, ValueError, EOFError, RecursionError, OverflowError) as error:
        raise BundleError(f"{archive} is no whole tar file ({_one_line(error)}); copy it again whole.") from error
    if len(tops) > 1:
        raise BundleError(f"{archive} holds more than one folder; pack one bundle, and nothing beside it.")
    return folder


def _parts(member: tarfile.TarInfo, archive: Path) -> list[str]:
    """The path of a plain file or folder: at most one folder, and a name.

    Raises:
        BundleError: it is another kind of member, or its path leads elsewhere.
    """
    shown = member.name[:80]
    if member.issparse() or not (member.isdir() or member.isreg()):
        raise BundleError(f"{archive}: {shown!r} is a link, device or sparse file; pack plain files only.")
    parts = list(PurePosixPath(member.name).parts)
    if member.name.startswith("/") or ".." in parts:
        raise BundleError(f"{archive}: {shown!r} leads out of the archive; pack the bundle's folder itself.")
    if len(parts) > (1 if member.isdir() else 2) or (not parts and not member.isdir()):
        raise BundleError(f"{archive}: {shown!r} is in a sub-folder; a bundle has none: pack the bundle's own folder.")
    if not all(map(plain_name, parts)):
        raise BundleError(f"{archive}: {shown!r} is not a plain file name; pack the bundle's own files only.")
    return parts


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__

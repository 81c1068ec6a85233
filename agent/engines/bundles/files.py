"""Changing the state directory so that a crash or a second process never leaves half of anything."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.engines.bundles.bundle import BundleError

LOCK = "state.lock"
"""In the state directory: whoever changes bundles or engines holds it."""
_PATIENCE = 30.0
"""Seconds that a second process waits for the first: a large bundle takes some to copy."""


def owned(folder: Path) -> None:
    """See to it that what a command writes into the state directory will be the agent's own.

    Raises:
        BundleError: it is another user's: root's files in it would lock the agent out.
    """
    try:
        owner = folder.stat().st_uid
    except OSError:  # not there yet, or what `locked` will find
        return
    if owner != os.geteuid():
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = f"#{owner}"
        raise BundleError(f"the state directory {folder} belongs to {name}; run this as that user: sudo -u {name} …")


@contextmanager
def locked(state_dir: Path, patience: float = _PATIENCE) -> Iterator[None]:
    """Hold the state directory's lock, which the kernel gives back when the process ends, however it ends.

    Raises:
        BundleError: the directory cannot be used, or another process holds it for longer than ``patience`` seconds.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(state_dir / LOCK, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise BundleError(
            f"the state directory {state_dir} cannot be used ({error.strerror}); name another by --state or "
            "agent.state_dir, or run this as the agent's user."
        ) from error
    try:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise BundleError(
                        f"another process has been changing {state_dir} for {patience:g} s; try again later."
                    ) from error
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, down to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file, under the lock: whoever reads it, and whatever is found after a crash, is the old or the new."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)  # of a crash
    write_new(new, content)
    new.replace(path)
    fsync_folder(path.parent)


@contextmanager
def incoming(folder: Path) -> Iterator[Path]:
    """A fresh place in ``folder`` to prepare in, under the lock; gone afterwards, and so is what a crash left."""
    folder.mkdir(mode=0o755, exist_ok=True)
    place = folder / ".incoming"
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(mode=0o700)
    try:
        yield place
    finally:
        shutil.rmtree(place)


def exchange(new: Path, place: Path, old: Path) -> None:
    """Move a folder into its place; one that is there goes to ``old``."""
    if os.path.lexists(place):
        place.rename(old)
    new.rename(place)
    fsync_folder(place.parent)


def fsync_folder(folder: Path) -> None:
    """What was created or renamed in a folder is on the disk once the folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

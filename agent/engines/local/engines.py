"""Engines that this machine compiled for itself from an installed bundle, signed by this machine's own key.

    <state_dir>/machine.key                       made on first use, mode 0600; it never leaves the machine
    <state_dir>/engines/<flavour>-<precision>-<8 of the bundle>-<8 of its own manifest>/
        derived.json  derived.sig                 `agent.core.bundle.derived.Derived`, and the key's signature of its
        bytes engine files

The publisher's key says that a bundle's weights and words are right; it is not on the ward and cannot sign what is
compiled there. The machine's key says only: this machine compiled this, from that bundle. So it is trusted for derived
engines of this machine and for nothing else, and labels, thresholds and golden windows still come from the bundle.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agent import __version__
from agent.core.bundle.derived import Derived, Machine
from agent.core.bundle.manifest import Engine, FileEntry
from agent.core.bundle.strict_json import parse
from agent.engines.bundles.bundle import MAX_FILE, MAX_MANIFEST, Bundle, BundleError, check_file, read_small
from agent.engines.bundles.files import exchange, fsync_folder, incoming, locked, owned, write_new
from agent.engines.bundles.signing import (
    DERIVED,
    MAX_SIGNATURE,
    SigningError,
    load_private_key,
    sign,
    verify,
    write_private_key,
)

log = structlog.get_logger()

ENGINES, KEY = "engines", "machine.key"
MANIFEST, SIGNATURE = "derived.json", "derived.sig"


@dataclass(frozen=True, slots=True)
class DerivedEngine:
    """A derived engine that fits: its signature, parent, machine and every file are checked."""

    path: Path
    derived: Derived

    def bundle(self, parent: Bundle) -> Bundle:
        """The parent bundle with this engine in place of its own: what a back-end opens.

        Raises:
            BundleError: it is not the parent, or the engine does not pass the parent's gate.
        """
        if parent.sha256 != self.derived.parent:
            raise BundleError(f"engine {self.path.name} was compiled from another bundle; rebuild it from this one.")
        _pass_gate(parent, self.derived.engine)
        changes = {"engines": (self.derived.engine,), "files": self.derived.files}
        return replace(parent, path=self.path, manifest=parent.manifest.model_copy(update=changes))


def _pass_gate(parent: Bundle, engine: Engine) -> None:
    """A machine may compile what its publisher allows: the limits are in the publisher's manifest."""
    if broken := parent.manifest.limits.broken_by(engine.parity):
        raise BundleError(
            f"the {engine.flavour} {engine.precision} engine fails the gate of {parent.manifest.model_id}: {broken}; "
            "another precision may pass it."
        )


def machine_key(state_dir: Path) -> Ed25519PrivateKey:
    """This machine's key, made now if there is none.

    Raises:
        BundleError: it is there but cannot be used, or cannot be made.
    """
    path = state_dir / KEY
    try:
        if not path.exists():
            with locked(state_dir):
                if not path.exists():  # still
                    new = path.with_name(f".{KEY}.new")
                    new.unlink(missing_ok=True)  # of a crash
                    write_private_key(new, Ed25519PrivateKey.generate())
                    new.rename(path)
                    fsync_folder(state_dir)
        return load_private_key(path)
    except (SigningError, OSError) as error:
        raise BundleError(
            f"this machine's key cannot be used: {error}; or delete it and rebuild: deepecg-agent rebuild."
        ) from error


def write_derived(
    state_dir: Path, parent: Bundle, engine: Engine, machine: Machine, files: Mapping[str, bytes]
) -> DerivedEngine:
    """Sign and keep an engine that was compiled here from ``parent``, with its parity on the golden windows.

    ``files``: content by name, as ``engine.files`` names them. Other engines stay: which one is served is the store's
    affair.

    Raises:
        BundleError: the engine does not pass the bundle's gate, or the state directory cannot be written.
        ValueError: ``engine`` names a file that is not in ``files``, or has no parity.
    """
    _pass_gate(parent, engine)
    owned(state_dir)
    key = machine_key(state_dir)
    derived = Derived(
        parent=parent.sha256,
        engine=engine,
        machine=machine,
        builder=__version__,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        files={n: FileEntry(sha256=hashlib.sha256(c).hexdigest(), size=len(c)) for n, c in sorted(files.items())},
    )
    content = derived.model_dump_json(indent=1).encode("utf-8") + b"\n"
    name = f"{engine.flavour}-{engine.precision}-{parent.sha256[:8]}-{hashlib.sha256(content).hexdigest()[:8]}"
    place = state_dir / ENGINES / name
    try:
        with locked(state_dir), incoming(place.parent) as folder:
            new = folder / name
            new.mkdir(mode=0o755)
            for file, bytes_ in {**files, MANIFEST: content, SIGNATURE: sign(content, key, DERIVED)}.items():
                write_new(new / file, bytes_)
            fsync_folder(new)
            exchange(new, place, folder / "old")
    except OSError as error:
        raise BundleError(f"the engine cannot be kept in {state_dir} ({error.strerror}); make room there.") from error
    return open_derived(place, parent.sha256, machine, key.public_key())


def read_derived(state_dir: Path, parent_sha256: str, machine: Machine) -> list[DerivedEngine]:
    """The derived engines of a bundle that may be used on this machine, newest first.

    What may not be is logged with the sentence that says why; engines of other bundles are passed over.
    """
    engines = state_dir / ENGINES
    if not (state_dir / KEY).exists() or not engines.is_dir():
        return []
    try:
        public = machine_key(state_dir).public_key()
    except BundleError as error:
        log.warning("derived_engines_refused", reason=str(error))
        return []
    found: list[DerivedEngine] = []
    for folder in sorted(path for path in engines.iterdir() if not path.name.startswith(".")):
        try:
            found.append(open_derived(folder, parent_sha256, machine, public))
        except OtherParentError:
            continue
        except BundleError as error:
            log.warning("derived_engine_refused", engine=folder.name, reason=str(error))
    return sorted(found, key=lambda engine: engine.derived.created, reverse=True)


def remove_derived(state_dir: Path, name: str) -> None:
    """Delete an engine that nothing needs any more.

    Raises:
        BundleError: the state directory cannot be changed.
    """
    try:
        with locked(state_dir), incoming(state_dir / ENGINES) as folder:
            (state_dir / ENGINES / name).rename(folder / name)  # gone at once; then its files, however long that takes
    except OSError as error:
        raise BundleError(f"engine {name} cannot be deleted ({error.strerror}); delete it by hand.") from error


class OtherParentError(BundleError):
    """The engine is of another bundle: no fault, after an update, but not to be used with this one."""


def open_derived(folder: Path, parent_sha256: str, machine: Machine, public: Ed25519PublicKey) -> DerivedEngine:
    """Check a derived engine whole.

    Raises:
        OtherParentError: it was compiled from another bundle.
        BundleError: it is unsigned, altered, of another machine, or not whole.
    """
    what = f"engine {folder.name}"
    if folder.is_symlink() or not folder.is_dir():
        raise BundleError(f"{what} is not a folder; delete it and rebuild: deepecg-agent rebuild.")
    content = read_small(folder, MANIFEST, MAX_MANIFEST)
    if not os.path.lexists(folder / SIGNATURE):
        raise BundleError(f"{what} is not signed by this machine; delete it and rebuild: deepecg-agent rebuild.")
    signature = read_small(folder, SIGNATURE, MAX_SIGNATURE)
    try:
        verify(content, signature, public, DERIVED, what)
        derived = parse(Derived, content)
    except SigningError as error:
        raise BundleError(str(error)) from error
    except ValueError as error:
        raise BundleError(f"{what}: {error}; rebuild it: deepecg-agent rebuild.") from error
    if derived.parent != parent_sha256:
        raise OtherParentError(f"{what} was compiled from another bundle; rebuild it: deepecg-agent rebuild.")
    if reason := machine.differs(derived.machine, derived.engine):
        raise BundleError(f"{what} was compiled on another machine: {reason}; rebuild it: deepecg-agent rebuild.")
    for name, entry in derived.files.items():
        if entry.size > MAX_FILE:
            raise BundleError(f"{name} claims {entry.size} bytes, more than the limit of {MAX_FILE}; rebuild it.")
        check_file(folder, name, entry)
    return DerivedEngine(folder, derived)

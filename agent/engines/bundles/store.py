"""The bundles that are installed on this machine, and which of them is served.

    <state_dir>/bundles/<name>/<version>-<8 of the manifest's SHA-256>/    each bundle whole, never changed in place
    <state_dir>/bundles.json                                              `State`: which is served, and how it came so

Every change is made under one lock, beside what is there, and moved into place. The daemon only reads, but for the
highest version that it has served, by which an older bundle is recognised when somebody offers it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from os import fsync
from os.path import lexists
from pathlib import Path
from typing import Literal

import structlog
from packaging.version import Version
from pydantic import BaseModel, ConfigDict, Field

from agent.core.bundle.manifest import Sha256
from agent.core.bundle.manifest import Version as ManifestVersion
from agent.core.bundle.strict_json import parse
from agent.engines.bundles.archive import unpack
from agent.engines.bundles.bundle import (
    MANIFEST,
    MAX_MANIFEST,
    PACKAGE,
    SIGNATURE,
    Bundle,
    BundleError,
    Signed,
    check_file,
    default_bundle,
    open_bundle,
    open_manifest,
    read_small,
)
from agent.engines.bundles.files import exchange, fsync_folder, incoming, locked, owned, write_atomic, write_new
from agent.engines.bundles.settings import BundleSettings
from agent.engines.bundles.signing import MAX_SIGNATURE, SigningError, Trust

log = structlog.get_logger()

BUNDLES, STATE = "bundles", "bundles.json"
_MAX_STATE = 1 << 20
_HISTORY = 200
"""Events that are kept, the latest."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Reference(_Strict):
    """An installed bundle, by place and content."""

    key: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*/[0-9a-z.]+-[0-9a-f]{8}$")
    """``name/version-hash8``: its folder."""
    sha256: Sha256
    """Of its manifest."""


class Event(_Strict):
    """Something that was done to the bundles."""

    time: str
    """UTC."""
    action: Literal["install", "activate", "rollback"]
    bundle: str
    """Key of the bundle that it was done to."""
    reason: str


class State(_Strict):
    """The whole of ``bundles.json``."""

    schema_version: Literal[1] = 1
    active: Reference | None = None
    """None: nobody chose; the demonstration bundle is served."""
    previous: Reference | None = None
    """Served before ``active``; None after a rollback, which so never returns to what was rolled back from."""
    highest: dict[str, ManifestVersion] = {}
    """By bundle name: the highest version that was active or served."""
    history: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Installed:
    """An installed bundle as its manifest describes it; its files have not been looked at."""

    key: str
    path: Path
    signed: Signed | None
    """None: it cannot be used."""
    problem: str = ""
    """Why."""


@dataclass(frozen=True, slots=True)
class Store:
    """Bundles of one state directory, under one set of settings."""

    state_dir: Path
    settings: BundleSettings

    # Reading

    def open(self) -> Bundle:
        """The bundle to serve: the configured folder, or the active one, or the demonstration.

        Raises:
            BundleError: it cannot be used, or is older than what was served before.
        """
        state = self.state()
        if self.settings.bundle is not None:
            bundle = open_bundle(self.settings.bundle, self.trust())
            self._refuse_older(bundle, state)
        elif state.active is not None:
            bundle = self._open(state.active)
        else:
            bundle = open_bundle(default_bundle(), self.trust())
        if bundle.warning:
            log.warning("bundle_not_authenticated", model=bundle.manifest.model_id, reason=bundle.warning)
        return bundle

    def state(self) -> State:
        """What ``bundles.json`` says.

        Raises:
            BundleError: it is damaged or cannot be read.
        """
        try:
            (self.state_dir / STATE).lstat()
        except FileNotFoundError:
            return State()
        except OSError as error:
            raise BundleError(
                f"the state directory {self.state_dir} cannot be read ({error.strerror}); run this as the agent's "
                "user, or name another directory by --state or agent.state_dir."
            ) from error
        content = read_small(self.state_dir, STATE, _MAX_STATE)
        try:
            return parse(State, content)
        except ValueError as error:
            raise BundleError(
                f"{self.state_dir / STATE}: {error}; restore it from a backup, or delete it and activate again."
            ) from error

    def installed(self) -> list[Installed]:
        """Every installed bundle, by name and ascending version; those that cannot be used too."""
        folder, found = self.state_dir / BUNDLES, []
        trust = self.trust()
        for path in sorted(folder.glob("[!.]*/[!.]*")):
            key = f"{path.parent.name}/{path.name}"
            try:
                signed = open_manifest(path, trust)
                if _key(signed) != key:
                    raise BundleError(f"{key} holds {_key(signed)}; delete that folder and install the bundle again.")
                found.append(Installed(key, path, signed))
            except BundleError as error:
                found.append(Installed(key, path, None, str(error)))
        return sorted(found, key=_by_version)

    def find(self, selector: str) -> Installed:
        """The installed bundle that is meant by its key, ``name/version``, or its name if there is one version.

        Raises:
            BundleError: none is, or several are.
        """
        known = self.installed()
        fitting = [one for one in known if selector in {one.key, one.key.rpartition("-")[0], one.path.parent.name}]
        if not fitting:
            there = ", ".join(one.key for one in known) or "none"
            raise BundleError(f"no installed bundle is called {selector}; installed: {there}.")
        if len(fitting) > 1:
            raise BundleError(f"{selector} may be {' or '.join(one.key for one in fitting)}; name one of these.")
        return fitting[0]

    def trust(self) -> Trust:
        """Whose bundles are served.

        Raises:
            BundleError: a file of ``engine.trusted_keys`` is no public key.
        """
        try:
            return self.settings.trust()
        except SigningError as error:
            raise BundleError(f"engine.trusted_keys: {error}") from error

    def open_installed(self, selector: str) -> Bundle:
        """The installed bundle that `find` finds, checked whole.

        Raises:
            BundleError: there is none such, or it cannot be used.
        """
        one = self.find(selector)
        if one.problem:
            raise BundleError(one.problem)
        return open_bundle(one.path, self.trust())

    # Changing

    def install(self, source: Path, reason: str = "") -> Bundle:
        """Check a bundle's folder, or a .tar or .tar.gz file of it, and copy it into the store; it is not yet served.

        Raises:
            BundleError: it cannot be used, or is older than what was served before.
        """
        owned(self.state_dir)
        with self._changing(), incoming(self.state_dir / BUNDLES) as place:
            if source.is_dir():
                folder = source
            else:
                folder = place / source.name  # as the sentences call it
                folder.mkdir()
                folder = unpack(source, folder)
            offered = open_bundle(folder, self.trust())
            self._refuse_older(offered, self.state())
            key = _key(offered)
            target = self.state_dir / BUNDLES / key
            if (there := self._there(target)) is not None and there.sha256 != offered.sha256:
                raise BundleError(f"another bundle is installed as {key}; give the new one a version of its own.")
            if there is None:
                new = place / "new" / target.name
                new.parent.mkdir()
                self._copy(offered, new)
                if open_bundle(new, self.trust()).sha256 != offered.sha256:
                    raise BundleError(f"{source} changed while it was installed; install it again.")
                target.parent.mkdir(mode=0o755, exist_ok=True)
                exchange(new, target, place / "old")
            self._save(_noted(self.state(), "install", key, reason))
            return open_bundle(target, self.trust())

    def activate(self, selector: str, reason: str = "") -> Bundle:
        """Serve an installed bundle from the next start on.

        Raises:
            BundleError: there is none such, it cannot be used, or is older than what was served before.
        """
        owned(self.state_dir)
        with self._changing():
            bundle = self.open_installed(selector)
            state = self.state()
            self._refuse_older(bundle, state)
            chosen = Reference(key=_key(bundle), sha256=bundle.sha256)
            if chosen != state.active:
                state = state.model_copy(update={"active": chosen, "previous": state.active})
            self._save(_noted(_seen(state, bundle), "activate", chosen.key, reason))
            return bundle

    def rollback(self, reason: str = "") -> Bundle:
        """Serve again what was active before, whatever its version: it is that very bundle, by its content.

        Raises:
            BundleError: there is none, or it cannot be used any more.
        """
        owned(self.state_dir)
        with self._changing():
            state = self.state()
            if state.previous is None:
                raise BundleError("there is no bundle to roll back to; choose one: deepecg-agent bundle activate.")
            bundle = self._open(state.previous)
            changed = state.model_copy(update={"active": state.previous, "previous": None})
            self._save(_noted(changed, "rollback", state.previous.key, reason))
            return bundle

    def served(self, bundle: Bundle) -> None:
        """Remember that this bundle passed its self-test and is served: no older one of its name is taken any more."""
        if bundle.path.is_relative_to(PACKAGE) or _seen(self.state(), bundle) == self.state():
            return
        self.update(lambda state: _seen(state, bundle))

    def update(self, change: Callable[[State], State]) -> State:
        """Change the state under the lock; what it is then."""
        with self._changing():
            state = change(self.state())
            self._save(state)
            return state

    # How

    def _open(self, reference: Reference) -> Bundle:
        """An installed bundle that was chosen by its content."""
        path = self.state_dir / BUNDLES / reference.key
        bundle = open_bundle(path, self.trust())
        if bundle.sha256 != reference.sha256:
            raise BundleError(f"{path} is not the bundle that was activated; install it again and activate it.")
        return bundle

    def _there(self, path: Path) -> Bundle | None:
        """The bundle in this place, if it is a good one."""
        try:
            return open_bundle(path, self.trust())
        except BundleError:
            return None

    def _refuse_older(self, bundle: Bundle, state: State) -> None:
        """An older bundle may be signed as well as a new one: what is wrong with it was found out after its signing.

        What comes with the package is as old as the package, which its installer chose.
        """
        highest = state.highest.get(bundle.manifest.name)
        if self.settings.allow_downgrade or highest is None or bundle.path.is_relative_to(PACKAGE):
            return
        if Version(bundle.manifest.version) < Version(highest):
            raise BundleError(
                f"{bundle.manifest.model_id} is older than {highest}, which was served here; take a later one, go back "
                "by deepecg-agent bundle rollback, or set engine.allow_downgrade = true."
            )

    def _copy(self, bundle: Bundle, target: Path) -> None:
        """Manifest, signature and the files that the manifest names; what else is in the folder stays there."""
        files = bundle.manifest.files
        size, free = sum(entry.size for entry in files.values()), shutil.disk_usage(self.state_dir).free
        if size > free:
            raise BundleError(
                f"the bundle takes {size >> 20} MB and {self.state_dir} has {free >> 20}; make room there."
            )
        target.mkdir(mode=0o755)
        write_new(target / MANIFEST, read_small(bundle.path, MANIFEST, MAX_MANIFEST))
        if lexists(bundle.path / SIGNATURE):
            write_new(target / SIGNATURE, read_small(bundle.path, SIGNATURE, MAX_SIGNATURE))
        for name, entry in files.items():
            with (target / name).open("xb") as copy:
                check_file(bundle.path, name, entry, copy)
                copy.flush()
                fsync(copy.fileno())
        fsync_folder(target)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            with locked(self.state_dir):
                yield
        except OSError as error:
            raise BundleError(
                f"the bundles in {self.state_dir} cannot be changed ({error.strerror}); make room there, or make it "
                "writable for the agent's user."
            ) from error

    def _save(self, state: State) -> None:
        write_atomic(self.state_dir / STATE, state.model_dump_json(indent=1).encode("utf-8") + b"\n")


def _key(bundle: Bundle | Signed) -> str:
    return f"{bundle.manifest.name}/{bundle.manifest.version}-{bundle.sha256[:8]}"


def _by_version(one: Installed) -> tuple[str, Version, str]:
    name, _, rest = one.key.partition("/")
    version = one.signed.manifest.version if one.signed is not None else "0"
    return name, Version(version), rest


def _noted(state: State, action: Literal["install", "activate", "rollback"], key: str, reason: str) -> State:
    time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    event = Event(time=time, action=action, bundle=key, reason=reason)
    return state.model_copy(update={"history": (*state.history, event)[-_HISTORY:]})


def _seen(state: State, bundle: Bundle) -> State:
    name, version = bundle.manifest.name, bundle.manifest.version
    if (highest := state.highest.get(name)) is not None and Version(highest) >= Version(version):
        return state
    return state.model_copy(update={"highest": {**state.highest, name: version}})

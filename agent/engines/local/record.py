"""What became of the engines that this machine compiled for itself, and what shall be compiled.

    <state_dir>/engines.json       `Record`: which one serves, how each canary did, and what could not be compiled
    <state_dir>/rebuild.request    `Request`: the agent asks for engines; systemd starts `deepecg-agent rebuild` for it

Both are changed under the state directory's lock. A record that cannot be read costs canaries and nothing else: the
bundle's own engines serve, as on the first day.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

import structlog
from pydantic import Field

from agent.core.bundle.derived import Machine
from agent.core.bundle.manifest import Flavour, Precision, Sha256
from agent.core.bundle.strict_json import Strict, parse
from agent.engines.bundles.bundle import Bundle, BundleError, read_small
from agent.engines.bundles.files import locked, write_atomic
from agent.engines.local.engines import ENGINES, KEY, DerivedEngine, machine_key, open_derived, read_derived
from agent.engines.select import Skipped

log = structlog.get_logger()

RECORD, REQUEST = "engines.json", "rebuild.request"
_MOST = 1 << 20
_KEPT = 200
"""Trials and failures that are remembered, the latest."""


class Stage(StrEnum):
    """How far an engine has come."""

    SHADOW = "shadow"  # it computes copies of live windows
    WATCH = "watch"  # it serves, the old one beside it
    KEPT = "kept"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"


class CanaryState(Strict):
    """How an engine does as a canary, or did."""

    stage: Stage
    since: str
    """UTC: when this stage began."""
    reason: str = ""
    """Why it was rejected or rolled back."""
    figures: dict[str, float] = Field(default_factory=dict)
    """As `agent.core.canary.Figures`, of this stage."""

    @property
    def is_over(self) -> bool:
        """Whether it has been judged."""
        return self.stage not in {Stage.SHADOW, Stage.WATCH}


class Serving(Strict):
    """The engine of this machine's own that a bundle is served by."""

    engine: str
    """Its folder's name."""
    flavour: Flavour
    precision: Precision
    ended: bool = True
    """Whether the agent that served with it last came to a planned end; of one that is being watched."""


class Failure(Strict):
    """What could not be compiled here."""

    parent: Sha256
    flavour: Flavour
    precision: Precision
    machine: Sha256
    """Its fingerprint: on another machine, or with another driver or library, it may be tried again."""
    time: str
    reason: str = ""
    """Empty: the compiler was started, and never said how it ended."""
    starts: int = Field(default=1, ge=1)

    @property
    def is_final(self) -> bool:
        """Whether to try again would be in vain: it was refused, or has twice not come to an end."""
        return bool(self.reason) or self.starts > 1

    def is_of(self, parent: str, flavour: Flavour, precision: Precision, machine: str) -> bool:
        """Whether it is about this engine on this machine."""
        return (self.parent, self.flavour, self.precision, self.machine) == (parent, flavour, precision, machine)


class Record(Strict):
    """The whole of ``engines.json``."""

    schema_version: Literal[1] = 1
    serving: dict[Sha256, Serving] = Field(default_factory=dict)
    """By bundle."""
    tried: dict[str, CanaryState] = Field(default_factory=dict)
    """By the engine's folder."""
    failed: tuple[Failure, ...] = ()

    def with_canary(self, engine: str, tried: CanaryState | None) -> Record:
        """The same, but for how one engine does; None: it may be tried (again)."""
        rest = {name: one for name, one in self.tried.items() if name != engine}
        kept = dict(list(rest.items())[-_KEPT:])
        return self.model_copy(update={"tried": kept if tried is None else {**kept, engine: tried}})

    def with_serving(self, parent: str, serving: Serving | None) -> Record:
        """The same, but for what serves a bundle; None: an engine of its own."""
        rest = {known: one for known, one in self.serving.items() if known != parent}
        return self.model_copy(update={"serving": rest if serving is None else {**rest, parent: serving}})

    def with_failure(self, failure: Failure) -> Record:
        """The same and one more, in place of what was known of that engine."""
        rest = self.without_failure(failure).failed
        return self.model_copy(update={"failed": (*rest, failure)[-_KEPT:]})

    def without_failure(self, of: Failure) -> Record:
        """The same, but for that engine."""
        rest = tuple(f for f in self.failed if not f.is_of(of.parent, of.flavour, of.precision, of.machine))
        return self.model_copy(update={"failed": rest})


class Wanted(Strict):
    """An engine that shall be compiled."""

    parent: Sha256
    model: str
    """``name/version``, for people."""
    flavour: Flavour
    precision: Precision
    reason: str
    """Why the one that there is does not do."""


class Request(Strict):
    """The whole of ``rebuild.request``."""

    schema_version: Literal[1] = 1
    time: str
    wanted: tuple[Wanted, ...]
    """The first that can be compiled is enough, for each bundle."""


def now() -> str:
    """UTC, as it is written down."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_record(state_dir: Path) -> Record:
    """What is known; nothing, where nothing can be read, which is logged."""
    try:
        if (state_dir / RECORD).exists():
            return parse(Record, read_small(state_dir, RECORD, _MOST))
    except (OSError, ValueError) as error:
        log.error("engines_record_unreadable", path=str(state_dir / RECORD), reason=str(error))  # noqa: TRY400
    return Record()


def update_record(state_dir: Path, change: Callable[[Record], Record]) -> Record:
    """Change the record under the lock; what it is then.

    Raises:
        BundleError: the state directory cannot be written.
    """
    try:
        with locked(state_dir):
            record = change(read_record(state_dir))
            write_atomic(state_dir / RECORD, record.model_dump_json(indent=1).encode() + b"\n")
            return record
    except OSError as error:
        raise BundleError(f"{state_dir / RECORD} cannot be written ({error.strerror}); make room there.") from error


def read_request(state_dir: Path) -> Request | None:
    """What is asked for; None: nothing, or nothing that can be read, which is logged."""
    try:
        if (state_dir / REQUEST).exists():
            return parse(Request, read_small(state_dir, REQUEST, _MOST))
    except (OSError, ValueError) as error:
        log.error("rebuild_request_unreadable", path=str(state_dir / REQUEST), reason=str(error))  # noqa: TRY400
    return None


def ask(state_dir: Path, wanted: tuple[Wanted, ...]) -> bool:
    """Ask for engines, unless some are asked for already; whether it did.

    Raises:
        BundleError: the state directory cannot be written.
    """
    if not wanted or (state_dir / REQUEST).exists():
        return False
    try:
        with locked(state_dir):
            request = Request(time=now(), wanted=wanted)
            write_atomic(state_dir / REQUEST, request.model_dump_json(indent=1).encode() + b"\n")
    except OSError as error:
        raise BundleError(f"{state_dir / REQUEST} cannot be written ({error.strerror}); make room there.") from error
    for one in wanted:
        log.warning("rebuild_asked", model=one.model, engine=f"{one.flavour}-{one.precision}", reason=one.reason)
    return True


@dataclass(frozen=True, slots=True)
class Choice:
    """This machine's own engines of a bundle, as far as they may serve."""

    first: tuple[Bundle, ...] = ()
    """The one that was promoted."""
    last: tuple[Bundle, ...] = ()
    """Those that were not tried yet: better than no engine at all."""
    lost: tuple[Skipped, ...] = ()
    """The one that was promoted, if it serves no more, and why."""


def choose(state_dir: Path, bundle: Bundle, machine: Machine) -> Choice:
    """Which of this machine's own engines a bundle starts with."""
    record = read_record(state_dir)
    serving = record.serving.get(bundle.sha256)
    first: tuple[Bundle, ...] = ()
    lost: tuple[Skipped, ...] = ()
    if serving is not None:
        try:
            first = (_fitting(state_dir, serving.engine, bundle, machine).bundle(bundle),)
            if problem := unsound(record, serving):
                raise BundleError(problem)
        except BundleError as error:
            first, lost = (), (Skipped(f"{serving.flavour}-{serving.precision}", str(error).rstrip(".")),)
            log.warning("promoted_engine_lost", engine=serving.engine, reason=str(error))
    untried = [one for one in read_derived(state_dir, bundle.sha256, machine) if one.path.name not in record.tried]
    return Choice(first, tuple(one.bundle(bundle) for one in untried), lost)


def unsound(record: Record, serving: Serving) -> str:
    """Why a promoted engine may not serve again, in words; empty: it may."""
    tried = record.tried.get(serving.engine)
    if tried is not None and tried.stage is Stage.WATCH and not serving.ended:
        return f"the agent came to no planned end while {serving.engine} was still being watched."
    return ""


def _fitting(state_dir: Path, name: str, bundle: Bundle, machine: Machine) -> DerivedEngine:
    if not (state_dir / KEY).exists():
        raise BundleError("this machine's key is gone; rebuild the engine: deepecg-agent rebuild.")
    return open_derived(state_dir / ENGINES / name, bundle.sha256, machine, machine_key(state_dir).public_key())

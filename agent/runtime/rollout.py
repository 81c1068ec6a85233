"""Engines that this machine compiled for itself, on live beds: tried, promoted, watched, and rolled back by themselves.

    folder in <state_dir>/engines ─▶ shadow ─▶ watch ─▶ kept
                                       │         └────▶ rolled back
                                       └──────────────▶ rejected

*Shadow*: the new engine computes copies of live windows, and nobody hears it. *Watch*: it serves, and the old one does
the same beside it, and takes its place at once when it fails. Who holds is `agent.core.canary`'s to say; here is
what is done about it, and each step is written down (`agent.engines.local.record`), logged, counted and shown. One
canary at a time: two engines of a model are in memory as long as it lasts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from agent.core.bundle.derived import Machine
from agent.core.canary import Canary, Decision, Figures, Judgement, RolloutSettings
from agent.engines.base import EngineError
from agent.engines.bundles.bundle import Bundle, BundleError
from agent.engines.local.engines import ENGINES, DerivedEngine
from agent.engines.local.rebuild import cannot, fingerprint, fitting, worth_it
from agent.engines.local.record import (
    REQUEST,
    CanaryState,
    Record,
    Serving,
    Stage,
    ask,
    now,
    read_record,
    unsound,
    update_record,
)
from agent.engines.select import Opened, open_backend
from agent.engines.serving.batcher import Batcher
from agent.engines.serving.model import Shadow
from agent.engines.settings import EngineSettings
from agent.ops.metrics import Metrics

if TYPE_CHECKING:
    from agent.station.server import Station

log = structlog.get_logger()

_TICK = 1.0
"""Seconds after which a canary is looked at again though no window came."""
_STARVED = 300.0
"""Seconds over which it is seen whether the new engine leaves the old one any time for comparisons: longer than the two
minutes for which the schedule remembers a single stall, and gives canaries no time."""
_FEWER = 0.1
"""Share of what could be compared before, below which it does not."""
_SHARE = 0.1
"""What is taken for that after a restart."""
_PROGRESS = 30.0
"""Seconds between two notes of how a canary goes."""


@dataclass(frozen=True, slots=True)
class Ward:
    """What a rollout is about."""

    batcher: Batcher
    bundles: Sequence[tuple[Bundle, float]]
    """Those that are served, and the seconds in which each one's answers are due."""
    machine: Machine
    state_dir: Path
    engine: EngineSettings
    settings: RolloutSettings


@dataclass(frozen=True, slots=True)
class _Result:
    """How a canary ended."""

    judgement: Judgement
    figures: Figures
    share: float
    """Of the windows that were answered meanwhile, those that were compared."""
    lost: bool = False
    """The engine beside the one that serves is gone: it failed, or has taken the other's place."""


class Rollout:
    """``await Rollout(…).run()`` for ever; `stopped` after a planned end."""

    def __init__(self, ward: Ward, metrics: Metrics, station: Station | None) -> None:
        self._ward = ward
        self._batcher = ward.batcher
        self._settings = ward.settings
        self._state_dir = ward.state_dir
        self._metrics = metrics
        self._station = station
        self._here = ward.machine
        self._looked: dict[str, tuple[object, ...]] = {}
        """By bundle: what its engines and their record were when it was last found that there is nothing to do."""

    async def run(self) -> None:
        """Look for new engines, try them, and ask for those that are wanted. Ends only when it is cancelled."""
        while True:
            for bundle, answer_within in self._ward.bundles:
                await self._look(bundle, answer_within)
            await asyncio.sleep(self._settings.poll)

    def stopped(self) -> None:
        """The agent came to a planned end: an engine that was being watched may serve again, and one that was on trial
        be tried again."""
        self._watched_ended(True)
        record = read_record(self._state_dir)
        for name in [name for name in record.tried if _stage(record, name) is Stage.SHADOW]:
            self._write(partial(Record.with_canary, engine=name, tried=None))

    # What there is to do

    async def _look(self, bundle: Bundle, answer_within: float) -> None:
        engine = self._batcher.serving(bundle.manifest.name)
        if engine is None or not isinstance(engine.backend, Opened):
            return  # a further model that is not open yet, or is lost
        opened = engine.backend
        record = await asyncio.to_thread(read_record, self._state_dir)
        names = tuple(sorted(path.name for path in (self._state_dir / ENGINES).glob("*")))
        seen = (opened, names, record, (self._state_dir / REQUEST).exists())
        if self._looked.get(bundle.sha256) == seen:
            return
        record, mine = await asyncio.to_thread(fitting, self._state_dir, bundle, self._here)
        own = record.serving.get(bundle.sha256)
        served = opened.bundle.path.name
        if own is not None and own.engine != served:
            record = await self._not_serving(bundle, opened, own, record, mine)
        elif own is not None and _stage(record, own.engine) is Stage.WATCH:
            await self._watch_again(bundle, own, answer_within)
            return
        for name in [e.path.name for e in mine if _stage(record, e.path.name) is Stage.SHADOW]:
            # Of an earlier process: if the engine hangs, it would do so again, and the ward have no peace.
            await self._note(bundle, name, Stage.REJECTED, "the agent came to no planned end while it was on trial.")
            return
        new = [e for e in mine if e.path.name != served and not _is_judged(record, e.path.name)]
        if new:
            await self._try(bundle, new[0], answer_within)
            return
        await self._ask(bundle, opened, record, mine)
        self._looked[bundle.sha256] = (*seen[:2], *(await asyncio.to_thread(self._known)))

    def _known(self) -> tuple[Record, bool]:
        return read_record(self._state_dir), (self._state_dir / REQUEST).exists()

    async def _not_serving(
        self, bundle: Bundle, opened: Opened, own: Serving, record: Record, mine: Sequence[DerivedEngine]
    ) -> Record:
        """The engine that was promoted did not open at the start. One that does not fit is compiled again; another has
        failed."""
        if not any(e.path.name == own.engine for e in mine):
            return record
        reasons = [s.reason for s in opened.skipped if s.engine == f"{own.flavour}-{own.precision}"]
        reason = unsound(record, own) or next(iter(reasons), "it did not open at the start")
        await self._note(bundle, own.engine, Stage.ROLLED_BACK, reason, serve=_Serve(None))
        return await asyncio.to_thread(read_record, self._state_dir)

    async def _ask(self, bundle: Bundle, opened: Opened, record: Record, mine: Sequence[DerivedEngine]) -> None:
        """Ask for an engine that would fit better, if this machine can have one."""
        wanted = worth_it(bundle, self._here, record, mine, opened.entry, opened.skipped)
        self._metrics.rebuild_wanted.labels(bundle.manifest.name).set(len(wanted))
        if wanted:
            try:
                await asyncio.to_thread(ask, self._state_dir, wanted)
            except BundleError as error:
                self._show(bundle, f"No engine could be asked for: {error}")
                log.error("rebuild_not_asked", model=bundle.manifest.model_id, reason=str(error))  # noqa: TRY400
                return
            engines = ", ".join(f"{one.flavour}-{one.precision}" for one in wanted)
            self._show(bundle, f"{engines} was asked for, to be compiled for this machine (deepecg-agent rebuild).")
        elif failed := self._why_not(bundle, opened, record):
            self._show(bundle, failed)
        else:
            self._show(bundle, _words(record, opened.bundle.path.name) or _last(record, bundle))

    def _why_not(self, bundle: Bundle, opened: Opened, record: Record) -> str:
        """Why nothing is compiled in place of an engine that does not fit; empty: nothing is amiss."""
        if not (skipped := {one.engine for one in opened.skipped}):
            return ""
        for f in reversed(record.failed):
            if f.machine == fingerprint(self._here) and f.parent == bundle.sha256 and f.is_final:
                reason = f.reason or "the compiler was started twice and did not come to an end."
                return f"{f.flavour}-{f.precision} could not be compiled here ({f.time}): {reason}"
        for e in bundle.manifest.engines:
            reason = cannot(bundle.manifest, self._here, e.flavour, e.precision)
            if reason and f"{e.flavour}-{e.precision}" in skipped:
                return f"{e.flavour}-{e.precision} cannot be compiled for this machine: {reason}."
        return ""

    # Trials

    async def _try(self, bundle: Bundle, new: DerivedEngine, answer_within: float) -> None:
        """Beside the one that serves; then in its place."""
        model, name = bundle.manifest.name, new.path.name
        await self._note(bundle, name, Stage.SHADOW)
        try:
            shadow = await self._batcher.shadow(model, partial(open_backend, new.bundle(bundle), self._ward.engine))
        except (EngineError, BundleError) as error:
            await self._note(bundle, name, Stage.REJECTED, str(error))
            return
        result = await self._compare(bundle, name, shadow, answer_within, Stage.SHADOW)
        if result.judgement.decision is not Decision.HOLDS:
            self._batcher.unshadow(model)
            await self._note(bundle, name, Stage.REJECTED, result.judgement.reason, result.figures)
            return
        before = (await asyncio.to_thread(read_record, self._state_dir)).serving.get(bundle.sha256)
        try:
            shadow = self._batcher.exchange(model)
        except EngineError as error:  # it failed just now
            await self._note(bundle, name, Stage.REJECTED, str(error), result.figures)
            return
        self._metrics.trials.labels(model, "promoted").inc()
        entry = new.derived.engine
        serving = Serving(engine=name, flavour=entry.flavour, precision=entry.precision, ended=False)
        await self._note(bundle, name, Stage.WATCH, figures=result.figures, serve=_Serve(serving))
        await self._watch(bundle, serving, before, shadow, answer_within, result.share)

    async def _watch_again(self, bundle: Bundle, own: Serving, answer_within: float) -> None:
        """After a planned restart: the bundle's own engine stands by again."""
        await asyncio.to_thread(self._watched_ended, False)
        opener = partial(open_backend, bundle, self._ward.engine)
        try:
            shadow = await self._batcher.shadow(bundle.manifest.name, opener, stands_by=True)
        except EngineError as error:
            await self._note(bundle, own.engine, Stage.KEPT, f"no other engine opens: {error}")
            return
        await self._watch(bundle, own, None, shadow, answer_within, _SHARE)

    async def _watch(
        self,
        bundle: Bundle,
        own: Serving,
        before: Serving | None,
        shadow: Shadow,
        answer_within: float,
        share: float,
    ) -> None:
        """The new one serves, the old one beside it. ``share``: of the windows, what could be compared before."""
        model = bundle.manifest.name
        result = await self._compare(bundle, own.engine, shadow, answer_within, Stage.WATCH, share)
        reason, figures = result.judgement.reason, result.figures
        failed = shadow.stood_in or (result.judgement.decision is Decision.BROKEN and not result.lost)
        if failed and not shadow.stood_in:
            try:
                self._batcher.exchange(model)
            except EngineError as error:  # the old one has just taken its place, or is lost
                log.info("engine_not_exchanged", model=bundle.manifest.model_id, reason=str(error))
        self._batcher.unshadow(model)
        if failed:
            await self._note(bundle, own.engine, Stage.ROLLED_BACK, reason, figures, serve=_Serve(before))
        else:  # it holds, or there is nothing to compare it with any more, which is not its fault
            await self._note(bundle, own.engine, Stage.KEPT, reason, figures)

    async def _compare(
        self, bundle: Bundle, name: str, shadow: Shadow, answer_within: float, stage: Stage, share: float = 0.0
    ) -> _Result:
        """What the canary says in the end: ``HOLDS``, or ``BROKEN`` with the reason.

        An engine that is so slow that it leaves the old one no time would never be found to be slow; so it is broken
        when far fewer windows are compared than the ``share`` that was before.
        """
        model = bundle.manifest.name
        watch = stage is Stage.WATCH
        seconds = self._settings.watch_seconds if watch else self._settings.shadow_seconds
        began = noted = looked = time.monotonic()
        canary = Canary(bundle.manifest, self._settings, seconds=seconds, answer_within=answer_within, began=began)
        first = marked = self._batcher.tally(model).answered
        compared = compared_then = 0

        def result(judgement: Judgement, *, lost: bool = False) -> _Result:
            answered = self._batcher.tally(model).answered - first
            return _Result(judgement, canary.figures(), min(1.0, compared / max(1, answered)), lost)

        while True:
            try:
                async with asyncio.timeout(_TICK):
                    found = await anext(shadow)
                compared += 1
                if watch:
                    canary.add(found.shadow, found.served, found.shadow_seconds, found.served_seconds)
                else:
                    canary.add(found.served, found.shadow, found.served_seconds, found.shadow_seconds)
            except TimeoutError:
                pass
            except EngineError as error:
                return result(Judgement(Decision.BROKEN, str(error)), lost=True)
            except StopAsyncIteration:  # the agent ends, and so does this task: nothing is to be concluded
                await asyncio.Event().wait()
            canary.not_finite(self._batcher.tally(model).wrong if watch else shadow.wrong)
            current = time.monotonic()
            if (judgement := canary.judgement(current)).decision is not Decision.WAIT:
                return result(judgement)
            if current - looked > _STARVED:
                answered = self._batcher.tally(model).answered
                if compared - compared_then < _FEWER * share * (answered - marked):
                    words = f"only {compared - compared_then} of {answered - marked} windows could be compared"
                    return result(Judgement(Decision.BROKEN, f"{words}: it leaves the engine before it no time."))
                looked, marked, compared_then = current, answered, compared
            if current - noted > _PROGRESS:
                noted = current
                await self._note(bundle, name, stage, figures=canary.figures(), new=False)

    # What is said of it

    async def _note(
        self,
        bundle: Bundle,
        name: str,
        stage: Stage,
        reason: str = "",
        figures: Figures | None = None,
        *,
        new: bool = True,
        serve: _Serve | None = None,
    ) -> None:
        """Write down, log, count and show where an engine stands. ``serve``: what serves the bundle from now on."""
        numbers = {} if figures is None else {key: float(value) for key, value in asdict(figures).items()}

        def change(record: Record) -> Record:
            known = record.tried.get(name)
            since = known.since if known is not None and known.stage is stage and not new else now()
            tried = CanaryState(stage=stage, since=since, reason=reason, figures=numbers)
            record = record.with_canary(name, tried)
            return record if serve is None else record.with_serving(bundle.sha256, serve.engine)

        record = await asyncio.to_thread(self._write, change)
        if new:
            model = bundle.manifest
            say = log.warning if stage in {Stage.REJECTED, Stage.ROLLED_BACK} else log.info
            say("engine_trial", model=model.model_id, engine=name, stage=stage.value, reason=reason, **_short(numbers))
            if stage not in {Stage.SHADOW, Stage.WATCH}:
                self._metrics.trials.labels(model.name, stage.value).inc()
        self._show(bundle, _words(record, name))

    def _write(self, change: Callable[[Record], Record]) -> Record:
        """Keep it if that is possible; a full disk is no reason to stop serving."""
        try:
            return update_record(self._state_dir, change)
        except BundleError as error:
            log.error("engines_record_not_written", reason=str(error))  # noqa: TRY400
            return change(read_record(self._state_dir))

    def _watched_ended(self, ended: bool) -> None:
        parents = {bundle.sha256 for bundle, _ in self._ward.bundles}

        def change(record: Record) -> Record:
            for parent, one in record.serving.items():
                if parent in parents and one.ended is not ended:
                    record = record.with_serving(parent, one.model_copy(update={"ended": ended}))
            return record

        record = read_record(self._state_dir)
        if change(record) != record:
            self._write(change)

    def _show(self, bundle: Bundle, words: str) -> None:
        if self._station is not None:
            self._station.trial(bundle.manifest.name, words)


@dataclass(frozen=True, slots=True)
class _Serve:
    """What serves a bundle from now on."""

    engine: Serving | None
    """None: an engine of the bundle's own."""


def _stage(record: Record, name: str) -> Stage | None:
    tried = record.tried.get(name)
    return None if tried is None else tried.stage


def _is_judged(record: Record, name: str) -> bool:
    tried = record.tried.get(name)
    return tried is not None and tried.is_over


def _words(record: Record, name: str) -> str:
    """Where an engine stands, for a person; empty: nothing is known of it."""
    tried = record.tried.get(name)
    if tried is None:
        return ""
    windows = f"{tried.figures.get('windows', 0):.0f} windows compared"
    match tried.stage:
        case Stage.SHADOW:
            return f"{name} is on trial beside it since {tried.since}, {windows} so far."
        case Stage.WATCH:
            return (
                f"{name} was promoted at {tried.since} and is watched, {windows} so far; the one before it stands by."
            )
        case Stage.KEPT:
            return f"{name}, compiled on this machine, has stood its trial ({tried.since})."
        case Stage.REJECTED:
            return f"{name} was rejected at {tried.since}: {tried.reason}"
        case Stage.ROLLED_BACK:
            return f"{name} was rolled back at {tried.since}: {tried.reason}"


def _last(record: Record, bundle: Bundle) -> str:
    """What became of the latest engine of a bundle."""
    names = [name for name in record.tried if f"-{bundle.sha256[:8]}-" in name]
    return _words(record, names[-1]) if names else ""


def _short(figures: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 6) for key, value in figures.items()}

"""What the line is made of, built from the configuration: bundles and their engines, outbox, alerting.

Only what the first model needs can keep the agent from starting. A further model that cannot be had is said and left
out, for it must not be the reason that nobody is told of an alert; a contradiction in the configuration is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from agent.config import Config
from agent.core.alerting.models import ModelsAlerting
from agent.core.bundle.derived import Machine
from agent.core.bundle.manifest import Manifest
from agent.core.census import Census
from agent.core.errors import DeepECGError
from agent.core.windows.windower import Windower
from agent.engines.base import EngineError
from agent.engines.bundles.bundle import Bundle, BundleError
from agent.engines.bundles.store import Store
from agent.engines.local.rebuild import fitting, worth_it
from agent.engines.local.record import ask, choose
from agent.engines.machine import this_machine
from agent.engines.select import Opened, open_backend
from agent.engines.serving.batcher import Batcher
from agent.engines.serving.model import Model
from agent.engines.serving.settings import ModelSettings
from agent.engines.settings import EngineSettings
from agent.ops.metrics import Metrics
from agent.runtime.pipeline import Line
from agent.runtime.rollout import Rollout, Ward
from agent.sinks.database import OutboxError
from agent.sinks.outbox import Outbox

if TYPE_CHECKING:
    from agent.station.server import Station

log = structlog.get_logger()


class StartError(DeepECGError):
    """The agent cannot start; one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the line is made of, once started; the daemon and the replay join it each in its own way."""

    manifest: Manifest
    """Of the first model."""
    further: tuple[Manifest, ...]
    missing: Mapping[str, str]
    """Further models whose bundles cannot be used, by folder, and why."""
    outbox: Outbox
    alerting: ModelsAlerting
    batcher: Batcher
    census: Census
    windower: Windower
    bundles: tuple[tuple[Bundle, float], ...]
    """Of every model, the first one first, and the seconds in which its answers are due."""
    machine: Machine

    def line(self, metrics: Metrics, station: Station | None) -> Line:
        """The line of these parts."""
        return Line(self.census, self.windower, self.alerting, self.batcher, self.outbox, metrics, station)

    def rollout(self, config: Config, metrics: Metrics, station: Station | None) -> Rollout:
        """What tries this machine's own engines on them."""
        state_dir = config.agent.state_dir
        ward = Ward(self.batcher, self.bundles, self.machine, state_dir, config.engine, config.rollout)
        return Rollout(ward, metrics, station)


@asynccontextmanager
async def open_parts(
    config: Config, metrics: Metrics, sinks: tuple[str, ...], state: Path, *, remember: bool
) -> AsyncIterator[Parts]:
    """Outbox, alerting with what was open before a restart, and the engines, the first one self-tested.

    Args:
        config: The agent's.
        metrics: Where all of them count.
        sinks: Names of the sinks that alerts wait for.
        state: Folder of the outbox.
        remember: Note in the agent's state directory which bundles are served, so that no older ones are taken later.

    Raises:
        BundleError, StartError: it cannot start.
    """
    store = Store(config.agent.state_dir, config.engine)
    first = store.open()
    further, missing = _further(config, first)
    machine = await asyncio.to_thread(this_machine)
    models = [
        Model(bundle.manifest, partial(_serve, bundle, config.engine, machine, store if remember else None), settings)
        for bundle, settings in ((first, None), *further)
    ]
    due = [(first, config.serving.answer_within), *((bundle, settings.answer_within) for bundle, settings in further)]
    alerting = [first.manifest, *(bundle.manifest for bundle, settings in further if settings.alerts)]
    silent = [bundle.manifest.model_id for bundle, settings in further if not settings.alerts]
    kept = config.outbox
    outbox = Outbox(state / kept.path, sinks, keep_days=kept.keep_days, max_bytes=kept.max_bytes, backlog=kept.backlog)
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(outbox)
            alerts = ModelsAlerting(alerting, config.alerts, await outbox.open_alerts(), silent)
            batcher = await stack.enter_async_context(Batcher(models, config.engine, config.serving, metrics))
        except (OutboxError, EngineError, ValueError) as error:
            raise StartError(str(error)) from error
        census = Census(config.windows.max_beds, config.windows.idle)
        windower = Windower(config.windows, time.time() - time.monotonic())
        manifests = tuple(bundle.manifest for bundle, _ in further)
        yield Parts(first.manifest, manifests, missing, outbox, alerts, batcher, census, windower, tuple(due), machine)


def _further(config: Config, first: Bundle) -> tuple[list[tuple[Bundle, ModelSettings]], dict[str, str]]:
    """The bundles of further models, and why some cannot be had."""
    found: list[tuple[Bundle, ModelSettings]] = []
    missing: dict[str, str] = {}
    _check_seconds(config, first)
    for settings in config.models:
        try:
            bundle = Store(config.agent.state_dir, config.engine.model_copy(update={"bundle": settings.bundle})).open()
        except BundleError as error:
            missing[settings.bundle.name] = str(error)
            log.error("model_not_served", bundle=str(settings.bundle), reason=str(error))  # noqa: TRY400
            continue
        _check_seconds(config, bundle)
        name, rules = bundle.manifest.name, [label for label in bundle.manifest.labels if label.rule is not None]
        if name in {first.manifest.name, *(other.manifest.name for other, _ in found)}:
            raise StartError(f"[[models]] serves {name} twice; leave one of the two out")
        if settings.alerts and not rules:
            raise StartError(f"[[models]] lets {name} alert, but no label of it has a rule; set alerts = false")
        if settings.alerts and (settings.every or 0.0) > config.windows.seconds:
            raise StartError(
                f"[[models]] lets {name} alert but look only every {settings.every:g} s, and its rules count windows "
                f"that follow each other; set every to {config.windows.seconds} or less"
            )
        found.append((bundle, settings))
    return found, missing


def _check_seconds(config: Config, bundle: Bundle) -> None:
    seconds = bundle.manifest.input.preprocessing.seconds
    if config.windows.seconds != seconds:
        raise StartError(
            f"windows.seconds is {config.windows.seconds} but the bundle {bundle.manifest.model_id} needs {seconds:g}; "
            "set it to that"
        )


@contextmanager
def _serve(bundle: Bundle, settings: EngineSettings, machine: Machine, store: Store | None) -> Iterator[Opened]:
    """The bundle's engine, self-tested, or this machine's own that was promoted; and from now on no older bundle of its
    name is taken. Without a store, the bundle's own and nothing is noted.
    """
    if store is None:
        with open_backend(bundle, settings, machine=machine) as opened:
            yield opened
        return
    own = choose(store.state_dir, bundle, machine)
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(
                open_backend(bundle, settings, derived=own.first, otherwise=own.last, skipped=own.lost, machine=machine)
            )
        except EngineError as error:
            record, mine = fitting(store.state_dir, bundle, machine)
            if not ask(store.state_dir, worth_it(bundle, machine, record, mine, None, own.lost)):
                raise
            raise EngineError(f"{error}. Others were asked for: start again after deepecg-agent rebuild") from error
        store.served(bundle)
        yield opened

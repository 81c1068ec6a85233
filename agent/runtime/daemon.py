"""Composition root: with `build` and `edges` the only files that build objects, queues and tasks.

Start-up is written top to bottom inside one ``AsyncExitStack`` and one ``TaskGroup``; shutdown is its reverse, done by
the language. A task that fails ends the process, and the service manager starts a new one: nothing limps on.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from agent import __version__
from agent.config import Config
from agent.core.ecg import Event
from agent.engines.serving.settings import ServingSettings
from agent.ops.metrics import Metrics, totals
from agent.ops.systemd import SystemdNotifier
from agent.runtime.build import StartError, open_parts
from agent.sinks.outbox import Outbox

__all__ = ["StartError", "replay", "run", "run_until_signal"]

log = structlog.get_logger()

_QUEUE = 512
"""Events between the sources and the line: a second of a large ward. Full, it holds the senders back."""
_PATIENCE = ServingSettings(answer_within=1e6, expire_after=1e6)
"""A recording waits for every answer."""
_LAST_WORDS = 5.0
"""Seconds that a planned stop waits for receivers to take the last messages."""


async def run_until_signal(config: Config) -> None:
    """The agent as a service: until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(config, stop)


async def run(config: Config, stop: asyncio.Event) -> None:
    """Run the agent until ``stop`` is set.

    Raises:
        BundleError, StartError, TlsError: it cannot start.
        ExceptionGroup: a part of it failed beyond repair.
    """
    metrics = Metrics()
    names = tuple(name for name in ("hl7", "mqtt") if getattr(config.sinks, name) is not None)
    queue: asyncio.Queue[Event] = asyncio.Queue(_QUEUE)
    async with AsyncExitStack() as stack:
        systemd = stack.enter_context(SystemdNotifier())
        state = config.agent.state_dir
        # The engine is compiled in a thread of its own, and most of that without Python; meanwhile this process imports
        # the other half of what it needs, so that a ward waits for the longer of the two and not for their sum.
        importing = asyncio.get_running_loop().run_in_executor(None, _import_edges)
        parts = await stack.enter_async_context(open_parts(config, metrics, names, state, remember=True))
        await importing
        from agent.runtime import edges, watchdog

        station = await edges.open_station(stack, config, metrics, parts)
        line = parts.line(metrics, station)
        await line.restore()
        rollout = parts.rollout(config, metrics, station) if config.rollout.enabled else None
        sources = await edges.open_sources(stack, config, metrics)
        sinks = await edges.open_sinks(stack, config, metrics, parts.outbox)
        async with asyncio.TaskGroup() as group:
            deliveries = [group.create_task(s.run(), name=type(s).__name__) for s in (parts.outbox, *sinks)]
            feeds = [group.create_task(s.run(queue), name=type(s).__name__) for s in sources]
            work = [
                group.create_task(line.feed(queue), name="line"),
                group.create_task(line.decide(), name="decide"),
                group.create_task(watchdog.watch(line, station, sources, sinks, systemd), name="watch"),
            ]
            if rollout is not None:
                work.append(group.create_task(rollout.run(), name="rollout"))
            # Libraries and engine stay as long as the agent: a full collection, which stops every thread, looks only at
            # what the ward has made since.
            gc.freeze()
            gc.enable()
            log.info("agent_started", version=__version__, model=parts.manifest.model_id, page=station.port)
            await stop.wait()
            systemd.stopping()
            log.info("agent_stopping")
            await _end(feeds)
            await _end(work)
            if rollout is not None:
                await asyncio.to_thread(rollout.stopped)
            await line.close()
            await _drain(parts.outbox, _LAST_WORDS)
            await _end(deliveries)


async def replay(config: Config, path: Path, speed: float) -> dict[str, object]:
    """Run recorded ECG through the same line; no sinks, no page, an outbox of its own that goes with it."""
    from agent.sources.replay import ReplaySource

    metrics = Metrics()
    # A recording can wait for the engine, so a bed's queue need not be short; `drain` keeps it so.
    engine = config.engine.model_copy(update={"queue_per_bed": 64})
    config = config.model_copy(update={"engine": engine, "serving": _PATIENCE})
    with TemporaryDirectory(prefix="deepecg-replay-") as folder:
        async with (
            open_parts(config, metrics, (), Path(folder), remember=False) as parts,
            asyncio.TaskGroup() as group,
        ):
            source = ReplaySource(path, metrics, speed=speed)
            line = parts.line(metrics, None)
            queue: asyncio.Queue[Event] = asyncio.Queue(_QUEUE)
            began = time.monotonic()
            decide = group.create_task(line.decide(), name="decide")
            play = group.create_task(source.run(queue), name="replay")
            while not (play.done() and queue.empty()):
                try:
                    event = await asyncio.wait_for(queue.get(), 0.1)
                except TimeoutError:
                    continue
                await line.take(event)
                if speed == 0:
                    await parts.batcher.drain(waiting=config.engine.max_batch)
            await parts.batcher.drain()
            await line.close()
            await _end([decide])
            seconds = time.monotonic() - began
    windows = sum(totals(metrics.windows).values())
    return {
        "model": parts.manifest.model_id,
        "seconds": round(seconds, 2),
        "windows": windows,
        "windows_per_second": round(windows / seconds, 1),
        "windows_answered": totals(metrics.model_windows),
        "windows_dropped": totals(metrics.windows_dropped),
        "gaps": totals(metrics.gaps),
        "alerts": totals(metrics.alerts),
    }


def _import_edges() -> None:
    """Filters, page, sources and sinks: what is needed once the engine is there."""
    import_module("scipy.fft")
    import_module("agent.runtime.edges")
    import_module("agent.runtime.watchdog")


async def _drain(outbox: Outbox, seconds: float) -> None:
    """Give the receivers a moment for the last messages; what they do not take waits for the next start."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not sum([await outbox.undelivered(name) for name in outbox.sinks]):
            return
        await asyncio.sleep(0.05)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

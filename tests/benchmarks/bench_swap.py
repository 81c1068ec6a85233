"""Is anything lost when the engine is exchanged every two seconds under load? Through the real line, with alerts::

nice -n 5 python tests/benchmarks/bench_swap.py --seconds 300

A ward of the generator's beds, whose rhythm turns every two and a half minutes so that alerts open and close, is played
much faster than it would run; the engine of the shipped bundle is opened, tested and promoted again and again, as a
rollout does it. Then the same seconds are played without. Prints JSON: every window must have one prediction, in order
and the same bit for bit, and the alerts must be the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from agent.core.alerting.models import ModelsAlerting
from agent.core.alerting.settings import AlertingSettings
from agent.core.census import Census
from agent.core.ecg import LEADS, Channel, ChannelKind, FloatArray, Prediction, Samples
from agent.core.mqtt.block import code_of_lead
from agent.core.windows.settings import WindowingSettings
from agent.core.windows.windower import Windower
from agent.engines.bundles.bundle import Bundle, default_bundle, open_bundle
from agent.engines.select import open_backend
from agent.engines.serving.batcher import Batcher
from agent.engines.serving.model import Model
from agent.engines.serving.settings import ServingSettings
from agent.engines.settings import EngineSettings
from agent.ops.logs import configure_logging
from agent.ops.metrics import Metrics, totals
from agent.runtime.pipeline import Line
from agent.simulator.ecg import Rhythm, synthesize
from agent.sinks.outbox import Outbox
from agent.station.server import Station, StationInfo
from agent.station.settings import StationSettings

RATE, TURN = 250, 150
START = 1_700_000_000.0
CHANNELS = tuple(Channel(ChannelKind.ECG, code_of_lead(x.value), x.value, "mV", RATE, x) for x in LEADS)


class Page(Station):
    """The page, which also writes down what it is shown."""

    def __init__(self, bundle: Bundle, metrics: Metrics) -> None:
        super().__init__(StationSettings(port=0), metrics, StationInfo(bundle.manifest, "0"))
        self.seen: list[Prediction] = []

    def prediction(self, prediction: Prediction) -> None:
        super().prediction(prediction)
        self.seen.append(prediction)


def ward(beds: int) -> dict[str, FloatArray]:
    """Five minutes of each bed, which are repeated: half of them one rhythm, half another."""
    kinds = ((Rhythm.AFIB, Rhythm.SINUS), (Rhythm.SINUS, Rhythm.AFIB), (Rhythm.BRADYCARDIA, Rhythm.SINUS))
    return {
        f"h/icu/{i}": np.concatenate([synthesize(r, TURN, RATE, seed=2 * i + k) for k, r in enumerate(kinds[i % 3])], 1)
        for i in range(beds)
    }


def block(bed: str, signal: FloatArray, second: int) -> Samples:
    first = second * RATE % signal.shape[1]
    values = tuple(signal[:, first : first + RATE])
    return Samples(bed, "m", CHANNELS, values, START + second, time.monotonic(), second)


async def play(
    bundle: Bundle, folder: Path, beds: int, *, swap_every: float, wall: float, rate: float, last: int
) -> dict[str, Any]:
    """Play seconds of the ward until ``wall`` seconds have passed or ``last`` is reached, ``rate`` windows a second."""
    metrics, settings = Metrics(), EngineSettings(queue_per_bed=64)
    opener = partial(open_backend, bundle, settings)
    patience = ServingSettings(answer_within=1e6, expire_after=1e6)
    batcher = Batcher([Model(bundle.manifest, opener)], settings, patience, metrics)
    page, signals = Page(bundle, metrics), ward(beds)
    swaps: list[float] = []
    async with Outbox(folder / f"{swap_every}.sqlite", ("hl7",)) as outbox, batcher:
        alerting = ModelsAlerting([bundle.manifest], AlertingSettings(continue_every=0, stale_after=1e6))
        line = Line(Census(), Windower(WindowingSettings()), alerting, batcher, outbox, metrics, page)

        async def swap() -> None:
            while swap_every:
                began = time.monotonic()
                await batcher.shadow(bundle.manifest.name, opener)
                batcher.exchange(bundle.manifest.name)
                batcher.unshadow(bundle.manifest.name)
                swaps.append(time.monotonic() - began)
                await asyncio.sleep(max(0.0, began + swap_every - time.monotonic()))

        tasks = [asyncio.create_task(line.decide()), asyncio.create_task(swap())]
        began, second = time.monotonic(), 0
        while second < last and time.monotonic() - began < wall:
            for bed, signal in signals.items():
                await line.take(block(bed, signal, second))
            second += 1
            await batcher.drain(waiting=5 * settings.max_batch)
            if rate:
                await asyncio.sleep(max(0.0, began + second * beds / 5 / rate - time.monotonic()))
        await batcher.drain()
        for task in tasks:
            task.cancel()
        alerts = await outbox.pending("hl7", 1_000_000)
        seconds = time.monotonic() - began
    return {
        "seconds": seconds,
        "played": second,
        "windows": sum(totals(metrics.windows).values()),
        "dropped": totals(metrics.windows_dropped),
        "seen": page.seen,
        "alerts": Counter(f"{a.bed} {a.label} {a.phase.value} {a.time} {a.reason}" for a in alerts),
        "swaps": swaps,
        "latency": metrics.prediction_latency.summary(),
    }


def compare(swapped: dict[str, Any], calm: dict[str, Any]) -> dict[str, Any]:
    answers = {(p.window.bed, p.window.start): p.probabilities for p in calm["seen"]}
    times = Counter((p.window.bed, p.window.start) for p in swapped["seen"])
    order: dict[str, float] = {}
    out_of_order = 0
    furthest = 0.0
    for p in swapped["seen"]:
        out_of_order += p.window.start <= order.get(p.window.bed, -1.0)
        order[p.window.bed] = max(p.window.start, order.get(p.window.bed, -1.0))
        other = answers.get((p.window.bed, p.window.start))
        furthest = np.inf if other is None else max(furthest, float(np.abs(other - p.probabilities).max()))
    alerts, expected = swapped["alerts"], calm["alerts"]
    return {
        "seconds": round(swapped["seconds"], 1),
        "windows_in": swapped["windows"],
        "predictions_out": len(swapped["seen"]),
        "windows_per_second": round(swapped["windows"] / swapped["seconds"], 1),
        "lost": swapped["windows"] - len(times),
        "dropped": swapped["dropped"],
        "doubled": sum(times.values()) - len(times),
        "out_of_order": out_of_order,
        "swaps": len(swapped["swaps"]),
        "seconds_per_swap": round(float(np.median(swapped["swaps"])), 2),
        "largest_difference": furthest,
        "windows_without_swaps": calm["windows"],
        "alert_messages": sum(alerts.values()),
        "alert_messages_without_swaps": sum(expected.values()),
        "alerts_doubled": sum(alerts.values()) - len(alerts),
        "alerts_that_differ": sum(((alerts - expected) + (expected - alerts)).values()),
        "latency_seconds": swapped["latency"],
        "latency_seconds_without_swaps": calm["latency"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--beds", type=int, default=12)
    parser.add_argument("--every", type=float, default=2.0, help="seconds from swap to swap")
    parser.add_argument("--rate", type=float, default=60.0, help="windows a second; 0: as many as the engine takes")
    a = parser.parse_args()
    configure_logging("error", "console")
    bundle = open_bundle(default_bundle())
    with TemporaryDirectory(prefix="bench-swap-") as name:
        folder = Path(name)
        swapped = asyncio.run(
            play(bundle, folder, a.beds, swap_every=a.every, wall=a.seconds, rate=a.rate, last=10_000_000)
        )
        calm = asyncio.run(play(bundle, folder, a.beds, swap_every=0.0, wall=1e9, rate=a.rate, last=swapped["played"]))
    print(json.dumps(compare(swapped, calm), indent=1))


if __name__ == "__main__":
    main()

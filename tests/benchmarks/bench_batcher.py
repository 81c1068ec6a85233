"""What the batcher itself costs: processor time per window with an engine that costs nothing, and submitting to a queue
that is full. Prints JSON::

python tests/benchmarks/bench_batcher.py

The engine is one that filters on its device, so nothing is filtered here; windows are copied into batches as they are
for every engine. ``--before FOLDER`` measures the batcher of another checkout alike, each in processes of its
own, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

BEDS, RATE, PER_BED = 200, 250.0, 5
ROUNDS = 5


class Nothing:
    """An engine that answers at once."""

    name = "torch-cuda-none"

    def __init__(self, labels: int) -> None:
        self.answer = np.full((64, labels), 0.5, np.float32)

    def infer(self, x: np.ndarray) -> np.ndarray:
        return self.answer[: len(x)].copy()

    def infer_raw(self, windows: np.ndarray, rate: float) -> np.ndarray:
        del rate
        return self.answer[: len(windows)].copy()


def batcher(manifest: Any, per_bed: int) -> Any:
    from agent.engines.serving.batcher import Batcher
    from agent.engines.serving.model import Model
    from agent.engines.serving.settings import ServingSettings
    from agent.engines.settings import EngineSettings
    from agent.ops.metrics import Metrics

    engine = Nothing(len(manifest.labels))
    settings = EngineSettings(queue_per_bed=per_bed, queue=4096)
    return Batcher([Model(manifest, lambda: nullcontext(engine))], settings, ServingSettings(), Metrics())


def window(bed: int, number: int, samples: np.ndarray) -> Any:
    from agent.core.ecg import Provenance, Window

    leads = (Provenance.MEASURED,) * 12
    start = 5.0 * number
    return Window(f"h/icu/{bed}", "m", 0, start, start + 10, RATE, samples, leads, time.monotonic())


async def paced(manifest: Any, seconds: float) -> float:
    """Processor microseconds per window at a ward's pace: 200 beds, one window of each every five seconds, times ten.

    The loop's and the reader's own part of it is in there, as is a second's worth of idling.
    """
    samples = np.zeros((12, 2500), np.float32)
    count = 0
    async with batcher(manifest, 2) as served:

        async def read() -> None:
            async for _ in served:
                pass

        reader = asyncio.create_task(read())
        await asyncio.sleep(0.2)
        gc.collect()
        began, cpu = time.monotonic(), time.process_time()
        while (now := time.monotonic()) - began < seconds:
            while count / (10 * BEDS / 5) < now - began:
                served.submit(window(count % BEDS, count // BEDS, samples))
                count += 1
            await asyncio.sleep(0.002)
        await served.drain()
        cpu = time.process_time() - cpu
        reader.cancel()
    return 1e6 * cpu / count


async def full(manifest: Any) -> tuple[float, float, float]:
    """Microseconds to submit: to a queue of a thousand windows of two hundred beds, mean and worst; and from there on
    processor microseconds per window until all are answered."""
    samples = np.zeros((12, 2500), np.float32)
    async with batcher(manifest, PER_BED) as served:
        # Nobody reads: after four batches the engine stands still and the queue fills.
        for number in range(PER_BED + 1):
            for bed in range(BEDS):
                served.submit(window(bed, number, samples))
        await asyncio.sleep(0.2)
        gc.collect()
        gc.disable()
        times = []
        for bed in range(BEDS):
            one = window(bed, PER_BED + 1, samples)
            began = time.perf_counter()
            served.submit(one)
            times.append(time.perf_counter() - began)
        gc.enable()

        async def read() -> None:
            async for _ in served:
                pass

        reader = asyncio.create_task(read())
        cpu = time.process_time()
        await served.drain()
        cpu = time.process_time() - cpu
        reader.cancel()
    return 1e6 * statistics.fmean(times), 1e6 * max(times), 1e6 * cpu / (BEDS * PER_BED)


def measure(seconds: float) -> dict[str, float]:
    from agent.core.bundle.manifest import Manifest
    from agent.core.bundle.strict_json import parse
    from agent.engines.bundles.bundle import default_bundle

    manifest = parse(Manifest, (default_bundle() / "manifest.json").read_bytes())
    mean, worst, drained = asyncio.run(full(manifest))
    return {
        "cpu_us_per_window_paced": round(asyncio.run(paced(manifest, seconds)), 1),
        "cpu_us_per_window_of_full_queue": round(drained, 1),
        "submit_us_to_1000_waiting": round(mean, 1),
        "submit_us_worst": round(worst, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--once", action="store_true", help="measure in this process and print one line")
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(measure(arguments.seconds)))
        return
    here = Path(__file__).resolve().parents[2]
    folders = {"now": here, **({"before": arguments.before} if arguments.before else {})}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
    for _ in range(ROUNDS):
        for name, folder in folders.items():
            command = [sys.executable, "-P", __file__, "--once", "--seconds", str(arguments.seconds)]
            environment = {**os.environ, "PYTHONPATH": str(folder)}
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, env=environment)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    print(
        json.dumps(
            {
                name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
                for name, runs in found.items()
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()

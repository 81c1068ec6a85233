"""``deepecg-agent bench``: what this machine does with the line's own code. Each section returns numbers, judges none.

Processor time is the measure for the feeds (a busy machine makes the wall clock longer, not the work), both for the
network. Every number is a median over rounds. Inputs come from the generator; the network is the shipped bundle's.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from agent.core import hl7, mllp, mqtt
from agent.core.ecg import LEADS, FloatArray, Samples, Window
from agent.core.filters import prepare
from agent.core.hl7_patient import BedMap
from agent.core.synthetic import Rhythm, synthesize
from agent.core.windowing import Windower, WindowingSettings
from agent.demo.monitors import CADENCE, bed_lookup, hl7_message
from agent.engines.backend import EngineError, EngineSettings, open_backend
from agent.engines.bundle import Bundle, BundleError, default_bundle, open_bundle
from agent.sources.hl7_settings import HL7SourceSettings

Numbers = dict[str, Any]

_BEDS = 16
_SECONDS = 40
_RATE = 500.0
_EPOCH = 1_700_000_000.0
_READ = 65536
_BATCHES = ((1, 30), (8, 6), (32, 2))
"""Batch size and runs of it in each process of the network's sections."""
_ROUNDS = 3
"""Processes of each kind in `eager`."""


class BenchError(Exception):
    """A section cannot be run; one sentence with the remedy."""


def run(sections: Sequence[str], bundle: Path | None = None) -> Numbers:
    """The named sections, or all; a dictionary for JSON.

    Raises:
        BenchError: there is no such section, or the bundle cannot be used.
    """
    if unknown := [name for name in sections if name not in SECTIONS]:
        raise BenchError(f"no section {unknown[0]!r}; choose from {', '.join(SECTIONS)}")
    try:
        opened = open_bundle(bundle or default_bundle())
        results: Numbers = {"machine": machine()}
        for name in sections or SECTIONS:
            results[name] = SECTIONS[name](opened)
    except (BundleError, EngineError) as error:
        raise BenchError(str(error)) from error
    return results


def machine() -> Numbers:
    """What the numbers are of, and how busy it was: a load above the cores' count spoils what the wall clock says."""
    model = next(
        (line.split(":")[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")), ""
    )
    return {"processor": model, "cores": os.cpu_count(), "load": [round(x, 2) for x in os.getloadavg()]}


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


# ---- feeds ---------------------------------------------------------------------------------------------------------


def feeds(bundle: Bundle) -> Numbers:
    """Processor milliseconds per bed-second from a message's bytes to the window; no socket, no inference.

    Twelve leads at 500 Hz, one message a second (GE's own 6 s every 5.5 s), sixteen beds.
    """
    p = bundle.manifest.input.preprocessing
    windows = WindowingSettings(seconds=round(p.seconds))
    beds = [f"site/icu/bed{i}" for i in range(_BEDS)]
    signal = synthesize(Rhythm.SINUS, _SECONDS + 10.0, _RATE, LEADS, seed=1)
    results: Numbers = {}
    template = mqtt.TopicTemplate()
    for name, encode, content_type in (
        ("mqtt_binary", mqtt.encode_binary, mqtt.BINARY_TYPE),
        ("mqtt_cbor", mqtt.encode_cbor, mqtt.CBOR_TYPE),
        ("mqtt_json", mqtt.encode_json, mqtt.JSON_TYPE),
    ):
        rounds = [
            [
                (template.topic(bed, "monitor"), encode(_block(bed, signal, second)))
                for bed in beds
            ]
            for second in range(_SECONDS)
        ]  # fmt: skip

        def mqtt_samples(
            message: tuple[str, bytes], received: float, content_type: str = content_type
        ) -> Iterator[Samples]:
            yield mqtt.decode(message[0], message[1], content_type, template, received)

        results[name] = _feed(rounds, mqtt_samples, windows, 1.0)

    dialects = HL7SourceSettings().dialects()
    for dialect, (seconds, every) in CADENCE.items():
        lookup = BedMap(lookup={k: v for bed in beds for k, v in bed_lookup(dialect, bed).items()})
        frames = [
            [mllp.encode(_hl7(dialect, bed, signal, number, seconds, every)) for bed in beds]
            for number in range(int(_SECONDS / every))
        ]

        def hl7_samples(frame: bytes, received: float, lookup: BedMap = lookup) -> Iterator[Samples]:
            decoder = mllp.Decoder()
            for first in range(0, len(frame), _READ):
                for message in decoder.feed(frame[first : first + _READ]):
                    decoded = hl7.decode(message, dialects, received, beds=lookup)
                    for code in hl7.answers(decoded.header, decoded.verdict):
                        hl7.acknowledge(decoded.header, code, control_id="1", created=_EPOCH)
                    yield from (event for event in decoded.events if isinstance(event, Samples))

        results[f"hl7_{dialect}"] = _feed(frames, hl7_samples, windows, every)
    return results


def _block(bed: str, signal: FloatArray, second: int) -> Samples:
    n = int(_RATE)
    values = signal[:, second * n : (second + 1) * n]
    return mqtt.ecg_block(
        bed, "monitor", dict(zip(LEADS, values, strict=True)), _RATE, start=_EPOCH + second, sequence=second
    )


def _hl7(dialect: str, bed: str, signal: FloatArray, number: int, seconds: float, every: float) -> bytes:
    first = int(number * every * _RATE)
    values = signal[:, first : first + int(seconds * _RATE)]
    return hl7_message(dialect, bed, LEADS, values, _RATE, _EPOCH + number * every, number)


def _feed(
    rounds: Sequence[Sequence[Any]],
    samples_of: Callable[[Any, float], Iterator[Samples]],
    settings: WindowingSettings,
    seconds: float,
) -> Numbers:
    windower = Windower(settings)
    costs, windows = [], 0
    for number, messages in enumerate(rounds):
        received = number * seconds  # as they would come: dialects without times go by it
        began = time.process_time()
        for message in messages:
            for samples in samples_of(message, received):
                windows += sum(isinstance(item, Window) for item in windower.push(samples))
        costs.append(1e3 * (time.process_time() - began) / (len(messages) * seconds))
    # The mean of the later rounds: a window's cutting falls into every fifth second, and belongs in.
    steady = costs[len(costs) // 4 :]
    expected = _BEDS * ((len(rounds) * seconds - settings.seconds) // settings.stride)
    if windows < expected:
        raise BenchError(f"the feed gave {windows} windows instead of {expected:g}; the benchmark is out of date.")
    return {
        "cpu_ms_per_bed_second": round(statistics.fmean(steady), 4),
        "bytes_per_message": len(rounds[0][0] if isinstance(rounds[0][0], bytes) else rounds[0][0][1]),
        "windows": windows,
    }


# ---- preprocessing and the network ---------------------------------------------------------------------------------


def preprocessing(bundle: Bundle) -> Numbers:
    """Windows per second on one core: 64 windows of 12 x 5000 at 500 Hz to the network's input."""
    p = bundle.manifest.input.preprocessing
    n = round(_RATE * p.seconds)
    windows = np.random.default_rng(0).normal(0, 0.5, (64, len(LEADS), n)).astype(np.float32)
    prepare(windows, _RATE, p)
    wall, cpu = _times(lambda: prepare(windows, _RATE, p), 15)
    return {
        "windows_per_cpu_second": round(64e3 / statistics.median(cpu)),
        "windows_per_second": round(64e3 / statistics.median(wall)),
        "best_windows_per_second": round(64e3 / min(wall)),
    }


def inference(bundle: Bundle) -> Numbers:
    """Milliseconds per window through the bundle's engine, by threads and batch."""
    results: Numbers = {}
    for threads in (1, 2):
        times = _engine_times(bundle, threads, _BATCHES)
        results[f"threads_{threads}"] = {f"batch_{batch}": _per_window(t, int(batch)) for batch, t in times.items()}
    return results


def _engine_times(bundle: Bundle, threads: int, plan: Sequence[tuple[int, int]]) -> Numbers:
    p = bundle.manifest.input.preprocessing
    results: Numbers = {}
    with open_backend(bundle, EngineSettings(threads=threads)) as backend:
        for batch, repeats in plan:
            shape = (batch, len(LEADS), round(p.rate * p.seconds))
            x = np.random.default_rng(0).normal(0, 60, shape).astype(np.float32)
            backend.infer(x)
            wall, cpu = _times(lambda x=x: backend.infer(x), repeats)  # type: ignore[misc]
            results[str(batch)] = {"wall_ms": wall, "cpu_ms": cpu}
    return results


def _per_window(times: Mapping[str, Sequence[float]], batch: int) -> Numbers:
    wall = statistics.median(times["wall_ms"]) / batch
    return {
        "ms_per_window": round(wall, 3),
        "cpu_ms_per_window": round(statistics.median(times["cpu_ms"]) / batch, 3),
        "windows_per_second": round(1e3 / wall, 1),
    }


def _times(work: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each run, by the wall and of the processor."""
    wall, cpu = [], []
    for _ in range(repeats):
        began, began_cpu = time.perf_counter(), time.process_time()
        work()
        wall.append(1e3 * (time.perf_counter() - began))
        cpu.append(1e3 * (time.process_time() - began_cpu))
    return wall, cpu


def eager(bundle: Bundle) -> Numbers:
    """The bundle's engine against torch eager on the released DeepECG-SL: how many times faster.

    Each runs alone in processes of its own, in turns: two libraries in one process would take each other's threads.
    Eager runs with one thread and with two, and its better median counts; so does the engine's. Eager's weights are
    fresh ones: the time does not depend on them.
    """
    if find_spec("torch") is None:
        return {"skipped": "torch is not installed; pip install 'deepecg-bedside[train]'"}
    labels = str(len(bundle.manifest.labels))
    plan = [str(number) for pair in _BATCHES for number in pair]
    commands = {
        (side, threads): [sys.executable, "-m", module, what, str(threads), *plan]
        for threads in (1, 2)
        for side, module, what in (
            ("eager", "training.bench_eager", labels),
            ("engine", "agent.bench", str(bundle.path)),
        )
    }
    times: dict[tuple[str, int, int, str], list[float]] = {}
    for _ in range(_ROUNDS):
        for (side, threads), command in commands.items():
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise BenchError(f"the {side}'s process failed: {done.stderr.strip().splitlines()[-1]}")
            for batch, measured in json.loads(done.stdout.splitlines()[-1]).items():
                for clock in ("wall_ms", "cpu_ms"):
                    times.setdefault((side, threads, int(batch), clock), []).extend(measured[clock])
    results: Numbers = {"processes": "separate, alternating"}
    for batch, _ in _BATCHES:
        row: Numbers = {}
        best: dict[tuple[str, str], float] = {}
        for (side, threads, size, clock), values in times.items():
            if size == batch:
                median = statistics.median(values)
                row[f"{side}_{threads}_thread_{clock}"] = round(median, 2)
                best[side, clock] = min(median, best.get((side, clock), median))
        row["ratio"] = round(best["eager", "wall_ms"] / best["engine", "wall_ms"], 2)
        row["ratio_of_cpu_time"] = round(best["eager", "cpu_ms"] / best["engine", "cpu_ms"], 2)
        results[f"batch_{batch}"] = row
    return results


SECTIONS: Mapping[str, Callable[[Bundle], Numbers]] = {
    "feeds": feeds,
    "preprocessing": preprocessing,
    "inference": inference,
    "eager": eager,
}


def _engine_process(arguments: Sequence[str]) -> None:
    """The engine's side of `eager`: bundle, threads, then pairs of batch and repeats; one JSON line."""
    path, threads, *plan = arguments
    pairs = [(int(batch), int(repeats)) for batch, repeats in zip(plan[::2], plan[1::2], strict=True)]
    sys.stdout.write(json.dumps(_engine_times(open_bundle(Path(path)), int(threads), pairs)) + "\n")


if __name__ == "__main__":
    _engine_process(sys.argv[1:])

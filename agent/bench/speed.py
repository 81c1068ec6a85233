"""Both networks in their published sizes, against what else could serve them, and against this processor's peak.

Every side runs alone, in processes of its own and in turns: two libraries in one process would take each other's
threads. Each side runs with one thread and with two; where two sides are compared, each is at its best. The peers and
the weights come from ``training.publish.bench_peers``: the agent itself has no torch.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from agent.bench.measure import BenchError, Numbers
from agent.engines.bundles.bundle import Bundle

_PEERS = ("eager", "compiled", "onnxruntime")
_PLANS: Mapping[str, Sequence[tuple[int, int]]] = {
    "sl": ((1, 30), (8, 6), (32, 3)),
    "ssl": ((1, 6), (8, 2), (32, 1)),
}
"""By network: batch size and runs of it in each process."""
_THREADS = (1, 2)
_ROUNDS = 3
"""Processes of each kind."""
_PEAKS = {"f32": "f32", "bf16": "bf16", "int8w": "int8"}
"""By an engine's precision, that of the matrix product which is its peak."""
_MODULE = "training.publish.bench_peers"


def speed(_: Bundle) -> Numbers:
    """Milliseconds of a batch by side, threads and batch size; how many times faster each engine is than each peer; its
    share of the peak; its start and memory. It took 24 minutes on two cores."""
    if find_spec("torch") is None or find_spec("training") is None:
        return {"skipped": "torch is not installed; pip install 'deepecg-bedside[train,dev]'"}
    results: Numbers = {"processes": "separate, alternating"}
    with TemporaryDirectory(prefix="deepecg-bench-") as place:
        for name, plan in _PLANS.items():
            folder = Path(place) / name
            results[name] = _network(name, folder, plan, _ask([_MODULE, "bundle", name, str(folder)]))
    return results


def _network(name: str, folder: Path, plan: Sequence[tuple[int, int]], about: Numbers) -> Numbers:
    engines: list[str] = about["engines"]
    numbers = [str(number) for pair in plan for number in pair]
    taken: dict[tuple[str, int, int], list[float]] = {}
    peaks: dict[tuple[str, int], list[float]] = {}
    starts: dict[str, list[Numbers]] = {}
    for turn in range(_ROUNDS):
        for threads in _THREADS:
            for precision in _PEAKS.values():
                found = _ask([_MODULE, "peak", precision, str(threads)])
                peaks.setdefault((precision, threads), []).append(found["gigaflops"])
            for side in (*_PEERS, *engines):
                sys.stderr.write(f"{name}: round {turn + 1} of {_ROUNDS}, {side}, {threads} threads\n")
                if side in _PEERS:
                    told = _ask([_MODULE, side, name, str(folder), str(threads), *numbers])
                else:
                    number, began = str(engines.index(side)), str(time.time())
                    told = _ask(["agent.bench.engine", str(folder), number, str(threads), began, *numbers])
                    starts.setdefault(side, []).append(told)
                for batch, measured in told["batches"].items():
                    taken.setdefault((side, threads, int(batch)), []).extend(measured["wall_ms"])
    best_peak = {key: max(values) for key, values in peaks.items()}
    return {
        "parameters": about["parameters"],
        "gigaflop_per_window": round(about["gigaflop"], 3),
        "peak_gigaflops": {f"{precision}, {n} threads": round(v, 1) for (precision, n), v in best_peak.items()},
        "start": {side: _start(told) for side, told in starts.items()},
        **{f"batch_{batch}": _row(taken, batch, engines, about["gigaflop"], best_peak) for batch, _ in plan},
    }


def _start(told: Sequence[Numbers]) -> Numbers:
    return {
        "seconds_to_first_answer": round(statistics.median(one["start_seconds"] for one in told), 2),
        "resident_mb": round(statistics.median(one["first_mb"] for one in told)),
        "most_resident_mb": round(statistics.median(one["start_most_mb"] for one in told)),
    }


def _row(
    taken: Mapping[tuple[str, int, int], Sequence[float]],
    batch: int,
    engines: Sequence[str],
    gigaflop: float,
    peaks: Mapping[tuple[str, int], float],
) -> Numbers:
    medians = {
        side: {threads: statistics.median(taken[side, threads, batch]) for threads in _THREADS}
        for side in (*_PEERS, *engines)
    }
    best = {side: min(times.values()) for side, times in medians.items()}
    row: Numbers = {
        "ms": {side: {f"{n} threads": round(ms, 2) for n, ms in times.items()} for side, times in medians.items()}
    }
    for engine in engines:
        precision = _PEAKS[engine.rsplit("-", 1)[1]]
        row[engine] = {
            **{f"times_{peer}": round(best[peer] / best[engine], 2) for peer in _PEERS},
            "share_of_peak": {
                f"{n} threads": round(gigaflop * batch / (ms / 1e3) / peaks[precision, n], 3)
                for n, ms in medians[engine].items()
            },
        }
    return row


def _ask(command: Sequence[str]) -> Numbers:
    """What a process of ours says in its last line."""
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BenchError(f"the process {' '.join(command[:3])} failed: {last}")
    told: Numbers = json.loads(done.stdout.splitlines()[-1])
    return told

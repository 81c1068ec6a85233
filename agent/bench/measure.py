"""What every section measures with: clocks, the machine in words, and the error that a section raises."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.core.errors import DeepECGError

Numbers = dict[str, Any]


class BenchError(DeepECGError):
    """A section cannot be run; one sentence with the remedy."""


def machine() -> Numbers:
    """What the numbers are of, and how busy it was: a load above the cores' count spoils what the wall clock says."""
    lines = _lines(Path("/proc/cpuinfo"))
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {"processor": model, "cores": os.cpu_count(), "load": [round(x, 2) for x in os.getloadavg()]}


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def times(work: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each run, by the wall and of the processor."""
    wall, cpu = [], []
    for _ in range(repeats):
        began, began_cpu = time.perf_counter(), time.process_time()
        work()
        wall.append(1e3 * (time.perf_counter() - began))
        cpu.append(1e3 * (time.process_time() - began_cpu))
    return wall, cpu


def resident_mb() -> tuple[float, float]:
    """Resident memory of this process in MB: now, and at most since the program began; zeros where /proc is missing."""
    fields = dict(line.split(":", 1) for line in _lines(Path("/proc/self/status")))
    now, most = (float(fields[name].split()[0]) / 1024 if name in fields else 0.0 for name in ("VmRSS", "VmHWM"))
    return now, most

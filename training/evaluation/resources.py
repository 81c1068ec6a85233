"""What a network costs: parameters, multiply-accumulates, latency, memory, energy. Measured, or said not to be.

Every measurement of time or memory runs in a process of its own, so that nothing that this process did before is in it:
medians over repeats after a warm-up, one process for each batch size. Energy is read from a counter (RAPL on the CPU,
NVML on a GPU) or not told at all; it is never computed from a nominal power.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from training.defaults import BATCHES

LEADS, SAMPLES = 12, 2500
POWERCAP = Path("/sys/class/powercap")
NO_COUNTER = "no energy counter on this machine"


@dataclass(frozen=True, slots=True)
class Latency:
    """One batch size, in a process of its own."""

    batch: int
    threads: int
    """Of the processor; on a GPU those that feed it."""
    repeats: int
    milliseconds: float
    """Median for the whole batch."""
    fast: float
    slow: float
    """First and third quartile."""
    windows_per_second: float
    peak_memory_mb: float
    """Most resident memory of the process, libraries and weights included."""
    network_memory_mb: float
    """That less what the process held before the network was there."""
    device_memory_mb: float | None
    """Most memory allocated on the GPU; None on the CPU."""
    joules_per_window: float | None
    """None where there is no counter."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Of one network on one machine."""

    name: str
    parameters: int
    parameter_mb: float
    macs: int
    """Of one window: multiply-accumulates of convolutions and matrix products, which are nearly all of it."""
    samples: int
    """Of that window, for each of 12 leads."""
    device: str
    machine: str
    energy: str
    """Which counter was read, or that there is none."""
    latencies: tuple[Latency, ...]


def parameters(net: nn.Module) -> int:
    """Trainable and frozen, shared ones once."""
    return sum(p.numel() for p in net.parameters())


def macs(net: nn.Module, samples: int = SAMPLES) -> int:
    """Multiply-accumulates of one window (1, 12, samples).

    By torch's own counter, which sees convolutions and matrix products. Fused attention hides its products from it, so
    attention is counted in its plain form, which does the same ones.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    was, fast = net.training, torch.backends.mha.get_fastpath_enabled()
    net.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    window = torch.zeros(1, LEADS, samples, device=next(net.parameters()).device)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            net(window)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        net.train(was)
    return int(counter.get_total_flops()) // 2


class Counter(Protocol):
    """Energy used so far."""

    name: str

    def joules(self) -> float:
        """Since some moment; only differences mean anything."""
        ...


class Rapl:
    """The processor packages' counters (Linux powercap). They wrap round, once at most between two readings."""

    name = "RAPL (processor packages)"

    def __init__(self, zones: Sequence[Path]) -> None:
        self._zones = [(zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())) for zone in zones]
        self._last = [int(path.read_text()) for path, _ in self._zones]
        self._used = 0

    def joules(self) -> float:
        """Since the counter was opened."""
        for k, (path, limit) in enumerate(self._zones):
            now = int(path.read_text())
            self._used += (now - self._last[k]) % (limit + 1)
            self._last[k] = now
        return self._used / 1e6


class Nvml:
    """The GPU's counter (Volta and later)."""

    name = "NVML (GPU)"

    def __init__(self, pynvml: Any, index: int) -> None:
        pynvml.nvmlInit()
        self._pynvml = pynvml
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        self.joules()

    def joules(self) -> float:
        """Since the driver was loaded."""
        return float(self._pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3


def energy_counter(device: str, powercap: Path = POWERCAP) -> Counter | None:
    """The device's counter; None where there is none or it may not be read (RAPL asks for root on most systems)."""
    if device.startswith("cuda"):
        try:
            pynvml = importlib.import_module("pynvml")
        except ImportError:
            return None
        try:
            return Nvml(pynvml, torch.device(device).index or 0)
        except pynvml.NVMLError:
            return None
    try:
        # Packages alone: cores and memory are zones within them ("intel-rapl:0:1") and would count twice.
        zones = sorted(zone for zone in powercap.glob("intel-rapl:*") if zone.name.count(":") == 1)
        return Rapl(zones) if zones else None
    except OSError:
        return None


def _resident() -> tuple[float, float]:
    """Resident memory of this process in MB: now, and at most (VmHWM, which begins anew with the process)."""
    with contextlib.suppress(OSError):
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return float(fields["VmRSS"].split()[0]) / 1024, float(fields["VmHWM"].split()[0]) / 1024
    import resource  # no /proc: macOS, whose ru_maxrss is in bytes

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if platform.system() == "Darwin" else 2**10)
    return most, most


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _time(weights: Path, batch: int, samples: int, device: str, threads: int, repeats: int, answer: Connection) -> None:
    """In its own process: load the network, warm up, measure, send a `Latency`."""
    torch.set_num_threads(threads)
    before, _ = _resident()
    net: nn.Module = torch.load(weights, weights_only=False)  # written by `latency` in this very run
    net = net.to(device).eval()
    x = torch.randn(batch, LEADS, samples, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        for _ in range(3):
            net(x)
        _synchronise(device)
        counter = energy_counter(device)
        begun = counter.joules() if counter else 0.0
        taken = []
        for _ in range(repeats):
            start = time.perf_counter()
            net(x)
            _synchronise(device)
            taken.append(time.perf_counter() - start)
        used = counter.joules() - begun if counter else None
    _, most = _resident()
    fast, middle, slow = quantiles(taken, n=4) if repeats > 1 else (taken[0],) * 3
    answer.send(
        Latency(
            batch=batch,
            threads=threads,
            repeats=repeats,
            milliseconds=1e3 * median(taken),
            fast=1e3 * fast,
            slow=1e3 * slow,
            windows_per_second=batch / middle,
            peak_memory_mb=most,
            network_memory_mb=max(most - before, 0.0),
            device_memory_mb=torch.cuda.max_memory_allocated(device) / 2**20 if device.startswith("cuda") else None,
            joules_per_window=None if used is None else used / (repeats * batch),
        )
    )


def latency(
    weights: Path, batch: int, *, samples: int = SAMPLES, device: str = "cpu", threads: int = 1, repeats: int = 20
) -> Latency:
    """Measure a network that ``torch.save`` wrote whole.

    Raises:
        ValueError: the measuring process ended without an answer, as when memory is out.
    """
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_time, args=(weights, batch, samples, device, threads, repeats, send))
    process.start()
    send.close()
    try:
        answer: Latency = receive.recv()
    except EOFError:
        process.join()
        raise ValueError(
            f"measuring batches of {batch} ended with {process.exitcode} and without an answer; take smaller ones"
        ) from None
    process.join()
    return answer


@contextlib.contextmanager
def _saved(net: nn.Module, folder: Path) -> Iterator[Path]:
    path = folder / f"network-{os.getpid()}.tmp"
    torch.save(net, path)
    try:
        yield path
    finally:
        path.unlink()


def machine() -> str:
    """The processor (and GPU) in words, without the host's name."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores"


def measure(
    net: nn.Module,
    name: str,
    folder: Path,
    *,
    samples: int = SAMPLES,
    batches: Sequence[int] = BATCHES,
    device: str = "cpu",
    threads: int = 1,
    repeats: int = 20,
) -> Resources:
    """Everything of a network that takes (B, 12, samples); ``folder`` holds its copy for as long as it is measured."""
    with _saved(net, folder) as weights:
        latencies = tuple(
            latency(weights, batch, samples=samples, device=device, threads=threads, repeats=repeats)
            for batch in batches
        )
    counter = energy_counter(device)
    return Resources(
        name=name,
        parameters=parameters(net),
        parameter_mb=sum(p.numel() * p.element_size() for p in net.parameters()) / 1e6,
        macs=macs(net, samples),
        samples=samples,
        device=torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU",
        machine=machine(),
        energy=counter.name if counter else NO_COUNTER,
        latencies=latencies,
    )

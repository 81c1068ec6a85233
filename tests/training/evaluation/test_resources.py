"""Cost of networks whose cost is known, in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from training.evaluation.resources import NO_COUNTER, Rapl, energy_counter, latency, macs, measure, parameters
from training.models.kinds import SSLConfig, released
from training.models.sl import DeepECGSL
from training.models.ssl import DeepECGSSL


class Attention(nn.Module):
    """One attention block, fused: 4 projections and two products."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(12, 48, bias=False)
        self.out = nn.Linear(16, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.project(x.transpose(1, 2)).unsqueeze(1).chunk(3, dim=-1)
        return self.out(functional.scaled_dot_product_attention(q, k, v))


def test_the_released_network_costs_what_is_published() -> None:
    net = DeepECGSL(released())
    assert parameters(net) == 1_508_235
    assert round(macs(net) / 1e6) == 265
    assert net.training, "left as it was"


def test_fused_attention_is_counted_too() -> None:
    t = 100
    assert macs(Attention(), t) == t * 12 * 48 + 2 * t * t * 16 + t * 16 * 16
    layer = nn.Sequential(nn.Conv1d(12, 16, 1, groups=4), nn.Flatten(), nn.Linear(16 * t, 3))
    assert macs(layer, t) == 16 * 3 * t + 16 * t * 3


def test_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    found = measure(nn.Conv1d(12, 8, 3), "small", tmp_path, samples=200, batches=(2,), repeats=5)
    assert found.parameters == 12 * 8 * 3 + 8
    assert found.parameter_mb == pytest.approx(4 * found.parameters / 1e6)
    (one,) = found.latencies
    assert one.batch == 2
    assert 0 < one.fast <= one.milliseconds <= one.slow
    assert one.windows_per_second == pytest.approx(2 / (one.milliseconds / 1e3))
    assert one.peak_memory_mb > one.network_memory_mb >= 0
    assert one.device_memory_mb is None
    assert (one.joules_per_window is None) == (found.energy == NO_COUNTER)
    assert list(tmp_path.iterdir()) == [], "the copy of the network is gone"


def test_a_process_that_dies_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no network")
    with pytest.raises(ValueError, match="measuring batches of 4 ended with 1 and without an answer"):
        latency(tmp_path / "x", 4)


def zone(folder: Path, name: str, used: int, limit: int = 1_000_000) -> Path:
    path = folder / name
    path.mkdir()
    (path / "energy_uj").write_text(f"{used}\n")
    (path / "max_energy_range_uj").write_text(f"{limit}\n")
    return path


def test_the_processors_counter_sums_packages_and_survives_wrapping(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", 900_000), zone(tmp_path, "intel-rapl:1", 0)
    inner = zone(tmp_path, "intel-rapl:0:0", 0)  # the cores, which the package holds
    counter = energy_counter("cpu", tmp_path)
    assert isinstance(counter, Rapl)
    assert counter.joules() == 0
    (first / "energy_uj").write_text("100000\n")
    (second / "energy_uj").write_text("500000\n")
    (inner / "energy_uj").write_text("999999\n")
    assert counter.joules() == pytest.approx(0.2 + 0.5, abs=1e-5)


def test_no_counter_is_none(tmp_path: Path) -> None:
    assert energy_counter("cpu", tmp_path) is None
    zone(tmp_path, "intel-rapl:0", 0)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert energy_counter("cpu", tmp_path) is None


def test_the_transformer_costs_what_is_published() -> None:
    with torch.device("meta"):  # counts need no numbers
        net = DeepECGSSL(SSLConfig())
    assert parameters(net) == 90_432_461
    assert macs(net) / 1e9 == pytest.approx(14.6, abs=0.05)

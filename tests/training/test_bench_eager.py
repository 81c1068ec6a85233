"""The eager peer of the benchmark."""

from __future__ import annotations

import json

import pytest
import torch

from training.bench_eager import main


def test_times_each_batch(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        main(["5", "1", "1", "2", "2", "1"])
    finally:
        torch.set_num_threads(threads)
    results = json.loads(capsys.readouterr().out)
    assert list(results) == ["1", "2"]
    assert [len(results[batch]["wall_ms"]) for batch in results] == [2, 1]
    assert all(ms > 0 for measured in results.values() for times in measured.values() for ms in times)

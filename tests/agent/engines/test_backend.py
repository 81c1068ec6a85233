"""The choice of an engine, and its self-test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from agent.engines.backend import EngineError, EngineSettings, open_backend, self_test
from agent.engines.bundle import UNSIGNED, Bundle, open_bundle
from agent.engines.openvino import OpenVinoEngine

Rewrite = Callable[..., None]


def test_the_first_engine_that_fits_is_served(folder: Path, rewrite: Rewrite) -> None:
    def add_others(document: dict) -> None:  # type: ignore[type-arg]
        (sound,) = document["engines"]
        document["engines"] = [
            sound | {"flavour": "tensorrt", "precision": "f16"},
            sound | {"precision": "int8w"},
            sound,
        ]

    rewrite(folder, add_others)
    with capture_logs() as logs, open_backend(open_bundle(folder, UNSIGNED), EngineSettings()) as backend:
        assert backend.name == "openvino-f32"
    skipped = [line for line in logs if line["event"] == "engine_skipped"]
    assert [(line["flavour"], line["precision"]) for line in skipped] == [("tensorrt", "f16"), ("openvino", "int8w")]
    assert "no back-end for tensorrt" in skipped[0]["reason"]
    ready = next(line for line in logs if line["event"] == "engine_ready")
    assert ready["golden_difference"] < 1e-5


def test_no_engine_that_fits(folder: Path, rewrite: Rewrite) -> None:
    rewrite(folder, lambda d: d["engines"][0].update(flavour="tensorrt-rtx"))
    with (
        pytest.raises(EngineError, match=r"small/1 has no engine that works .* tensorrt-rtx, only for openvino"),
        open_backend(open_bundle(folder, UNSIGNED), EngineSettings()),
    ):
        pytest.fail("served")


def test_wrong_answers_fail_the_self_test(folder: Path, rewrite: Rewrite) -> None:
    answers = np.load(folder / "golden_probabilities.npy")
    answers[-1, -1] = 1.0 - answers[-1, -1] if abs(answers[-1, -1] - 0.5) > 0.01 else 0.0
    np.save(folder / "golden_probabilities.npy", answers)
    rewrite(folder)
    with (
        pytest.raises(EngineError, match="fails its self-test"),
        open_backend(open_bundle(folder, UNSIGNED), EngineSettings()),
    ):
        pytest.fail("served")


def test_self_test_gives_the_largest_difference(bundle: Bundle) -> None:
    with OpenVinoEngine(bundle, bundle.manifest.engines[0]) as engine:
        assert 0.0 <= self_test(engine, bundle, max_batch=2) < 1e-5


def test_what_goes_wrong_inside_is_not_taken_for_a_misfit(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="mine"), open_backend(bundle, EngineSettings()):
        raise EngineError("mine")

"""An engine alone in its process gives what it gives in this one, with figures; what fails is a sentence."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.engines.backends.openvino import OpenVinoEngine
from agent.engines.bundles.bundle import UNSIGNED, open_bundle
from agent.engines.compile import Built, SourceFiles
from training.publish.bundle import Contents, Draft, draft
from training.publish.run_engine import EngineRunError, run_engine


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, alerting: Contents, source: SourceFiles, f32: Built
) -> Iterator[Draft]:
    with draft(tmp_path_factory.mktemp("trial") / "x", alerting, source, [f32]) as made:
        yield made


@pytest.fixture
def windows(tmp_path: Path) -> Path:
    path = tmp_path / "windows.npy"
    np.save(path, np.random.default_rng(0).normal(0, 50, (70, 12, 500)).astype(np.float32))
    return path


def test_it_answers_as_here_and_tells_what_it_cost(made: Draft, windows: Path) -> None:
    began = time.monotonic()
    ran = run_engine(made.path, 0, windows)
    whole = time.monotonic() - began
    bundle = open_bundle(made.path, UNSIGNED)
    with OpenVinoEngine(bundle, bundle.manifest.engines[0]) as engine:
        np.testing.assert_allclose(ran.answers, engine.infer(np.load(windows)), atol=1e-6)
    np.testing.assert_allclose(ran.golden, bundle.golden_probabilities, atol=3e-5)
    assert list(ran.milliseconds) == [1, 8]
    assert all(value > 0 for value in ran.milliseconds.values())
    assert 20 < ran.memory_mb < 2000, "the interpreter, the library and the network, without torch"
    assert 0 < ran.start_seconds < whole


def test_no_windows_is_fine(made: Draft, tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.empty((0, 12, 500), np.float32))
    assert run_engine(made.path, 0, tmp_path / "none.npy").answers.shape == (0, 77)


def test_an_engine_that_does_not_load_says_why(
    tmp_path: Path, alerting: Contents, source: SourceFiles, f32: Built, windows: Path
) -> None:
    names = tuple(f32.files)
    hollow = Built(
        "openvino", "f32", {"junk.xml": b"<net/>", "junk.bin": f32.files[names[1]]}, f32.library, f32.target, (1,), 0.0
    )
    with (
        draft(tmp_path / "x", alerting, source, [hollow]) as made,
        pytest.raises(EngineRunError, match=r"cannot load junk\.xml.*compile the bundle again"),
    ):
        run_engine(made.path, 0, windows)


def test_a_damaged_file_says_so_and_a_crash_is_told(made: Draft, windows: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineRunError, match="there is no bundle at"):
        run_engine(tmp_path / "nowhere", 0, windows)
    with pytest.raises(EngineRunError, match=r"its process ended with status 1 \(IndexError"):
        run_engine(made.path, 7, windows)

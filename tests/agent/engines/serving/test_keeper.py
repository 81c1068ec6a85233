"""Engines that are opened, kept and closed beside the work."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from structlog.testing import capture_logs

from agent.core.preprocessing import prepare
from agent.engines.base import Backend, EngineError
from agent.engines.bundles.bundle import Bundle, BundleError
from agent.engines.select import open_backend
from agent.engines.serving.keeper import Keeper
from agent.engines.settings import EngineSettings


async def test_an_engine_is_tested_tried_and_closed_by_its_own_thread(bundle: Bundle) -> None:
    seen: list[tuple[str, int]] = []

    @contextmanager
    def opener() -> Iterator[Backend]:
        seen.append(("open", threading.get_ident()))
        with open_backend(bundle, EngineSettings()) as opened:
            yield opened
        seen.append(("close", threading.get_ident()))

    keeper = Keeper(opener, bundle.manifest)
    began = time.monotonic()
    engine = await keeper.open(60)
    assert (engine.name, engine.note) == ("openvino-f32", "")
    assert engine.seconds is not None
    assert 0 < engine.seconds < time.monotonic() - began
    p = bundle.manifest.input.preprocessing
    found = engine.backend.infer(prepare(bundle.golden_windows, p.rate, p))  # from another thread
    np.testing.assert_allclose(found, bundle.golden_probabilities, atol=1e-4)
    assert not keeper.is_closed
    engine.keeper.retire()
    await keeper.closed(10)
    assert keeper.is_closed
    assert [what for what, _ in seen] == ["open", "close"]
    assert len({thread for _, thread in seen} | {threading.get_ident()}) == 2


async def test_an_engine_that_is_not_tried_has_no_speed(bundle: Bundle) -> None:
    keeper = Keeper(partial(open_backend, bundle, EngineSettings()), bundle.manifest)
    assert (await keeper.open(60, probe=False)).seconds is None
    keeper.retire()
    await keeper.closed(10)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (EngineError("no GPU here"), "no GPU here"),
        (BundleError("model.bin is damaged; copy it again"), "model.bin is damaged"),
        (RuntimeError("cudaError 35"), r"does not open \(RuntimeError: cudaError 35\)"),
    ],
)
async def test_whatever_goes_wrong_is_one_sentence(bundle: Bundle, error: Exception, said: str) -> None:
    @contextmanager
    def opener() -> Iterator[Backend]:
        raise error
        yield

    keeper = Keeper(opener, bundle.manifest)
    with pytest.raises(EngineError, match=said):
        await keeper.open(60)
    await keeper.closed(10)
    assert keeper.is_closed


async def test_an_engine_that_opens_too_late_is_closed_when_it_has(bundle: Bundle) -> None:
    go, closed = threading.Event(), threading.Event()

    @contextmanager
    def opener() -> Iterator[Backend]:
        go.wait(20)
        with open_backend(bundle, EngineSettings()) as opened:
            yield opened
        closed.set()

    keeper = Keeper(opener, bundle.manifest)
    with pytest.raises(EngineError, match=r"did not start within 0\.1 s"):
        await keeper.open(0.1)
    go.set()
    await keeper.closed(20)
    assert closed.is_set()


async def test_who_no_longer_waits_leaves_nothing_open(bundle: Bundle) -> None:
    keeper = Keeper(partial(open_backend, bundle, EngineSettings()), bundle.manifest)
    task = asyncio.create_task(keeper.open(60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await keeper.closed(20)
    assert keeper.is_closed


async def test_an_engine_of_another_model_is_none_of_ours(bundle: Bundle) -> None:
    other = bundle.manifest.model_copy(update={"weights_sha256": "1" * 64, "version": "2"})
    keeper = Keeper(partial(open_backend, replace(bundle, manifest=other), EngineSettings()), bundle.manifest)
    with pytest.raises(EngineError, match=r"openvino-f32 is an engine of small/2, not of small/1"):
        await keeper.open(60)


async def test_an_error_on_closing_is_logged_and_harms_nobody(bundle: Bundle) -> None:
    @contextmanager
    def opener() -> Iterator[Backend]:
        with open_backend(bundle, EngineSettings()) as opened:
            yield opened
        raise RuntimeError("the driver is gone")

    with capture_logs() as logs:
        keeper = Keeper(opener, bundle.manifest)
        await keeper.open(60)
        keeper.retire()
        await keeper.closed(10)
        await asyncio.sleep(0)
    assert [(x["event"], x["reason"]) for x in logs if x["log_level"] == "error"] == [
        ("engine_not_closed", "the driver is gone")
    ]

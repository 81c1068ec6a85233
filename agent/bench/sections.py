"""The sections by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agent.bench.engine import inference, preprocessing
from agent.bench.feeds import feeds
from agent.bench.measure import BenchError, Numbers, machine
from agent.bench.speed import speed
from agent.engines.base import EngineError
from agent.engines.bundles.bundle import Bundle, BundleError, default_bundle, open_bundle

SECTIONS: Mapping[str, Callable[[Bundle], Numbers]] = {
    "feeds": feeds,
    "preprocessing": preprocessing,
    "inference": inference,
    "speed": speed,
}


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

"""The sections by name, run one after the other, and their figures as lines for a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
QUICK = ("feeds", "preprocessing", "inference")
"""What is measured unless sections are named: a quarter of a minute on two cores. `speed` takes 24 minutes."""


def run(sections: Sequence[str], bundle: Path | None = None) -> Iterator[tuple[str, Numbers]]:
    """The machine, then each named section (`QUICK`, where none is) as soon as it is measured.

    Raises:
        BenchError: there is no such section (before anything is measured), or the bundle cannot be used.
    """
    if unknown := [name for name in sections if name not in SECTIONS]:
        raise BenchError(f"no section {unknown[0]!r}; choose from {', '.join(SECTIONS)}")
    return _measured(sections or QUICK, bundle)


def _measured(sections: Sequence[str], bundle: Path | None) -> Iterator[tuple[str, Numbers]]:
    try:
        opened = open_bundle(bundle or default_bundle())
        yield "machine", machine()
        for name in sections:
            yield name, SECTIONS[name](opened)
    except (BundleError, EngineError) as error:
        raise BenchError(str(error)) from error


def lines(numbers: Numbers, path: str = "") -> Iterator[str]:
    """Each figure on a line of its own, by its dotted name."""
    for name, value in numbers.items():
        here = f"{path}.{name}" if path else str(name)
        if isinstance(value, Mapping):
            yield from lines(dict(value), here)
        else:
            yield f"{here:52} {value}"

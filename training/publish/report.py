"""What was found of a bundle's engines, for programs (JSON) and for people (a table, a section of the README)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from agent.core.bundle.limits import Parity, ParityLimits


@dataclass(frozen=True, slots=True)
class Auroc:
    """Of one label, every patient weighing the same."""

    fp32: float
    engine: float
    patients: int
    """With the finding."""


@dataclass(frozen=True, slots=True)
class Difference:
    """An alert of one during which the other has none."""

    label: str
    recording: str
    by: str
    """``fp32`` or ``engine``."""
    opened: float
    """Seconds from the start of the recording to that of the window that opens the alert."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One engine, and what was found of it."""

    engine: str
    """As ``openvino-bf16``."""
    library: str
    megabytes: float
    not_run: str
    """Why it was not run here; empty: it was."""
    broken: str
    """Which limit it breaks, or why it fails; empty: it passes, or was not run and nothing is known against it."""
    parity: Parity
    golden_max: float | None = None
    """Largest difference of an answer to a golden window: what the agent's self-test looks at."""
    all_max: float | None = None
    """Largest difference, over the labels too that do not count."""
    flips: Mapping[str, int] | None = None
    """By label that counts."""
    auroc: Mapping[str, Auroc] | None = None
    alerts: int | None = None
    """Of fp32."""
    moved: int | None = None
    """Alerts of fp32 that the engine opens or closes at another window, or in pieces."""
    differences: tuple[Difference, ...] = ()
    start_seconds: float | None = None
    memory_mb: float | None = None
    milliseconds: Mapping[int, float] | None = None
    """By batch size: median time of a whole batch."""


@dataclass(frozen=True, slots=True)
class Validation:
    """What was found of a bundle's engines."""

    model: str
    machine: str
    torch: str
    threads: int
    golden: int
    """Golden windows."""
    windows: int
    """Of the dataset, recordings included."""
    sources: Mapping[str, int]
    recordings: int
    hours: float
    counted: tuple[str, ...]
    """Labels by which engines are judged."""
    limits: ParityLimits
    engines: tuple[Finding, ...]
    """In the manifest's order."""

    @property
    def what(self) -> str:
        """What was compared, in words."""
        out = f"{self.golden} golden windows"
        if self.windows:
            out += f" and {self.windows} of {', '.join(self.sources)}"
        if self.recordings:
            out += f", {self.recordings} whole recordings ({self.hours:.1f} h) among them"
        return out

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The engines that may not be offered."""
        return tuple(one for one in self.engines if one.broken)


def as_json(found: Validation, seconds: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Everything. ``seconds``: what building took, by engine."""
    out: dict[str, Any] = TypeAdapter(Validation).dump_python(found, mode="json")
    for one in out["engines"]:
        one["build_seconds"] = (seconds or {}).get(one["engine"])
    return out


def table_of(found: Validation, seconds: Mapping[str, float] | None = None) -> list[str]:
    """Lines for a terminal. ``seconds``: what building took, by engine."""
    columns = dict(_COLUMNS)
    if seconds is not None:
        columns["build s"] = lambda one: f"{seconds[one.engine]:.1f}" if one.engine in seconds else "–"
    rows = [tuple(columns), *(tuple(cell(one) for cell in columns.values()) for one in found.engines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = [f"{found.model}: engines against fp32 torch {found.torch} on {found.what}"]
    lines.append(
        f"{found.machine}, {found.threads} thread{'s' if found.threads > 1 else ''}; judged by {_judged(found)}"
    )
    lines += ["  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    for one in found.engines:
        lines += [
            f"{one.engine}: {d.label} in {d.recording} opens at {d.opened:.0f} s by {d.by} alone"
            for d in one.differences
        ]
        if one.not_run and not one.broken:
            lines.append(f"{one.engine}: not run here: {one.not_run}; the agent's self-test decides where it is")
        if one.broken:
            lines.append(f"{one.engine}: fails: {one.broken}")
    return lines


def section_of(found: Validation) -> list[str]:
    """Lines of the bundle's README; no recording is named."""
    columns = {name: cell for name, cell in _COLUMNS.items() if name in _IN_README}
    lines = [
        "## Engines",
        "",
        f"Each held against fp32 torch {found.torch} on {found.what}; judged by {_judged(found)}. Measured on "
        f"{found.machine}, {found.threads} thread{'s' if found.threads > 1 else ''}. An engine that was not run has to "
        "pass the agent's self-test on the ward before it serves.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
    ]
    return [*lines, *("| " + " | ".join(cell(one) for cell in columns.values()) + " |" for one in found.engines)]


def _judged(found: Validation) -> str:
    n = len(found.counted)
    return found.counted[0] if n == 1 else f"{n} labels" if n > _FEW else ", ".join(found.counted)


_FEW = 7


def _share(one: Finding) -> str:
    p = one.parity
    return "–" if p.flips is None else f"{p.flips} ({p.flips / p.windows:.2%})"


def _number(value: float | None, form: str = ".1e") -> str:
    return "–" if value is None else f"{value:{form}}"


def _alerts(one: Finding) -> str:
    if one.parity.alerts_differ is None:
        return "–"
    return f"{one.parity.alerts_differ}" if one.alerts is None else f"{one.parity.alerts_differ} of {one.alerts}"


def _latency(one: Finding) -> str:
    return "–" if not one.milliseconds else " ".join(f"{n}: {ms:.1f}" for n, ms in one.milliseconds.items())


def _verdict(one: Finding) -> str:
    return "FAILS" if one.broken else "not run here" if one.not_run else "passes"


_COLUMNS: Mapping[str, Callable[[Finding], str]] = {
    "engine": lambda one: one.engine,
    "MB": lambda one: f"{one.megabytes:.1f}",
    "largest shift": lambda one: _number(one.parity.probability_max),
    "99.9 %": lambda one: _number(one.parity.probability_p999),
    "logit": lambda one: _number(one.parity.logit_max),
    "flips, worst label": _share,
    "AUROC change": lambda one: _number(one.parity.auroc_change, "+.1e"),
    "alerts that differ": _alerts,
    "start s": lambda one: _number(one.start_seconds, ".2f"),
    "memory MB": lambda one: _number(one.memory_mb, ".0f"),
    "ms by batch": _latency,
    "gate": _verdict,
}
_IN_README: Sequence[str] = tuple(name for name in _COLUMNS if name not in {"start s", "memory MB", "ms by batch"})

"""Named checks, and the one answer that ``/healthz`` makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    """How a part of the line is. The worst part decides for the whole."""

    OK = "ok"
    DEGRADED = "degraded"  # it works with less than it should: a sink's receiver away, a feed refused
    UNHEALTHY = "unhealthy"  # alerts may be missed: no engine, no feed, outbox not writable


_WORST_LAST = (Health.OK, Health.DEGRADED, Health.UNHEALTHY)


@dataclass(frozen=True, slots=True)
class Check:
    """What a part of the line last said of itself."""

    health: Health
    reason: str
    """One sentence, free of patient data; empty with ``OK``."""
    time: float
    """Monotonic seconds at which it was said."""
    valid_for: float | None
    """Seconds after which silence itself is unhealthy; None: holds until the part says otherwise."""


class Checks:
    """The checks by name."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}

    def report(self, name: str, health: Health, reason: str, now: float, valid_for: float | None = None) -> None:
        """Replace the check of that name."""
        self._checks[name] = Check(health, "" if health is Health.OK else reason, now, valid_for)

    def verdict(self, now: float) -> tuple[Health, dict[str, str]]:
        """The whole's health, and a reason for every part that is not well."""
        if not self._checks:
            return Health.UNHEALTHY, {"agent": "It is starting: no part has reported yet."}
        worst = Health.OK
        reasons: dict[str, str] = {}
        for name, check in sorted(self._checks.items()):
            health, reason = check.health, check.reason
            if check.valid_for is not None and now - check.time > check.valid_for:
                health, reason = Health.UNHEALTHY, f"No report for {now - check.time:.0f} s."
            if health is not Health.OK:
                reasons[name] = reason or health.value
            worst = max(worst, health, key=_WORST_LAST.index)
        return worst, reasons

"""Which labels may alert, and for how many windows in a row a label has been above its threshold or below its release.

Windows are consecutive in *device* time when no signal between them went unseen: the next one starts after the last
one's start and not after its end. Anything else (gap, dropped windows, a clock set) starts the counting anew, towards
opening and towards closing alike.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from agent.core.alerting.settings import AlertingSettings
from agent.core.bundle.manifest import AlertRule, Manifest
from agent.core.ecg import Window


@dataclass(frozen=True, slots=True)
class LabelRule:
    """The rule of one of a manifest's labels, and what silences it here."""

    index: int
    """Place of its probability."""
    name: str
    rule: AlertRule
    never: bool
    """Suppressed on this ward."""
    not_paced: bool
    """Suppressed while the patient is paced."""

    def suppressed(self, window: Window) -> str:
        """Why this window's finding is not alerted: ``label``, ``paced``, or empty."""
        return "label" if self.never else "paced" if self.not_paced and window.paced else ""


def label_rules(manifest: Manifest, settings: AlertingSettings) -> tuple[LabelRule, ...]:
    """The rules of the manifest's labels, of those that have one.

    Raises:
        ValueError: ``suppress`` names no label of this manifest.
    """
    for pattern in settings.suppress:
        if not any(fnmatchcase(label.name, pattern) for label in manifest.labels):
            raise ValueError(
                f"alerting.suppress: {pattern!r} is no label of {manifest.model_id}; take a name from its manifest"
            )
    return tuple(
        LabelRule(
            index,
            label.name,
            label.rule,
            never=_matches(label.name, settings.suppress),
            not_paced=_matches(label.name, settings.suppress_when_paced),
        )
        for index, label in enumerate(manifest.labels)
        if label.rule is not None
    )


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(slots=True)
class RunLengths:
    """How many windows in a row one device of a bed has shown what, of one patient."""

    received: float | None = None
    """Monotonic time of its last window; None between a restart and the first tick."""
    _start: float = -math.inf
    _end: float = -math.inf
    _above: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By label: consecutive windows at or above the threshold, and why they are suppressed (empty: they are not)."""
    _below: dict[str, int] = field(default_factory=dict)
    """By label: consecutive windows below the release."""

    def follow(self, window: Window) -> bool:
        """Take up a window, and start anew where signal before it went unseen. False: it is the same one again."""
        if window.start == self._start:
            return False
        if not self._start < window.start <= self._end:
            self._above.clear()
            self._below.clear()
        self._start, self._end, self.received = window.start, window.end, window.received
        return True

    def count(self, label: LabelRule, probability: float, suppressed: str) -> tuple[int, int]:
        """Consecutive windows at or above the label's threshold, and below its release, with this one.

        NaN is neither; a suppressed finding counts as below, and does not count towards one that is not suppressed.
        """
        before, why = self._above.get(label.name, (0, suppressed))
        above = 0 if not probability >= label.rule.threshold else before + 1 if why == suppressed else 1
        self._above[label.name] = (above, suppressed)
        below = self._below.get(label.name, 0) + 1 if probability < label.rule.release or suppressed else 0
        self._below[label.name] = below
        return above, below

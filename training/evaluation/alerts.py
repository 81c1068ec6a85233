"""Alert thresholds from continuous recordings: the alerts that the ward would have had, and how many were false.

Not by Youden's index, which knows neither time nor prevalence: the threshold is the lowest at which unseen patients
*without* the condition, replayed window by window with the agent's own persistence and hysteresis, give at most one
false alert per bed-day, and at which every higher threshold does so too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from agent.core.bundle.manifest import AlertRule
from agent.core.ecg import LEADS, FloatArray, Lead
from training.data import WindowTable
from training.defaults import STEP_SECONDS

MAX_PER_BED_DAY = 1.0
CANDIDATES = tuple(round(0.02 + 0.005 * i, 3) for i in range(196))
"""0.02 to 0.995."""
SHORTEST_EPISODE = 5
"""Windows of an episode that should be found: ten seconds every five, so thirty seconds, which the ESC guideline of
2020 asks of atrial fibrillation on a monitor strip."""
MIN_NEGATIVE_HOURS = 12.0
MIN_SENSITIVITY = 0.5
"""An alert that misses most episodes only lulls."""
HOURS_PER_DAY = 24.0
REQUIRED = LEADS.index(Lead.II)
"""A bed without lead II is not offered to the network: hardly any recording trained on lacks it."""


@dataclass(frozen=True, slots=True)
class Persistence:
    """How long a finding must last, in windows, and how far it must fall."""

    open_after: int = 5
    close_after: int = 3
    release: float = 0.5
    """Of the threshold."""

    @classmethod
    def of(cls, rule: AlertRule) -> Self:
        """That of a bundle's rule."""
        return cls(rule.open_after, rule.close_after, rule.release / rule.threshold if rule.threshold else 0.0)


PERSISTENCES = tuple(Persistence(open_after) for open_after in (5, 7, 9))
"""Thirty, forty and fifty seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One continuous recording as one label sees it; n windows in order of time."""

    patient: str
    start: NDArray[np.float64]
    """(n,) seconds."""
    seconds: float
    """Length of a window."""
    probability: FloatArray
    """(n,)"""
    truth: NDArray[np.int8]
    """(n,): 1, 0, -1."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a threshold would have done."""

    threshold: float
    rule: Persistence
    false_alerts: int
    negative_hours: float
    false_alert_patients: int
    negative_patients: int
    episodes: int
    """Unbroken stretches of the condition of ``SHORTEST_EPISODE`` windows or more."""
    detected: int
    positive_patients: int
    """With such an episode."""
    detected_patients: int
    sensitivity: float
    """Share of a patient's episodes that are found, the mean over the patients who have any; NaN without."""
    delays: tuple[float, ...]
    """Seconds from the start of an episode to the end of the window that opens the alert; where it was not open yet."""

    @property
    def per_bed_day(self) -> float:
        """False alerts per bed and day."""
        return self.false_alerts / (self.negative_hours / HOURS_PER_DAY)

    @property
    def interval(self) -> tuple[float, float]:
        """Exact 95 % Poisson interval of ``per_bed_day``."""
        low, high = poisson_interval(self.false_alerts)
        days = self.negative_hours / HOURS_PER_DAY
        return low / days, high / days


def poisson_interval(count: int, level: float = 0.95) -> tuple[float, float]:
    """Exact (Garwood) interval of the mean of a Poisson count."""
    tail = (1 - level) / 2
    low = float(chi2.ppf(tail, 2 * count)) / 2 if count else 0.0
    return low, float(chi2.ppf(1 - tail, 2 * (count + 1))) / 2


def alerts(track: Track, threshold: float, rule: Persistence) -> list[tuple[int, int]]:
    """First and last window index of each alert, as `agent.core.alerting.rules` opens and closes them.

    The alert opens at the last of ``open_after`` consecutive windows at or above the threshold and ends at the last of
    ``close_after`` consecutive windows below the release; a gap in time starts both counts anew.
    """
    release = threshold * rule.release
    found: list[tuple[int, int]] = []
    above = below = 0
    opened: int | None = None
    for i, p in enumerate(track.probability.tolist()):  # float64, as the agent compares
        if i and not track.start[i - 1] < track.start[i] <= track.start[i - 1] + track.seconds:
            above = below = 0
        above = above + 1 if p >= threshold else 0
        below = below + 1 if p < release else 0
        if opened is None:
            if above >= rule.open_after:
                opened = i
        elif below >= rule.close_after:
            found.append((opened, i))
            opened, above = None, 0
    if opened is not None:
        found.append((opened, len(track.probability) - 1))
    return found


def unmatched(one: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The alerts of ``one`` during which ``other`` has none, both of the same windows."""
    return [(first, last) for first, last in one if not any(a <= last and first <= b for a, b in other)]


def episodes(track: Track, shortest: int) -> list[tuple[int, int]]:
    """First and last index of each unbroken run of at least ``shortest`` windows with the condition."""
    there = np.concatenate([[0], (track.truth == 1).astype(int), [0]])
    change = np.diff(there)
    pairs = zip(np.flatnonzero(change == 1), np.flatnonzero(change == -1) - 1, strict=True)
    return [(int(a), int(b)) for a, b in pairs if b - a + 1 >= shortest]


def replay(tracks: Sequence[Track], threshold: float, rule: Persistence) -> Replay:
    """Replay all tracks. An alert is false if the window that opens it is known to be without the condition."""
    false = 0
    false_patients: set[str] = set()
    negative_patients: set[str] = set()
    found_of: dict[str, list[bool]] = {}
    negative_windows = 0
    delays: list[float] = []
    for track in tracks:
        raised = alerts(track, threshold, rule)
        negative = int(np.sum(track.truth == 0))
        negative_windows += negative
        if negative:
            negative_patients.add(track.patient)
        wrong = sum(track.truth[opened] == 0 for opened, _ in raised)
        false += wrong
        if wrong:
            false_patients.add(track.patient)
        for first, last in episodes(track, SHORTEST_EPISODE):
            hits = [opened for opened, closed in raised if opened <= last and closed >= first]
            found_of.setdefault(track.patient, []).append(bool(hits))
            if hits and hits[0] >= first:
                delays.append(float(track.start[hits[0]] - track.start[first]) + track.seconds)
    return Replay(
        threshold=threshold,
        rule=rule,
        false_alerts=int(false),
        negative_hours=negative_windows * STEP_SECONDS / 3600,
        false_alert_patients=len(false_patients),
        negative_patients=len(negative_patients),
        episodes=sum(map(len, found_of.values())),
        detected=sum(map(sum, found_of.values())),
        positive_patients=len(found_of),
        detected_patients=sum(map(any, found_of.values())),
        sensitivity=float(np.mean([np.mean(found) for found in found_of.values()])) if found_of else math.nan,
        delays=tuple(delays),
    )


def choose(tracks: Sequence[Track], rule: Persistence, candidates: Sequence[float] = CANDIDATES) -> Replay | None:
    """The replay at the chosen threshold; None where no candidate keeps to the limit or nothing is negative."""
    best: Replay | None = None
    for threshold in sorted(candidates, reverse=True):
        result = replay(tracks, threshold, rule)
        if result.negative_hours == 0 or result.per_bed_day > MAX_PER_BED_DAY:
            break
        best = result
    return best


def choose_rule(tracks: Sequence[Track]) -> Replay | None:
    """The best of ``PERSISTENCES``, each with its own threshold: the highest sensitivity, then the fastest.

    Waiting longer allows a lower threshold: which of the two finds more is for the recordings to say.
    """
    found = [result for rule in PERSISTENCES if (result := choose(tracks, rule)) is not None]
    return max(found, key=lambda r: (r.sensitivity, -r.rule.open_after), default=None)


def rules(
    names: Sequence[str], table: WindowTable, probabilities: FloatArray, evident: Sequence[str]
) -> dict[str, Replay]:
    """The rule and replay of each label of ``evident`` that can have one; ``evident`` is in order.

    A label has none without ``MIN_NEGATIVE_HOURS`` of continuous negatives, where the limit cannot be kept, where the
    sensitivity is below ``MIN_SENSITIVITY``, or where a label before it marks the very same windows
    (its alert would say the same thing twice).
    """
    if table.step != STEP_SECONDS:
        raise ValueError(f"the dataset has a window every {table.step:g} s; rules are for every {STEP_SECONDS:g} s")
    chosen: dict[str, Replay] = {}
    for name in evident:
        i = names.index(name)
        there = table.labels[:, i] == 1
        if any(np.array_equal(there, table.labels[:, names.index(other)] == 1) for other in chosen):
            continue
        tracks = tracks_of(table, probabilities, i)
        if sum(int(np.sum(track.truth == 0)) for track in tracks) * STEP_SECONDS / 3600 < MIN_NEGATIVE_HOURS:
            continue
        result = choose_rule(tracks)
        if result is not None and result.sensitivity >= MIN_SENSITIVITY:
            chosen[name] = result
    return chosen


def tracks_of(table: WindowTable, probabilities: FloatArray, label: int) -> list[Track]:
    """The continuous recordings that are free for figures (not held out) and have any known window of the label.

    Windows without lead II are left out: the agent does not offer them to the network.
    """
    free = table.continuous & ~table.held_out & np.isfinite(probabilities[:, label]) & table.lead_mask[:, REQUIRED]
    ids = np.array([f"{s}/{r}" for s, r in zip(table.source, table.record, strict=True)])
    tracks = []
    for record in np.unique(ids[free & (table.labels[:, label] >= 0)]):
        index = np.flatnonzero(free & (ids == record))
        index = index[np.argsort(table.start[index], kind="stable")]
        tracks.append(
            Track(
                patient=str(table.patient[index[0]]),
                start=table.start[index].astype(np.float64),
                seconds=table.preprocessing.seconds,
                probability=probabilities[index, label],
                truth=table.labels[index, label],
            )
        )
    return tracks

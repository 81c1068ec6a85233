"""Whether another engine of a network may take the place of the one that serves: what two of them say of live windows.

Pure: ``now`` is an argument, monotonic seconds. The same judge sits before the change (the new engine, a canary, beside
the old one) and after it (the old one beside the new one, for as long again). It looks at three things:

- **Agreement.** Over each round of `RolloutSettings.windows` windows, the bundle's own limits (`ParityLimits`): the
  99.9th percentile of the probabilities' differences, and the share of windows on another side of a label's threshold.
  The largest difference of all is no criterion here: live signal holds what no validation held. But when more than half
  of the last `_LATEST` windows differ by more than ``probability_max``, or one answer is not finite, the canary is
  broken at once, however well it went before.
- **Alerts.** The rules of alerting run over either engine's answers. An alert of one during which the other has none
  at all differs.
- **Latency.** Median and 99th percentile of what a window takes, over each round.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from agent.core.alerting.alerting import Alerting
from agent.core.alerting.settings import AlertingSettings
from agent.core.bundle.limits import Parity
from agent.core.bundle.manifest import Manifest
from agent.core.bundle.parity import flips, shifts
from agent.core.ecg import Phase, Prediction

_LATEST = 16
_UNNOTICED = 0.002
"""Seconds by which a window may take longer whatever the factor: no ward's latency is made of them."""


class RolloutSettings(BaseModel):
    """How an engine that this machine compiled for itself comes to serve, and how it is sent away again."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    enabled: bool = True
    """Off: no engine is tried, and none asked for. One that was promoted before serves on."""
    poll: float = Field(default=30.0, gt=0.0)
    """Seconds between two looks for a new engine in the state directory."""
    shadow_seconds: float = Field(default=3600.0, ge=0.0)
    """How long, at least, a new engine computes copies of live windows before it serves. Only what the old one says
    is heard meanwhile."""
    watch_seconds: float = Field(default=3600.0, ge=0.0)
    """How long, at least, the old engine stays beside the new one afterwards, to be compared and to stand in."""
    windows: int = Field(default=1000, ge=1, le=1_000_000)
    """Windows of a round: so many are judged together, and neither of the two times ends before one round held."""
    slower: float = Field(default=1.5, ge=1.0)
    """How many times as long as the old engine the new one may take for a window: in the median, and in the 99th
    percentile."""
    alerts_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of the alerts that may differ: at a threshold, chance decides. What the bundle's limits allow is allowed
    in any case."""


class Decision(StrEnum):
    """What is to be done."""

    WAIT = "wait"
    HOLDS = "holds"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is to be done, and why."""

    decision: Decision
    reason: str = ""
    """With ``BROKEN``: one clause."""


@dataclass(frozen=True, slots=True)
class Figures:
    """A canary in numbers."""

    windows: int
    shift_p999: float
    flips: int
    """Of the label with the most."""
    alerts_old: int
    alerts_new: int
    alerts_differ: int
    median_old: float
    """Seconds that a window takes the old engine."""
    median_new: float


class Spread:
    """Quantiles of numbers from 1e-7 to 1e3 to two per cent, and never above the largest, in constant memory."""

    _LOWEST, _STEP = 1e-7, math.log(1.02)

    def __init__(self) -> None:
        self._counts = np.zeros(1 + math.ceil(math.log(1e10) / self._STEP), np.int64)
        self._most = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Take values in; what is smaller than the smallest counts as it."""
        self._most = max(self._most, float(values.max(initial=0.0)))
        place = np.log(np.maximum(values, self._LOWEST) / self._LOWEST) / self._STEP
        np.add.at(self._counts, np.minimum(np.ceil(place), len(self._counts) - 1).astype(np.int64), 1)

    def quantile(self, q: float) -> float:
        """A number that the share ``q`` of the values does not exceed; 0 of none."""
        if not (total := int(self._counts.sum())):
            return 0.0
        place = int(np.searchsorted(np.cumsum(self._counts), math.ceil(q * total)))
        # A share rounded up beyond one would be none.
        return min(self._LOWEST * math.exp(place * self._STEP), self._most) if place else 0.0


class _Round:
    """Some windows, judged together."""

    def __init__(self, labels: int) -> None:
        self.windows = 0
        self.shift, self.old, self.new = Spread(), Spread(), Spread()
        self.flips = np.zeros(labels, np.int64)

    def add(self, shift: NDArray[np.float64], flipped: NDArray[np.bool_], old: float, new: float) -> None:
        self.windows += 1
        self.shift.add(shift)
        self.flips += flipped
        self.old.add(np.array([old]))
        self.new.add(np.array([new]))


@dataclass(slots=True)
class _Pair:
    """A label's alerts at one bed, of the old engine and of the new one."""

    open: list[bool] = field(default_factory=lambda: [False, False])
    met: list[bool] = field(default_factory=lambda: [False, False])
    """Whether the other had one at any time while this one was open."""


class Canary:
    """One engine against another.

    Args:
        manifest: Of the network: the outputs that count, thresholds, rules and limits.
        settings: How long a round is, and what may differ beyond the manifest's limits.
        seconds: How long it lasts at least.
        answer_within: Seconds in which an answer is due.
        began: Monotonic seconds.
    """

    def __init__(
        self, manifest: Manifest, settings: RolloutSettings, *, seconds: float, answer_within: float, began: float
    ) -> None:
        self._limits = manifest.limits
        self._settings = settings
        self._until = began + seconds
        self._answer_within = answer_within
        self._counted = list(manifest.counted)
        self._labels = [manifest.labels[i] for i in self._counted]
        self._round, self._all = _Round(len(self._counted)), _Round(len(self._counted))
        self._latest = deque[bool](maxlen=_LATEST)
        plain = AlertingSettings(feed_lost_alert=False, continue_every=0)
        self._alerting = (Alerting(manifest, plain), Alerting(manifest, plain))
        self._pairs: dict[tuple[str, str], _Pair] = {}
        self._opened = [0, 0]
        self._differ = 0
        self._held = 0
        self._problem = ""

    def add(self, old: Prediction, new: Prediction, old_seconds: float, new_seconds: float) -> None:
        """One window, by both engines, and how long it took each."""
        wanted, found = (p.probabilities[np.newaxis, self._counted] for p in (old, new))
        shift, flipped = shifts(wanted, found)[0], flips(self._labels, wanted, found)[0]
        for one in (self._round, self._all):
            one.add(shift, flipped, old_seconds, new_seconds)
        self._latest.append(bool(shift.max(initial=0.0) > self._limits.probability_max))
        if 2 * sum(self._latest) > _LATEST:
            self._break(
                f"{sum(self._latest)} of the last {_LATEST} windows differ by more than "
                f"{self._limits.probability_max:g}"
            )
        for who, prediction in enumerate((old, new)):
            self._alert(who, prediction)
        if self._round.windows >= self._settings.windows:
            self._judge(self._round)
            self._held += 1
            self._round = _Round(len(self._counted))

    def not_finite(self, windows: int) -> None:
        """So many windows got an answer of the new engine that is not finite, and that was not the windows' fault."""
        if windows:
            self._break(f"{windows} {'window' if windows == 1 else 'windows'} got an answer that is not finite")

    def judgement(self, now: float) -> Judgement:
        """What is to be done now. What is broken stays broken."""
        if self._problem:
            return Judgement(Decision.BROKEN, self._problem)
        return Judgement(Decision.HOLDS if self._held and now >= self._until else Decision.WAIT)

    def figures(self) -> Figures:
        """All of it in numbers."""
        a = self._all
        return Figures(
            windows=a.windows,
            shift_p999=a.shift.quantile(0.999),
            flips=int(a.flips.max(initial=0)),
            alerts_old=self._opened[0],
            alerts_new=self._opened[1],
            alerts_differ=self._differ,
            median_old=a.old.quantile(0.5),
            median_new=a.new.quantile(0.5),
        )

    # How

    def _break(self, problem: str) -> None:
        self._problem = self._problem or problem

    def _judge(self, done: _Round) -> None:
        last = self._all.windows
        found = Parity(
            windows=done.windows,
            probability_p999=done.shift.quantile(0.999),
            flips=int(done.flips.max(initial=0)),
        )
        if broken := self._limits.broken_by(found) or self._slow(done):
            self._break(f"{broken}, over windows {last - done.windows + 1} to {last}")
        allowed = max(self._limits.alerts_differ, self._settings.alerts_share * max(self._opened))
        if self._differ > allowed:
            self._break(
                f"{self._differ} alerts of one engine are none of the other, of {self._opened[0]} by the old one and "
                f"{self._opened[1]} by the new one"
            )

    def _slow(self, done: _Round) -> str:
        for q, words in ((0.5, "median"), (0.99, "99th percentile")):
            old, new = done.old.quantile(q), done.new.quantile(q)
            if new > self._settings.slower * old + _UNNOTICED:
                return f"a window takes {1e3 * new:.1f} ms in the {words}, and took {1e3 * old:.1f} ms before"
            if new > self._answer_within:
                return f"a window takes {new:.1f} s in the {words}, above answer_within"
        return ""

    def _alert(self, who: int, prediction: Prediction) -> None:
        """Run the rules over one engine's answer, and see whose alerts begin and end."""
        for alert in self._alerting[who].on_prediction(prediction, 0.0):
            pair = self._pairs.setdefault((alert.bed, alert.label), _Pair())
            if alert.phase is Phase.START:
                self._opened[who] += 1
                pair.open[who], pair.met[who] = True, pair.open[1 - who]
                pair.met[1 - who] |= pair.open[1 - who]
            elif not alert.active:
                self._differ += not pair.met[who]
                pair.open[who] = pair.met[who] = False

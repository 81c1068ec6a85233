"""Which windows the engine thread computes next: the first model's whenever it has any, others' in the time it leaves.

The first model's windows are due within `answer_within` of their last sample. A batch cannot be interrupted, so a
window that comes just after a further model's batch began waits for all of it. Such a batch is therefore begun only
while nothing of the first model waits (or waits for company, and for longer than the batch takes), and only if it is
done in time even if the worst stretch of the last minute or two begins at once: within `answer_within`, less the
longest that the first model took of late to answer a window (the time that others took from it not counted) and less
one full batch of it. As a ward's windows come in the same pattern every few seconds, that stretch is a good forecast. A
batch gets as many windows as fit by what earlier ones took; where not even one fits, the model waits, and its windows
expire and are counted.

Pure: ``now`` is an argument, monotonic seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agent.engines.serving.queue import Dropped, DropReason, Job, WindowQueue

_SPAN = 60.0
"""Seconds for which the longest of something is remembered, and up to twice as long."""
_LATER = 1.0
"""Seconds after which it is looked again whether a batch that did not fit does now."""


class Longest:
    """The longest of the last `_SPAN` to twice as many seconds."""

    def __init__(self) -> None:
        self._turns = 0
        self._now: float | None = None
        self._before: float | None = None

    def add(self, value: float, now: float) -> None:
        """Take a value in."""
        self._turn(now)
        self._now = value if self._now is None else max(self._now, value)

    def get(self, now: float) -> float | None:
        """The longest; None: there was none of late."""
        self._turn(now)
        if self._now is None or self._before is None:
            return self._before if self._now is None else self._now
        return max(self._now, self._before)

    def _turn(self, now: float) -> None:
        turns = int(now // _SPAN)
        if turns > self._turns:
            self._before = self._now if turns == self._turns + 1 else None
            self._now, self._turns = None, turns


class Pace:
    """How long a model's batches take: the longest of late or, where none was computed of late, the shortest ever.

    So what something else on the machine once slowed down is not held against a model for longer than that.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, tuple[Longest, float]] = {}

    def restart(self, seconds: float | None, now: float) -> None:
        """Another engine computes from now on, and one window takes it so long, where that is known."""
        self._sizes.clear()
        if seconds is not None:
            self.add(1, seconds, now)

    def add(self, size: int, seconds: float, now: float) -> None:
        """A batch of so many windows took so long."""
        longest, shortest = self._sizes.get(size) or (Longest(), math.inf)
        longest.add(seconds, now)
        self._sizes[size] = longest, min(shortest, seconds)

    def seconds(self, size: int, now: float) -> float | None:
        """How long a batch of so many takes at most; None: nothing is known.

        A batch costs no more than smaller ones of the same windows one after the other, and no less than one of them.
        """
        known = [(n, longest.get(now) or shortest) for n, (longest, shortest) in self._sizes.items()]
        return min([seconds * -(-size // n) for n, seconds in known], default=None)


@dataclass(slots=True)
class Lane:
    """One model's windows, and what is known of its speed."""

    queue: WindowQueue
    answer_within: float
    """Seconds from a window's last sample."""
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True, slots=True)
class Pick:
    """What to do now."""

    lane: str = ""
    jobs: tuple[Job, ...] = ()
    """To be computed together; empty: nothing now."""
    wait: float = math.inf
    """Seconds after which to ask again, unless a window comes before."""
    dropped: tuple[tuple[str, Dropped], ...] = ()
    """By lane, what waited too long."""


class Schedule:
    """The lanes of one device. Not locked: its owner is.

    Args:
        max_batch: Most windows in one batch.
        max_wait: Seconds that the first model's first window may wait for others.
        expire_after: Seconds from a window's last sample after which it is dropped.
        first: The first model's lane.
    """

    def __init__(self, max_batch: int, max_wait: float, expire_after: float, first: str, lane: Lane) -> None:
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._expire_after = expire_after
        self.first = first
        self._lane = lane
        self._lanes: dict[str, Lane] = {first: lane}
        self._canaries: dict[str, Lane] = {}
        self._own = Longest()
        self._other = (-math.inf, -math.inf)
        """Begin and end of the last batch of another lane than the first."""

    def __len__(self) -> int:
        return sum(len(lane.queue) for _, lane in self._all())

    def add(self, name: str, lane: Lane, *, canary: bool = False) -> None:
        """Another lane; a canary gets only what all others leave."""
        (self._canaries if canary else self._lanes)[name] = lane

    def remove(self, name: str) -> Lane | None:
        """A lane is no more; None: it was none."""
        return self._canaries.pop(name, None) or self._lanes.pop(name, None)

    def find(self, name: str) -> Lane | None:
        """The lane of that name."""
        return self._canaries.get(name) or self._lanes.get(name)

    def next(self, now: float) -> Pick:
        """Take the next batch, or how long to wait for one."""
        before = now - self._expire_after
        dropped: list[tuple[str, Dropped]] = []
        for name, lane in self._all():
            dropped += _expired(name, lane.queue.expire(before))
        pick = Pick()
        if (head := self._lane.queue.first()) is not None:
            patience = head[1].window.received + self._max_wait - now
            if len(self._lane.queue) < self._max_batch and patience > 0:
                pick = self._pick_other(now, dropped, patience)
            else:
                pick = self._take(self.first, self._lane, self._max_batch, now, dropped)
        else:
            pick = self._pick_other(now, dropped)
        return Pick(pick.lane, pick.jobs, pick.wait, tuple(dropped))

    def done(self, lane: str, jobs: Sequence[Job], began: float, ended: float) -> None:
        """A batch has been computed."""
        found = self.find(lane)
        if found is None:  # it was removed meanwhile
            return
        found.pace.add(len(jobs), ended - began, ended)
        if found is not self._lane:
            self._other = (began, ended)
            return
        other_began, other_ended = self._other
        for job in jobs:
            came = job.window.received
            if job.submitted - came < found.answer_within:  # else it was late before it got here
                blocked = max(0.0, min(began, other_ended) - max(came, other_began))
                self._own.add(ended - came - blocked, ended)

    def clear(self) -> list[tuple[str, Dropped]]:
        """Drop everything, for the end."""
        return [(name, Dropped(job, DropReason.SHUTDOWN)) for name, lane in self._all() for job in lane.queue.clear()]

    # How

    def _all(self) -> Iterator[tuple[str, Lane]]:
        yield from self._lanes.items()
        yield from self._canaries.items()

    def _others(self) -> list[tuple[str, Lane]]:
        """Lanes with windows: further models, the most urgent first, then canaries in the same way."""
        ordered: list[tuple[str, Lane]] = []
        for lanes in (self._lanes, self._canaries):
            waiting = [
                (head[0] + lane.answer_within, name, lane)
                for name, lane in lanes.items()
                if lane is not self._lane and (head := lane.queue.first()) is not None
            ]
            ordered += [(name, lane) for _, name, lane in sorted(waiting, key=lambda item: item[:2])]
        return ordered

    def _pick_other(self, now: float, dropped: list[tuple[str, Dropped]], within: float = math.inf) -> Pick:
        """A batch of another lane that is done ``within`` so many seconds, or how long to wait for one."""
        wait = within
        for name, lane in self._others():
            if size := self._room(lane, now, within):
                return self._take(name, lane, size, now, dropped)
            wait = min(within, _LATER)
        return Pick(wait=wait)

    def _room(self, lane: Lane, now: float, within: float = math.inf) -> int:
        """How many windows of another lane may be computed together now, and be done ``within`` so many seconds."""
        full = self._lane.pace.seconds(self._max_batch, now) or 0.0
        room = min(within, self._lane.answer_within - (self._own.get(now) or 0.0) - full)
        most = min(len(lane.queue), self._max_batch)
        if lane.pace.seconds(1, now) is None:  # while something waits, nothing is tried out
            return min(1, most) if within == math.inf else 0
        return bisect_right(range(1, most + 1), room, key=lambda size: lane.pace.seconds(size, now) or 0.0)

    def _take(self, name: str, lane: Lane, size: int, now: float, dropped: list[tuple[str, Dropped]]) -> Pick:
        jobs, expired = lane.queue.take(size, now, now - self._expire_after)
        dropped += _expired(name, expired)
        return Pick(name, tuple(jobs), 0.0)


def _expired(name: str, jobs: Sequence[Job]) -> list[tuple[str, Dropped]]:
    return [(name, Dropped(job, DropReason.EXPIRED)) for job in jobs]

"""The windows that wait for one model: oldest first, and no bed at another's cost.

Every bed has a line of its own, and only the head of it may be taken, so a bed's windows never overtake each other.
Among the heads the one that came first is next, where a bed that had a window taken less than `SPACING` seconds ago
stands as if it had come that much later: whoever sends too much waits behind everybody who does not, and is still
served as fast as nobody else wants the engine. A window that finds its bed's line full drops the oldest in it.

Pure, and not locked: its owner is.
"""

from __future__ import annotations

import bisect
import heapq
import math
from dataclasses import dataclass
from enum import StrEnum

from agent.core.ecg import Prediction, Window

SPACING = 1.0
"""Seconds between two windows of a bed that are its fair share where windows wait. Windows come every five by default
and at most every one, so a bed with one monitor never notices; one that delivers a backlog does."""


class DropReason(StrEnum):
    """Why a window gave no prediction: a metric's label, so the list is closed."""

    OVERLOAD = "overload"  # the bed had newer windows waiting
    QUEUE_FULL = "queue_full"  # the ward had too many
    EXPIRED = "expired"  # it waited so long that nobody would want the answer any more
    LEADS = "leads"  # a lead that the network requires is missing, or its origin is not good enough
    SHAPE = "shape"  # not the network's length, or not at a whole rate
    NOT_FINITE = "not_finite"  # NaN or infinity, before or after the network
    ENGINE = "engine"  # the model's engine has failed
    UNREAD = "unread"  # of a shadow: nobody read its comparison
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A window that waits for a model."""

    window: Window
    submitted: float
    """Monotonic seconds."""
    reference: Prediction | None = None
    """What the serving engine made of it, where a canary is to be compared."""
    seconds: float = 0.0
    """And what that took: its share of the batch."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A window that waits no more, and why."""

    job: Job
    reason: DropReason


_Waiting = tuple[float, int, Job]
"""When the window came, a number that tells equals apart, the job."""
_Head = tuple[float, int, str]
"""When the bed's first window counts as having come, its number, the bed."""


class WindowQueue:
    """The windows of one model. ``per_bed`` of one bed and ``total`` of all may wait."""

    def __init__(self, per_bed: int, total: int, spacing: float = SPACING) -> None:
        self._per_bed = per_bed
        self._total = total
        self._spacing = spacing
        self._numbers = 0
        self._size = 0
        self._beds: dict[str, list[_Waiting]] = {}
        self._places: dict[str, tuple[float, int]] = {}
        """Of each bed's first window: when it counts as having come, as settled when it became that, and its number."""
        # By rate, as windows of one rate are computed together. A head that is not in its bed's place is passed over
        # when it comes up.
        self._heads: dict[float, list[_Head]] = {}
        self._entries = 0
        self._by_count: list[dict[str, None]] = [{} for _ in range(per_bed + 2)]
        """The beds that have so many windows waiting, each in the order in which it came to have so many."""
        self._taken: dict[str, float] = {}
        """When each bed's last window was taken, the latest last; forgotten after ``spacing``."""

    def __len__(self) -> int:
        return self._size

    def push(self, job: Job) -> Dropped | None:
        """Add a window; which one had to go for it (this very one, if it is its bed's oldest), or None."""
        bed = job.window.bed
        line = self._beds.setdefault(bed, [])
        first = line[0][1] if line else 0
        self._numbers += 1
        bisect.insort_right(line, (job.window.received, self._numbers, job))
        self._counted(bed, len(line) - 1, len(line))
        dropped = None
        if len(line) > self._per_bed:
            dropped = Dropped(self._remove_first(bed), DropReason.OVERLOAD)
        elif self._size > self._total:
            other = next(iter(next(beds for beds in reversed(self._by_count) if beds)))
            dropped = Dropped(self._remove_first(other), DropReason.QUEUE_FULL)
            if other != bed and other in self._beds:
                self._offer(other)
        if line and line[0][1] != first:
            self._offer(bed)
        return dropped

    def first(self) -> tuple[float, Job] | None:
        """The window that is next and when it counts as having come; None: none waits."""
        found = self._next()
        return None if found is None else (found[0], self._beds[found[2]][0][2])

    def take(self, most: int, now: float, before: float = -math.inf) -> tuple[list[Job], list[Job]]:
        """Remove the windows that are next, at most so many and all of one rate.

        Returns:
            Those to compute, and those on the way to them that came ``before`` then, so that nobody wants them.
        """
        while self._taken and self._taken[oldest := next(iter(self._taken))] < now - self._spacing:
            del self._taken[oldest]
        taken: list[Job] = []
        expired: list[Job] = []
        if (found := self._next()) is None:
            return taken, expired
        rate = self._beds[found[2]][0][2].window.rate
        while len(taken) < most and self._settle(rate):
            bed = self._heads[rate][0][2]
            job = self._remove_first(bed)
            if job.window.received < before:
                expired.append(job)
            else:
                taken.append(job)
                self._taken.pop(bed, None)
                self._taken[bed] = now
            if bed in self._beds:
                self._offer(bed)
        return taken, expired

    def expire(self, before: float) -> list[Job]:
        """Remove what came ``before`` then, as far as it is at the head of the queue: at most `SPACING` late."""
        expired: list[Job] = []
        while (found := self._next()) is not None and found[0] < before:
            expired.append(self._remove_first(found[2]))
            if found[2] in self._beds:
                self._offer(found[2])
        return expired

    def clear(self) -> list[Job]:
        """Remove everything."""
        jobs = [job for line in self._beds.values() for _, _, job in line]
        self._beds.clear()
        self._places.clear()
        self._heads.clear()
        for beds in self._by_count:
            beds.clear()
        self._size = self._entries = 0
        return jobs

    # How

    def _next(self) -> _Head | None:
        return min((self._heads[rate][0] for rate in list(self._heads) if self._settle(rate)), default=None)

    def _settle(self, rate: float) -> bool:
        """Drop what is out of date from the top of a rate's heap; whether anything is left."""
        heads = self._heads.get(rate, [])
        while heads and not self._is_true(heads[0]):
            heapq.heappop(heads)
            self._entries -= 1
        if not heads:
            self._heads.pop(rate, None)
        return bool(heads)

    def _is_true(self, head: _Head) -> bool:
        return self._places.get(head[2]) == head[:2]

    def _offer(self, bed: str) -> None:
        """The bed has another first window."""
        received, number, _ = self._beds[bed][0]
        self._places[bed] = max(received, self._taken.get(bed, -math.inf) + self._spacing), number
        if self._entries > 2 * len(self._beds) + 64:  # much was dropped and nothing taken: most of them are out of date
            self._heads.clear()
            self._entries = 0
            for other in self._places:
                self._enter(other)
        else:
            self._enter(bed)

    def _enter(self, bed: str) -> None:
        rate = self._beds[bed][0][2].window.rate
        heapq.heappush(self._heads.setdefault(rate, []), (*self._places[bed], bed))
        self._entries += 1

    def _remove_first(self, bed: str) -> Job:
        line = self._beds[bed]
        job = line.pop(0)[2]
        self._counted(bed, len(line) + 1, len(line))
        if not line:
            del self._beds[bed]
            self._places.pop(bed, None)
        return job

    def _counted(self, bed: str, before: int, after: int) -> None:
        self._size += after - before
        self._by_count[before].pop(bed, None)
        if after:
            self._by_count[after][bed] = None

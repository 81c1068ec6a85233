"""Sequence numbers: which block comes again, what is missing before it, and when a device begins anew.

MQTT's QoS 1 delivers at least once and keeps no order over a loss of the connection, so the numbers have to tell.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum

_LONGEST_GAP = 1 << 20
"""More missing blocks than this, 12 days at one a second, are a device that begins at another number."""


class Arrival(Enum):
    """How a block arrives among those of its device, by its sequence number."""

    NEXT = "next"
    GAP = "gap"
    """Blocks are missing before it."""
    LATE = "late"
    """A later one came before it."""
    DUPLICATE = "duplicate"
    """It came before."""
    RESTART = "restart"
    """The device numbers its blocks anew."""


class SequenceTracker:
    """The sequence numbers of one device, as far back as ``remember``."""

    def __init__(self, remember: int) -> None:
        self._remember = remember
        self._seen: OrderedDict[int, object] = OrderedDict()
        self._highest = -1
        self._newest: float | None = None

    def judge(self, number: int, start: float | None, payload: bytes) -> tuple[Arrival, int]:
        """How a block arrives, and how many blocks are missing before it (for `Arrival.GAP`, else 0).

        A number that was seen is a duplicate only where the block is the same too, by the device's clock or, where it
        has none, by its bytes: a device that restarts begins its numbers anew while they are still remembered.
        """
        mark: object = start if start is not None else hash(payload)
        if number in self._seen:
            if self._seen[number] == mark:
                return Arrival.DUPLICATE, 0
            self._begin(number, mark, start)
            return Arrival.RESTART, 0
        if not self._seen:
            self._begin(number, mark, start)
            return Arrival.NEXT, 0
        missing = number - self._highest - 1
        if missing < 0:
            newer = start is not None and self._newest is not None and start > self._newest
            if newer or self._highest - number >= self._remember:
                self._begin(number, mark, start)
                return Arrival.RESTART, 0
            self._note(number, mark)
            return Arrival.LATE, 0
        if missing > _LONGEST_GAP:
            self._begin(number, mark, start)
            return Arrival.RESTART, 0
        self._highest, self._newest = number, start
        self._note(number, mark)
        return (Arrival.GAP, missing) if missing else (Arrival.NEXT, 0)

    def _begin(self, number: int, mark: object, start: float | None) -> None:
        self._seen.clear()
        self._highest, self._newest = number, start
        self._note(number, mark)

    def _note(self, number: int, mark: object) -> None:
        self._seen[number] = mark
        if len(self._seen) > self._remember:
            self._seen.popitem(last=False)

"""Which windows a further model gets: every so many seconds of a bed, or one per admission, and one more on request.

Pure; one instance per model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from agent.core.ecg import LEADS, Lead, Provenance, Window
from agent.core.leads import FROM_I_AND_II, LEAD_INDEX


@dataclass(slots=True)
class _Bed:
    """What one patient in one bed has been given."""

    generation: int
    waiting: int = 0
    """Windows that are on their way."""
    due: bool = True
    """The next good window is wanted whatever was given before: nothing was, it was asked for, or the last was lost."""
    last: dict[str, float] = field(default_factory=dict)
    """By device, the start of the last window that was given."""


class Cadence:
    """When a model looks at which bed.

    Args:
        every: Seconds of the device's time from one window of a bed's device to the next; None: once per admission,
            which is one window with every required lead measured, or following from measured leads I and II.
        required: The leads without which a window is not offered.
    """

    def __init__(self, every: float | None, required: tuple[Lead, ...]) -> None:
        self._every = every
        self._required = tuple(LEAD_INDEX[lead] for lead in required)
        self._beds: dict[str, _Bed] = {}

    def is_due(self, window: Window) -> bool:
        """Whether the model wants a window of this bed now, if its leads are good."""
        bed = self._bed(window)
        if bed.waiting and self._every is None:
            return False
        if bed.due or self._every is None:
            return bed.due
        # Whichever way the device's clock was set, the model looks again.
        return abs(window.start - bed.last.get(window.device, -math.inf)) >= self._every

    def is_good(self, window: Window) -> bool:
        """Whether every required lead is there, and for a single look is one that was measured."""
        origins = window.provenance
        if self._every is not None:
            return not any(origins[i] is Provenance.MISSING for i in self._required)
        limbs = origins[0] is Provenance.MEASURED and origins[1] is Provenance.MEASURED
        return all(
            origins[i] is Provenance.MEASURED
            or (origins[i] is Provenance.DERIVED and limbs and LEADS[i] in FROM_I_AND_II)
            for i in self._required
        )

    def given(self, window: Window) -> None:
        """The window is on its way."""
        bed = self._bed(window)
        bed.waiting += 1
        bed.due = False
        bed.last[window.device] = window.start

    def answered(self, window: Window, *, lost: bool) -> None:
        """It has been answered, or lost: then the next one is wanted instead."""
        bed = self._beds.get(window.bed)
        if bed is not None and bed.generation == window.generation:
            bed.waiting -= 1
            bed.due = bed.due or lost

    def request(self, bed: str) -> None:
        """Somebody wants the next window of this bed looked at, whatever was looked at before."""
        if bed in self._beds:
            self._beds[bed].due = True

    def forget(self, bed: str) -> None:
        """The bed is there no more."""
        self._beds.pop(bed, None)

    def _bed(self, window: Window) -> _Bed:
        """The bed; a patient who is not the last one's has been given nothing yet."""
        bed = self._beds.get(window.bed)
        if bed is None or bed.generation != window.generation:
            bed = self._beds[window.bed] = _Bed(window.generation)
        return bed

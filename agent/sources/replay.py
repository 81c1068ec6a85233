"""Recorded ECG through the very same line: WFDB records, block by block as a bedside monitor would send them.

wfdb (and its pandas) belong to the ``recordings`` extra, so it is imported where it is used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from agent.core.ecg import Channel, ChannelKind, Event, FloatArray, Samples
from agent.core.errors import DeepECGError
from agent.core.nomenclature import ECG_ELEC_POTL, MILLIVOLT, term_of_name, unit_of
from agent.ops.metrics import Metrics

_TRANSPORT = "replay"


class ReplayError(DeepECGError):
    """A recording that cannot be played; one sentence with the remedy."""


@dataclass(frozen=True, slots=True, eq=False)
class WfdbRecording:
    """One WFDB record, ready to be sent."""

    name: str
    channels: tuple[Channel, ...]
    values: tuple[FloatArray, ...]
    """One array (n,) per channel, in the channel's unit; NaN = invalid."""
    rate: float
    comments: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.values[0]) / self.rate


def channel_from_name(name: str, unit: str, rate: float) -> tuple[Channel, float]:
    """The channel that a WFDB signal name and unit mean, and the factor that takes its values to the channel's unit.

    An ECG channel whose unit is no voltage (WFDB's ``NU``, uncalibrated) is kept as OTHER: its millivolts are unknown.
    A voltage with a name that is not known is ECG without a lead.

    Raises:
        ReplayError: an ECG lead in a unit that is not known.
    """
    term, known = term_of_name(name), unit_of(unit)
    if known is None and term is not None and term.kind is ChannelKind.ECG:
        raise ReplayError(f"Channel {name} is in {unit}, a unit that is not known here; write mV, uV or V.")
    ucum, factor = known or (unit, 1.0)
    if term is not None and (term.kind is not ChannelKind.ECG or ucum == MILLIVOLT):
        return Channel(term.kind, term.code, name, ucum, rate, term.lead, term.derived), factor
    if ucum == MILLIVOLT:
        return Channel(ChannelKind.ECG, ECG_ELEC_POTL, name, ucum, rate), factor
    return Channel(ChannelKind.OTHER, 0, name, ucum, rate), factor


def read_record(path: Path) -> WfdbRecording:
    """A WFDB record; ``path`` with or without the ending ``.hea``.

    Raises:
        ReplayError: wfdb is not installed, or there is no readable record of that name.
    """
    try:
        from wfdb.io.record import rdrecord
    except ImportError as error:
        raise ReplayError("Reading WFDB records needs wfdb: pip install 'deepecg-bedside[recordings]'.") from error
    base = path.with_suffix("") if path.suffix == ".hea" else path
    if not base.parent.joinpath(base.name + ".hea").is_file():
        raise ReplayError(
            f"There is no WFDB header {base.name}.hea in {base.parent}; name a record or a folder of them."
        )
    try:
        record = rdrecord(str(base))  # type: ignore[no-untyped-call]
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise ReplayError(
            f"{base.name} cannot be read as a WFDB record ({error}); check its header and files."
        ) from error
    if record.p_signal is None or record.p_signal.size == 0:
        raise ReplayError(f"{base.name} has no signal; name a record with signals.")
    rate = float(record.fs)
    made = [channel_from_name(name, unit, rate) for name, unit in zip(record.sig_name, record.units, strict=True)]
    values = tuple(
        np.ascontiguousarray(record.p_signal[:, i] * factor, np.float32) for i, (_, factor) in enumerate(made)
    )
    return WfdbRecording(base.name, tuple(channel for channel, _ in made), values, rate, tuple(record.comments))


def records_under(path: Path) -> tuple[Path, ...]:
    """The records that ``path`` names: itself, or every one in the folder, without ending, in order.

    Raises:
        ReplayError: a folder without records.
    """
    if not path.is_dir():
        return (path,)
    found = tuple(sorted(header.with_suffix("") for header in path.rglob("*.hea")))
    if not found:
        raise ReplayError(f"There are no WFDB headers (*.hea) under {path}; name a record or a folder of them.")
    return found


def samples_from_recording(
    recording: WfdbRecording, bed: str, device: str = _TRANSPORT, start: float = 0.0, seconds: float = 1.0
) -> Iterator[Samples]:
    """The recording in blocks of ``seconds``, the last one as long as what is left. ``received`` is 0: the sender's.

    ``start`` is the device's time of the first sample, epoch seconds; the sequence counts from 0.
    """
    total = len(recording.values[0])
    edges = [round(k * seconds * recording.rate) for k in range(int(total / (seconds * recording.rate)) + 1)]
    for sequence, (first, last) in enumerate(zip(edges, [*edges[1:], total], strict=True)):
        if last > first:
            yield Samples(
                bed=bed,
                device=device,
                channels=recording.channels,
                values=tuple(values[first:last].copy() for values in recording.values),
                start=start + first / recording.rate,
                received=0.0,
                sequence=sequence,
                transport=_TRANSPORT,
            )


def bed_of(name: str) -> str:
    """The bed id of a record that nobody gave one."""
    return f"replay/wfdb/{name}"


class ReplaySource:
    """Plays a record, or every record of a folder, each as one bed: ``await ReplaySource(path, metrics).run(queue)``.

    ``speed`` is times real time, 0 as fast as the queue takes the blocks: its bound holds the reader back. In real
    time up to ``together`` beds play at once; without a clock one after the other, which needs the least memory.
    """

    def __init__(self, path: Path, metrics: Metrics, speed: float = 0.0, together: int = 64) -> None:
        if speed < 0:
            raise ReplayError(f"A speed of {speed:g} would play backwards; give a number above 0, or 0 for no clock.")
        self._paths = records_under(path)
        self._speed = speed
        self._together = together if speed else 1
        self._messages = metrics.messages.labels(_TRANSPORT)

    async def run(self, queue: asyncio.Queue[Event]) -> None:
        """Every block into ``queue``; returns at the end of the last record.

        Raises:
            ReplayError: see `read_record`.
        """
        for first in range(0, len(self._paths), self._together):
            start = time.time()
            blocks = [
                samples_from_recording(recording, bed_of(recording.name), start=start)
                for path in self._paths[first : first + self._together]
                for recording in [await asyncio.to_thread(read_record, path)]
            ]
            await self._play(blocks, queue)

    async def _play(self, beds: list[Iterator[Samples]], queue: asyncio.Queue[Event]) -> None:
        began, second = time.monotonic(), 0
        while beds:
            second += 1
            # A block is sent when its last sample has been measured, as a monitor does.
            if self._speed and (ahead := began + second / self._speed - time.monotonic()) > 0:
                await asyncio.sleep(ahead)
            left = []
            for bed in beds:
                block = next(bed, None)
                if block is None:
                    continue
                self._messages.inc()
                await queue.put(replace(block, received=time.monotonic()))
                left.append(bed)
            beds = left

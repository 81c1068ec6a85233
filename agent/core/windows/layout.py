"""What of a message goes into windows: its ECG leads, grouped by rate and length.

A device's messages nearly all look alike, so this is worked out once and looked up afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.ecg import Channel, ChannelKind, Samples
from agent.core.leads import LEAD_INDEX
from agent.core.windows.settings import WindowingSettings
from agent.core.windows.timeline import LeadBlock

_INEXACT = 0.0025  # by this share a stated rate may miss whole hertz


@dataclass(frozen=True, slots=True)
class LeadGroup:
    """Leads of a message that have one rate and one length."""

    rate: int
    """Samples per second."""
    size: int
    """Samples of each lead."""
    rows: tuple[int, ...]
    """Each lead's place in ``LEADS``, ascending."""
    places: tuple[int, ...]
    """Where in the message each of ``rows`` is."""
    computed: tuple[int, ...]
    """Those of ``rows`` that the sender says it computed."""
    filters: tuple[str, ...]

    def block(self, samples: Samples, start: float) -> LeadBlock:
        """The group's part of a message, which begins at device time ``start``."""
        values = samples.values
        return LeadBlock(
            start=start,
            size=self.size,
            rows=self.rows,
            values=tuple([values[i] for i in self.places]),
            computed=self.computed,
            filters=self.filters,
            received=samples.received,
            paced=samples.paced,
        )


@dataclass(frozen=True, slots=True)
class MessageLayout:
    """Which leads of a message are used, and why others are not."""

    channels: tuple[Channel, ...]
    sizes: tuple[int, ...]
    groups: tuple[LeadGroup, ...]
    """The fastest first."""
    refused: tuple[str, ...]
    """Why channels were left out, one each: rate_mismatch, same_lead."""


def layout_of(channels: tuple[Channel, ...], sizes: tuple[int, ...], settings: WindowingSettings) -> MessageLayout:
    """The layout of messages with these channels, of so many samples each."""
    members: dict[tuple[int, int], dict[int, int]] = {}
    seen: set[int] = set()
    refused = []
    for i, (channel, size) in enumerate(zip(channels, sizes, strict=True)):
        if channel.kind is not ChannelKind.ECG or channel.lead is None or size == 0:
            continue
        rate = round(channel.rate)
        row = LEAD_INDEX[channel.lead]
        # Philips gives no rate: it is samples / (OBR-8 − OBR-7), and 249.8 means 250.
        if not settings.min_rate <= rate <= settings.max_rate or abs(channel.rate - rate) > _INEXACT * rate:
            refused.append("rate_mismatch")
        elif row in seen:
            refused.append("same_lead")
        else:
            seen.add(row)
            members.setdefault((rate, size), {})[row] = i
    groups = []
    for (rate, size), place_by_row in sorted(members.items(), key=lambda item: item[0], reverse=True):
        rows = tuple(sorted(place_by_row))
        places = tuple(place_by_row[row] for row in rows)
        computed = tuple(row for row in rows if channels[place_by_row[row]].derived)
        labels = {channels[i].filter_label for i in places} - {""}
        groups.append(LeadGroup(rate, size, rows, places, computed, tuple(sorted(labels))))
    return MessageLayout(channels, sizes, tuple(groups), tuple(refused))

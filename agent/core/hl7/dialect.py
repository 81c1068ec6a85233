"""How one maker's messages differ from the standard: the shape of a dialect's data file, and which one a message is in.

The files themselves are read at the edge and handed in; nothing about a maker is written in code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.core.hl7.message import Message

BedField = Literal["PV1-3", "OBR-10", "MSH-3"]
FacetName = Literal["rate", "resolution", "range", "sentinel", "inoperative", "filter"]


class Match(BaseModel):
    """Traits by which a message is known; every list that is not empty must have one member that fits.

    The members of `sending_application`, `profile`, `unit` and `order_namespace` are regular expressions that must
    fit the whole value; the others are compared as they stand.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sending_application: tuple[str, ...] = ()
    """MSH-3.1."""
    message_type: tuple[str, ...] = ()
    """MSH-9 as ``ORU^R01``."""
    profile: tuple[str, ...] = ()
    """MSH-21.1."""
    service: tuple[str, ...] = ()
    """First or second component of any OBR-4."""
    order_namespace: tuple[str, ...] = ()
    """OBR-3.2 of any OBR."""
    observation: tuple[str, ...] = ()
    """First or second component of any OBX-3."""
    unit: tuple[str, ...] = ()
    """First component of OBX-6 of any NA row."""


class Dialect(BaseModel):
    """One dialect's data file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    description: str
    rank: int
    """Of several dialects that fit, the one with the highest rank is taken."""
    match: Match

    value_types: tuple[str, ...] = ("NA",)
    """OBX-2 of a waveform."""
    bed_fields: tuple[BedField, ...] = ("PV1-3",)
    """Where the bed stands; the first that is filled decides. MSH-3 counts only where it is a device's EUI-64."""
    facets: dict[FacetName, tuple[str, ...]]
    """OBX-3 codes and RefIds of the rows that describe a waveform."""
    rate_always_hertz: bool = False
    """The unit beside the rate is known to be wrong."""
    rate_from_times: bool = False
    """Without a rate facet the rate is samples / (OBR-8 − OBR-7)."""
    sentinels: tuple[float, ...] = ()
    """Values that mean `invalid` even where the message does not say so."""
    dimensionless_mv: float | None = Field(None, gt=0)
    """mV per dimensionless count of an ECG channel, by the maker's word; None: such a channel is refused."""
    dimensionless_verified: bool = True
    """False: the factor above could not be checked in a public source, and a site must check it."""

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        match = self.match
        for pattern in (*match.sending_application, *match.profile, *match.unit, *match.order_namespace):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression ({error})") from None
        return self

    @cached_property
    def facet_of(self) -> dict[bytes, FacetName]:
        """Facet by code or RefId."""
        return {identifier.encode(): name for name, identifiers in self.facets.items() for identifier in identifiers}

    @cached_property
    def wave_types(self) -> frozenset[bytes]:
        """`value_types` as they stand in OBX-2."""
        return frozenset(value_type.encode() for value_type in self.value_types)


@dataclass(frozen=True, slots=True)
class Traits:
    """What of a message is compared with `Match`."""

    sending_application: str
    message_type: str
    profile: str
    services: frozenset[str]
    order_namespaces: frozenset[str]
    observations: frozenset[str]
    units: frozenset[str]


def traits_of(message: Message) -> Traits:
    """The traits of a message, in one pass over its segments."""
    services: set[bytes] = set()
    namespaces: set[bytes] = set()
    rows: set[bytes] = set()
    observations: set[bytes] = set()
    units: set[bytes] = set()
    mark = message.delimiters.component
    for segment in message.segments:
        if segment.name == b"OBX":
            fields = segment.fields
            if len(fields) > 3:
                rows.add(fields[3])
                if len(fields) > 6 and fields[2] == b"NA":
                    units.add(fields[6])
        elif segment.name == b"OBR":
            services.update(part.strip() for part in segment.raw(4).split(mark, 2)[:2])
            namespaces.add(segment.component(3, 2))
    for row in rows:
        observations.update(row.split(mark, 2)[:2])
    msh = message.msh
    return Traits(
        message.component(msh, 3),
        f"{message.component(msh, 9)}^{message.component(msh, 9, 2)}",
        message.component(msh, 21),
        frozenset(map(message.text, services)),
        frozenset(map(message.text, namespaces)),
        frozenset(value.strip().decode("latin-1") for value in observations),
        frozenset(message.text(unit.split(mark, 1)[0].strip()) for unit in units),
    )


def select(traits: Traits, dialects: Sequence[Dialect]) -> Dialect | None:
    """The highest-ranking dialect that fits; None where none does."""
    fitting = [dialect for dialect in dialects if _fits(dialect.match, traits)]
    return max(fitting, key=lambda dialect: dialect.rank, default=None)


def _fits(match: Match, traits: Traits) -> bool:
    return (
        _any_full(match.sending_application, (traits.sending_application,))
        and (not match.message_type or traits.message_type in match.message_type)
        and _any_full(match.profile, (traits.profile,))
        and (not match.service or not traits.services.isdisjoint(match.service))
        and _any_full(match.order_namespace, traits.order_namespaces)
        and (not match.observation or not traits.observations.isdisjoint(match.observation))
        and _any_full(match.unit, traits.units)
    )


def _any_full(patterns: Sequence[str], values: Sequence[str] | frozenset[str]) -> bool:
    return not patterns or any(re.fullmatch(pattern, value) for pattern in patterns for value in values)

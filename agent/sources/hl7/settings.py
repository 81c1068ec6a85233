"""What a site configures of HL7 in: where to listen, who may speak for which beds; and the makers' data files."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Annotated, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from agent.core.hl7.acknowledgement import Header
from agent.core.hl7.dialect import Dialect
from agent.core.hl7.mllp import LIMIT
from agent.core.hl7.patient import BedMap
from agent.ops.tls import TlsSettings

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of one connection, as far as the connection itself proves it."""

    address: IPv4Address | IPv6Address | None
    certificate_names: tuple[str, ...] = ()
    """Common names and alternative names of its verified certificate."""

    @classmethod
    def from_socket_name(cls, name: object, certificate_names: tuple[str, ...] = ()) -> Self:
        """From what `getpeername` gives; an IPv4 address inside IPv6 is taken as the IPv4 address."""
        address: IPv4Address | IPv6Address | None = None
        if isinstance(name, tuple) and name and isinstance(name[0], str):
            address = ip_address(name[0].partition("%")[0])
            if isinstance(address, IPv6Address) and address.ipv4_mapped:
                address = address.ipv4_mapped
        return cls(address, certificate_names)


class _Sender(BaseModel):
    """Whom a rule is about; every field that is given must fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    certificate: str | None = None
    """Common name or alternative name of the sender's verified certificate."""
    application: str | None = None
    """MSH-3.1, the sending application. A sender can claim any: combine it with a certificate or an address."""
    facility: str | None = None
    """MSH-4.1, the sending facility; a claim like `application`."""
    address: Network | None = None
    """Address or network, as `10.20.0.0/16`."""

    def fits(self, peer: Peer, header: Header) -> bool:
        """Whether a message with this header, from this peer, is the rule's."""
        return (
            (self.certificate is None or self.certificate in peer.certificate_names)
            and (self.application is None or self.application == header.application)
            and (self.facility is None or self.facility == header.facility)
            and (self.address is None or (peer.address is not None and peer.address in self.address))
        )


class Grant(_Sender):
    """A sender and the beds that it may speak for."""

    beds: tuple[str, ...] = Field(min_length=1)
    """Bed ids with wildcards, as `main/icu/*`; `*` also stands for slashes."""

    @model_validator(mode="after")
    def _names_somebody(self) -> Self:
        if not any((self.certificate, self.application, self.facility, self.address)):
            raise ValueError("a grant names no sender; give certificate, application, facility or address")
        return self


class Sender(_Sender):
    """A sender whose dialect is set here and not told by its messages."""

    dialect: str
    """Name of a dialect: ge, philips, mindray, mindray_w01, capsule, wcm, ihe."""


class HL7SourceSettings(BaseModel):
    """Monitors and gateways that send HL7 v2 over MLLP, and the hospital's ADT."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` or `::` for every interface."""
    port: int = Field(2575, ge=0, le=65535)
    """Port to listen on (2575 is registered for HL7); 0 takes a free one."""
    tls: TlsSettings | None = None
    """Certificates; without this table the connection is not encrypted."""
    max_connections: int = Field(256, ge=1)
    """Connections at once; further ones are closed at once and counted. Each may hold one message in memory."""
    message_limit: int = Field(LIMIT, ge=1024)
    """Longest message in bytes."""
    idle_seconds: float = Field(600.0, gt=0)
    """A connection on which nothing comes for so long is closed."""
    message_seconds: float = Field(30.0, gt=0)
    """A message that has begun must end within this time."""
    write_seconds: float = Field(10.0, gt=0)
    """A peer that does not read its acknowledgements for so long is cut off."""
    default_zone: str = "UTC"
    """Time zone of times that name none, as `Europe/Paris`."""
    beds: BedMap = BedMap()
    """How a location in a message becomes a bed id."""
    grants: Annotated[tuple[Grant, ...], Field(min_length=1)] = (
        Grant(address=IPv4Network("127.0.0.0/8"), beds=("*",)),
        Grant(address=IPv6Network("::1/128"), beds=("*",)),
    )
    """Who may speak for which beds. Whatever no grant covers is refused (AR), counted and logged."""
    senders: tuple[Sender, ...] = ()
    """Senders whose dialect their messages do not tell; the first that fits counts."""
    ecg_scale: dict[str, Annotated[float, Field(gt=0)]] = {}
    """mV per count by dialect, for monitors that send counts without a unit (`mindray = 0.001`); check it on site."""

    @field_validator("default_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{value!r} is no time zone; write it as Europe/Paris or UTC") from None
        return value

    @model_validator(mode="after")
    def _known_dialects(self) -> Self:
        names = {dialect.name for dialect in load_dialects()}
        for name in [*(sender.dialect for sender in self.senders), *self.ecg_scale]:
            if name not in names:
                raise ValueError(f"{name!r} is no dialect; known are {', '.join(sorted(names))}")
        return self

    def dialects(self) -> tuple[Dialect, ...]:
        """The data files, with this site's scales."""
        return tuple(
            dialect.model_copy(
                update={"dimensionless_mv": self.ecg_scale[dialect.name], "dimensionless_verified": True}
            )
            if dialect.name in self.ecg_scale
            else dialect
            for dialect in load_dialects()
        )

    def dialect_of(self, peer: Peer, header: Header) -> str | None:
        """The dialect configured for a sender; None where its messages are to tell."""
        return next((sender.dialect for sender in self.senders if sender.fits(peer, header)), None)

    def may_speak(self, peer: Peer, header: Header, bed: str) -> bool:
        """Whether a grant covers this bed for a message with this header from this peer."""
        return any(
            grant.fits(peer, header) and any(fnmatchcase(bed, pattern) for pattern in grant.beds)
            for grant in self.grants
        )

    def may_connect(self, peer: Peer) -> bool:
        """Whether any grant could cover a sender at this address, whatever it says of itself later."""
        return any(
            grant.address is None or (peer.address is not None and peer.address in grant.address)
            for grant in self.grants
        )

    def beds_of(self, peer: Peer, header: Header) -> tuple[str, ...]:
        """Patterns of every bed that a message with this header from this peer may speak for."""
        return tuple(pattern for grant in self.grants if grant.fits(peer, header) for pattern in grant.beds)


def load_dialects() -> Sequence[Dialect]:
    """The dialects that the package carries, one data file each."""
    folder = files("agent.sources") / "dialects"
    found = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".toml")), key=lambda entry: entry.name)
    return tuple(Dialect.model_validate(tomllib.loads(entry.read_text(encoding="utf-8"))) for entry in found)

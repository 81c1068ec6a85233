"""How to reach an MQTT broker; sources and sinks add what they need."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.ops.tls import TlsSettings


class BrokerSettings(BaseModel):
    """How to reach an MQTT broker."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "localhost"
    """The broker's host name or address."""
    port: int = Field(default=1883, ge=1, le=65535)
    """The broker's port; 8883 is usual with TLS."""
    client_id: str = Field(min_length=1, max_length=128)
    """Our name with the broker; each connection of each agent needs its own, the same one after every restart."""
    username: str = ""
    """User name; empty where the broker asks for none."""
    password_file: Path | None = None
    """File that holds the password; read anew for each connection."""
    tls: TlsSettings | None = None
    """TLS, with a client certificate where the broker asks for one; absent = plain TCP."""
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    """auto speaks MQTT 5, and 3.1.1 with a broker that refuses it or closes the connection instead of answering. A
    broker that only falls silent upon MQTT 5 (amqtt) needs 3.1.1 here: silence may also be a broker that is busy."""
    keepalive: int = Field(default=20, ge=5, le=3600)
    """Seconds of silence after which broker and agent make sure of each other."""
    session_expiry: int = Field(default=3600, ge=0, le=0xFFFFFFFE)
    """Seconds for which the broker keeps our session, and QoS 1 messages in it, while we are away (MQTT 5)."""
    receive_maximum: int = Field(default=200, ge=1, le=65535)
    """QoS 1 messages that we hold unacknowledged at most: the broker keeps the rest."""
    queue: int = Field(default=2000, ge=1)
    """QoS 0 messages that wait to be decoded at most; the newest beyond that are dropped and counted."""
    max_packet: int = Field(default=(1 << 20) + 4096, ge=1024, le=0xFFFFFFFF)
    """Largest packet in bytes that the broker may send us (MQTT 5; for 3.1.1 set the broker's own limit)."""
    connect_timeout: float = Field(default=10.0, gt=0)
    """Seconds for each of TCP, TLS and the broker's answer."""
    reconnect_min: float = Field(default=0.5, gt=0)
    """Upper bound in seconds of the first pause before a new attempt; doubled with each failure, drawn at random."""
    reconnect_max: float = Field(default=30.0, gt=0)
    """Upper bound in seconds of every later pause."""
    status_topic: str = "ward/v1/agent/{client_id}/status"
    """Retained topic that says whether we are online; the broker sets it to offline when we vanish. Empty = none."""

"""What a site configures of alerts out: where they are kept, and to whom they go."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.core.hl7.alert import Hl7AlertSettings
from agent.core.mqtt.topic import TopicTemplate
from agent.mqtt.settings import BrokerSettings
from agent.ops.tls import TlsSettings


class OutboxSettings(BaseModel):
    """Where alerts are kept, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Path("outbox.sqlite")
    """The SQLite file; relative to the agent's state directory. It holds patient data: mode 0600, local disk only."""
    keep_days: float = Field(default=30.0, gt=0)
    """Alerts that every sink delivered are deleted after this many days; undelivered ones never are."""
    max_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Largest size of the file; when it is reached the agent reports itself unhealthy."""
    backlog: int = Field(default=10_000, ge=1)
    """Alert messages held in memory while the disk refuses them; beyond that the oldest are lost, with an error."""


class Hl7SinkSettings(BaseModel):
    """A receiver of ORU^R40 over MLLP."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(min_length=1, examples=["alerts.hospital.example"])
    """Name or address of the alert manager."""
    port: int = Field(ge=1, le=65535, examples=[2576])
    """Its MLLP port."""
    tls: TlsSettings | None = None
    """TLS for this connection; without the table it is in the clear."""
    acknowledge_within: float = Field(default=5.0, gt=0)
    """Seconds in which the receiver must answer; then the connection is made anew and the message sent again."""
    connect_within: float = Field(default=5.0, gt=0)
    """Seconds in which a connection must stand, TLS included."""
    reconnect_longest: float = Field(default=30.0, gt=0)
    """Longest wait between two attempts to connect; the actual waits are random below that (full jitter)."""
    retry_rejected: float = Field(default=60.0, gt=0, le=3600)
    """Seconds before a message that the receiver rejected is sent again; doubles each time, up to an hour."""
    watchdog_every: float = Field(default=0.0, ge=0)
    """Seconds between watchdog messages (258047 MDC_EVT_ACTIVE), by which a receiver notices our loss; 0: none."""
    message: Hl7AlertSettings = Hl7AlertSettings()
    """What the messages call themselves and what they ask for."""

    @model_validator(mode="after")
    def _acknowledged(self) -> Self:
        asked = {self.message.accept_acknowledgement, self.message.application_acknowledgement}
        if not asked & {"AL", "SU"}:
            raise ValueError(
                "nothing would tell that an alert has arrived; set message.accept_acknowledgement or "
                "message.application_acknowledgement to AL"
            )
        return self


class MqttSinkSettings(BrokerSettings):
    """A broker that takes the alerts as JSON at QoS 1."""

    client_id: str = Field(default="deepecg-alerts", min_length=1, max_length=128)
    """Our name with the broker; each connection of each agent needs its own, the same one after every restart."""
    topic: str = "ward/v1/{site}/{unit}/{bed}/alert"
    """Topic of a bed's alerts; {site}, {unit} and {bed} are whole levels."""
    acknowledge_within: float = Field(default=10.0, gt=0)
    """Seconds in which the broker must acknowledge a message; then the connection is made anew and it is sent again."""
    retry_refused: float = Field(default=60.0, gt=0, le=3600)
    """Seconds at most before a message that the broker refuses by itself (its ACL, a quota) is sent again."""
    patient: bool = True
    """Whether the messages name the patient: identifiers, name, visit, location."""

    @model_validator(mode="after")
    def _template_fits(self) -> Self:
        TopicTemplate(self.topic, site="-", unit="-")
        return self

"""What a site configures of ECG in over MQTT: the broker, topics, beds, and how large a message may be."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.core.mqtt.topic import DEFAULT_TOPIC, TopicTemplate
from agent.mqtt.settings import BrokerSettings


class OffsetBinarySettings(BaseModel):
    """What the flat offset-binary JSON of 12-bit devices leaves unsaid; used where the message does not say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    baseline: float = 2047.0
    """The value at 0 mV."""
    lowest: int = 0
    """Smallest value that the device can send."""
    highest: int = 4095
    """Largest value that the device can send."""
    microvolts: float = Field(default=1.5, gt=0)
    """µV per step."""
    rate: float = Field(default=250.0, gt=0)
    """Samples per second."""


class MqttSourceSettings(BrokerSettings):
    """A broker to which monitors and gateways publish ECG."""

    client_id: str = Field(default="deepecg-source", min_length=1, max_length=128)
    """Our name with the broker; each connection of each agent needs its own, the same one after every restart."""
    topics: tuple[str, ...] = Field(default=(DEFAULT_TOPIC,), min_length=1)
    """Topic templates; {site}, {unit}, {bed} and {device} are whole levels."""
    qos: int = Field(default=1, ge=0, le=1)
    """Highest QoS of the subscription; 1 = what we have not taken yet comes again after a loss of the connection."""
    site: str = ""
    """The site of topics that do not name one."""
    unit: str = ""
    """The unit of topics that do not name one."""
    device: str = "monitor"
    """The device of topics that do not name one."""
    beds: tuple[str, ...] = ("*",)
    """Beds that this broker may speak for, as patterns of site/unit/bed. MQTT names no sender: who may publish for
    which bed is for the broker's ACL to say."""
    max_payload: int = Field(default=1 << 20, ge=64)
    """Largest payload in bytes."""
    max_channels: int = Field(default=64, ge=1, le=255)
    """Most channels in one block."""
    max_samples: int = Field(default=20_000, ge=1, le=65535)
    """Most samples of one channel in one block."""
    max_devices: int = Field(default=4096, ge=1)
    """Devices whose sequence is remembered; beyond that the one silent for longest is forgotten."""
    remember: int = Field(default=256, ge=1, le=65536)
    """Sequence numbers remembered for each device, by which a block that comes again is known."""
    offset_binary: OffsetBinarySettings = Field(default_factory=OffsetBinarySettings)
    """What the flat offset-binary JSON of 12-bit devices leaves unsaid."""

    @model_validator(mode="after")
    def _templates_fit(self) -> Self:
        self.templates()
        return self

    def templates(self) -> tuple[TopicTemplate, ...]:
        """The topics, parsed. `TemplateError`, a ValueError, where one cannot be used."""
        return tuple(TopicTemplate(t, site=self.site, unit=self.unit, device=self.device) for t in self.topics)

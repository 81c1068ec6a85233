"""What cannot be configured of MQTT in is refused; the defaults subscribe to what docs/mqtt.md says."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agent.sources.mqtt_settings import MqttSourceSettings


@pytest.mark.parametrize(
    ("field", "content"),
    [
        ("topics", ["ward/{site}/{unit}"]),
        ("topics", []),
        ("topics", ["ward/{bed}"]),
        ("qos", 2),
        ("port", 0),
        ("client_id", ""),
        ("keepalive", 0),
        ("no_such_key", 1),
    ],
)
def test_bad_settings_are_refused(field: str, content: object) -> None:
    with pytest.raises(ValidationError):
        MqttSourceSettings.model_validate({field: content})


def test_defaults() -> None:
    assert MqttSourceSettings().templates()[0].filter == "ward/v1/+/+/+/ecg/+"

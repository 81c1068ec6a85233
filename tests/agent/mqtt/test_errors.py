"""Each error names a reason for the metrics, and is one that a person can mend."""

from __future__ import annotations

from agent.core.errors import DeepECGError
from agent.mqtt import errors
from agent.mqtt.errors import MqttError

REASONS = {"error", "not_connected", "connection_lost", "timeout", "refused"}


def test_reasons_are_a_closed_list() -> None:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MqttError)]
    assert {kind.reason for kind in found} == REASONS
    assert all(issubclass(kind, DeepECGError) for kind in found)

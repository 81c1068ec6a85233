"""How to reach a broker; the connection itself is tested through the link, against real brokers."""

from __future__ import annotations

import pytest

from agent.mqtt.settings import BrokerSettings


def test_settings_name_the_client() -> None:
    with pytest.raises(ValueError, match="client_id"):
        BrokerSettings.model_validate({})
    assert BrokerSettings(client_id="a").status_topic == "ward/v1/agent/{client_id}/status"

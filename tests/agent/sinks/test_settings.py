"""What cannot be configured of outbox and sinks is refused before anything is opened."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agent.core.hl7.alert import Hl7AlertSettings
from agent.sinks.settings import Hl7SinkSettings, MqttSinkSettings, OutboxSettings


def test_the_settings_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValueError, match="keep_day"):
        OutboxSettings.model_validate({"keep_day": 3})


def test_settings_that_ask_for_no_acknowledgement_are_refused() -> None:
    silent = Hl7AlertSettings(accept_acknowledgement="NE", application_acknowledgement="ER")
    with pytest.raises(ValueError, match="nothing would tell that an alert has arrived"):
        Hl7SinkSettings(host="h", port=1, message=silent)


@pytest.mark.parametrize(
    ("field", "content"),
    [("topic", "ward/alert"), ("topic", "ward/{bed}/#"), ("retry_refused", 0), ("acknowledge_within", 0), ("key", 1)],
)
def test_bad_settings_of_the_mqtt_sink_are_refused(field: str, content: object) -> None:
    with pytest.raises(ValidationError):
        MqttSinkSettings.model_validate({field: content})

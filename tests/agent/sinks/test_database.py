"""The outbox's rows: an alert comes back as it was, and a damaged one says so without its content."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.ecg import Alert, Encounter, Phase, Priority
from agent.sinks.database import OutboxError, alert_from_json, json_from_alert

texts = st.text(max_size=12)
alerts = st.builds(
    Alert,
    alert_id=texts,
    message_id=texts,
    bed=texts,
    device=texts,
    label=texts,
    code=st.integers(0, 2**32),
    ref_id=texts,
    text=texts,
    priority=st.sampled_from(Priority),
    phase=st.sampled_from(Phase),
    active=st.booleans(),
    opened=st.floats(allow_nan=False),
    time=st.floats(allow_nan=False),
    created=st.floats(allow_nan=False),
    probability=st.none() | st.floats(0, 1),
    threshold=st.none() | st.floats(0, 1),
    model=texts,
    received=st.floats(allow_nan=False),
    source_code=st.integers(0, 2**31),
    reason=texts,
    encounter=st.none()
    | st.builds(Encounter, patient_ids=st.lists(texts, max_size=3).map(tuple), family_name=texts, location=texts),
)


@given(alerts)
@settings(max_examples=100, deadline=None)
def test_an_alert_survives_its_row(alert: Alert) -> None:
    assert alert_from_json(json_from_alert(alert)) == alert


@pytest.mark.parametrize("row", ["", "[]", "{}", '{"encounter": 3}', '{"encounter": null, "priority": "XX"}'])
def test_a_damaged_row_is_an_outbox_error_without_its_content(row: str) -> None:
    with pytest.raises(OutboxError, match="not an alert"):
        alert_from_json(row)


@given(alerts)
@settings(max_examples=20, deadline=None)
def test_a_row_of_a_later_version_keeps_what_this_one_knows(alert: Alert) -> None:
    row = json_from_alert(alert).replace('{"alert_id"', '{"colour":"red","alert_id"', 1)
    assert alert_from_json(row) == alert

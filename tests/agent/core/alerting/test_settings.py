"""What the settings take and refuse."""

from __future__ import annotations

import pytest

from agent.core.alerting.settings import AlertingSettings
from agent.core.ecg import Priority


def test_a_priority_is_written_as_the_standard_writes_it() -> None:
    assert AlertingSettings.model_validate({"feed_lost_priority": "PM"}).feed_lost_priority is Priority.MEDIUM
    with pytest.raises(ValueError, match="feed_lost_priority"):
        AlertingSettings.model_validate({"feed_lost_priority": "urgent"})


@pytest.mark.parametrize(
    "wrong", [{"continue_every": -1}, {"stale_after": 0}, {"forget_after": float("inf")}, {"supress": ["Afib"]}]
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AlertingSettings.model_validate(wrong)

"""The page has no log-in: a port that others can reach has to be meant."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agent.station.settings import StationSettings


def test_an_open_port_must_be_meant() -> None:
    with pytest.raises(ValidationError, match="allow_remote"):
        StationSettings(host="0.0.0.0")
    assert StationSettings(host="0.0.0.0", allow_remote=True).host == "0.0.0.0"
    assert StationSettings(host="::1").port == 8080
    with pytest.raises(ValidationError):
        StationSettings.model_validate({"prot": 1})

"""Logs: one JSON object a line on stderr, nothing below the level."""

from __future__ import annotations

import json

import pytest
import structlog

from agent.ops.logs import configure_logging


@pytest.fixture(autouse=True)
def _reset() -> object:
    yield
    structlog.reset_defaults()


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    log = structlog.get_logger()
    log.debug("hidden")
    log.info("seen", bed="a/b/1")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    said = json.loads(lines[0])
    assert (said["event"], said["bed"], said["level"]) == ("seen", "a/b/1", "info")
    assert said["timestamp"].endswith("Z")


def test_an_encounter_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    from agent.core.ecg import Encounter

    configure_logging("info", "json")
    structlog.get_logger().info("seen", encounter=Encounter(patient_ids=("CANARY",), family_name="CANARY"))
    assert "CANARY" not in capsys.readouterr().err

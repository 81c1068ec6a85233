"""Commands in the tests' own process: what they log goes where the tests' logs go."""

from __future__ import annotations

import pytest
import structlog


@pytest.fixture(autouse=True)
def logging_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command sets up logging for its whole process, to a stderr that Typer's runner closes behind it."""
    monkeypatch.setattr(structlog, "configure", lambda **_: None)

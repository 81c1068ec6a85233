"""What the settings refuse."""

from __future__ import annotations

import pytest

from agent.core.ecg import (
    Lead,
    Provenance,
)
from agent.core.windows.settings import WindowingSettings

SETTINGS = WindowingSettings()
MONITOR = (Lead.I, Lead.II, Lead.III)
M, D, X = Provenance.MEASURED, Provenance.DERIVED, Provenance.MISSING


def test_settings_refuse_what_would_lose_signal() -> None:
    with pytest.raises(ValueError, match="stride must not be longer"):
        WindowingSettings(seconds=5, stride=6)
    with pytest.raises(ValueError, match="min_rate"):
        WindowingSettings(min_rate=500, max_rate=400)

"""Every payload and dialect has its figure."""

from __future__ import annotations

import json

import pytest

from agent.bench import feeds
from agent.engines.bundles.bundle import default_bundle, open_bundle


def test_each_feed_gives_its_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "_BEDS", 2)
    monkeypatch.setattr(feeds, "_SECONDS", 24)
    found = feeds.feeds(open_bundle(default_bundle()))
    assert {"mqtt_binary", "mqtt_json", "hl7_ge", "hl7_philips", "hl7_mindray", "hl7_capsule", "hl7_wcm"} <= set(found)
    for numbers in found.values():
        assert numbers["cpu_ms_per_bed_second"] > 0
        assert numbers["windows"] >= 4
    json.dumps(found)

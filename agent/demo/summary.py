"""What the demo says at its end: of the agent's own metrics and of what the receivers got."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from agent.demo.placement import Placed
from agent.demo.receiver import Received

_MOST_BEDS = 64
"""Beds of which the summary tells one by one."""


async def of_agent(session: aiohttp.ClientSession) -> dict[str, object]:
    """What the agent itself says. ``session``: of its page."""
    async with session.get("/metrics") as answer:
        text = await answer.text()
    async with session.get("/api/state") as answer:
        return from_metrics(text, await answer.json())


def from_metrics(text: str, state: dict[str, Any]) -> dict[str, object]:
    """The summary of an agent's ``/metrics`` in Prometheus' text format and its ``/api/state``."""
    totals: Counter[str] = Counter()
    by_label: dict[str, dict[str, int]] = {"windows_dropped": {}, "gaps": {}, "delivered": {}}
    alerts: dict[str, dict[str, int]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.value or sample.name.endswith("_created"):
                continue
            name, value = sample.name.removeprefix("deepecg_").removesuffix("_total"), int(sample.value)
            totals[name] += value
            if name in by_label:
                (label,) = sample.labels.values()
                by_label[name][label] = value
            elif name == "alerts":
                alerts.setdefault(sample.labels["label"], {})[sample.labels["phase"]] = value
    return {
        "model": state["model"],
        "messages": totals["messages"],
        "faults": totals["faults"],
        "windows": totals["windows"],
        "windows_dropped": by_label["windows_dropped"],
        "gaps": by_label["gaps"],
        "alerts": alerts,
        "alerts_acknowledged": by_label["delivered"],
        "latency_prediction_seconds": state["latency"]["prediction"],
        "latency_alert_seconds": state["latency"]["alert"],
        "agent_memory_mb": totals["process_resident_memory_bytes"] >> 20,
        "agent_cpu_seconds": totals["process_cpu_seconds"],
    }


def by_bed(placed: Sequence[Placed], received: Sequence[Received]) -> dict[str, object]:
    """For every bed with an alert or a known rhythm: what it plays, and what was said of it."""
    said: dict[str, list[str]] = {}
    for alert in received:
        if alert.phase == "start":
            said.setdefault(alert.bed, []).append(alert.label)
    return {
        item.bed: {
            "transport": item.transport,
            "origin": item.recording.origin,
            "expected": item.recording.expected,
            "alerts": said.get(item.bed, []),
        }
        for item in placed[:_MOST_BEDS]
        if item.bed in said or item.recording.expected
    }

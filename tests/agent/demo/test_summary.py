"""The summary against metrics that the agent's own counters render."""

from __future__ import annotations

from dataclasses import replace

from agent.demo.placement import place
from agent.demo.receiver import Received
from agent.demo.recordings import demo_beds
from agent.demo.summary import by_bed, from_metrics
from agent.ops.metrics import Metrics

STATE = {"model": "sl/1", "latency": {"prediction": {"count": 3}, "alert": {"count": 0}}}


def test_what_the_agents_metrics_say() -> None:
    metrics = Metrics()
    metrics.messages.labels("mqtt").inc(5)
    metrics.messages.labels("hl7").inc(2)
    metrics.faults.labels("mqtt", "syntax").inc()
    metrics.windows.inc(3)
    metrics.windows_dropped.labels("overload").inc(2)
    metrics.gaps.labels("leads_off").inc(4)
    metrics.alerts.labels("Afib", "start").inc(2)
    metrics.alerts.labels("Afib", "end").inc()
    metrics.delivered.labels("hl7").inc(3)
    metrics.delivered.labels("mqtt")  # nothing yet
    found = from_metrics(metrics.render().decode(), STATE)
    memory, processor = found.pop("agent_memory_mb"), found.pop("agent_cpu_seconds")
    assert isinstance(memory, int) and memory > 10
    assert isinstance(processor, int) and processor >= 0
    assert found == {
        "model": "sl/1",
        "messages": 7,
        "faults": 1,
        "windows": 3,
        "windows_dropped": {"overload": 2},
        "gaps": {"leads_off": 4},
        "alerts": {"Afib": {"start": 2, "end": 1}},
        "alerts_acknowledged": {"hl7": 3},
        "latency_prediction_seconds": {"count": 3},
        "latency_alert_seconds": {"count": 0},
    }


def received(bed: str, label: str, phase: str) -> Received:
    return Received(
        bed=bed,
        label=label,
        text="",
        code=1,
        priority="PM",
        phase=phase,
        active=True,
        kind="SP",
        time=0.0,
        alert_id="a",
        message_id="m",
        patient_known=False,
        location="",
        received=0.0,
    )


def test_each_bed_with_an_alert_or_a_known_rhythm() -> None:
    *known, seventh, eighth = place(demo_beds(None), 8)
    unknown = [replace(item, recording=replace(item.recording, expected="")) for item in (seventh, eighth)]
    placed = [*known, *unknown]
    first, other = placed[0].bed, unknown[0].bed
    alerts = [received(first, "Afib", "start"), received(first, "Afib", "end"), received(other, "Brady", "start")]
    found = by_bed(placed, alerts)
    assert set(found) == {item.bed for item in known} | {other}
    assert found[first] == {
        "transport": placed[0].transport,
        "origin": placed[0].recording.origin,
        "expected": placed[0].recording.expected,
        "alerts": ["Afib"],
    }
    assert found[other] == found[other] | {"alerts": ["Brady"]}  # type: ignore[operator]

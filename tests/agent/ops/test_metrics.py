"""Exact quantiles beside the histogram, and totals by label."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.ops.metrics import Metrics, totals


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200))
def test_the_latency_summary_is_numpy_s(values: list[float]) -> None:
    latency = Metrics().prediction_latency
    for value in values:
        latency.observe(value)
    summary = latency.summary()
    assert summary["count"] == len(values)
    assert abs(summary["p50"] - float(np.quantile(values, 0.5))) < 1e-4
    assert abs(summary["p99"] - float(np.quantile(values, 0.99))) < 1e-4


def test_nothing_observed_is_no_number() -> None:
    assert Metrics().prediction_latency.summary() == {"count": 0}


def test_two_agents_in_one_process_share_no_metric() -> None:
    one, other = Metrics(), Metrics()
    one.windows.inc()
    assert totals(one.windows) == {"": 1}
    assert totals(other.windows) == {}


def test_totals_are_by_label() -> None:
    metrics = Metrics()
    metrics.faults.labels(transport="hl7", reason="syntax").inc(3)
    assert totals(metrics.faults) == {"hl7/syntax": 3}


def test_the_page_shows_drops_with_their_reason_and_the_process() -> None:
    metrics = Metrics()
    metrics.windows_dropped.labels(reason="overload").inc()
    text = metrics.render().decode()
    assert 'deepecg_windows_dropped_total{reason="overload"} 1.0' in text
    assert "process_resident_memory_bytes" in text


def test_the_names_that_people_watch_stay() -> None:
    """Dashboards and alerting rules know these names and labels; models have others beside them."""
    text = Metrics().render().decode()
    for name, kind in (
        ("deepecg_windows_total", "counter"),
        ("deepecg_windows_dropped_total", "counter"),
        ("deepecg_queue", "gauge"),
        ("deepecg_batch_size", "histogram"),
        ("deepecg_inference_seconds", "histogram"),
        ("deepecg_prediction_latency_seconds", "histogram"),
        ("deepecg_alert_latency_seconds", "histogram"),
        ("deepecg_alerts_total", "counter"),
        ("deepecg_alerts_suppressed_total", "counter"),
        ("deepecg_healthy", "gauge"),
    ):
        assert f"# TYPE {name} {kind}" in text
    metrics = Metrics()
    metrics.windows_dropped.labels(reason="overload").inc()
    metrics.stages.labels("sl", "queue").observe(0.002)
    metrics.model_dropped.labels("sl", "expired").inc()
    text = metrics.render().decode()
    assert 'deepecg_windows_dropped_total{reason="overload"} 1.0' in text
    assert 'deepecg_stage_seconds_bucket{le="0.0025",model="sl",stage="queue"} 1.0' in text
    assert 'deepecg_model_windows_dropped_total{model="sl",reason="expired"} 1.0' in text

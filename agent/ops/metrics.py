"""Every Prometheus metric of the agent, on a registry of its own that is passed in, never a global.

A drop is always a counter with a reason; the reasons are closed lists (`GapReason`, the decoders' fault names), and no
label ever carries patient data. Bed ids are labels only where a ward's size bounds them.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest


class Latency:
    """Exact quantiles of the latest values, beside the histogram whose buckets are coarse. Bounded memory."""

    def __init__(self, histogram: Histogram, keep: int = 65_536) -> None:
        self._histogram = histogram
        self._values: deque[float] = deque(maxlen=keep)
        self._count = 0

    def observe(self, seconds: float) -> None:
        """Add one value, seconds."""
        self._histogram.observe(seconds)
        self._values.append(seconds)
        self._count += 1

    def summary(self) -> dict[str, float | int]:
        """``count`` of all values, ``p50``, ``p99`` and ``max`` of those kept, in seconds."""
        if not self._values:
            return {"count": 0}
        p50, p99, most = np.quantile(np.fromiter(self._values, np.float64), (0.5, 0.99, 1.0)).tolist()
        return {"count": self._count, "p50": round(p50, 4), "p99": round(p99, 4), "max": round(most, 4)}


def totals(counter: Counter) -> dict[str, int]:
    """A counter's values by its label values, joined by ``/``; zeros left out."""
    found = {}
    for family in counter.collect():
        for sample in family.samples:
            if sample.name.endswith("_total") and sample.value:
                found["/".join(sample.labels.values())] = int(sample.value)
    return found


_STAGES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
_LATENCY = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The agent's metrics. ``transport`` is ``mqtt``, ``hl7`` or ``replay``; ``sink`` is ``mqtt`` or ``hl7``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._feeds(self.registry)
        self._engines(self.registry)
        self._models(self.registry)
        self._alerts(self.registry)

    def render(self) -> bytes:
        """The registry in Prometheus' text format."""
        return generate_latest(self.registry)

    def _feeds(self, r: CollectorRegistry) -> None:
        """From a sender's bytes to windows."""
        self.messages = Counter("deepecg_messages", "Messages read", ["transport"], registry=r)
        self.faults = Counter("deepecg_faults", "Messages or channels refused", ["transport", "reason"], registry=r)
        self.duplicates = Counter("deepecg_duplicates", "Blocks that came again", ["transport"], registry=r)
        self.sequence_gaps = Counter("deepecg_sequence_gaps", "Blocks missing by sequence", ["transport"], registry=r)
        self.messages_dropped = Counter(
            "deepecg_messages_dropped", "Messages dropped unread", ["transport", "reason"], registry=r
        )
        self.connections = Gauge("deepecg_connections", "Open inbound connections", ["transport"], registry=r)
        self.reconnects = Counter("deepecg_reconnects", "Connections made anew", ["peer"], registry=r)
        self.refused = Counter("deepecg_refused", "Connections or senders refused", ["transport", "reason"], registry=r)
        self.source_alarms = Counter("deepecg_source_alarms", "Alarms raised by the monitors themselves", registry=r)
        self.encounter_events = Counter("deepecg_encounter_events", "ADT events applied", ["event"], registry=r)
        self.windows = Counter("deepecg_windows", "Windows completed", registry=r)
        self.gaps = Counter("deepecg_gaps", "Stretches of signal without a window", ["reason"], registry=r)
        self.windowing = Counter("deepecg_windowing", "What windowing put right or refused", ["kind"], registry=r)
        self.windows_dropped = Counter("deepecg_windows_dropped", "Windows dropped", ["reason"], registry=r)
        self.beds = Gauge("deepecg_beds", "Beds with a live feed", registry=r)

    def _engines(self, r: CollectorRegistry) -> None:
        """From windows to answers, all models together."""
        self.queue = Gauge("deepecg_queue", "Windows that wait for the engine", registry=r)
        self.batch_size = Histogram(
            "deepecg_batch_size", "Windows in a batch", registry=r, buckets=(1, 2, 4, 8, 16, 32)
        )
        self.inference = Histogram(
            "deepecg_inference_seconds", "Filter and infer one batch", registry=r, buckets=_LATENCY
        )
        to_prediction = "Last sample of a window (its arrival) to its prediction"
        self.prediction_latency = Latency(
            Histogram("deepecg_prediction_latency_seconds", to_prediction, registry=r, buckets=_LATENCY)
        )

    def _models(self, r: CollectorRegistry) -> None:
        """The same by model, and what becomes of their engines."""
        model = ["model"]
        self.model_windows = Counter("deepecg_model_windows", "Windows answered, by model", model, registry=r)
        self.model_late = Counter(
            "deepecg_model_windows_late", "Of them, those later than the model's answer_within", model, registry=r
        )
        self.model_dropped = Counter(
            "deepecg_model_windows_dropped", "Windows without an answer, by model", ["model", "reason"], registry=r
        )
        self.stages = Histogram(
            "deepecg_stage_seconds",
            "Of a window: queue (until its batch began), total (last sample to answer); of a batch: filter, inference",
            ["model", "stage"],
            registry=r,
            buckets=_STAGES,
        )
        self.model_engine = Gauge(
            "deepecg_model_engine", "1 for the engine that serves a model", ["model", "engine"], registry=r
        )
        self.engine_fallbacks = Gauge(
            "deepecg_engine_fallbacks",
            "Engines before the one that serves that do not fit this machine",
            model,
            registry=r,
        )
        self.swaps = Counter(
            "deepecg_engine_swaps", "Engines exchanged while serving", ["model", "outcome"], registry=r
        )
        self.trials = Counter(
            "deepecg_engine_trials",
            "Engines of this machine's own that were promoted, kept, rejected or rolled back",
            ["model", "outcome"],
            registry=r,
        )
        self.rebuild_wanted = Gauge(
            "deepecg_rebuild_wanted",
            "Engines that do not fit this machine and could be compiled for it",
            model,
            registry=r,
        )
        self.shadow_windows = Counter(
            "deepecg_shadow_windows", "Windows computed by an engine on trial too", model, registry=r
        )
        self.shadow_dropped = Counter(
            "deepecg_shadow_windows_dropped", "Windows not compared", ["model", "reason"], registry=r
        )

    def _alerts(self, r: CollectorRegistry) -> None:
        """From answers to receivers, and the whole."""
        to_alert = "Last sample of a window (its arrival) to its committed alert"
        self.alert_latency = Latency(Histogram("deepecg_alert_latency_seconds", to_alert, registry=r, buckets=_LATENCY))
        self.alerts = Counter("deepecg_alerts", "Alert messages committed", ["label", "phase"], registry=r)
        self.alerts_suppressed = Counter("deepecg_alerts_suppressed", "Findings not alerted", ["reason"], registry=r)
        self.delivered = Counter(
            "deepecg_delivered", "Alert messages acknowledged by the receiver", ["sink"], registry=r
        )
        self.delivery_failures = Counter(
            "deepecg_delivery_failures", "Failed deliveries", ["sink", "reason"], registry=r
        )
        self.undelivered = Gauge("deepecg_undelivered", "Alert messages that wait for delivery", ["sink"], registry=r)
        self.frames_dropped = Counter("deepecg_page_frames_dropped", "Frames a slow page viewer lost", registry=r)
        self.healthy = Gauge("deepecg_healthy", "1 while every part of the line works", registry=r)

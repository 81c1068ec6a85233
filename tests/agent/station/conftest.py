"""A small manifest, blocks of signal, and a station on a real port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace

import numpy as np
import pytest

from agent.core.bundle.manifest import (
    AlertRule,
    ChangeRecord,
    Engine,
    Evidence,
    FileEntry,
    Golden,
    InputSpec,
    Label,
    Manifest,
    Training,
)
from agent.core.ecg import (
    LEADS,
    Alert,
    Channel,
    ChannelKind,
    Encounter,
    Lead,
    Phase,
    Prediction,
    Priority,
    Provenance,
    Samples,
    Window,
)
from agent.core.preprocessing import Preprocessing
from agent.ops.metrics import Metrics
from agent.station.server import Station, StationInfo
from agent.station.settings import StationSettings

EVIDENCE = Evidence(auroc=0.97, lower=0.93, upper=0.99, positive_patients=60, negative_patients=900)
RULE = AlertRule(
    threshold=0.8,
    release=0.5,
    open_after=2,
    close_after=3,
    priority=Priority.MEDIUM,
    false_alerts_per_bed_day=0.4,
    false_alerts_upper=0.9,
    negative_hours=120.0,
)


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """Three labels with evidence, one of them alerting, and one without."""
    entry = FileEntry(sha256="0" * 64, size=1)
    names = ["net.xml", "golden.npy", "golden_p.npy"]
    return Manifest(
        name="deepecg-sl-test",
        version="1.0",
        architecture="deepecg-sl",
        statement="A demonstration, not the published weights.",
        weights_sha256="0" * 64,
        input=InputSpec(required_leads=(Lead.I, Lead.II), preprocessing=Preprocessing()),
        labels=(
            Label(name="Sinusal", severity="normal", evidence=EVIDENCE),
            Label(name="Afib", severity="pathological", evidence=EVIDENCE, rule=RULE),
            Label(name="Right bundle branch block", severity="pathological", evidence=EVIDENCE),
            Label(name="Brugada", severity="pathological"),
        ),
        engines=(Engine(flavour="openvino", precision="f32", library="2026.0", files=("net.xml",)),),
        golden=Golden(windows="golden.npy", probabilities="golden_p.npy", tolerance=1e-4),
        files=dict.fromkeys(names, entry),
        training=Training(summary="s", datasets={"d": "CC BY 4.0, 1"}, patients=1, windows=1),
        change=ChangeRecord(what="w", how_tested="h", impact="i"),
    )


@pytest.fixture(scope="session")
def further(manifest: Manifest) -> Manifest:
    """A further model: one biomarker with a threshold."""
    label = Label(name="LVEF <= 40", severity="pathological", evidence=EVIDENCE, rule=RULE)
    return manifest.model_copy(update={"name": "lvef", "labels": (label,)})


def channels(leads: tuple[Lead, ...] = (Lead.I, Lead.II), rate: float = 250.0) -> tuple[Channel, ...]:
    return tuple(Channel(ChannelKind.ECG, 131329, lead.value, "mV", rate, lead) for lead in leads)


def samples(
    bed: str = "st/icu/1",
    *,
    start: float | None = 1000.0,
    seconds: float = 1.0,
    received: float = 0.0,
    rate: float = 250.0,
    value: float | np.ndarray = 0.1,
    device: str = "m1",
    leads: tuple[Lead, ...] = (Lead.I, Lead.II),
    encounter: Encounter | None = None,
) -> Samples:
    n = round(rate * seconds)
    values = tuple(np.broadcast_to(np.asarray(value, dtype=np.float32), (n,)).copy() for _ in leads)
    return Samples(bed, device, channels(leads, rate), values, start, received, encounter=encounter)


def prediction(
    bed: str,
    probabilities: list[float],
    received: float = 0.0,
    model: str = "deepecg-sl-test/1.0",
    generation: int = 0,
) -> Prediction:
    provenance = tuple(
        Provenance.MEASURED
        if lead in {Lead.I, Lead.II}
        else Provenance.DERIVED
        if lead in LEADS[2:6]
        else Provenance.MISSING
        for lead in LEADS
    )
    window = Window(
        bed, "m1", generation, 1000.0, 1010.0, 250.0, np.zeros((12, 2500), np.float32), provenance, received
    )
    return Prediction(window, model, "openvino-f32", np.array(probabilities, np.float32), received + 0.1)


def alert(
    bed: str = "st/icu/1", *, priority: Priority = Priority.MEDIUM, active: bool = True, number: int = 1
) -> Alert:
    return Alert(
        alert_id="a1",
        message_id=f"m{number}",
        bed=bed,
        device="m1",
        label="Afib",
        code=199736,
        ref_id="MDC_EVT_ECG_ATR_FIB",
        text="Advisory: atrial fibrillation, 97 %.",
        priority=priority,
        phase=Phase.START if active else Phase.END,
        active=active,
        opened=1_700_000_000.0,
        time=1_700_000_000.0,
        created=1_700_000_000.0,
        probability=0.97,
        threshold=0.8,
        model="deepecg-sl-test/1.0",
        received=0.0,
    )


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def build(manifest: Manifest, metrics: Metrics) -> Callable[..., Station]:
    def _build(*further: Manifest, **settings: object) -> Station:
        return Station(
            StationSettings.model_validate({"port": 0, **settings}),
            metrics,
            StationInfo(manifest, "1.2.3", "openvino-f32", further),
        )

    return _build


@pytest.fixture
async def station(build: Callable[..., Station]) -> AsyncIterator[Station]:
    async with build() as station:
        yield station


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """Makers of the line's messages: ``make.samples(...)``, ``make.prediction(...)``, ``make.alert(...)``."""
    return SimpleNamespace(samples=samples, prediction=prediction, alert=alert, channels=channels)

"""Small tables of windows, archives and recordings, the signals of the project's own generator; a bundle to be."""

from __future__ import annotations

import gc
import runpy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from torch.export import ExportedProgram

from agent.core.bundle.manifest import AlertRule, Evidence, Label, Training
from agent.core.ecg import LEADS, FloatArray, Lead
from agent.core.labels import LABELS, index_of
from agent.core.preprocessing import Preprocessing
from agent.engines.compile import Built, SourceFiles, build, ir_of
from agent.simulator.ecg import Rhythm, synthesize
from training.data import Recording, WindowTable
from training.models.kinds import DIAGNOSES
from training.models.sl import DeepECGSL
from training.models.weights import config_of
from training.publish.bundle import Contents, answers_of, exported
from training.publish.contents import golden_windows, identity_of, input_of
from training.publish.engines import sources_of
from training.train.recipes import smoke

EVIDENCE = Evidence(auroc=0.9, lower=0.88, upper=0.95, positive_patients=25, negative_patients=90)
MakeContents = Callable[..., Contents]
WriteRecord = Callable[..., FloatArray]
MakeTable = Callable[..., WindowTable]
MakeRecording = Callable[..., Recording]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Of torch, for each test anew: threads of such small networks wait for one another, and commands set their own."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def frozen_libraries() -> None:
    """A million objects of imported libraries need not be looked through for garbage in each training loop."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


in_memory: MakeTable = runpy.run_path(str(Path(__file__).with_name("tables.py")))["in_memory"]


@pytest.fixture(scope="session")
def make_table() -> MakeTable:
    """Makes a table of arrays; see `tables.py`."""
    return in_memory


@pytest.fixture(scope="session")
def small_table() -> WindowTable:
    """60 windows of 2 s of 20 patients: half twelve leads, half II and V1; "Afib" is a faster oscillation."""
    rng = np.random.default_rng(0)
    n, t = 60, 500
    patient = np.array([f"p{i // 3:02d}" for i in range(n)])
    continuous = np.arange(n) >= n // 2
    mask = np.ones((n, 12), bool)
    mask[continuous] = np.isin(np.arange(12), (1, 6))
    af = (np.arange(n) // 3) % 4 == 0
    time = np.arange(t) / 250
    signals = np.zeros((n, 12, t), np.float32)
    for i in range(n):
        for lead in np.flatnonzero(mask[i]):
            wave = np.sin(2 * np.pi * (5 if af[i] else 1) * time + rng.uniform(0, 6))
            signals[i, lead] = 0.96 * wave + rng.normal(0, 0.048, t)
    labels = np.full((n, len(LABELS)), -1, np.int8)
    labels[:, index_of("Afib")] = af
    labels[:, index_of("Sinusal")] = ~af
    labels[:, index_of("Premature ventricular complex")] = rng.integers(-1, 2, n)
    return in_memory(
        signals,
        mask,
        labels,
        patient,
        sources=("ptbxl500", "mitdb"),
        source=continuous.astype(np.int16),
        continuous=continuous,
        held_out=patient == "p19",
        age=np.where(np.arange(n) % 10 == 0, np.nan, 30.0 + np.arange(n)).astype(np.float32),
        sex=np.array(["M", "F", ""])[np.arange(n) // 3 % 3],
    )


@pytest.fixture(scope="session")
def write_record() -> WriteRecord:
    """Writes a WFDB record (format 16, 1 µV) of the generator, and gives its signal (leads, n) in mV."""

    def write(
        path: Path,
        seed: int = 0,
        *,
        rate: int = 500,
        seconds: float = 10.0,
        leads: Sequence[Lead] = LEADS,
        names: Sequence[str] | None = None,
        comments: Sequence[str] = (),
        unit: str = "mV",
        rhythm: Rhythm = Rhythm.SINUS,
    ) -> FloatArray:
        signal = synthesize(rhythm, seconds, rate, leads, seed)
        counts = np.rint(signal * 1000).astype("<i2")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".dat").write_bytes(counts.T.tobytes())
        lines = [f"{path.name} {len(leads)} {rate} {counts.shape[1]}"]
        for lead, row in zip(names or leads, counts, strict=True):
            checksum = int(np.sum(row, dtype=np.int64)) & 0xFFFF
            lines.append(f"{path.name}.dat 16 1000(0)/{unit} 16 0 {row[0]} {checksum} 0 {lead}")
        path.with_suffix(".hea").write_text("\n".join([*lines, *(f"#{text}" for text in comments)]) + "\n")
        return (counts / np.float32(1000)).astype(np.float32)

    return write


@pytest.fixture(scope="session")
def make_recording() -> MakeRecording:
    """A recording of a signal, or of the generator."""

    def make(signal: FloatArray | None = None, **fields: object) -> Recording:
        seed = int(str(fields.pop("seed", 0)))
        leads = fields.pop("leads", LEADS)
        rate = float(str(fields.pop("rate", 500.0)))
        if signal is None:
            signal = synthesize(Rhythm.SINUS, 10.0, rate, leads, seed)  # type: ignore[arg-type]
        name = str(fields.pop("record", "x"))
        known = {"source": "made", "patient": name, "age": None, "sex": ""}
        return Recording(record=name, rate=rate, leads=leads, signal=signal, **known | fields)  # type: ignore[arg-type]

    return make


def _small_net(seed: int) -> DeepECGSL:
    net = DeepECGSL(replace(smoke().network, labels=len(LABELS)))
    net.initialise(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        net.classifier[-1].weight.mul_(4.0)  # fresh weights answer one half to everything
    return net.eval()


@pytest.fixture(scope="session")
def make_contents() -> MakeContents:
    """All of a bundle but its engines, of a narrow DeepECG-SL for the windows of `small_table`."""

    def make(labels: Sequence[Label] | None = None, *, seed: int = 0, version: str = "0.0.1") -> Contents:
        net = _small_net(seed)
        config = config_of(net, task=DIAGNOSES, preprocessing=Preprocessing(seconds=2.0))
        spec = input_of(config.preprocessing, "bedside")
        return Contents(
            net=net,
            config=config,
            labels=tuple(labels or (Label(name=info.name, severity=info.severity.value) for info in LABELS)),
            input=spec,
            identity=identity_of(net, version),
            training=Training(summary="none", datasets={}, patients=0, windows=0),
            golden=golden_windows(spec)[:4],
            readme="# nothing\n",
        )

    return make


@pytest.fixture(scope="session")
def alerting_labels(small_table: WindowTable, make_contents: MakeContents) -> tuple[Label, ...]:
    """Labels of which one has evidence and a rule whose threshold the network's answers cross now and then."""
    plain = make_contents()
    x, _ = small_table.batch(np.flatnonzero(small_table.continuous))
    p = answers_of(plain.net, x * np.float32(plain.input.preprocessing.gain), plain.labels)[:, index_of("Afib")]
    threshold = float(np.quantile(p, 0.6))
    rule = AlertRule(
        threshold=threshold,
        release=threshold / 2,
        open_after=1,
        close_after=1,
        priority=LABELS[index_of("Afib")].priority,
        false_alerts_per_bed_day=0.1,
        false_alerts_upper=0.5,
        negative_hours=24.0,
    )
    return tuple(
        label.model_copy(update={"evidence": EVIDENCE, "rule": rule}) if label.name == "Afib" else label
        for label in plain.labels
    )


@pytest.fixture(scope="session")
def alerting(make_contents: MakeContents, alerting_labels: tuple[Label, ...]) -> Contents:
    """`make_contents` with one label that alerts."""
    return make_contents(alerting_labels)


@pytest.fixture(scope="session")
def program(alerting: Contents) -> ExportedProgram:
    """The network of `alerting` on its way to engines."""
    return exported(alerting)


@pytest.fixture(scope="session")
def source(program: ExportedProgram) -> SourceFiles:
    """What the engines of `alerting` are compiled from."""
    return sources_of(program, onnx=True)


@pytest.fixture(scope="session")
def f32(source: SourceFiles) -> Built:
    """A sound engine of `alerting`."""
    return build(source, "openvino", "f32", (1, 8))


@pytest.fixture(scope="session")
def wrong(f32: Built) -> Built:
    """An engine that is another network's: it runs, and every answer is wrong."""
    op = openvino.opset15
    x = op.parameter([-1, 12, 500], openvino.Type.f32)
    weight = np.random.default_rng(9).normal(0, 0.01, (12, len(LABELS))).astype(np.float32)
    answers = op.sigmoid(op.matmul(op.reduce_max(x, [2]), op.constant(weight), False, False))
    content = ir_of(openvino.Model([answers], [x]))
    names = ("model-int8w.xml", "model-int8w.bin")
    return replace(f32, precision="int8w", files=dict(zip(names, content, strict=True)), batches=(1,))

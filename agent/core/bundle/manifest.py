"""The engine bundle's manifest: the one contract between training, which writes it, and the agent, which reads it.

A bundle is a folder: ``manifest.json``, its signature, engine files, what engines can be compiled from, golden windows
with the outputs that they must give, and the checksum of every file. Reading files is `agent.engines.bundles.bundle`'s
part; here are only the shapes and their rules. ``deploy/manifest.schema.json`` is `schema` of this, for writers in
other languages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, StringConstraints, model_validator

from agent.core.bundle.limits import Parity, ParityLimits, Probability
from agent.core.bundle.strict_json import Strict
from agent.core.ecg import LEADS, Lead, Priority
from agent.core.preprocessing import Preprocessing

MAX_FILES = 256
"""Files of a bundle; the largest thinkable has some dozens (flavours x precisions x two files)."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9}){0,3}((a|b|rc)[0-9]{1,9})?$")]
"""What both PEP 440 and people agree on the order of."""
FileName = str
Flavour: TypeAlias = Literal["openvino", "tensorrt", "tensorrt-rtx", "torch-cuda"]
Precision: TypeAlias = Literal["f32", "bf16", "f16", "int8w"]

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
"""Letters, digits and a few marks: no folder, no hidden file, nothing that a terminal or another system reads anew."""
_MAX_RATE, _MAX_SECONDS = 10_000, 3600
_RESERVED = {"manifest.json", "manifest.sig", "derived.json", "derived.sig"}


class Evidence(Strict):
    """How well a label was recognised on patients that the weights never saw (pooled patient-wise folds)."""

    auroc: Probability
    lower: Probability
    """Lower bound of the 95 % interval (bootstrap over patients)."""
    upper: Probability
    positive_patients: int = Field(ge=0)
    negative_patients: int = Field(ge=0)


class AlertRule(Strict):
    """When a label opens and closes an alert: the threshold was chosen together with the persistence."""

    threshold: Probability
    release: Probability
    """Hysteresis: an open alert counts a window as recovered only below this; ≤ threshold."""
    open_after: int = Field(ge=1)
    """Consecutive windows at or above the threshold that open the alert."""
    close_after: int = Field(ge=1)
    """Consecutive windows below ``release`` that close it."""
    priority: Priority
    false_alerts_per_bed_day: float = Field(ge=0.0)
    """Measured on continuous recordings without the condition, patients unseen."""
    false_alerts_upper: float = Field(ge=0.0)
    """Upper bound of its exact 95 % Poisson interval."""
    negative_hours: float = Field(ge=0.0)
    """Length of those recordings."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.release > self.threshold:
            raise ValueError("release must not be above threshold")
        return self


class Quantity(Strict):
    """What an output is that is a number and no probability, as an ejection fraction."""

    unit: str = Field(min_length=1)
    """As ``%``."""
    scale: float = Field(gt=0.0)
    """An engine's answer times this is in the unit. So every engine's answers are of the size of one, whatever they
    stand for, and one gate and one self-test serve all."""


class Label(Strict):
    """One output of the network."""

    name: str
    """As in `agent.core.labels`; of a biomarker, as published."""
    severity: Literal["pathological", "borderline", "normal"]
    evidence: Evidence | None = None
    """None: never scored, for want of patients."""
    rule: AlertRule | None = None
    """None: the label never raises an alert (no evidence, or nothing to alert of)."""
    threshold: Probability | None = None
    """From where on the finding is said to be there: Youden's, or a published one. None: nobody chose any. An alert has
    its rule's own."""
    quantity: Quantity | None = None
    """None: the answer is a probability."""

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if self.quantity is not None and (self.evidence, self.rule, self.threshold) != (None, None, None):
            raise ValueError("a quantity is no finding: it has neither evidence, nor rule, nor threshold")
        return self

    @property
    def cuts(self) -> tuple[float, ...]:
        """Where answers that hardly differ mean different things: its thresholds, or one half where it has none."""
        if self.quantity is not None:
            return ()
        given = (self.rule.threshold if self.rule is not None else None, self.threshold)
        return tuple(sorted({cut for cut in given if cut is not None})) or (0.5,)


class InputSpec(Strict):
    """What the network takes."""

    required_leads: tuple[Lead, ...]
    """A window without any one of these is not offered to the model."""
    accepted_leads: tuple[Lead, ...] = LEADS
    """What it was trained to take; any other lead is silent in its training, and has to be here too."""
    preprocessing: Preprocessing

    @model_validator(mode="after")
    def _leads(self) -> Self:
        if missing := [lead.value for lead in self.required_leads if lead not in self.accepted_leads]:
            raise ValueError(f"{', '.join(missing)} is required but not accepted; add it to accepted_leads")
        p = self.preprocessing
        if p.rate > _MAX_RATE or p.rate % 1 or p.seconds > _MAX_SECONDS or p.rate * p.seconds % 1:
            raise ValueError(
                f"a window of {p.seconds:g} s at {p.rate:g} Hz is none: rate and samples have to be whole, "
                f"up to {_MAX_RATE} Hz and {_MAX_SECONDS} s"
            )
        return self


class Target(Strict):
    """The machines that an engine was compiled for; what is empty does not matter."""

    kind: Literal["cpu", "gpu", "any"] = "any"
    compute_capability: str = Field(default="", pattern=r"^([0-9]{1,2}\.[0-9])?$")
    """Of the GPU, as ``8.9``."""
    gpu: str = ""
    """Name of the GPU, as NVIDIA's driver gives it."""
    driver: str = ""
    """Version of the GPU's driver."""
    cpu_features: tuple[str, ...] = ()
    """Instruction sets that the engine needs, in the kernel's words (``/proc/cpuinfo``), as ``avx512_bf16``."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.kind != "gpu" and (self.compute_capability or self.gpu or self.driver):
            raise ValueError(f"a target of kind {self.kind} has no GPU")
        if self.kind == "gpu" and self.cpu_features:
            raise ValueError("a target of kind gpu has no cpu_features")
        return self


class Engine(Strict):
    """One compiled form of the network. Compared with the machine before a file is opened."""

    flavour: Flavour
    precision: Precision
    library: str
    """The exact version that compiled it."""
    files: tuple[FileName, ...] = Field(min_length=1)
    """Names in the bundle; the first is the one to open."""
    target: Target = Target()
    batches: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = ()
    """The batch sizes that it was compiled for, ascending; empty: any. On the processor they do not matter: it computes
    window by window."""
    parity: Parity = Parity()

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if any(b <= a for a, b in zip(self.batches, self.batches[1:], strict=False)):
            raise ValueError("batches must ascend")
        return self


class Source(Strict):
    """What engines are compiled from on the ward, without torch and without training."""

    onnx: FileName = ""
    """The ONNX file with its weights inside; empty: there is none."""
    opset: int | None = Field(default=None, ge=7)
    """Of the ONNX file."""
    ir: tuple[FileName, ...] = ()
    """OpenVINO's .xml and .bin in f32; empty: there are none."""

    @model_validator(mode="after")
    def _any(self) -> Self:
        if not self.onnx and not self.ir:
            raise ValueError("a source names an ONNX file, an IR, or both")
        if len(self.ir) not in {0, 2}:
            raise ValueError("an IR is two files, .xml and .bin")
        if bool(self.onnx) != (self.opset is not None):
            raise ValueError("onnx and opset belong together")
        return self

    @property
    def files(self) -> tuple[FileName, ...]:
        """All of them."""
        return (*((self.onnx,) if self.onnx else ()), *self.ir)


class Golden(Strict):
    """Windows with known answers: the engine's self-test before the agent says that it is ready."""

    windows: FileName
    """.npy, float32 (k, 12, rate * seconds) in mV at the network's rate, unfiltered, from the agent's own generator."""
    probabilities: FileName
    """.npy, float32 (k, n_labels): fp32 torch. Of a `Quantity` in its scale, not between 0 and 1."""
    tolerance: float = Field(gt=0.0)


class FileEntry(Strict):
    """A file of the bundle."""

    sha256: Sha256
    size: int = Field(ge=0)


class Training(Strict):
    """What the weights were trained on, told so that nobody takes a demonstration for the published model."""

    summary: str
    datasets: dict[str, str]
    """Name to licence and count."""
    patients: int = Field(ge=0)
    windows: int = Field(ge=0)
    held_out: tuple[str, ...] = ()
    """Records that were never trained on and are free for demonstrations."""


class ChangeRecord(Strict):
    """The three parts of a predetermined change control plan (FDA PCCP), for this version."""

    what: str
    how_tested: str
    impact: str


class Manifest(Strict):
    """The whole of ``manifest.json``."""

    schema_version: Literal[2] = 2
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=64)
    version: Version
    """As ``1.2.0`` or ``1.2.0rc1``; an agent that has served a later one refuses it."""
    architecture: str
    statement: str
    """What it is and is not; the page and the logs show it."""
    weights_sha256: Sha256
    input: InputSpec
    labels: tuple[Label, ...] = Field(min_length=1)
    engines: tuple[Engine, ...] = Field(min_length=1)
    source: Source | None = None
    """None: no engine can be compiled from this bundle."""
    golden: Golden
    limits: ParityLimits = ParityLimits()
    files: dict[FileName, FileEntry]
    training: Training
    change: ChangeRecord

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [label.name for label in self.labels]
        if len(set(names)) != len(names):
            raise ValueError("two labels have the same name")
        source = self.source.files if self.source is not None else ()
        used = (self.golden.windows, self.golden.probabilities, *source, *(f for e in self.engines for f in e.files))
        check_files(self.files, used)
        for label in self.labels:
            if label.rule is not None and label.evidence is None:
                raise ValueError(f"label {label.name!r} has an alert rule but no evidence")
        for engine in self.engines:
            if broken := self.limits.broken_by(engine.parity):
                raise ValueError(
                    f"the {engine.flavour} {engine.precision} engine fails the bundle's own gate: {broken}"
                )
        return self

    @property
    def model_id(self) -> str:
        """``name/version``, as predictions and alerts carry it."""
        return f"{self.name}/{self.version}"

    @property
    def counted(self) -> tuple[int, ...]:
        """The outputs by which an engine is judged: those that the ward is shown or alerted of, which are the ones
        with evidence; all of them where none has any."""
        shown = tuple(i for i, label in enumerate(self.labels) if label.evidence is not None)
        return shown or tuple(range(len(self.labels)))


def plain_name(name: str) -> bool:
    """Whether a file of a bundle may be called so."""
    return bool(_FILE_NAME.fullmatch(name)) and not name.endswith(".")


def check_files(files: dict[FileName, FileEntry], used: Iterable[FileName]) -> None:
    """Plain names, unlike in any file system, and a checksum for each that is used."""
    if len(files) > MAX_FILES:
        raise ValueError(f"{len(files)} files are more than {MAX_FILES}")
    seen: dict[str, str] = {}
    for name in files:
        if not plain_name(name):
            raise ValueError(f"{name!r} is not a plain file name; a bundle has no sub-folders")
        if name.lower() in _RESERVED:
            raise ValueError(f"{name!r} cannot be among the files: the name is the manifest's or its signature's")
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise ValueError(f"{other!r} and {name!r} differ in case only, which not every file system tells apart")
    if missing := sorted(set(used) - files.keys()):
        raise ValueError(f"no checksum for {', '.join(missing)}; every file that the manifest names needs one")


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the manifest. It cannot say all: `Manifest`'s own rules are in the code."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}

"""The engine bundle's manifest: the one contract between training, which writes it, and the agent, which reads it.

A bundle is a folder: ``manifest.json``, engine files, golden windows with the outputs that they must give, and the
checksum of every file. Reading files is `agent.engines.bundle`'s part; here are only the shapes and their rules.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from agent.core.ecg import Lead, Priority
from agent.core.filters import Preprocessing

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Evidence(_Strict):
    """How well a label was recognised on patients that the weights never saw (pooled patient-wise folds)."""

    auroc: Probability
    lower: Probability
    """Lower bound of the 95 % interval (bootstrap over patients)."""
    upper: Probability
    positive_patients: int = Field(ge=0)
    negative_patients: int = Field(ge=0)


class AlertRule(_Strict):
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


class Label(_Strict):
    """One output of the network."""

    name: str
    """As in `agent.core.labels`."""
    severity: Literal["pathological", "borderline", "normal"]
    evidence: Evidence | None = None
    """None: never scored, for want of patients."""
    rule: AlertRule | None = None
    """None: the label never raises an alert (no evidence, or nothing to alert of)."""


class InputSpec(_Strict):
    """What the network takes."""

    required_leads: tuple[Lead, ...]
    """A window without any one of these is not offered to the model."""
    preprocessing: Preprocessing


class Engine(_Strict):
    """One compiled form of the network. Compared with the machine before a file is opened."""

    flavour: Literal["openvino", "tensorrt", "tensorrt-rtx", "torch-cuda"]
    precision: Literal["f32", "bf16", "f16", "int8w"]
    library: str
    """The exact version that compiled it."""
    files: tuple[str, ...] = Field(min_length=1)
    """Names in the bundle; the first is the one to open."""
    parity: float = Field(ge=0.0)
    """Largest difference of a probability from fp32 torch on the golden windows, measured when it was compiled."""


class Golden(_Strict):
    """Windows with known answers: the engine's self-test before the agent says that it is ready."""

    windows: str
    """.npy, float32 (k, 12, rate * seconds) in mV at the network's rate, unfiltered, from the agent's own generator."""
    probabilities: str
    """.npy, float32 (k, n_labels): fp32 torch."""
    tolerance: float = Field(gt=0.0)


class FileEntry(_Strict):
    """A file of the bundle."""

    sha256: Sha256
    size: int = Field(ge=0)


class Training(_Strict):
    """What the weights were trained on, told so that nobody takes a demonstration for the published model."""

    summary: str
    datasets: dict[str, str]
    """Name to licence and count."""
    patients: int = Field(ge=0)
    windows: int = Field(ge=0)
    held_out: tuple[str, ...] = ()
    """Records that were never trained on and are free for demonstrations."""


class ChangeRecord(_Strict):
    """The three parts of a predetermined change control plan (FDA PCCP), for this version."""

    what: str
    how_tested: str
    impact: str


class Manifest(_Strict):
    """The whole of ``manifest.json``."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    version: str
    architecture: str
    statement: str
    """What it is and is not; the page and the logs show it."""
    weights_sha256: Sha256
    input: InputSpec
    labels: tuple[Label, ...] = Field(min_length=1)
    engines: tuple[Engine, ...] = Field(min_length=1)
    golden: Golden
    files: dict[str, FileEntry]
    training: Training
    change: ChangeRecord

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [label.name for label in self.labels]
        if len(set(names)) != len(names):
            raise ValueError("two labels have the same name")
        for name in self.files:
            if PurePosixPath(name).name != name or name in {"", ".", ".."} or "\\" in name:
                raise ValueError(f"{name!r} is not a plain file name; a bundle has no sub-folders")
        used = {self.golden.windows, self.golden.probabilities}.union(*(engine.files for engine in self.engines))
        if missing := sorted(used - self.files.keys()):
            raise ValueError(f"no checksum for {', '.join(missing)}; every file that the manifest names needs one")
        for label in self.labels:
            if label.rule is not None and label.evidence is None:
                raise ValueError(f"label {label.name!r} has an alert rule but no evidence")
        return self

    @property
    def model_id(self) -> str:
        """``name/version``, as predictions and alerts carry it."""
        return f"{self.name}/{self.version}"

"""A model folder: ``model.safetensors``, and ``config.json`` that says what the tensors are and what goes in and out.

    save_network(net, folder, config_of(net, task="77 diagnoses", preprocessing=table.preprocessing))
    config, net = read_config(folder), load_network(folder)      # net in evaluation mode, net.config its sizes
    in_label_order(torch.sigmoid(net(x)).numpy(), config)        # (B, 77) in the order of agent.core.labels.LABELS

Nothing in a folder can run: one file is tensors, the other JSON. The same network and config give the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Protocol, Self, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from agent.core.ecg import FloatArray
from agent.core.labels import LABEL_NAMES, SSL_ORDER
from agent.core.preprocessing import Preprocessing
from training.models.kinds import NAMES, TASKS, UNITS_PER_MV, Codebook, Family, SLConfig, SSLConfig
from training.models.published import ssl_to_sl
from training.models.sl import DeepECGSL
from training.models.ssl import DeepECGSSL, Pretraining

FORMAT: Final = "deepecg-model/1"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
EMBEDDED = "deepecg"
"""Key of a report classifier's config.json (a transformers one) under which our own part stands."""

Network: TypeAlias = DeepECGSL | DeepECGSSL | Pretraining


class Provenance(BaseModel):
    """Where the weights are from. Without dates, so that the same input gives the same folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    origin: str = ""
    """In words, as ``TorchScript archive`` or ``recipe demo, seed 0``."""
    file: str = ""
    """Name of the file that was imported."""
    sha256: str = ""
    """Of that file."""
    notes: tuple[str, ...] = ()
    """What was done to the tensors on the way, one sentence each."""


class ModelConfig(BaseModel):
    """Everything about a model but its tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["deepecg-model/1"] = FORMAT
    family: Family
    task: str = Field(min_length=1)
    """One of `TASKS`, or a name of the user's own."""
    labels: tuple[str, ...]
    """One name for each output, in the outputs' order."""
    order: Literal["sl", "ssl"] | None = None
    """Whose order the 77 labels are in: ``sl`` is that of `agent.core.labels.LABELS`; None for other tasks."""
    activation: Literal["sigmoid", "none"] = "sigmoid"
    """What makes an answer of an output; ``none`` for a regression."""
    thresholds: tuple[float | None, ...] | None = None
    """Probability from which on a label is said to be there, in the outputs' order; None where nobody chose one."""
    preprocessing: Preprocessing
    """Rate, seconds and gain of the input; the published networks were fed by
    `training.importers.reference_preprocessing`."""
    sizes: SLConfig | SSLConfig | None
    """Of the network; None for the report classifier, whose own config.json has them."""
    codebook: Codebook | None = None
    """Of a pretraining network alone."""
    provenance: Provenance = Provenance()

    @model_validator(mode="before")
    @classmethod
    def _sizes_of_the_family(cls, values: Any) -> Any:
        """Both kinds of sizes have defaults for everything, so the family must say which is meant."""
        if not isinstance(values, Mapping) or str(values.get("family")) not in NAMES:
            return values
        read = dict(values)
        kinds = {"sizes": SLConfig if read["family"] == "sl" else SSLConfig, "codebook": Codebook}
        for name, kind in kinds.items():
            if isinstance(raw := read.get(name), Mapping):
                if unknown := sorted(set(raw) - {field.name for field in dataclasses.fields(kind)}):
                    raise ValueError(f"{name} has no {unknown[0]}")
                try:
                    read[name] = TypeAdapter(kind).validate_python(raw)
                except ValidationError as e:
                    raise ValueError(f"{name}.{_first(e)}") from None
        return read

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        wanted = {"sl": SLConfig, "ssl": SSLConfig, "ssl-pretraining": SSLConfig, "bert": type(None)}[self.family]
        if type(self.sizes) is not wanted:
            raise ValueError(f"the sizes are not those of {NAMES[self.family]}")
        if (self.codebook is not None) != (self.family == "ssl-pretraining"):
            raise ValueError("a codebook belongs to a pretraining network, and to no other")
        if self.sizes is not None and self.sizes.labels != len(self.labels):
            raise ValueError(f"{len(self.labels)} labels for {self.sizes.labels} outputs")
        if self.thresholds is not None and len(self.thresholds) != len(self.labels):
            raise ValueError(f"{len(self.thresholds)} thresholds for {len(self.labels)} labels")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("two labels have the same name")
        if self.order != _order(self.labels):
            raise ValueError(f"the labels are not in the order that is stated ({self.order})")
        return self


def _order(labels: tuple[str, ...]) -> Literal["sl", "ssl"] | None:
    if labels == LABEL_NAMES:
        return "sl"
    return "ssl" if labels == SSL_ORDER else None


def family_of(net: nn.Module) -> Family:
    """Which network it is. Raises ValueError if it is none of ours."""
    kinds: Mapping[type[nn.Module], Family] = {DeepECGSL: "sl", DeepECGSSL: "ssl", Pretraining: "ssl-pretraining"}
    if type(net) not in kinds:
        raise ValueError(f"a {type(net).__name__} is no network that a model folder can hold")
    return kinds[type(net)]


def config_of(
    net: Network,
    *,
    task: str,
    labels: tuple[str, ...] | None = None,
    thresholds: tuple[float | None, ...] | None = None,
    preprocessing: Preprocessing | None = None,
    activation: Literal["sigmoid", "none"] | None = None,
    provenance: Provenance | None = None,
) -> ModelConfig:
    """The config of a network.

    Args:
        net: Whose sizes and family it has.
        task: One of `TASKS`, or a name of your own.
        labels: Names of the outputs in their order; by default those of the task.
        thresholds: In the order of the labels.
        preprocessing: By default `published_preprocessing`.
        activation: By default ``sigmoid``, but for the regression of LVEF.
        provenance: Where the weights are from.

    Raises:
        ValueError: The labels are unknown or too few, or something else does not agree.
    """
    family = family_of(net)
    if labels is None:
        if task not in TASKS:
            raise ValueError(f"the task {task!r} is none of {', '.join(TASKS)}: name its labels")
        labels = TASKS[task]
    try:
        return ModelConfig(
            family=family,
            task=task,
            labels=labels,
            order=_order(labels),
            activation=activation or ("none" if task == "lvef" else "sigmoid"),
            thresholds=thresholds,
            preprocessing=preprocessing or published_preprocessing(family),
            sizes=net.config,
            codebook=net.codebook if isinstance(net, Pretraining) else None,
            provenance=provenance or Provenance(),
        )
    except ValidationError as e:
        raise ValueError(f"the config of {NAMES[family]} for {task!r}: {_first(e)}") from None


def published_preprocessing(family: Family) -> Preprocessing:
    """What comes nearest to the published input without needing a batch: fixed filters, the network's own gain."""
    seconds = 5.0 if family == "ssl-pretraining" else 10.0
    return Preprocessing(gain=UNITS_PER_MV.get(family, 1.0), seconds=seconds)


def save_network(net: Network, folder: Path, config: ModelConfig) -> None:
    """Write the folder beside itself, sync it, and put it in the old one's place: a reader meets a whole one.

    Raises ValueError if the config is not of this network, or the folder holds something that is not a model.
    """
    if (config.family, config.sizes) != (family_of(net), net.config):
        raise ValueError("the config is that of another network; make it by config_of(net, …)")
    tensors = {key: value.detach().cpu().contiguous() for key, value in sorted(net.state_dict().items())}
    write_folder(folder, tensors, {CONFIG: json_of(config)})


def json_of(config: ModelConfig) -> str:
    """The text of config.json."""
    return json.dumps(config.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def write_folder(folder: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str | bytes]) -> None:
    """The two steps of `save_network`, for any tensors and any further files."""
    if folder.exists() and not (folder.is_dir() and (_is_model(folder) or not any(folder.iterdir()))):
        raise ValueError(f"{folder} exists and is no model folder; name another, or remove it")
    new, old = (folder.with_name(folder.name + ending) for ending in (".new", ".old"))
    for left in (new, old):
        if left.exists():
            shutil.rmtree(left)
    new.mkdir(parents=True)
    save_file(dict(tensors), str(new / WEIGHTS), metadata={"format": "pt"})
    for name, text in texts.items():
        (new / name).write_bytes(text.encode() if isinstance(text, str) else text)
        (new / WEIGHTS).chmod((new / name).stat().st_mode)  # safetensors lets nobody else read what it writes
    for path in (*new.iterdir(), new):
        _sync(path)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    _sync(folder.parent)
    if old.exists():
        shutil.rmtree(old)


def _is_model(folder: Path) -> bool:
    """Whether the folder is one of ours, so that another may take its place."""
    try:
        read = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return False
    own = read.get(EMBEDDED, read) if isinstance(read, dict) else None
    return isinstance(own, dict) and str(own.get("format")).startswith(FORMAT.partition("/")[0])


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_config(folder: Path) -> ModelConfig:
    """The config of a model folder.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no config of ours, or of a version that this program does not know.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; name a model folder, or make one with: deepecg-train import FILE {folder}")
    try:
        read = json.loads(path.read_text("utf-8"))
        read = read[EMBEDDED] if isinstance(read, dict) and EMBEDDED in read else read
        if isinstance(read, dict) and read.get("format", FORMAT) != FORMAT:
            raise ValueError(f"{path} is of version {read['format']!r}, this program reads {FORMAT!r}; update it")
        return ModelConfig.model_validate(read)
    except ValidationError as e:
        raise ValueError(f"{path} is no config of a model: {_first(e)}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise ValueError(f"{path} is not JSON ({e}); write the folder again") from None


def _first(error: ValidationError) -> str:
    """One sentence of what may be many."""
    detail = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, detail["loc"]))
    what = str(detail["msg"]).removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


def load_network(folder: Path) -> Network:
    """The network of a model folder, in evaluation mode.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: The files do not belong together, or hold no network.
    """
    config = read_config(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"no {path} beside its {CONFIG}; write the folder again")
    if config.family == "bert":
        raise ValueError(f"{folder} holds the report classifier; read it with training.labels.classifier")
    try:
        tensors = load_file(str(path))
    except SafetensorError as e:
        raise ValueError(f"{path} cannot be read ({e}); write the folder again") from None
    with torch.device("meta"):  # no time is spent on weights that are overwritten
        net = build(config)
    fit(net, tensors, str(path))
    return net.eval()


def build(config: ModelConfig) -> Network:
    """A network of the config's sizes, its weights not yet the model's."""
    if isinstance(config.sizes, SLConfig):
        return DeepECGSL(config.sizes)
    if config.sizes is None:
        raise ValueError("the report classifier is no network over ECG")
    return DeepECGSSL(config.sizes) if config.codebook is None else Pretraining(config.sizes, config.codebook)


def fit(net: Network, tensors: Mapping[str, Tensor], source: str) -> None:
    """Put the tensors in the network's place of the same names, without copying them.

    Raises ValueError as `agree` does.
    """
    agree(net, tensors, source)
    net.load_state_dict(dict(tensors), assign=True)


class Shaped(Protocol):
    """A tensor, or what is known of one before it is read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""


def agree(net: Network, tensors: Mapping[str, Shaped], source: str) -> None:
    """Raise ValueError that counts and names what is missing, left over, or of another shape than the network's."""
    wanted = net.state_dict()
    faults = []
    for keys, what in ((wanted.keys() - tensors.keys(), "missing"), (tensors.keys() - wanted.keys(), "left over")):
        if keys:
            faults.append(f"{len(keys)} {what} ({some(keys)})")
    shapes = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & tensors.keys())
        if tuple(tensors[key].shape) != tuple(wanted[key].shape)
    ]
    if shapes:
        faults.append(f"{len(shapes)} of another shape ({some(shapes)})")
    if faults:
        raise ValueError(f"the tensors of {source} do not fit {NAMES[family_of(net)]}: {', '.join(faults)}")


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few of them, for a sentence."""
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (", …" if len(ordered) > most else "")


def in_label_order(outputs: FloatArray, config: ModelConfig) -> FloatArray:
    """(…, 77) outputs, probabilities or thresholds of a 77-label model in the order of `agent.core.labels.LABELS`.

    Raises ValueError for a model of another task.
    """
    if config.order is None:
        raise ValueError(f"a model for {config.task!r} has outputs of its own, not the 77 labels")
    return ssl_to_sl(outputs) if config.order == "ssl" else outputs

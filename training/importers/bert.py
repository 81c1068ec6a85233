"""The published report classifier (``Bert_diagnosis2classification``, ``…_En_Fr``): a transformers folder into another.

The result is a folder that transformers loads as it is: weights in safetensors, the tokeniser's text files, and a
config.json with the names of the 77 labels, and our own part beside them. Nothing of the source is run: its pickle is
read by `training.importers.unpickler`, and references to code (``auto_map``) are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from agent.core.labels import LABEL_NAMES
from agent.core.preprocessing import Preprocessing
from training.importers.archive import open_archive
from training.importers.contents import contents
from training.importers.names import ImportLimits, WeightsError
from training.models.kinds import DIAGNOSES
from training.models.published import bert_thresholds
from training.models.weights import CONFIG, EMBEDDED, WEIGHTS, ModelConfig, Provenance, some, write_folder

SOURCES = (WEIGHTS, "pytorch_model.bin")
VOCABULARY = ("vocab.txt", "tokenizer.json")
"""One of them is needed."""
TOKENISER = "tokenizer_config.json"
TEXTS = (*VOCABULARY, TOKENISER, "special_tokens_map.json", "added_tokens.json")
_CODE = ("auto_map", "custom_pipelines")
_LARGEST_TEXT = 2**25


def import_bert(
    folder: Path, target: Path, *, progress: bool = False, limits: ImportLimits | None = None
) -> ModelConfig:
    """Read a transformers folder of BERT with 77 outputs, write one of safetensors and text.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged or hostile, or of another network.
    """
    if folder.resolve() == target.resolve():
        raise WeightsError(f"{target} is the folder to be read; name another one for the result")
    source = next((folder / name for name in SOURCES if (folder / name).is_file()), None)
    if source is None:
        raise FileNotFoundError(f"no {' or '.join(SOURCES)} in {folder}; name the folder of the published classifier")
    if not any((folder / name).is_file() for name in VOCABULARY):
        raise FileNotFoundError(f"no {' or '.join(VOCABULARY)} in {folder}; download the whole folder")
    described = _json(folder / CONFIG)
    if described.get("model_type") != "bert":
        raise WeightsError(f"{folder / CONFIG}: its model_type is {described.get('model_type')!r}, not 'bert'")
    tensors, notes = _tensors(source, progress=progress, limits=limits)
    labels = tensors["classifier.bias"].shape[0] if "classifier.bias" in tensors else 0
    if labels != len(LABEL_NAMES):
        raise WeightsError(f"{source}: its head has {labels} outputs, and the report classifier {len(LABEL_NAMES)}")
    texts = {name: _text(folder / name) for name in TEXTS if (folder / name).is_file()}
    if TOKENISER in texts:
        own = {key: value for key, value in _json(folder / TOKENISER).items() if key not in _CODE}
        texts[TOKENISER] = json.dumps(own, indent=1, ensure_ascii=False).encode() + b"\n"
    about = ModelConfig(
        family="bert",
        task=DIAGNOSES,
        labels=LABEL_NAMES,
        order="sl",
        thresholds=tuple(float(value) for value in bert_thresholds()),
        preprocessing=Preprocessing(),
        sizes=None,
        provenance=Provenance(
            origin="transformers folder",
            file=source.name,
            sha256=_sha256(source),
            notes=notes,
        ),
    )
    described = {key: value for key, value in described.items() if key not in _CODE} | {
        "architectures": ["BertForSequenceClassification"],
        "problem_type": "multi_label_classification",
        "id2label": dict(enumerate(LABEL_NAMES)),
        "label2id": {name: i for i, name in enumerate(LABEL_NAMES)},
        EMBEDDED: about.model_dump(mode="json"),
    }
    described.pop("num_labels", None)
    _fits(described, tensors, source)
    texts[CONFIG] = json.dumps(described, indent=1, ensure_ascii=False).encode() + b"\n"
    write_folder(target, tensors, texts)
    return about


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; download the whole folder")
    try:
        read = json.loads(_text(path))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as e:
        raise WeightsError(f"{path} is not JSON ({type(e).__name__}): download it again") from None
    if not isinstance(read, dict):
        raise WeightsError(f"{path} is no description of a network: download it again")
    return read


def _text(path: Path) -> bytes:
    """A text file's bytes."""
    if path.stat().st_size > _LARGEST_TEXT:
        raise WeightsError(f"{path} has more than {_LARGEST_TEXT} bytes, which no such file has")
    content = path.read_bytes()
    if content.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path}: this is a Git LFS pointer: run git lfs pull, or download the file itself")
    return content


def _tensors(source: Path, *, progress: bool, limits: ImportLimits | None) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """By the names that transformers gives them today, in float32."""
    notes = []
    tensors: dict[str, Tensor] = {}
    with open_archive(source, limits) as archive:
        found = contents(archive.root, limits).tensors
        prefix = "module." if found and all(key.startswith("module.") for key in found) else ""
        if prefix:
            notes.append(f"keys were under {prefix!r}")
        for key in tqdm(sorted(found), desc=source.name, unit="tensor", disable=not progress, mininterval=5):
            name = key.removeprefix(prefix)
            if name.endswith("embeddings.position_ids"):  # 0, 1, 2, …: a buffer of older versions
                continue
            for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
                name = name.removesuffix(old) + new if name.endswith(old) else name
            tensor = archive.read(found[key]).float()
            if not torch.isfinite(tensor).all():
                raise WeightsError(f"{key} holds NaN or infinity: the file is damaged")
            tensors[name] = tensor
    return tensors, tuple(notes)


def _fits(described: Mapping[str, Any], tensors: Mapping[str, Tensor], source: Path) -> None:
    """Raise WeightsError if the tensors are not those of the described network, or its answer is no number."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import BertConfig, BertForSequenceClassification

    own = {key: value for key, value in described.items() if key != EMBEDDED}
    try:
        config = BertConfig.from_dict({**own, "id2label": {int(k): v for k, v in own["id2label"].items()}})
        with torch.device("meta"):
            net = BertForSequenceClassification(config)
    except (ValueError, TypeError, KeyError, RuntimeError, StrictDataclassError) as e:
        raise WeightsError(f"its {CONFIG} describes no BERT: {str(e).splitlines()[0]}") from None
    wanted = net.state_dict()
    missing, over = wanted.keys() - tensors.keys(), tensors.keys() - wanted.keys()
    other = [key for key in wanted.keys() & tensors.keys() if wanted[key].shape != tensors[key].shape]
    faults = [f"{len(k)} {what} ({some(k)})" for k, what in ((missing, "missing"), (over, "left over")) if k]
    faults += [f"{len(other)} of another shape ({some(other)})"] if other else []
    if faults:
        raise WeightsError(f"the tensors of {source} do not fit BERT: {', '.join(faults)}")
    net = BertForSequenceClassification(config)  # not on the meta device, for the sake of the position numbers
    net.load_state_dict(dict(tensors), assign=True)
    net.train(mode=False)
    with torch.no_grad():
        logits = net(torch.tensor([[0, 1, 2]])).logits
    if not torch.isfinite(logits).all():
        raise WeightsError(f"the answer of {source} to a short report is no number: the file is damaged")

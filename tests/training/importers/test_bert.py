"""The report classifier's folder: the same answers after it, in safetensors and text, with labels and thresholds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agent.core.labels import LABEL_NAMES
from training.importers.bert import import_bert
from training.importers.names import WeightsError
from training.models.published import bert_thresholds
from training.models.weights import read_config

transformers = pytest.importorskip("transformers")

REPORT = "Sinus rhythm, atrial fibrillation."
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sinus", "rhythm", "atrial", "fibrillation", ".", ",")


def network(labels: int = 77) -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        num_labels=labels,
    )
    return transformers.BertForSequenceClassification(config).eval()


@pytest.fixture
def published(tmp_path: Path) -> Callable[..., Path]:
    """The folder as published: config.json, vocab.txt, tokenizer_config.json and pytorch_model.bin."""

    def _published(net: Any, state: dict[str, Any] | None = None, **options: Any) -> Path:
        folder = tmp_path / "Bert_diagnosis2classification"
        folder.mkdir(exist_ok=True)
        described = json.loads(net.config.to_json_string(use_diff=False))
        (folder / "config.json").write_text(json.dumps(described | {"auto_map": {"AutoModel": "evil.Model"}}))
        (folder / "vocab.txt").write_text("\n".join(WORDS))
        own = {
            "do_lower_case": True,
            "tokenizer_class": "BertTokenizer",
            "auto_map": {"AutoTokenizer": ["evil.T", None]},
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(own))
        (folder / "evil.py").write_text("raise SystemExit")
        torch.save(net.state_dict() if state is None else state, folder / "pytorch_model.bin", **options)
        return folder

    return _published


def answers(folder: Path) -> torch.Tensor:
    """As a reader of transformers folders loads and asks it."""
    net = transformers.BertForSequenceClassification.from_pretrained(folder, use_safetensors=True).eval()
    tokens = transformers.BertTokenizer.from_pretrained(folder)(
        "Sinus rhythm, atrial fibrillation.", return_tensors="pt"
    )
    with torch.no_grad():
        logits: torch.Tensor = net(**tokens).logits
    return logits


@pytest.mark.parametrize("form", ["zip", "legacy", "old names", "module.", "half"])
def test_the_folder_answers_as_before(published: Callable[..., Path], tmp_path: Path, form: str) -> None:
    net = network()
    state = dict(net.state_dict())
    if form == "old names":
        state = {
            key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
            for key, value in state.items()
        } | {"bert.embeddings.position_ids": torch.arange(64)[None]}
        assert any(key.endswith("gamma") for key in state)
    elif form == "module.":
        state = {form + key: value for key, value in state.items()}
    elif form == "half":
        state = {key: value.half() for key, value in state.items()}
        net.load_state_dict(state)
    source = published(net, state, _use_new_zipfile_serialization=form != "legacy")
    about = import_bert(source, tmp_path / "m")
    tokens = transformers.BertTokenizer.from_pretrained(source)(
        "Sinus rhythm, atrial fibrillation.", return_tensors="pt"
    )
    assert tokens["input_ids"].shape[1] == 8
    with torch.no_grad():
        torch.testing.assert_close(answers(tmp_path / "m"), net(**tokens).logits)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    assert read_config(tmp_path / "m") == about
    assert (about.family, about.labels, about.order) == ("bert", LABEL_NAMES, "sl")
    assert about.thresholds == pytest.approx(bert_thresholds().tolist())


def test_the_result_names_its_labels_and_no_code(published: Callable[..., Path], tmp_path: Path) -> None:
    import_bert(published(network()), tmp_path / "m")
    described = json.loads((tmp_path / "m" / "config.json").read_text("utf-8"))
    assert described["id2label"]["15"] == LABEL_NAMES[15]
    assert described["problem_type"] == "multi_label_classification"
    for name in ("config.json", "tokenizer_config.json"):
        assert "evil" not in (tmp_path / "m" / name).read_text("utf-8")
    config = transformers.BertConfig.from_pretrained(tmp_path / "m")
    assert config.num_labels == 77
    assert config.id2label[15] == LABEL_NAMES[15]


def test_a_folder_of_safetensors_and_one_that_was_imported(published: Callable[..., Path], tmp_path: Path) -> None:
    net = network()
    import_bert(published(net), tmp_path / "a")
    import_bert(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert torch.equal(answers(tmp_path / "a"), answers(tmp_path / "b"))


def without(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).unlink()


def change(name: str, content: str | bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(
    ("harm", "error", "says"),
    [
        (without("pytorch_model.bin"), FileNotFoundError, r"no model\.safetensors or pytorch_model\.bin"),
        (without("vocab.txt"), FileNotFoundError, r"no vocab\.txt"),
        (without("config.json"), FileNotFoundError, r"no .*config\.json"),
        (change("config.json", "{"), WeightsError, "is not JSON"),
        (change("config.json", "[" * 100_000), WeightsError, "is not JSON"),
        (change("config.json", "[]"), WeightsError, "no description of a network"),
        (change("config.json", '{"model_type": "gpt2"}'), WeightsError, "is 'gpt2', not 'bert'"),
        (change("config.json", '{"model_type": "bert", "hidden_size": 12}'), WeightsError, "of another shape|missing"),
        (change("config.json", '{"model_type": "bert", "hidden_size": "x"}'), WeightsError, "describes no BERT"),
        (change("vocab.txt", "version https://git-lfs.github.com/spec/v1"), WeightsError, "Git LFS pointer"),
        (change("pytorch_model.bin", "version https://git-lfs.github.com/spec/v1"), WeightsError, "Git LFS pointer"),
        (change("pytorch_model.bin", b"PK\x03\x04"), WeightsError, "cut off or damaged"),
    ],
)
def test_damage_is_told_in_one_sentence(
    published: Callable[..., Path], tmp_path: Path, harm: Callable[[Path], Any], error: type[Exception], says: str
) -> None:
    folder = published(network())
    harm(folder)
    with pytest.raises(error, match=says) as e:
        import_bert(folder, tmp_path / "m")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "m").exists()


def test_the_source_is_never_replaced(published: Callable[..., Path]) -> None:
    folder = published(network())
    with pytest.raises(WeightsError, match="is the folder to be read"):
        import_bert(folder, folder)
    assert (folder / "evil.py").exists()


def test_another_network_is_refused(published: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="5 outputs, and the report classifier 77"):
        import_bert(published(network(5)), tmp_path / "m")
    state = dict(network().state_dict())
    del state["bert.pooler.dense.bias"]
    state["classifier.bias"][3] = torch.nan
    with pytest.raises(WeightsError, match=r"classifier\.bias holds NaN"):
        import_bert(published(network(), state), tmp_path / "m")
    state["classifier.bias"][3] = 0
    with pytest.raises(WeightsError, match=r"1 missing \(bert\.pooler\.dense\.bias\)"):
        import_bert(published(network(), state), tmp_path / "m")


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def test_a_hostile_pickle_runs_nothing(published: Callable[..., Path], tmp_path: Path, canary: Path) -> None:
    state = dict(network().state_dict()) | {"x": Evil(canary)}
    with pytest.raises(WeightsError, match="do not trust it"):
        import_bert(published(network(), state), tmp_path / "m")
    assert not canary.exists()

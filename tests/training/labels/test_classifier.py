"""The report classifier on folders of the published layout with random weights, made here by transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from agent.core.labels import LABEL_NAMES
from training.importers.bert import import_bert
from training.labels.classifier import ReportClassifier, padded, tensors_of, tokeniser_of
from training.models.published import bert_thresholds

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sinus", "##rhythm", "##us", "rhythm", "atrial", "fib", ".", ","]
TEXTS = ["Sinus rhythm.", "atrial fib, sinusrhythmus", "", "sinus " * 700]


def published(folder: Path, *, pickled: bool = False) -> BertForSequenceClassification:
    """A folder as downloaded: config, weights, vocabulary."""
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=512,
        num_labels=77,
        problem_type="multi_label_classification",
        initializer_range=0.5,
    )
    net = BertForSequenceClassification(config).eval()
    net.save_pretrained(folder)
    if pickled:
        (folder / "model.safetensors").unlink()
        torch.save(net.state_dict(), folder / "pytorch_model.bin")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "auto_map": {"x": "evil.py"}}))
    return net


def reference(net: BertForSequenceClassification, folder: Path, texts: list[str]) -> np.ndarray:
    """By transformers' own tokeniser and network, one report at a time."""
    tokeniser = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    rows = []
    for text in texts:
        batch = tokeniser(text or " ", return_tensors="pt", truncation=True, max_length=512)
        with torch.no_grad():
            rows.append(torch.sigmoid(net(**batch).logits)[0].numpy())
    return np.stack(rows)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """An imported folder, and what the published network says."""
    folder = tmp_path_factory.mktemp("bert")
    net = published(folder / "theirs")
    import_bert(folder / "theirs", folder / "ours")
    return folder / "ours", reference(net, folder / "theirs", TEXTS)


def test_an_imported_folder_says_what_the_published_network_says(ours: tuple[Path, np.ndarray]) -> None:
    folder, wanted = ours
    reader = ReportClassifier.load(folder)
    np.testing.assert_allclose(reader.probabilities(TEXTS), wanted, atol=1e-5)
    np.testing.assert_allclose(reader.probabilities(TEXTS, batch=1), wanted, atol=1e-5)
    np.testing.assert_array_equal(reader.thresholds, bert_thresholds())
    np.testing.assert_array_equal(reader.labels(TEXTS), wanted >= bert_thresholds())


def test_a_pickle_of_tensors_gives_the_same(tmp_path: Path, ours: tuple[Path, np.ndarray]) -> None:
    published(tmp_path / "theirs", pickled=True)
    import_bert(tmp_path / "theirs", tmp_path / "ours")
    np.testing.assert_allclose(ReportClassifier.load(tmp_path / "ours").probabilities(TEXTS), ours[1], atol=1e-5)


def test_what_is_saved_is_read_again_by_us_and_by_transformers(tmp_path: Path, ours: tuple[Path, np.ndarray]) -> None:
    reader = ReportClassifier.load(ours[0])
    thresholds = reader.thresholds.copy()
    thresholds[5] = np.nan
    ReportClassifier(reader.net, reader.tokeniser, thresholds).save(tmp_path / "a", origin="test")
    again = ReportClassifier.load(tmp_path / "a")
    np.testing.assert_array_equal(again.probabilities(TEXTS), reader.probabilities(TEXTS))
    assert (again.labels(TEXTS)[:, 5] == -1).all()
    net = BertForSequenceClassification.from_pretrained(tmp_path / "a", local_files_only=True).eval()
    assert tuple(net.config.id2label.values()) == LABEL_NAMES
    np.testing.assert_allclose(reference(net, tmp_path / "a", TEXTS), ours[1], atol=1e-5)
    again.save(tmp_path / "b", origin="test")
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()
    }


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"bert.x": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read"):
        tensors_of(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_faults(tmp_path: Path, ours: tuple[Path, np.ndarray]) -> None:
    with pytest.raises(FileNotFoundError, match="name the folder of a report classifier"):
        ReportClassifier.load(tmp_path)
    published(tmp_path / "raw")
    with pytest.raises(ValueError, match="make one with: deepecg-train labels import"):
        ReportClassifier.load(tmp_path / "raw")
    with pytest.raises(FileNotFoundError, match=r"no tokenizer.json or vocab.txt"):
        tokeniser_of(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors or pytorch_model.bin"):
        tensors_of(tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in ours[0].iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(str(broken / "model.safetensors"))
    tensors.pop("classifier.bias")
    save_file(tensors, str(broken / "model.safetensors"))
    with pytest.raises(ValueError, match=r"weights do not fit the described BERT.*classifier.bias"):
        ReportClassifier.load(broken)
    (broken / "model.safetensors").write_bytes(b"\x00" * 9)
    with pytest.raises(ValueError, match="cannot be read"):
        ReportClassifier.load(broken)
    (broken / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        ReportClassifier.load(broken)


def test_padding() -> None:
    ids, mask = padded([[5, 6, 7], [8]])
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]

"""Training the report classifier on made-up reports: it learns, repeats itself, resumes, and masks the unknown."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from transformers import BertConfig, BertModel

from agent.core.labels import index_of
from training.labels.classifier import ReportClassifier
from training.labels.learn import (
    Examples,
    Recipe,
    average_precision,
    best_thresholds,
    learnable,
    masked_loss,
    new_network,
    pieces,
    started_from,
    train,
    train_tokeniser,
)

SMALL = Recipe(layers=1, width=16, heads=2, vocabulary=80, batch=16, learning_rate=3e-3, epochs=2, patience=2)
AF, LBBB = index_of("Afib"), index_of("Left bundle branch block")
SAID = {AF: "Vorhofflimmern", LBBB: "Linksschenkelblock"}


def examples(n: int, seed: int, prefix: str = "p") -> Examples:
    rng = np.random.default_rng(seed)
    labels = np.full((n, 77), -1, np.int8)
    labels[:, [AF, LBBB]] = rng.integers(0, 2, (n, 2))
    texts = tuple(
        f"Bericht, {' und '.join(word if row[i] else 'nichts' for i, word in SAID.items())}" for row in labels
    )
    labels[::10, AF] = -1
    return Examples(texts, labels, tuple(f"{prefix}{i}" for i in range(n)))


def run(folder: Path, recipe: Recipe = SMALL, **options: Path) -> ReportClassifier:
    return train(recipe, examples(96, 1), examples(40, 2, "q"), folder / "c.pt", progress=False, **options)


def same(a: ReportClassifier, b: ReportClassifier) -> bool:
    left, right = a.net.state_dict(), b.net.state_dict()
    return all(torch.equal(left[key], right[key]) for key in left) and np.array_equal(
        a.thresholds, b.thresholds, equal_nan=True
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> ReportClassifier:
    return run(tmp_path_factory.mktemp("run"), replace(SMALL, epochs=16, patience=16))


def test_it_learns_and_leaves_what_it_did_not_learn_unknown(trained: ReportClassifier) -> None:
    unseen = examples(50, 3)
    labels = trained.labels(unseen.texts)
    for i in (AF, LBBB):
        known = unseen.labels[:, i] >= 0
        assert np.mean(labels[known, i] == unseen.labels[known, i]) > 0.95
    assert np.isfinite(trained.thresholds).nonzero()[0].tolist() == sorted((AF, LBBB))
    assert (np.delete(labels, [AF, LBBB], axis=1) == -1).all()


def test_it_is_saved_and_read(trained: ReportClassifier, tmp_path: Path) -> None:
    trained.save(tmp_path / "model", origin="test")
    again = ReportClassifier.load(tmp_path / "model")
    texts = examples(9, 4).texts
    np.testing.assert_array_equal(again.probabilities(texts), trained.probabilities(texts))


def test_one_seed_one_result(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    assert same(first, second)
    assert not same(first, run(tmp_path / "c", replace(SMALL, seed=1)))


def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole")
    from training.train import checkpoint

    keep = checkpoint.save

    def cut(path: Path, content: dict) -> None:
        keep(path, content)
        if content["epoch"] == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", cut)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    monkeypatch.undo()
    assert same(whole, run(tmp_path / "cut"))


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path, replace(SMALL, epochs=1))
    with pytest.raises(ValueError, match="of another recipe or other reports"):
        run(tmp_path, replace(SMALL, epochs=3))


def test_a_patient_on_both_sides_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 patients are both learnt from and validated on"):
        train(SMALL, examples(20, 1), examples(3, 1), tmp_path / "c.pt", progress=False)


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    none = Examples(("a", "b"), np.full((2, 77), -1, np.int8), ("1", "2"))
    with pytest.raises(ValueError, match="no label has 5 positive reports"):
        train(SMALL, none, examples(9, 1, "q"), tmp_path / "c.pt", progress=False)


def test_fine_tuning_begins_at_a_local_folder(tmp_path: Path) -> None:
    torch.manual_seed(5)
    base = BertModel(
        BertConfig(vocab_size=13, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )
    base.save_pretrained(tmp_path / "base")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "bericht",
        ",",
        "und",
        "nichts",
        "vorhof",
        "##flimmern",
        "links",
    ]
    (tmp_path / "base" / "vocab.txt").write_text("\n".join([*words, "##schenkelblock"]) + "\n")
    net, tokeniser = started_from(tmp_path / "base")
    for key, tensor in base.state_dict().items():
        assert torch.equal(net.state_dict()[f"bert.{key}"], tensor), key
    assert tokeniser.encode("Vorhofflimmern").tokens == ["[CLS]", "vorhof", "##flimmern", "[SEP]"]
    tuned = run(tmp_path / "run", replace(SMALL, epochs=10, patience=10), start=tmp_path / "base")
    assert np.mean(tuned.labels(examples(50, 3).texts)[:, LBBB] == examples(50, 3).labels[:, LBBB]) > 0.9
    (tmp_path / "base" / "config.json").write_text('{"model_type": "roberta"}')
    with pytest.raises(ValueError, match="not a 'bert'"):
        started_from(tmp_path / "base")


def test_unknown_labels_do_not_enter_the_loss() -> None:
    torch.manual_seed(0)
    net = new_network(replace(SMALL, dropout=0.0), 30, np.full((1, 77), -1, np.int8))
    target = torch.full((2, 77), -1.0)
    target[:, AF] = torch.tensor([1.0, 0.0])
    masked_loss(net, [[2, 7, 3], [2, 8, 9, 3]], target).backward()
    gradient = net.classifier.bias.grad
    assert gradient is not None
    assert gradient.nonzero().flatten().tolist() == [AF]
    logits = net(input_ids=torch.tensor([[2, 7, 3]])).logits[0, AF]
    alone = masked_loss(net, [[2, 7, 3]], target[:1])
    assert alone.item() == pytest.approx(torch.nn.functional.softplus(-logits).item(), rel=1e-5)


def test_a_new_network_answers_the_prevalence() -> None:
    """And its answer depends on the report from the first step on: see `new_network`."""
    torch.manual_seed(0)
    labels = np.zeros((100, 77), np.int8)
    labels[:20, AF] = 1
    net = new_network(replace(SMALL, width=64), 30, labels).eval()
    assert torch.sigmoid(net.classifier.bias[AF]).item() == pytest.approx(21 / 102)
    answers = torch.sigmoid(net(input_ids=torch.tensor([[2, 7, 9, 3], [2, 8, 6, 3]])).logits)
    assert (answers[0] - answers[1]).abs().max() > 0.02


def test_the_tokeniser_keeps_umlauts_and_needs_no_case() -> None:
    tokeniser = train_tokeniser(["Überdrehter Linkstyp", "überdrehter linkstyp"] * 20, 60)
    assert tokeniser.encode("ÜBERDREHTER").ids == tokeniser.encode("überdrehter").ids
    assert "[UNK]" not in tokeniser.encode("überdrehter linkstyp").tokens
    assert len(tokeniser.encode("linkstyp " * 900).ids) == 512
    assert re.sub(r"\W", "", tokeniser.decode(tokeniser.encode("überdrehter").ids)) == "überdrehter"


def test_learnable() -> None:
    labels = np.full((10, 77), -1, np.int8)
    labels[:5, AF], labels[5:, AF] = 1, 0
    labels[:4, LBBB], labels[4:, LBBB] = 1, 0
    labels[:, 3] = 1
    assert learnable(labels).nonzero()[0].tolist() == [AF]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, -1]), st.sampled_from([0.1, 0.25, 0.5, 0.5001, 0.9])), min_size=2, max_size=30
    )
)
def test_thresholds_are_the_best_for_f1(rows: list[tuple[int, float]]) -> None:
    labels = np.full((len(rows), 77), -1, np.int8)
    p = np.zeros((len(rows), 77))
    labels[:, 0], p[:, 0] = zip(*rows, strict=True)
    chosen = best_thresholds(labels, p)
    known = labels[:, 0] >= 0
    truth = labels[known, 0]
    assert (chosen[1:] == 0.5).all()
    if truth.any() and not truth.all():
        best = max(f1_score(truth, p[known, 0] >= t, zero_division=0) for t in (0.0, 0.2, 0.3, 0.50005, 0.6))
        assert f1_score(truth, p[known, 0] >= chosen[0]) == pytest.approx(best)


def test_average_precision_of_a_perfect_and_of_no_figure() -> None:
    labels = np.array([[1, -1], [0, -1], [1, -1]], np.int8)
    assert average_precision(labels, np.array([[0.9, 0], [0.1, 0], [0.8, 0]])) == 1.0
    assert average_precision(labels[:, 1:], np.zeros((3, 1))) == 0.0


def test_another_process_makes_the_same_vocabulary() -> None:
    """Or a run that was cut off could not go on: its weights belong to its pieces."""
    texts = ["sinusrhythmus linkstyp", "sinustachykardie rechtstyp", "steiltyp", "normtyp", "vorhofflimmern"] * 9
    program = (
        "import json, sys; from training.labels.learn import train_tokeniser; "
        "print(json.dumps(train_tokeniser(json.loads(sys.argv[1]), 60).get_vocab()))"
    )
    found = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", program, json.dumps(texts)],
                check=True,
                capture_output=True,
                text=True,
                env=os.environ | {"PYTHONHASHSEED": seed},
            ).stdout
        )
        for seed in ("1", "2")
    ]
    assert found[0] == found[1] == train_tokeniser(texts, 60).get_vocab()
    assert {"sinusrhythmus", "##typ", "vorhofflimmern"} <= found[0].keys()
    assert len(found[0]) == 60


def test_pieces_spell_every_word_and_begin_with_its_letters() -> None:
    counts = {"linkstyp": 30, "rechtstyp": 20, "steiltyp": 9, "normtyp": 9, "xq": 1}
    found = pieces(counts, 1000)
    letters = sorted({letter for word in counts for letter in word})
    assert found[: 2 * len(letters)] == [*letters, *(f"##{letter}" for letter in letters)]
    assert {"linkstyp", "rechtstyp", "##typ"} <= set(found)
    assert "xq" not in found, "rare: its letters do"
    assert len(set(found)) == len(found)
    assert pieces(dict(reversed(counts.items())), 1000) == found
    assert len(pieces(counts, 5)) == 2 * len(letters)

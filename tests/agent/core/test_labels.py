"""The label table against the published list."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agent.core.ecg import Priority
from agent.core.labels import (
    LABEL_NAMES,
    LABELS,
    SSL_INDEX_FROM_SL,
    SSL_ORDER,
    Category,
    EventCode,
    Severity,
    index_of,
    label,
    normalised,
)


@pytest.fixture(scope="module")
def published(fixtures_dir: Path) -> dict[str, Any]:
    return dict(json.loads((fixtures_dir / "labels.json").read_text(encoding="utf-8")))


def test_names_and_orders_are_the_published_ones(published: dict[str, Any]) -> None:
    assert list(LABEL_NAMES) == published["sl_order"]
    assert list(SSL_ORDER) == published["ssl_order"]
    assert list(SSL_INDEX_FROM_SL) == published["wcr_column_conversion"]


def test_permutation_takes_ssl_outputs_to_sl_order() -> None:
    assert [SSL_ORDER[i] for i in SSL_INDEX_FROM_SL] == list(LABEL_NAMES)


def test_categories_are_the_published_ones(published: dict[str, Any]) -> None:
    for category, names in published["categories"].items():
        ours = {info.name for info in LABELS if Category(category) in info.categories}
        assert {normalised(n) for n in ours} == {normalised(n) for n in names}
    assert [info.name for info in LABELS if len(info.categories) == 2] == ["ST depression (anterior - V3-V4)"]


def test_severities_keep_the_published_counts() -> None:
    counts = Counter(info.severity for info in LABELS)
    assert counts == {Severity.PATHOLOGICAL: 41, Severity.BORDERLINE: 24, Severity.NORMAL: 12}


def test_nothing_normal_alerts_and_the_lethal_alert_high() -> None:
    assert all(info.priority is Priority.NONE for info in LABELS if info.severity is Severity.NORMAL)
    assert all(info.priority is not Priority.NONE for info in LABELS if info.severity is Severity.PATHOLOGICAL)
    for name in ("Ventricular tachycardia", "Third Degree AV Block", "Acute MI", "no_qrs"):
        assert label(name).priority is Priority.HIGH
    assert label("Afib").priority is Priority.MEDIUM


def test_event_codes() -> None:
    afib = label("Afib")
    assert (afib.code, afib.ref_id, afib.text) == (199736, "MDC_EVT_ECG_ATR_FIB", "Atrial fibrillation")
    assert (label("Brugada").code, label("Brugada").ref_id) == (0, "")
    assert all((info.code == 0) == (info.ref_id == "") for info in LABELS)
    assert all(196608 < event.value[0] < 196608 + 65536 for event in EventCode if event is not EventCode.NONE)
    st = label("ST elevation (inferior - II, III, aVF)")
    assert (st.code, st.source_code) == (196648, 131842)


def test_texts_are_unique_and_for_people() -> None:
    texts = [info.text for info in LABELS]
    assert len(set(texts)) == len(texts)
    assert all(text[0].isupper() or text.startswith(("rSR", "qRS")) for text in texts)


@pytest.mark.parametrize(
    "spelling",
    [
        "ST depression (lateral - I, avL, V5-V6)",
        "st depression (lateral -I,\u00a0aVL, V5-V6)",
        "ST depression (lateral – I, aVL, V5–V6)",
    ],
)
def test_spellings_are_compared_normalised(spelling: str) -> None:
    assert LABELS[index_of(spelling)].name == "ST depression (lateral - I, avL, V5-V6)"


def test_normalised_keeps_the_labels_apart() -> None:
    assert len({normalised(name) for name in LABEL_NAMES}) == 77


def test_unknown_label_says_where_to_look() -> None:
    with pytest.raises(KeyError, match="LABEL_NAMES"):
        index_of("Heart attack")

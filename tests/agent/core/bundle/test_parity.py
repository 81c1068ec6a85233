"""Differences of answers against plain loops; what a threshold, evidence and a NaN do to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.bundle.limits import ParityLimits
from agent.core.bundle.manifest import Evidence, Label, Manifest, Quantity
from agent.core.bundle.parity import BOUNDED, flips, parity_of, sound
from agent.core.ecg import FloatArray
from agent.engines.bundles.bundle import default_bundle, open_manifest

SHIPPED = open_manifest(default_bundle()).manifest
EVIDENCE = Evidence(auroc=0.9, lower=0.9, upper=0.9, positive_patients=20, negative_patients=20)


def manifest(*labels: Label) -> Manifest:
    return SHIPPED.model_copy(update={"labels": labels})


def finding(name: str, threshold: float | None = None, *, evident: bool = False) -> Label:
    return Label(name=name, severity="pathological", threshold=threshold, evidence=EVIDENCE if evident else None)


def answers(*rows: list[float]) -> FloatArray:
    return np.array(rows, np.float32)


@given(st.integers(1, 30), st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
def test_it_is_what_plain_loops_find(n: int, seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    wanted = rng.random((n, 3)).astype(np.float32)
    found = np.clip(wanted + rng.normal(0, 0.02, wanted.shape), 0, 1).astype(np.float32)
    labels = (finding("a", threshold), finding("b"), finding("c", 0.1))
    parity = parity_of(manifest(*labels), wanted, found, f32=True)
    cuts = (threshold, 0.5, 0.1)
    crossed = [
        sum((float(w[i]) >= cuts[i]) != (float(f[i]) >= cuts[i]) for w, f in zip(wanted, found, strict=True))
        for i in range(3)
    ]
    apart = [abs(float(f) - float(w)) for w, f in zip(wanted.ravel(), found.ravel(), strict=True)]
    logits = [
        abs(math.log(f / (1 - f)) - math.log(w / (1 - w)))
        for w, f in zip(wanted.ravel().tolist(), found.ravel().tolist(), strict=True)
        if 0 < w < 1 and abs(math.log(w / (1 - w))) <= BOUNDED and 1e-9 < f < 1
    ]
    assert parity.windows == n
    assert parity.flips == max(crossed)
    assert parity.probability_max == pytest.approx(max(apart))
    assert parity.logit_max is not None
    assert parity.logit_max >= max(logits, default=0.0) - 1e-6
    assert parity_of(manifest(*labels), wanted, wanted, f32=True).flips == 0


def test_only_outputs_with_evidence_count_where_there_are_any() -> None:
    wanted, found = answers([0.2, 0.2]), answers([0.21, 0.9])
    both = parity_of(manifest(finding("a"), finding("b")), wanted, found, f32=False)
    one = parity_of(manifest(finding("a", evident=True), finding("b")), wanted, found, f32=False)
    assert (both.probability_max, both.flips) == (pytest.approx(0.7), 1)
    assert (one.probability_max, one.flips) == (pytest.approx(0.01, rel=1e-3), 0)


def test_a_changed_threshold_changes_the_flips() -> None:
    wanted, found = answers([0.30], [0.40]), answers([0.32], [0.38])
    assert [int(flips((finding("a", cut),), wanted, found).sum()) for cut in (0.31, 0.39, 0.35)] == [1, 1, 0]
    assert parity_of(manifest(finding("a", 0.31)), wanted, found, f32=False).flips == 1


def test_logits_are_told_of_f32_engines_alone_and_where_f32_tells_them() -> None:
    wanted = 1 / (1 + np.exp(-answers([-9.0, 0.0, 5.9, 9.0])))
    found = 1 / (1 + np.exp(-answers([-9.5, 0.0, 5.90001, 9.5])))
    labels = manifest(*(finding(name) for name in "abcd"))
    parity = parity_of(labels, wanted, found, f32=True)
    assert parity.logit_max is not None
    assert parity.logit_max < 4e-5
    assert parity_of(labels, wanted, found, f32=False).logit_max is None


@pytest.mark.parametrize("wanted", [0.1, 0.9])
def test_what_is_not_finite_passes_no_gate(wanted: float) -> None:
    for wrong in (np.nan, np.inf):
        parity = parity_of(manifest(finding("a")), answers(*[[wanted]] * 3), answers(*[[wrong]] * 3), f32=False)
        assert (parity.flips, parity.probability_max) == (3, pytest.approx(0.9))
        assert ParityLimits().broken_by(parity)
    assert sound(answers([0.3]), answers([0.4])) == np.float32(0.4)


def test_a_quantity_is_compared_in_its_scale_and_never_flips() -> None:
    labels = manifest(Label(name="LVEF", severity="normal", quantity=Quantity(unit="%", scale=100.0)))
    parity = parity_of(labels, answers([0.55], [1.2]), answers([0.54], [1.2]), f32=True)
    assert parity.probability_max == parity.logit_max == pytest.approx(0.01, rel=1e-3)
    assert parity.flips == 0
    assert parity_of(labels, answers([0.5]), answers([7.0]), f32=False).probability_max == 1.0


def test_nothing_compared_is_nothing_measured() -> None:
    none = np.empty((0, 1), np.float32)
    assert parity_of(manifest(finding("a")), none, none, f32=True).windows == 0

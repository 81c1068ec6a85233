"""The recordings that are kept for demonstrations are those that the weights never saw."""

from __future__ import annotations

from agent.core.bundle.manifest import Manifest
from agent.core.labels import LABEL_NAMES
from agent.engines.bundles.bundle import default_bundle
from agent.simulator.demonstration import DEMONSTRATION, DEMONSTRATION_PATIENTS


def test_each_is_named_once_and_expects_a_label() -> None:
    assert len({record.id for record in DEMONSTRATION}) == len(DEMONSTRATION) >= 8
    assert {record.expected for record in DEMONSTRATION} <= {*LABEL_NAMES, ""}
    assert {record.patient for record in DEMONSTRATION} == DEMONSTRATION_PATIENTS


def test_the_shipped_weights_never_saw_them() -> None:
    manifest = Manifest.model_validate_json((default_bundle() / "manifest.json").read_text(encoding="utf-8"))
    assert {record.id for record in DEMONSTRATION} <= set(manifest.training.held_out)

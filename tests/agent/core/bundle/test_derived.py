"""What a derived engine minds of another machine, and what its manifest must say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.core.bundle.derived import Derived, Machine
from agent.core.bundle.manifest import Engine
from agent.core.bundle.strict_json import parse

HERE = Machine(
    cpu="EPYC 9654",
    cpu_features=("avx2", "avx512_bf16"),
    gpu="NVIDIA L4",
    compute_capability="8.9",
    driver="580.65",
    libraries={"openvino": "2026.4.1", "tensorrt-rtx": "1.7.1"},
)


@pytest.mark.parametrize(
    ("kind", "flavour", "change", "said"),
    [
        ("cpu", "openvino", {"cpu": "Xeon"}, "CPU is EPYC 9654 instead of Xeon"),
        ("cpu", "openvino", {"cpu_features": ("avx2",)}, "instruction sets is avx2 avx512_bf16 instead of avx2"),
        ("cpu", "openvino", {"gpu": "", "driver": "", "compute_capability": ""}, ""),
        ("cpu", "openvino", {"libraries": {"openvino": "2026.3"}}, "openvino is 2026.4.1 instead of 2026.3"),
        ("cpu", "openvino", {"libraries": {"openvino": "2026.4.1", "tensorrt-rtx": "2"}}, ""),
        ("gpu", "tensorrt-rtx", {"cpu": "Xeon"}, ""),
        ("gpu", "tensorrt-rtx", {"gpu": "NVIDIA A2"}, "GPU is NVIDIA L4 instead of NVIDIA A2"),
        ("gpu", "tensorrt-rtx", {"compute_capability": "8.6"}, "compute capability is 8.9 instead of 8.6"),
        ("gpu", "tensorrt-rtx", {"driver": "570.1"}, "GPU driver is 580.65 instead of 570.1"),
        ("gpu", "tensorrt-rtx", {"libraries": {}}, "tensorrt-rtx is 1.7.1 instead of none"),
        ("any", "openvino", {"driver": "570.1"}, "GPU driver"),
    ],
)
def test_what_an_engine_minds_of_another_machine(kind: str, flavour: str, change: dict[str, Any], said: str) -> None:
    engine = Engine.model_validate(
        {"flavour": flavour, "precision": "f32", "library": "x", "files": ["a"], "target": {"kind": kind}}
    )
    found = HERE.differs(HERE.model_copy(update=change), engine)
    assert said in found
    assert bool(said) == bool(found)
    assert HERE.differs(HERE, engine) == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"files": {}}, "no checksum for a"),
        ({"files": {"../a": {"sha256": "0" * 64, "size": 1}}}, "plain file name"),
        ({"parent": "0"}, "parent"),
        ({"created": "yesterday"}, "created"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_derived_engine_s_manifest_with_a_fault(change: dict[str, Any], said: str) -> None:
    document = {
        "parent": "0" * 64,
        "engine": {
            "flavour": "openvino",
            "precision": "f32",
            "library": "x",
            "files": ["a"],
            "parity": {"windows": 1, "probability_max": 0.0},
        },
        "machine": HERE.model_dump(),
        "builder": "0.1",
        "created": "2026-01-01T00:00:00Z",
        "files": {"a": {"sha256": "0" * 64, "size": 1}},
    }
    assert parse(Derived, json.dumps(document).encode()).engine.flavour == "openvino"
    with pytest.raises(ValueError, match=said):
        parse(Derived, json.dumps(document | change).encode())
    del document["engine"]["parity"]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="never held against the golden windows"):
        parse(Derived, json.dumps(document).encode())

"""What is said of engines: every figure in the table and in JSON, no recording's name in the README."""

from __future__ import annotations

import json
from dataclasses import replace

from agent.core.bundle.limits import Parity, ParityLimits
from training.publish.report import Auroc, Difference, Finding, Validation, as_json, section_of, table_of

PARITY = Parity(
    windows=2000,
    probability_max=0.05,
    probability_p999=0.012,
    flips=3,
    auroc_change=-0.0012,
    alerts_differ=1,
)
RAN = Finding(
    engine="openvino-bf16",
    library="openvino 1",
    megabytes=3.4,
    not_run="",
    broken="alerts_differ is 1, above 0",
    parity=PARITY,
    golden_max=0.01,
    all_max=0.06,
    flips={"Afib": 3},
    auroc={"Afib": Auroc(0.95, 0.9488, 20)},
    alerts=17,
    moved=2,
    differences=(Difference("Afib", "mitdb/201", "engine", 35.0),),
    start_seconds=1.25,
    memory_mb=203.4,
    milliseconds={1: 3.61, 8: 24.8},
)
ELSEWHERE = Finding("tensorrt-rtx-f16", "tensorrt-rtx 1", 3.5, not_run="there is no GPU", broken="", parity=Parity())
FOUND = Validation(
    model="x/1",
    machine="a machine",
    torch="2",
    threads=1,
    golden=12,
    windows=1988,
    sources={"mitdb": 1000, "ptbxl500": 988},
    recordings=4,
    hours=2.04,
    counted=("Afib", "Sinusal"),
    limits=ParityLimits(),
    engines=(RAN, ELSEWHERE),
)


def test_the_table_has_every_figure() -> None:
    lines = table_of(FOUND, {"openvino-bf16": 2.5})
    assert lines[0] == (
        "x/1: engines against fp32 torch 2 on 12 golden windows and 1988 of mitdb, ptbxl500, 4 whole recordings "
        "(2.0 h) among them"
    )
    assert lines[1] == "a machine, 1 thread; judged by Afib, Sinusal"
    row = next(line for line in lines if line.strip().startswith("openvino-bf16  "))
    cells = ["3.4", "5.0e-02", "1.2e-02", "3 (0.15%)", "-1.2e-03", "1 of 17", "1.25", "203", "1: 3.6 8: 24.8", "FAILS"]
    at = -1
    for cell in cells:
        at = row.index(cell, at + 1)
    assert "openvino-bf16: Afib in mitdb/201 opens at 35 s by engine alone" in lines
    assert "openvino-bf16: fails: alerts_differ is 1, above 0" in lines
    assert any("tensorrt-rtx-f16: not run here: there is no GPU" in line for line in lines)
    header = next(line for line in lines if "largest shift" in line)
    assert header.endswith("build s")
    assert not table_of(FOUND)[2].endswith("build s")


def test_failed_are_those_that_break_a_limit() -> None:
    assert FOUND.failed == (RAN,)
    assert not replace(FOUND, engines=(ELSEWHERE,)).failed


def test_the_readme_names_no_recording_and_no_speed() -> None:
    text = "\n".join(section_of(FOUND))
    assert "mitdb/201" not in text
    assert "24.8" not in text
    assert "| openvino-bf16 | 3.4 | 5.0e-02 |" in text
    assert "| FAILS |" in text
    assert "| not run here |" in text
    rows = [line for line in section_of(FOUND) if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1


def test_json_holds_everything() -> None:
    read = json.loads(json.dumps(as_json(FOUND, {"openvino-bf16": 2.5}), allow_nan=False))
    first, second = read["engines"]
    assert first["parity"]["probability_p999"] == 0.012
    assert first["milliseconds"] == {"1": 3.61, "8": 24.8}
    assert first["differences"][0]["opened"] == 35.0
    assert (first["build_seconds"], second["build_seconds"]) == (2.5, None)
    assert read["limits"]["probability_max"] == ParityLimits().probability_max


def test_many_labels_are_counted_instead_of_named() -> None:
    many = replace(FOUND, counted=tuple(f"label {i}" for i in range(77)))
    assert "judged by 77 labels" in table_of(many)[1]
    assert "judged by label 0" in table_of(replace(FOUND, counted=("label 0",)))[1]

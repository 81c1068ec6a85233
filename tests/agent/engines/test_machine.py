"""The machine's fingerprint: the same each time, what kernel and driver say, and nothing where they are silent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import openvino
import pytest
from structlog.testing import capture_logs

from agent.engines.machine import MODALIAS, _cpu, _gpu, library_version, this_machine


def test_this_machine_is_itself_each_time() -> None:
    here = this_machine()
    assert here == this_machine()
    assert openvino.__version__.startswith(here.libraries["openvino"])
    assert "" not in here.libraries.values()


def test_libraries_are_told_without_importing_them() -> None:
    code = (
        "import sys, agent.engines.machine as m; assert m.library_version('torch-cuda'); "
        "sys.exit(bool({'torch', 'openvino', 'tensorrt'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert library_version("openvino")


@pytest.mark.skipif(not MODALIAS.exists(), reason="this kernel shows no modalias")
def test_instruction_sets_are_those_of_cpuinfo() -> None:
    info = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((set(line.split(":")[1].split()) for line in info if line.startswith("flags")), None)
    if flags is None:
        pytest.skip("no x86")
    _, found = _cpu(MODALIAS)
    networks = {"fma", "avx", "f16c", "avx2", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx_vnni", "avx512_bf16"}
    networks |= {"avx512_vnni", "amx_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_fp16"}
    assert set(found) == flags & networks


@pytest.mark.parametrize(
    ("text", "cpu", "features"),
    [
        (
            "cpu:type:x86,ven0002fam0019mod0011:feature:,0000,008C,009C,0125,0130,0185,020B\n",
            "x86,ven0002fam0019mod0011",
            ("avx", "avx2", "avx512_bf16", "avx512_vnni", "avx512f", "fma"),
        ),
        ("cpu:type:aarch64:feature:,0001,0000,0014\n", "aarch64", ("0000", "0001", "0014")),
        ("cpu:type:x86,ven0000fam0006mod008F:feature:\n", "x86,ven0000fam0006mod008F", ()),
        ("something else\n", "", ()),
        ("", "", ()),
    ],
)
def test_what_a_kernel_says(tmp_path: Path, text: str, cpu: str, features: tuple[str, ...]) -> None:
    (tmp_path / "modalias").write_text(text)
    assert _cpu(tmp_path / "modalias") == (cpu, features)
    assert _cpu(tmp_path / "absent") == ("", ())


TOOL = """#!/bin/sh
test "$1" = "--query-gpu=name,compute_cap,driver_version" && test "$2" = "--format=csv,noheader" || exit 9
"""


@pytest.mark.parametrize(
    ("does", "found"),
    [
        ("echo 'NVIDIA L4, 8.9, 580.65.06'", ("NVIDIA L4", "8.9", "580.65.06")),
        ("echo 'NVIDIA A2, 8.6, 580.65.06'; echo 'NVIDIA L4, 8.9, 580.65.06'", ("NVIDIA A2", "8.6", "580.65.06")),
        ("echo 'No devices were found'; exit 6", ("", "", "")),
        ("echo 'No devices were found'", ("", "", "")),
        ("exit 0", ("", "", "")),
    ],
)
def test_what_the_driver_s_tool_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, found: tuple[str, str, str]
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(TOOL + does + "\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with capture_logs() as logs:
        assert _gpu() == found
    assert bool(logs) == ("exit 6" in does)
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert _gpu() == ("", "", "")

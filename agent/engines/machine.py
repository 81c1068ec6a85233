"""What a compiled engine may depend on of this machine: processor, GPU, driver and the engines' libraries."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import structlog

from agent.core.bundle.derived import Machine
from agent.core.bundle.manifest import Flavour

log = structlog.get_logger()

MODALIAS = Path("/sys/devices/system/cpu/modalias")
"""Family, model and instruction sets, as the kernel gives them for loading modules. Unlike /proc/cpuinfo it is there
for a service that sees none but its own processes (ProcSubset=pid), so agent and command find the same machine."""
_FEATURES: Mapping[int, str] = {
    32 * 4 + 12: "fma",
    32 * 4 + 28: "avx",
    32 * 4 + 29: "f16c",
    32 * 9 + 5: "avx2",
    32 * 9 + 16: "avx512f",
    32 * 9 + 17: "avx512dq",
    32 * 9 + 30: "avx512bw",
    32 * 9 + 31: "avx512vl",
    32 * 12 + 4: "avx_vnni",
    32 * 12 + 5: "avx512_bf16",
    32 * 12 + 21: "amx_fp16",
    32 * 16 + 11: "avx512_vnni",
    32 * 18 + 22: "amx_bf16",
    32 * 18 + 23: "avx512_fp16",
    32 * 18 + 24: "amx_tile",
    32 * 18 + 25: "amx_int8",
}
"""The kernel's numbers (arch/x86/include/asm/cpufeatures.h: word * 32 + bit) and words of what networks use."""
_PACKAGES: Mapping[Flavour, tuple[str, ...]] = {
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt-rtx": ("tensorrt-rtx",),
    "torch-cuda": ("torch",),
}
"""The packages that bring each flavour's library, the first that is installed."""
_ASK = ("--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader")
_WITHIN = 20.0
"""Seconds that NVIDIA's tool may take: it wakes the driver where no process holds it."""


def this_machine() -> Machine:
    """The machine that this process runs on."""
    cpu, features = _cpu(MODALIAS)
    gpu, capability, driver = _gpu()
    return Machine(
        cpu=cpu,
        cpu_features=features,
        gpu=gpu,
        compute_capability=capability,
        driver=driver,
        libraries={flavour: found for flavour in _PACKAGES if (found := library_version(flavour))},
    )


def library_version(flavour: Flavour) -> str:
    """Version of a flavour's library, which is not imported for it; empty where it is not installed."""
    for package in _PACKAGES[flavour]:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""


def _cpu(modalias: Path) -> tuple[str, tuple[str, ...]]:
    """Processor, as ``x86,ven0002fam0019mod0011``, and its instruction sets; nothing where the kernel says nothing."""
    try:
        text = modalias.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return "", ()
    found = re.fullmatch(r"cpu:type:(\S+?):feature:((?:,[0-9A-F]{4})*),?", text)
    if found is None:
        return "", ()
    numbers = [int(number, 16) for number in found[2].split(",") if number]
    if not found[1].startswith("x86"):  # other architectures' numbers change with the kernel: kept as they are
        return found[1], tuple(f"{number:04X}" for number in sorted(numbers))
    return found[1], tuple(sorted(_FEATURES[number] for number in numbers if number in _FEATURES))


def _gpu() -> tuple[str, str, str]:
    """Name, compute capability and driver of the first NVIDIA GPU; empty where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "", "", ""
    try:
        answer = subprocess.run([tool, *_ASK], capture_output=True, text=True, check=True, timeout=_WITHIN)
    except (OSError, subprocess.SubprocessError) as error:
        # No driver, no device in this service's namespace, or a GPU that has fallen off the bus.
        log.info("gpu_not_seen", reason=" ".join(str(error).split())[:200])
        return "", "", ""
    name, _, rest = (answer.stdout.splitlines() or [""])[0].partition(", ")
    capability, _, driver = rest.partition(", ")
    if not re.fullmatch(r"[0-9]+\.[0-9]", capability):
        return "", "", ""
    return name, capability, driver

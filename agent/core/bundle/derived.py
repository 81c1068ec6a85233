"""What a ward's machine says of an engine that it compiled for itself from a bundle: the shape of ``derived.json``."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from agent.core.bundle.manifest import Engine, FileEntry, FileName, Sha256, check_files
from agent.core.bundle.strict_json import Strict


class Machine(Strict):
    """What an engine may depend on of the machine that compiled it."""

    cpu: str
    """The processor's name."""
    cpu_features: tuple[str, ...]
    """Its instruction sets that networks use, in the kernel's words, sorted."""
    gpu: str = ""
    """Name of the first GPU; empty: there is none."""
    compute_capability: str = ""
    driver: str = ""
    libraries: dict[str, str]
    """Version of each engine library that is installed, by flavour."""

    def differs(self, other: Machine, engine: Engine) -> str:
        """What an engine that was compiled on the ``other`` machine cannot stand here, in words; empty: nothing.

        An engine for the CPU does not mind another GPU or driver, nor one for the GPU another CPU, and neither another
        version of a library that it does not use.
        """
        kind = engine.target.kind
        cpu = (("CPU", "cpu"), ("CPU's instruction sets", "cpu_features"))
        gpu = (("GPU", "gpu"), ("compute capability", "compute_capability"), ("GPU driver", "driver"))
        for words, name in (*(cpu if kind != "gpu" else ()), *(gpu if kind != "cpu" else ())):
            if (here := getattr(self, name)) != (there := getattr(other, name)):
                return f"the {words} is {_shown(here)} instead of {_shown(there)}"
        here, there = (machine.libraries.get(engine.flavour, "") for machine in (self, other))
        return f"{engine.flavour} is {_shown(here)} instead of {_shown(there)}" if here != there else ""


class Derived(Strict):
    """``derived.json``: an engine that this machine compiled from a bundle, signed by this machine alone."""

    schema_version: Literal[1] = 1
    parent: Sha256
    """Of the bundle's ``manifest.json``."""
    engine: Engine
    """Its parity was measured here, on the bundle's golden windows."""
    machine: Machine
    builder: str
    """Version of the agent that built it."""
    created: str = Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")
    """UTC."""
    files: dict[FileName, FileEntry]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_files(self.files, self.engine.files)
        if self.engine.parity.probability_max is None:
            raise ValueError("the engine was never held against the golden windows")
        return self


def _shown(value: str | tuple[str, ...]) -> str:
    return " ".join(value) if isinstance(value, tuple) else value or "none"

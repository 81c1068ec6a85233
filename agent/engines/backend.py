"""The one protocol of the back-ends, and the choice between them.

A back-end is a context manager with one `infer`, in the manner of NVIDIA Polygraphy's runners: making one is free,
entering it imports its library, loads the network and warms it up, leaving it gives all of that back. It is used by
one thread at a time. The flavours that this version can serve are the keys of `FACTORIES`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal, Protocol, Self

import numpy as np
import structlog
from pydantic import BaseModel, ConfigDict, Field

from agent.core.ecg import FloatArray
from agent.core.filters import prepare
from agent.core.manifest import Engine
from agent.engines.bundle import Bundle
from agent.engines.signing import Trust

log = structlog.get_logger()


class EngineError(Exception):
    """No engine, or none that works; one sentence that says why and how to mend it."""


class EngineSettings(BaseModel):
    """The network, and how windows are batched for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    bundle: Path | None = None
    """Folder of the engine bundle. Default: the one that `deepecg-agent bundle activate` chose, or else the
    demonstration bundle that comes with the package."""
    trusted_keys: tuple[Path, ...] = ()
    """Files of the public keys (PEM) whose bundles may be served. The demonstration bundle brings its own."""
    revoked: tuple[Annotated[str, Field(pattern=r"^([0-9a-f]{16}|[0-9a-f]{64})$")], ...] = ()
    """Never to be served: ids of keys (16 hexadecimal digits), and SHA-256s of bundles' manifests (64)."""
    require_signature: bool = True
    """Whether a bundle must be signed by a trusted key. When it need not, each start says so in the log."""
    allow_downgrade: bool = False
    """Whether a bundle may be older than the latest of its name that was served here."""
    threads: int = Field(default=1, ge=1, le=64)
    """Processor threads for the network. One serves about a hundred beds and leaves the rest to the feeds."""
    cache: Path | None = None
    """Folder for what the engine compiles, so that the next start is faster. Default: none is kept."""
    max_batch: int = Field(default=8, ge=1, le=256)
    """Most windows in one batch."""
    max_wait: float = Field(default=0.01, ge=0.0, le=1.0)
    """Seconds that the first window of a batch may wait for others."""
    queue_per_bed: int = Field(default=2, ge=1, le=64)
    """Windows of one bed that may wait; one more drops that bed's oldest."""
    queue: int = Field(default=1024, ge=1, le=65536)
    """Windows of all beds that may wait; one more drops the oldest of the bed with the most."""
    deadline: float = Field(default=20.0, gt=0.0)
    """Seconds that one batch may take; an engine that takes longer has failed and the agent exits to be restarted."""
    start_deadline: float = Field(default=300.0, gt=0.0)
    """Seconds that loading and the self-test may take."""

    def trust(self) -> Trust:
        """Whose bundles are served.

        Raises:
            SigningError: a file of `trusted_keys` is no public key.
        """
        return Trust.of(self.trusted_keys, self.revoked, require_signature=self.require_signature)


class Backend(Protocol):
    """One compiled form of the network, on one device."""

    @property
    def name(self) -> str:
        """Flavour and precision, as ``openvino-f32``: predictions carry it."""
        ...

    def __enter__(self) -> Self:
        """Import the library, load, warm up.

        Raises:
            EngineError: the library is missing, or the network does not load on this machine.
        """
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Give all of it back."""
        ...

    def infer(self, x: FloatArray) -> FloatArray:
        """Probabilities (B, n_labels) of prepared windows (B, 12, rate * seconds); a new array, ``x`` is not kept."""
        ...


def _openvino(bundle: Bundle, entry: Engine, settings: EngineSettings) -> Backend:
    from agent.engines.openvino import OpenVinoEngine

    return OpenVinoEngine(bundle, entry, threads=settings.threads, cache=settings.cache)


Flavour = Literal["openvino", "tensorrt", "tensorrt-rtx", "torch-cuda"]
Factory = Callable[[Bundle, Engine, EngineSettings], Backend]

FACTORIES: Mapping[Flavour, Factory] = {
    "openvino": _openvino,
}


@contextmanager
def open_backend(bundle: Bundle, settings: EngineSettings) -> Iterator[Backend]:
    """The first of the bundle's engines, in the manifest's order, that works here: entered and self-tested.

    Raises:
        EngineError: none does.
    """
    reason = ""
    for entry in bundle.manifest.engines:
        factory = FACTORIES.get(entry.flavour)
        if factory is None:
            reason = f"this version has no back-end for {entry.flavour}, only for {', '.join(FACTORIES)}"
            log.info("engine_skipped", flavour=entry.flavour, precision=entry.precision, reason=reason)
            continue
        with ExitStack() as stack:
            try:
                backend = stack.enter_context(factory(bundle, entry, settings))
                difference = self_test(backend, bundle, settings.max_batch)
            except EngineError as error:
                reason = str(error)
                log.warning("engine_skipped", flavour=entry.flavour, precision=entry.precision, reason=reason)
                continue
            log.info("engine_ready", engine=backend.name, model=bundle.manifest.model_id, golden_difference=difference)
            yield backend
            return
    raise EngineError(f"bundle {bundle.manifest.model_id} has no engine that works on this machine: {reason}")


def self_test(backend: Backend, bundle: Bundle, max_batch: int) -> float:
    """Run the golden windows as the line does, alone and in batches; the largest difference of a probability.

    Raises:
        EngineError: it is beyond the manifest's tolerance: this engine, on this machine, is not the network that was
            validated.
    """
    golden = bundle.manifest.golden
    p = bundle.manifest.input.preprocessing
    x = prepare(bundle.golden_windows, p.rate, p)
    worst = 0.0
    for size in sorted({1, min(max_batch, len(x))}):
        for first in range(0, len(x), size):
            found = backend.infer(x[first : first + size])
            wanted = bundle.golden_probabilities[first : first + size]
            if found.shape != wanted.shape:
                raise EngineError(
                    f"engine {backend.name} gives {found.shape[1:]} values per window but the manifest has "
                    f"{wanted.shape[1]} labels; compile the bundle again."
                )
            difference = np.abs(found - wanted).max()
            if not difference <= golden.tolerance:  # a NaN is no less wrong
                raise EngineError(
                    f"engine {backend.name} fails its self-test on this machine: a probability of a golden window is "
                    f"{difference:.2g} off, {golden.tolerance:.2g} allowed; copy the bundle again or compile it here."
                )
            worst = max(worst, float(difference))
    return worst

"""What every back-end is and may say: the one protocol, the one error, and the batch sizes that a GPU engine has.

A back-end is a context manager with one `infer`, in the manner of NVIDIA Polygraphy's runners: making one is free,
entering it imports its library, loads the network and warms it up, leaving it gives all of that back. It is used by
one thread at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

from agent.core.ecg import FloatArray
from agent.core.errors import DeepECGError


class EngineError(DeepECGError):
    """No engine, or none that works; one sentence that says why and how to mend it."""


class Backend(Protocol):
    """One compiled form of the network, on one device, ready to serve.

    What an answer may depend on: the window, the engine's files, its library and the processor or GPU. Never on what
    other windows hold, which row of the batch it has, or what was computed before.

    - On the processor (openvino) it does not depend on how many they are either: each is computed alone, and the same
      window has the same answer bit for bit, whatever the batch and however many threads.
    - On a GPU (tensorrt, tensorrt-rtx, torch-cuda) the windows that wait are padded with silence to the next of the
      engine's batch sizes, and each size has kernels of its own, which may add in another order. So the same window's
      answers in two sizes may differ by the rounding of the engine's precision (f32 about 1e-6 of a probability, bf16
      and f16 up to 1e-3). The bundle's gate bounds it: parity is measured for one window alone and for a full batch
      (`agent.engines.local.rebuild`), and so is the self-test at each start.
    """

    @property
    def name(self) -> str:
        """Flavour and precision, as ``openvino-f32``: predictions carry it."""
        ...

    def infer(self, x: FloatArray) -> FloatArray:
        """Probabilities (B, n_labels) of prepared windows (B, 12, rate * seconds); a new array, ``x`` is not kept."""
        ...

    def infer_raw(self, windows: FloatArray, rate: float) -> FloatArray:
        """The same of raw windows (B, 12, rate * seconds) in mV, filtered on the device where that can.

        A window that holds a NaN or an infinity gets NaN for all its answers, and no other window is touched.
        """
        ...


class Runner(Backend, Protocol):
    """A back-end by its maker: a context manager that is ready once it is entered."""

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


BUCKETS = (1, 2, 4, 8, 16, 32)
"""Batch sizes that an engine on a GPU has, unless others were asked for."""


def in_buckets(n: int, buckets: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Which of ``n`` windows are computed together, and in a bucket of which size: padded up to the next one.

    ``buckets`` ascend.
    """
    first = 0
    while first < n:
        left = n - first
        bucket = next((size for size in buckets if size >= left), buckets[-1])
        yield slice(first, first + min(left, bucket)), bucket
        first += bucket

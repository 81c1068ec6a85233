"""One engine and the thread that opens it, keeps it and closes it, while another thread serves with it.

So an engine can be loaded, tested and given back beside one that goes on serving. Each is entered and left by the same
thread, and whoever uses it in between uses it alone.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import TypeAlias

import structlog

from agent.core.bundle.manifest import Manifest
from agent.engines.base import Backend, EngineError
from agent.engines.bundles.bundle import BundleError
from agent.engines.select import Opened
from agent.engines.serving.compute import Computer

log = structlog.get_logger()

Opener: TypeAlias = Callable[[], AbstractContextManager[Backend]]
"""Makes a back-end that is ready once it is entered: ``partial(open_backend, bundle, settings)``."""


@dataclass(frozen=True, slots=True, eq=False)
class OpenEngine:
    """An engine that is open."""

    backend: Backend
    keeper: Keeper
    seconds: float | None
    """What one window takes; None: it was not tried."""

    @property
    def name(self) -> str:
        """Flavour and precision, as ``openvino-f32``."""
        return self.backend.name

    @property
    def note(self) -> str:
        """Why a better engine does not serve; empty: the first choice does."""
        return self.backend.note if isinstance(self.backend, Opened) else ""


class Keeper:
    """The thread of one engine: ``await open(…)``, use it, `retire` it."""

    def __init__(self, opener: Opener, manifest: Manifest) -> None:
        self._opener = opener
        self._manifest = manifest
        self._retired = threading.Event()
        self._closed = asyncio.Event()

    async def open(self, within: float, *, probe: bool = True) -> OpenEngine:
        """Load and test it, and with ``probe`` see how fast it is.

        Raises:
            EngineError: it cannot be opened, takes longer, or is no engine of this model. It is closed again.
        """
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[OpenEngine] = loop.create_future()
        # A daemon thread: an engine that hangs in native code must not keep the process from exiting.
        threading.Thread(target=self._keep, args=(loop, opened, probe), name="engine-keeper", daemon=True).start()
        try:
            async with asyncio.timeout(within):
                return await opened
        except TimeoutError as error:
            self.retire()
            raise EngineError(
                f"the engine did not start within {within:g} s; raise start_deadline if this machine is that slow."
            ) from error
        except BaseException:  # reason: nobody else would ever close it; raised again
            self.retire()
            raise

    def retire(self) -> None:
        """Nobody uses it any more: it is closed, in its own thread and time. May be called from any thread."""
        self._retired.set()

    @property
    def is_closed(self) -> bool:
        """Whether nothing is left of it."""
        return self._closed.is_set()

    async def closed(self, within: float) -> None:
        """Wait until it is closed, but no longer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._closed.wait()

    def _keep(self, loop: asyncio.AbstractEventLoop, opened: asyncio.Future[OpenEngine], probe: bool) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends, and nobody is left to be told
            try:
                with self._opener() as backend:
                    self._same_model(backend)
                    seconds = Computer(self._manifest).probe(backend) if probe else None
                    loop.call_soon_threadsafe(_settle, opened, OpenEngine(backend, self, seconds))
                    self._retired.wait()
            except BaseException as error:  # noqa: BLE001  the thread's top: whatever it is, the loop must hear of it
                loop.call_soon_threadsafe(_settle, opened, error)
            loop.call_soon_threadsafe(self._closed.set)

    def _same_model(self, backend: Backend) -> None:
        """An engine that another takes the place of must be of the very same network."""
        if not isinstance(backend, Opened):
            return
        ours, theirs = self._manifest, backend.bundle.manifest
        if any(getattr(ours, part) != getattr(theirs, part) for part in ("weights_sha256", "input", "labels")):
            raise EngineError(f"{backend.name} is an engine of {theirs.model_id}, not of {ours.model_id}.")


def _settle(opened: asyncio.Future[OpenEngine], found: OpenEngine | BaseException) -> None:
    if opened.done():  # nobody waits any more, or it failed while it was closed
        if isinstance(found, BaseException):
            log.error("engine_not_closed", error=type(found).__name__, reason=str(found))
    elif isinstance(found, OpenEngine):
        opened.set_result(found)
    elif isinstance(found, EngineError | BundleError):
        opened.set_exception(EngineError(str(found)))
    else:
        error = EngineError(f"the engine does not open ({type(found).__name__}: {found}); see the log.")
        error.__cause__ = found
        opened.set_exception(error)

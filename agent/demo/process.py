"""The agent as the demo runs it: as in production, a process of its own, ended by SIGTERM."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from agent.core.errors import DeepECGError
from agent.demo.broker import last_line

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0


class AgentError(DeepECGError):
    """The agent did not start, or ended; one sentence with its last words."""


class AgentProcess:
    """``deepecg-agent run --config CONFIG``: ``async with AgentProcess(config, log) as agent: …``."""

    def __init__(self, config: Path, log: Path) -> None:
        self._command = (sys.executable, "-m", "agent.cli", "run", "--config", str(config))
        self._log = log

    async def __aenter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stderr=log, stdout=log, start_new_session=True
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def ended(self) -> None:
        """Return when the process has ended."""
        await self._process.wait()

    def check(self) -> None:
        """Nothing while it runs.

        Raises:
            AgentError: it has ended.
        """
        if (status := self._process.returncode) is not None:
            raise AgentError(f"the agent ended with status {status}: {last_line(self._log)}")

    async def healthy(self, session: aiohttp.ClientSession) -> None:
        """Wait for the agent to say that it is well. ``session``: of its page.

        Raises:
            AgentError: it ended, or is not well after a minute.
        """
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            self.check()
            try:
                async with session.get("/healthz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
        raise AgentError(f"the agent is not healthy after {_START_SECONDS:.0f} s: {last_line(self._log)}")

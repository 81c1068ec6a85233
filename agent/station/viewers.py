"""The page's viewers: each is served by its own request, from copies, at its own pace.

A viewer that is slow loses frames of signal, which are counted, and never a state of a bed; one that takes seconds for
one message is let go. When the page's own ticker has failed all are let go, so that nobody looks at strips that stand
still.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable

from aiohttp import WSCloseCode, web

from agent.ops.metrics import Metrics
from agent.station.board import Board

MAX_INBOUND = 1024
"""Bytes of a request's body or of a message from the page; viewers have nothing to say."""
_TICK = 0.1  # s between two frames: the page draws smoothly from its own buffer
_BEAT = 1.0  # s between two signs of life
_SEND_LIMIT = 5.0  # s that one viewer may take for one message before it is let go

Told = Callable[[], dict[str, object]]
"""What the agent says of itself at the moment."""


class Viewers:
    """The open pages. `start` begins to make frames for them, `close` ends all.

    Args:
        board: Whose tiles and frames they are sent.
        metrics: Where lost frames are counted.
        most: Pages that may be open at once.
        hello: Said once to each viewer.
        beat: Said once a second.
    """

    def __init__(self, board: Board, metrics: Metrics, most: int, hello: Told, beat: Told) -> None:
        self._board = board
        self._metrics = metrics
        self._most = most
        self._hello = hello
        self._beat = beat
        self._open: set[web.WebSocketResponse] = set()
        self._watched = asyncio.Event()
        self._ticker: asyncio.Task[None] | None = None

    @property
    def failed(self) -> bool:
        """The ticker has ended by an error of its own, which each viewer's request has raised and logged."""
        return self._ticker is not None and self._ticker.done()

    def start(self) -> None:
        """Make frames from now on, as long as anybody looks."""
        self._ticker = asyncio.create_task(self._tick(), name="station ticker")

    async def close(self) -> None:
        """Tell every viewer that the agent stops, and make no more frames."""
        for ws in tuple(self._open):
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await ws.close(code=WSCloseCode.GOING_AWAY, message=b"the agent is stopping")
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait([self._ticker])

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The handler of the page's websocket."""
        if len(self._open) >= self._most:
            raise web.HTTPServiceUnavailable(text="Too many pages are open; close one or raise station.max_viewers.\n")
        ws = web.WebSocketResponse(heartbeat=15.0, max_msg_size=MAX_INBOUND, compress=False)
        await ws.prepare(request)
        self._open.add(ws)
        self._watched.set()
        listener = asyncio.create_task(_listen(ws), name="station viewer")
        try:
            await self._serve(ws)
        except (ConnectionError, TimeoutError):
            pass  # the viewer is gone, or too slow to be one
        finally:
            listener.cancel()
            self._open.discard(ws)
            if not self._open:
                self._watched.clear()
        return ws

    async def _serve(self, ws: web.WebSocketResponse) -> None:
        """Bring one viewer up to date, then keep it so."""
        board = self._board
        board.tick(time.monotonic())
        cursor, revision, roster = board.next_frame, board.revision, board.roster
        beds = board.tiles(-1, time.monotonic())
        history = board.history()
        await _send(ws, {"type": "hello", **self._hello(), "beds": beds})
        await _send(ws, history)
        beat = 0.0
        while not ws.closed and not self.failed:
            now = time.monotonic()
            if roster < board.roster:
                roster = board.roster
                await _send(ws, {"type": "roster", "beds": board.names()})
            if revision < board.revision:
                since, revision = revision, board.revision
                await _send(ws, {"type": "beds", "beds": board.tiles(since, now)})
            frames, lost = board.frames(cursor)
            cursor = board.next_frame
            self._metrics.frames_dropped.inc(lost)
            for i, frame in enumerate(frames):
                try:
                    await _send(ws, frame)
                except TimeoutError:
                    self._metrics.frames_dropped.inc(len(frames) - i + board.next_frame - cursor)
                    raise
            if now - beat >= _BEAT:
                beat = now
                await _send(ws, {"type": "beat", **self._beat()})
            await asyncio.sleep(_TICK)
        if self._ticker is not None and self._ticker.done():
            self._ticker.result()

    async def _tick(self) -> None:
        while True:
            await self._watched.wait()
            self._board.tick(time.monotonic())
            await asyncio.sleep(_TICK)


async def _send(ws: web.WebSocketResponse, message: dict[str, object] | bytes) -> None:
    async with asyncio.timeout(_SEND_LIMIT):
        if isinstance(message, bytes):
            await ws.send_bytes(message)
        else:
            await ws.send_str(json.dumps(message, separators=(",", ":"), allow_nan=False))


async def _listen(ws: web.WebSocketResponse) -> None:
    """Read on, or closing and pings would go unnoticed; what a viewer says is ignored."""
    async for _ in ws:
        pass

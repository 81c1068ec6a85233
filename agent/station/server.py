"""The live page's server: one local port with the page, its websocket, ``/metrics``, ``/healthz`` and ``/api/state``.

It shows and never decides. The line calls the recording methods on its own loop; they copy and return. Each viewer is
served by its own request task from the `Board`, so a slow or broken viewer delays nobody and an error of the page ends
the page, not the line.

The port has no log-in: it is bound to the machine itself. To show it on a ward, put a reverse proxy with TLS and the
hospital's authentication before it and name the proxy's host in ``allowed_hosts``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from aiohttp import web

from agent.core.bundle.manifest import Manifest
from agent.core.census import CensusEvent, Stay
from agent.core.ecg import Alert, Gap, Prediction, Samples
from agent.ops.metrics import Metrics
from agent.station.board import Board
from agent.station.health import Checks, Health
from agent.station.settings import StationSettings
from agent.station.view import label_text
from agent.station.viewers import MAX_INBOUND, Viewers

_ADVISORY = "Advisory only. Not a medical device. Never the primary alarm."
_ASKED = "X-DeepECG-Request"
_UNKNOWN = Stay()
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_STATIC = {
    "/": ("index.html", "text/html"),
    "/static/station.css": ("station.css", "text/css"),
    "/static/station.js": ("station.js", "text/javascript"),
    "/static/strip.js": ("strip.js", "text/javascript"),
    "/static/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class StationInfo:
    """What the page says of the agent itself."""

    manifest: Manifest
    version: str
    """The agent's."""
    engine: str = ""
    """Back-end and precision, as ``openvino-f32``."""
    further: tuple[Manifest, ...] = ()
    """Of further models, whose findings are shown beside the first one's."""


class Station:
    """``async with Station(settings, metrics, info) as station:`` serves until the block ends.

    The recording methods belong to the loop that entered the block.

    Raises:
        OSError: on entry, where the port is taken.
    """

    def __init__(self, settings: StationSettings, metrics: Metrics, info: StationInfo) -> None:
        self._settings = settings
        self._metrics = metrics
        self._info = info
        self._board = Board(
            info.manifest,
            further=info.further,
            lead=settings.lead,
            seconds=settings.strip_seconds,
            findings=settings.findings,
            show_patients=settings.show_patients,
            synthetic=frozenset(settings.synthetic_beds),
        )
        self._checks = Checks()
        self._engines: Sequence[Mapping[str, str]] = ()
        self._trials: dict[str, str] = {}
        self._requests: dict[tuple[str, str], None] = {}
        self._viewers = Viewers(self._board, metrics, settings.max_viewers, self._hello, self._beat)
        self._hosts = _LOOPBACK_NAMES | {settings.host.lower(), *(host.lower() for host in settings.allowed_hosts)}
        folder = files("agent.station") / "static"
        self._static = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _STATIC.items()}
        self._exit = contextlib.AsyncExitStack()
        self.port = settings.port
        """The port that it listens on, once entered."""

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_INBOUND)
        app.router.add_get("/ws", self._viewers.handle)
        app.router.add_get("/metrics", self._metrics_page)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/api/state", self._api_state)
        app.router.add_post("/api/beds/{bed:.+}/request/{model}", self._api_request)
        for path in self._static:
            app.router.add_get(path, self._file)
        async with contextlib.AsyncExitStack() as stack:
            runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, self._settings.host, self._settings.port)
            await site.start()
            self.port = int(runner.addresses[0][1])
            self._viewers.start()
            stack.push_async_callback(self._viewers.close)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    # What the line calls.

    def samples(self, samples: Samples, transport: str = "", stay: Stay = _UNKNOWN) -> None:
        """Copy a block's display lead. ``transport`` as in the metrics: ``mqtt``, ``hl7`` or ``replay``."""
        self._board.samples(samples, transport, stay)

    def gap(self, gap: Gap) -> None:
        """A stretch without a window."""
        self._board.gap(gap, time.monotonic())

    def prediction(self, prediction: Prediction) -> None:
        """The findings of a bed's newest window."""
        self._board.prediction(prediction)

    def alert(self, alert: Alert) -> None:
        """An alert message that has been committed."""
        self._board.alert(alert)

    def delivered(self, sink: str, message_id: str) -> None:
        """The receiver behind a sink has acknowledged an alert message."""
        self._board.delivered(sink, message_id)

    def encounter(self, event: CensusEvent) -> None:
        """A patient came or left, or more is known of one."""
        self._board.encounter(event)

    def forget(self, bed: str) -> None:
        """The line has forgotten the bed."""
        self._board.forget(bed)

    def engines(self, states: Sequence[Mapping[str, str]]) -> None:
        """What serves each model, the first one first: its ``model``, ``engine``, ``note``, ``problem``, ``shadow``."""
        self._engines = states

    def trial(self, model: str, words: str) -> None:
        """How a model's engine of this machine's own does, or why there is none, in a sentence; empty: nothing."""
        self._trials[model] = words

    def take_requests(self) -> list[tuple[str, str]]:
        """Beds and the further models that somebody wants to look at them again, since the last call."""
        taken, self._requests = list(self._requests), {}
        return taken

    def check(self, name: str, health: Health, reason: str = "", valid_for: float | None = None) -> None:
        """A part of the line says how it is. With ``valid_for``, silence for so many seconds is unhealthy."""
        self._checks.report(name, health, reason, time.monotonic(), valid_for)
        self.health()

    def health(self) -> tuple[Health, dict[str, str]]:
        """The whole line's health and the reasons; also sets the metric."""
        if self._viewers.failed:
            reason = "The page has stopped by an error of its own; the line goes on. Restart the agent when it suits."
            self._checks.report("page", Health.DEGRADED, reason, time.monotonic())
        health, reasons = self._checks.verdict(time.monotonic())
        self._metrics.healthy.set(health is Health.OK)
        return health, reasons

    # HTTP.

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuse foreign Host and Origin headers: DNS rebinding, and websockets opened by other sites."""
        host = _host_of(f"//{request.headers.get('Host', '')}")
        origin = request.headers.get("Origin")
        if host not in self._hosts:
            text = "Unknown host name: add it to station.allowed_hosts in the agent's configuration.\n"
            return web.Response(status=421, text=text, headers=_HEADERS)
        if origin is not None and _host_of(origin) not in self._hosts:
            return web.Response(status=403, text="Other sites may not read this page.\n", headers=_HEADERS)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            error.headers.update(_HEADERS)
            raise
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    async def _file(self, request: web.Request) -> web.Response:
        body, kind = self._static[request.path]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def _metrics_page(self, _: web.Request) -> web.Response:
        self.health()
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return web.Response(body=self._metrics.render(), headers={"Content-Type": kind})

    async def _healthz(self, _: web.Request) -> web.Response:
        health, reasons = self.health()
        status = 503 if health is Health.UNHEALTHY else 200
        return web.json_response({"status": health.value, "reasons": reasons}, status=status)

    async def _api_state(self, _: web.Request) -> web.Response:
        now = time.monotonic()
        for _bed in self._board.names():
            self._board.refresh_rates(now, 1)
            await asyncio.sleep(0)  # a ward of estimates is no reason to keep the line waiting
        latency = {
            "prediction": self._metrics.prediction_latency.summary(),
            "alert": self._metrics.alert_latency.summary(),
        }
        beds = self._board.tiles(-1, time.monotonic())
        return web.json_response({**self._hello(), **self._beat(), "latency": latency, "beds": beds})

    async def _api_request(self, request: web.Request) -> web.Response:
        """A further model shall look at a bed's next window."""
        if _ASKED not in request.headers:  # no form and no link of another site can send it
            raise web.HTTPForbidden(text=f"Send the header {_ASKED}: 1 to say that this request is meant.\n")
        bed, model = request.match_info["bed"], request.match_info["model"]
        if not self._board.request(bed, model, time.monotonic()):
            raise web.HTTPNotFound(text="There is no such bed, or no further model of that name; see /api/state.\n")
        self._requests[bed, model] = None
        return web.json_response({"bed": bed, "model": model, "state": "waits for the next window"}, status=202)

    # What is said of the agent.

    def _hello(self) -> dict[str, object]:
        manifest = self._info.manifest
        return {
            "advisory": _ADVISORY,
            "title": self._settings.title,
            "version": self._info.version,
            "model": manifest.model_id,
            "engine": self._engines[0]["engine"] if self._engines else self._info.engine,
            "statement": manifest.statement,
            "alerting": [label_text(entry.name) for entry in manifest.labels if entry.rule is not None],
            "stale_after": self._settings.stale_after,
        }

    def _beat(self) -> dict[str, object]:
        health, reasons = self.health()
        ages = self._board.ages(time.monotonic())
        engines = [{**state, "trial": self._trials.get(state["model"], "")} for state in self._engines]
        return {"health": health.value, "reasons": reasons, "time": time.time(), "ages": ages, "engines": engines}


def _host_of(url: str) -> str:
    """The host part of ``//host:port`` or of a whole URL, in lower case; empty where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""

"""The server behind the web page: a few routes, who may use them, and the stream of server-sent events.

``GET /``, ``/page.css``, ``/page.js`` and ``/icon.svg`` are the page, ``GET /events`` the stream, and ``POST /mute``
takes ``{"muted": true}`` as ``application/json``. The stream has three kinds of events, each one JSON object:

- ``hello``, once: model, answers, the last minutes as ``[clock time s, stream time s, answer]`` and status messages;
- ``event``: an event as `serkit.edge.events.to_json` writes it, and ``at``, the clock time of its arrival, s;
- ``state``, after these and at least once a second: muted, latency and counters.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import re
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from serkit.edge.events import Event, to_json

if TYPE_CHECKING:
    from serkit.edge.listener import Listener

MAX_PAGES = 16  # open at the same time
MAX_CONNECTIONS = 64
_HISTORY = 1200  # windows; five minutes of them are 600 with the shipped model
_MESSAGES = 50
_QUEUE = 64  # events waiting for one page
_BEAT_S = 1.0
_GOODBYE_S = 0.5  # for what is queued, at most, when closing
_MAX_BODY = 1024  # bytes

_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    ("content-security-policy", _POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
]


class _Page:
    """One open page: what it has not been sent yet; the oldest is lost when it is too slow."""

    def __init__(self) -> None:
        self.waiting: deque[str] = deque(maxlen=_QUEUE)
        self.lost = 0
        self.more = asyncio.Event()

    def put(self, text: str) -> bool:
        """Queue one event; whether it is the first that cost another its place."""
        full = len(self.waiting) == _QUEUE
        self.lost += full
        self.waiting.append(text)
        self.more.set()
        return full and self.lost == 1


class WebServer:
    """The page's server; `publish` and `stop` may be called from any thread.

    Args:
        listener: What is shown and muted.
        host: Where the server listens.
        token: What requests need; None lets in whoever comes from this machine.
        notify: Takes what should be said to the user.
    """

    def __init__(self, listener: Listener, host: str, token: str | None, notify: Callable[[str], None]) -> None:
        self._listener = listener
        self._notify = notify
        self._windows: deque[tuple[float, float, str]] = deque(maxlen=_HISTORY)
        self._messages: deque[tuple[float, str]] = deque(maxlen=_MESSAGES)
        self._latest: dict[str, Any] | None = None
        self._pages: set[_Page] = set()
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        folder = Path(__file__).parent / "page"
        self._files = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}
        app = Starlette(
            routes=[
                *(Route(path, self._file) for path in _FILES),
                Route("/events", self._events),
                Route("/mute", self._mute, methods=["POST"]),
            ]
        )
        self.app: ASGIApp = _Guard(app, host, token)

    def run(self, listening: socket.socket, running: Callable[[], None]) -> None:
        """Serve in this thread until `stop`; closes the socket."""
        asyncio.run(self._serve(listening, running))

    def publish(self, event: Event) -> None:
        """Remember an event and queue it for every page, soon."""
        self._call(self._publish, event)

    def stop(self) -> None:
        """End every stream, then the server, soon."""
        self._call(self._stop)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call in the server's thread; not at all when it has ended."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function, *arguments)

    async def _serve(self, listening: socket.socket, running: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        server = uvicorn.Server(
            uvicorn.Config(
                self.app,
                http=_BoundedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",  # requests that make no sense are no news
                access_log=False,
                proxy_headers=False,
                server_header=False,
                headers=_HEADERS,
                timeout_graceful_shutdown=1,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        running()
        await self._stopping.wait()
        until = time.monotonic() + _GOODBYE_S
        while self._pages and time.monotonic() < until:
            await asyncio.sleep(0.02)
        server.should_exit = True
        while not serving.done() or server.server_state.connections:  # some may still come in
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            await asyncio.sleep(0.02)
        await serving

    def _stop(self) -> None:
        self._stopping.set()
        for page in self._pages:
            page.more.set()

    def _publish(self, event: Event) -> None:
        at = time.time()
        fields = {"at": round(at, 3), **json.loads(to_json(event))}
        if event.kind == "status":
            self._messages.append((fields["at"], event.message or ""))
        else:
            self._windows.append((fields["at"], fields["time_s"], event.answer))
            self._latest = fields
        text = _message("event", fields)
        for page in self._pages:
            if page.put(text):
                self._notify("a page is too slow for the stream; it misses the oldest events")

    async def _file(self, request: Request) -> Response:
        content, kind = self._files[request.scope["path"]]
        return Response(content, media_type=kind)

    async def _events(self, request: Request) -> Response:
        if len(self._pages) >= MAX_PAGES:
            return _refused(503, f"{MAX_PAGES} pages are open already; close one")
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[str]:
        page = _Page()
        self._pages.add(page)
        try:
            yield _message("hello", self._hello()) + _message("state", self._state(page))
            while not self._stopping.is_set():
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(page.more.wait(), _BEAT_S)
                page.more.clear()
                waiting = "".join(page.waiting)
                page.waiting.clear()
                yield waiting + _message("state", self._state(page))
        finally:
            self._pages.discard(page)

    async def _mute(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return _refused(415, "the content type has to be application/json")
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_BODY:
                return _refused(413, f"more than {_MAX_BODY} bytes")
        try:
            muted = json.loads(body)["muted"]
        except (ValueError, TypeError, KeyError, RecursionError):
            muted = None
        if not isinstance(muted, bool):
            return _refused(400, 'the body has to be {"muted": true} or {"muted": false}')
        self._listener.mute(muted)
        for page in self._pages:
            page.more.set()
        return JSONResponse({"schema": 1, "muted": muted})

    def _hello(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "model": self._listener.recognizer.bundle.name,
            "answers": self._listener.answers,
            "now": round(time.time(), 3),
            "windows": list(self._windows),
            "messages": list(self._messages),
            "event": self._latest,
        }

    def _state(self, page: _Page) -> dict[str, Any]:
        health = self._listener.health
        return {
            "schema": 1,
            "muted": self._listener.muted,
            "audio_s": round(health.audio_s, 3),
            "latency_ms": round(health.latency_ms, 1),
            "windows": health.windows,
            "scored": health.scored,
            "lost": page.lost,
        }


class _Guard:
    """Lets a request through to the app, or answers it.

    Without a token only a name of this machine may be asked for: a foreign page whose name was made to lead here (DNS
    rebinding) asks for its own. Everything but the page has to be asked for by the page, or by no browser at all.
    """

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        self._app = app
        self._token = token
        self._names = {"localhost", "127.0.0.1", "::1", host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = self._answer(scope) if scope["type"] == "http" else None
        await (response or self._app)(scope, receive, send)

    def _answer(self, scope: Scope) -> Response | None:
        """What to say in place of the app; None lets the request through."""
        request = Request(scope)
        host = request.headers.get("host", "")
        if self._token is None and _name(host) not in self._names:
            return _refused(403, f"this page is only for {', '.join(sorted(self._names))}")
        foreign = request.headers.get("sec-fetch-site") in ("cross-site", "same-site") and scope["path"] != "/"
        if request.method not in ("GET", "HEAD"):
            foreign |= _netloc(request.headers.get("origin", f"//{host}")) != host
        if foreign:
            return _refused(403, "only the page itself may do this")
        if self._token is None:
            return None
        cookie = f"serkit-{(scope['server'] or ('', 0))[1]}"  # cookies do not tell ports apart
        if scope["path"] == "/" and self._opens(request.query_params.get("token", "")):
            response = RedirectResponse("./", 303)  # so that the address shown does not hold the token
            response.set_cookie(cookie, self._token, max_age=31_536_000, httponly=True, samesite="lax")
            return response
        bearer = request.headers.get("authorization", "").partition("Bearer ")[2]
        if self._opens(bearer) or self._opens(request.cookies.get(cookie, "")):
            return None
        refused = _refused(401, "open the address with ?token= that serkit said when it started")
        refused.headers["www-authenticate"] = "Bearer"
        return refused

    def _opens(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self._token or "").encode())


class _BoundedProtocol(H11Protocol):
    """Hangs up on more than `MAX_CONNECTIONS`, so that strangers cannot use up the files detection needs."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()


def _message(kind: str, data: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"


def _refused(status: int, why: str) -> Response:
    return PlainTextResponse(f"serkit: {why}\n", status)


def _name(host: str) -> str:
    """The name or address of a Host header, without the port."""
    match = re.fullmatch(r"\[([0-9a-f:.%]+)\](:\d+)?|([^:\[\]]*)(:\d+)?", host.lower())
    return "" if match is None else match[1] or match[3] or ""


def _netloc(origin: str) -> str | None:
    """The host and port of an Origin header."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None

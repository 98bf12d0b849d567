"""A live web page: what is heard now, the last minutes, and a button that mutes the microphone.

The server runs in a thread of its own. It listens on this machine alone unless told otherwise; every other address
needs a token, which is made at the start if none is set.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import secrets
import socket
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serkit.edge.errors import MissingExtraError, SettingsError
from serkit.edge.events import Event
from serkit.edge.sinks import Sink

if TYPE_CHECKING:
    from serkit.edge.listener import Listener
    from serkit.edge.sinks.web_server import WebServer

_START_S = 10.0  # until the thread runs, on a busy board
_CLOSE_S = 2.0
_SEND_BUFFER = 1 << 16  # bytes the system keeps for a page that does not read
_SILENT_MS = 15_000  # how long a page may leave data unanswered, before it counts as gone


@dataclass(frozen=True, kw_only=True)
class WebSettings:
    """Where the page is.

    Attributes:
        host: Address to listen on; ``0.0.0.0`` is every network of this machine.
        port: TCP port; 0 takes a free one.
        token: What opens the page. None: no token on this machine alone, else one made anew at every start.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = None

    def __post_init__(self) -> None:
        if not self.host:
            raise SettingsError("host is empty; an address is needed, such as 127.0.0.1")
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"port is {self.port}; 0 to 65535 is needed")
        if self.token is not None and not re.fullmatch(r"[A-Za-z0-9._~-]{8,128}", self.token):
            raise SettingsError("token needs 8 to 128 letters, digits or the signs - . _ ~")

    @property
    def loopback(self) -> bool:
        """Whether only this machine itself can reach the page."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class WebPage(Sink):
    """The page and its server.

    Attributes:
        settings: As given.
        address: Where the page is, without the token; None before `start`.
        token: What opens it, as ``address?token=...``; None where none is needed. No event ever holds it.
    """

    name = "web"

    def __init__(self, settings: WebSettings | None = None) -> None:
        self.settings = settings or WebSettings()
        self.address: str | None = None
        self.token = self.settings.token
        if self.token is None and not self.settings.loopback:
            self.token = secrets.token_urlsafe(16)
        self._notices: deque[str] = deque(maxlen=20)
        self._server: WebServer | None = None
        self._thread: threading.Thread | None = None

    def start(self, listener: Listener) -> None:
        """Open the port and serve.

        Raises:
            MissingExtraError: starlette or uvicorn is not installed.
            SettingsError: The address is in use, or not one of this machine's.
        """
        try:
            from serkit.edge.sinks.web_server import WebServer
        except ImportError as error:
            raise MissingExtraError(
                f"the web page needs {error.name}, which is not installed; in the clone, `pip install -e '.[web]'`"
            ) from None
        server = WebServer(listener, self.settings.host, self.token, self._notices.append)
        listening = _listen(self.settings)
        self._server = server
        self.address = f"http://{_in_url(_reachable(self.settings.host))}:{listening.getsockname()[1]}/"
        running = threading.Event()
        self._thread = threading.Thread(
            target=server.run, args=(listening, running.set), name="serkit-web", daemon=True
        )
        self._thread.start()
        running.wait(_START_S)
        self._notices.append(f"the page is at {self.address}")

    @property
    def link(self) -> str | None:
        """What to open: the address, with the token unless that is in the settings; None before `start`."""
        if self.token is None or self.address is None or self.settings.token is not None:
            return self.address
        return f"{self.address}?token={self.token}"

    def send(self, event: Event) -> None:
        """Hand an event to the server's thread; nothing before `start` and after `close`."""
        if self._server is not None:
            self._server.publish(event)

    def notice(self) -> str | None:
        """Where the page is, and pages that are too slow."""
        return self._notices.popleft() if self._notices else None

    def close(self) -> None:
        """Say goodbye to every page and free the port."""
        if self._server is None or self._thread is None:
            return
        self._server.stop()
        self._thread.join(_CLOSE_S)
        self._server = self._thread = None


def _listen(settings: WebSettings) -> socket.socket:
    dual = settings.host == "::" and socket.has_dualstack_ipv6()
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family, dualstack_ipv6=dual)
    except (OSError, ValueError) as error:  # ValueError: not even the form of a name
        number = error.errno if isinstance(error, OSError) and not isinstance(error, socket.gaierror) else None
        reason = os.strerror(number) if number else getattr(error, "strerror", None) or error
        raise SettingsError(
            f"web: {settings.host} port {settings.port} cannot be used ({reason}); "
            "stop what else uses it, or set another host or port"
        ) from None
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENT_MS)
    return listening


def _reachable(host: str) -> str:
    """An address others can use, for a host that stands for all of them."""
    if host not in ("0.0.0.0", "::"):
        return host
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; tells which of our addresses would
        return str(probe.getsockname()[0])
    return socket.gethostname()


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host

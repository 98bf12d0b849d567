from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import pytest

from serkit.edge.audio import FakeSource
from serkit.edge.errors import SettingsError
from serkit.edge.events import Event
from serkit.edge.listener import Listener, listen
from serkit.edge.sinks.web import WebPage, WebSettings

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from serkit.edge.sinks import web_server

JSON = {"Content-Type": "application/json"}
MUTE = json.dumps({"muted": True})


@contextmanager
def opened(settings: WebSettings | None = None) -> Iterator[tuple[WebPage, Listener]]:
    page = WebPage(settings or WebSettings(port=0))
    with listen(lambda rate: FakeSource(np.zeros(rate, np.float32), rate), sinks=[page]) as listener:
        yield page, listener


@pytest.fixture(scope="module")
def page() -> Iterator[WebPage]:
    """A page for tests that leave no traces on it."""
    with opened() as (page, _):
        yield page


def port(page: WebPage) -> int:
    assert page.address is not None
    return int(page.address.rstrip("/").rpartition(":")[2])


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = response.read().decode()


def ask(page: WebPage, path: str, method: str = "GET", body: str | None = None, **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port(page), timeout=10)
    try:
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        return Answer(connection.getresponse())
    finally:
        connection.close()


class Stream:
    """An open page: its messages, one by one."""

    def __init__(self, page: WebPage, **headers: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port(page), timeout=10)
        self.connection.request("GET", "/events", headers=headers)
        self.response = self.connection.getresponse()
        assert self.response.status == 200
        assert self.response.headers["content-type"].startswith("text/event-stream")

    def read(self) -> tuple[str, dict[str, Any]] | None:
        """The next message; None at the end."""
        kind = self.response.readline().decode().strip()
        if not kind:
            return None
        data = self.response.readline().decode().strip()
        assert self.response.readline() == b"\n"
        return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    def until(self, kind: str, fits: Callable[[dict[str, Any]], bool] = lambda data: True) -> dict[str, Any]:
        while (message := self.read()) is not None:
            if message[0] == kind and fits(message[1]):
                return message[1]
        raise AssertionError(f"the stream ended without {kind}")

    def close(self) -> None:
        self.response.close()
        self.connection.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def heard(time_s: float, emotion: str = "happy", confidence: float = 0.75) -> Event:
    return Event(
        time_s=time_s,
        kind="emotion",
        emotion=emotion,
        confidence=confidence,
        probabilities={emotion: confidence},
        model="m",
        speech_ratio=0.9,
        level_dbfs=-20.0,
    )


def test_the_page_comes_with_a_policy_that_keeps_it_to_itself(page: WebPage) -> None:
    for path, kind in (("/", "html"), ("/page.css", "css"), ("/page.js", "javascript"), ("/icon.svg", "svg")):
        answer = ask(page, path)
        assert (answer.status, kind in answer.headers["content-type"]) == (200, True)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["server"] is None
        foreign = answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in foreign
        assert "https://" not in foreign
        assert ask(page, path, "HEAD").text == ""


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/../web.py", 404),
        ("GET", "/%2e%2e/web.py", 404),
        ("GET", "/page.js/", 307),
        ("GET", "/mute", 405),
        ("POST", "/", 405),
        ("POST", "/events", 405),
        ("DELETE", "/mute", 405),
        ("OPTIONS", "/mute", 405),
        ("HEAD", "/events", 200),
    ],
)
def test_paths_and_methods_that_do_not_exist_are_answered(page: WebPage, method: str, path: str, status: int) -> None:
    assert ask(page, path, method).status == status


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "[", "a:b:c", "é"])
def test_without_a_token_only_names_of_this_machine_are_served(page: WebPage, host: str) -> None:
    assert ask(page, "/", Host=host.encode("utf-8").decode("latin-1")).status == 403
    assert ask(page, "/mute", "POST", MUTE, Host=host.encode("utf-8").decode("latin-1"), **JSON).status == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:80", "[::1]:8765"])
def test_names_of_this_machine_are_served(page: WebPage, host: str) -> None:
    assert ask(page, "/", Host=host).status == 200


def test_muting_needs_json_from_the_page_itself() -> None:
    with opened() as (page, listener):
        here = f"127.0.0.1:{port(page)}"
        for origin in ("http://evil.example", "null", f"http://127.0.0.1:{port(page) + 1}", "http://["):
            assert ask(page, "/mute", "POST", MUTE, Origin=origin, **JSON).status == 403
        assert ask(page, "/mute", "POST", MUTE, Content_Type="text/plain").status == 415
        assert ask(page, "/mute", "POST", MUTE).status == 415
        for body in ("", "{", "[]", "1", "{}", '{"muted": 1}', '{"muted": "yes"}', "[" * 1000, "\x00"):
            assert ask(page, "/mute", "POST", body, **JSON).status == 400
        assert ask(page, "/mute", "POST", "[" * 100_000, **JSON).status == 413
        for site in ("cross-site", "same-site"):
            assert ask(page, "/mute", "POST", MUTE, Sec_Fetch_Site=site, **JSON).status == 403
            assert ask(page, "/events", Sec_Fetch_Site=site).status == 403
            assert ask(page, "/", Sec_Fetch_Site=site).status == 200  # a link
        assert not listener.muted
        answer = ask(page, "/mute", "POST", MUTE, Origin=f"http://{here}", **JSON)
        assert (answer.status, json.loads(answer.text)) == (200, {"schema": 1, "muted": True})
        assert listener.muted
        assert ask(page, "/mute", "POST", '{"muted": false}', **JSON).status == 200
        assert not listener.muted


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"POST /mute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: -1\r\n\r\n",
        b"GET /%ff%fe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
    ],
)
def test_requests_that_make_no_sense_are_refused_quietly(
    page: WebPage, request_: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(("127.0.0.1", port(page)), timeout=10) as client:
        try:
            client.sendall(request_)
            answer = client.recv(1 << 16)
        except ConnectionError:
            answer = b""
    assert answer.partition(b" ")[2][:3] in (b"400", b"403", b"404", b"")
    assert ask(page, "/").status == 200
    assert capfd.readouterr() == ("", "")


def test_another_address_needs_the_token_that_was_said() -> None:
    with opened(WebSettings(host="0.0.0.0", port=0)) as (page, listener):
        said = page.notice() or ""
        assert page.token is not None
        assert page.link == f"{page.address}?token={page.token}"
        assert page.token not in said
        assert page.notice() is None
        for path in ("/", "/page.js", "/events", "/nothing"):
            refused = ask(page, path)
            assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        for wrong in ("x", "", "%C3%A9", page.token[:-1]):
            assert ask(page, f"/?token={wrong}").status == 401
        assert ask(page, "/", Authorization="Bearer é".encode().decode("latin-1")).status == 401
        assert ask(page, "/", Cookie="serkit=; ;;=;é".encode().decode("latin-1")).status == 401
        assert ask(page, "/mute", "POST", MUTE, **JSON).status == 401
        assert not listener.muted

        entered = ask(page, f"/?token={page.token}", Host="box.local")
        assert (entered.status, entered.headers["location"]) == (303, "./")
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        kept = cookie.partition(";")[0]
        assert ask(page, "/", Cookie=kept, Host="box.local").status == 200
        assert ask(page, "/mute", "POST", MUTE, Cookie=kept, Origin="http://evil.example", **JSON).status == 403
        assert ask(page, "/mute", "POST", MUTE, Authorization=f"Bearer {page.token}", **JSON).status == 200
        assert listener.muted


def test_the_token_is_not_on_the_page() -> None:
    with opened(WebSettings(host="0.0.0.0", port=0)) as (page, _):
        with Stream(page, Authorization=f"Bearer {page.token}") as stream:
            page.send(Event(time_s=1.0, kind="status", model="m", message=f"web: {page.notice()}"))
            message = stream.until("event")["message"]
        assert str(page.address) in message
        assert str(page.token) not in message


def test_a_token_of_the_settings_is_kept_and_not_said() -> None:
    with opened(WebSettings(port=0, token="open-sesame")) as (page, _):
        assert "open-sesame" not in (page.notice() or "")
        assert ask(page, "/").status == 401
        assert ask(page, "/?token=open-sesame").status == 303


def test_a_page_gets_the_last_minutes_and_then_every_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "_HISTORY", 3)
    with opened() as (page, listener):
        for i in range(5):
            page.send(heard(float(i)))
        page.send(Event(time_s=5.0, kind="status", model="m", message="muted"))
        with Stream(page) as stream:
            hello = stream.until("hello")
            assert hello["answers"] == list(listener.answers)
            assert [window[1:] for window in hello["windows"]] == [[2.0, "happy"], [3.0, "happy"], [4.0, "happy"]]
            assert [text for _, text in hello["messages"]] == ["muted"]
            assert hello["event"]["time_s"] == 4.0
            assert abs(hello["now"] - time.time()) < 60
            page.send(heard(6.0, "sad", 0.61234))
            event = stream.until("event")
            assert (event["time_s"], event["emotion"], event["confidence"]) == (6.0, "sad", 0.6123)
            assert stream.until("state")["muted"] is False
            listener.mute()
            assert stream.until("state", lambda state: state["muted"])["lost"] == 0


@contextmanager
def stalled(page: WebPage, other: Stream) -> Iterator[tuple[socket.socket, float]]:
    """A page that does not read, after so many events that some are lost, and the time of the last one."""
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(10)
        slow.connect(("127.0.0.1", port(page)))
        slow.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert slow.recv(12) == b"HTTP/1.1 200"
        assert "the page is at" in (page.notice() or "")
        notice, time_s = None, 0.0
        while notice is None and time_s < 5000:
            for _ in range(20):
                time_s += 1
                page.send(heard(time_s))
            assert other.until("event", lambda event, end=time_s: event["time_s"] == end)  # type: ignore[misc]
            notice = page.notice()
        assert notice == "a page is too slow for the stream; it misses the oldest events"
        yield slow, time_s


def test_a_page_that_does_not_read_loses_the_oldest_and_holds_up_nobody() -> None:
    with opened() as (page, _), Stream(page) as other, stalled(page, other) as (slow, time_s):
        assert other.until("state")["lost"] == 0
        received, newest = b"", f'"time_s": {time_s}'.encode()
        while newest not in received:
            received = received[-1000:] + slow.recv(1 << 16)


def test_sending_does_not_wait_for_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, go_on = threading.Event(), threading.Event()

    def wait(_: Event) -> None:
        stuck.set()
        go_on.wait(10)

    with opened() as (page, _):
        monkeypatch.setattr(page._server, "_publish", wait)
        page.send(heard(1.0))
        assert stuck.wait(10)
        for i in range(100):
            page.send(heard(float(i)))  # would hang here
        go_on.set()


def test_the_number_of_pages_is_bounded(page: WebPage) -> None:
    streams = [Stream(page) for _ in range(web_server.MAX_PAGES)]
    for stream in streams:
        stream.until("hello")
    assert ask(page, "/events").status == 503
    assert ask(page, "/events", "HEAD").status == 503
    assert ask(page, "/").status == 200
    page.send(heard(1.0))
    assert {stream.until("event")["time_s"] for stream in streams} == {1.0}
    streams.pop().close()
    while ask(page, "/events", "HEAD").status == 503:
        pass
    for stream in streams:
        stream.close()


def test_the_number_of_connections_is_bounded(page: WebPage) -> None:
    with ExitStack() as stack:
        for _ in range(web_server.MAX_CONNECTIONS + 1):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port(page)), timeout=10))
        with suppress(ConnectionError):
            assert client.recv(1) == b""  # hung up


def test_an_address_that_cannot_be_used_is_said_in_one_line(page: WebPage) -> None:
    message = rf"127.0.0.1 port {port(page)} cannot be used \(Address already in use\); stop what else uses it"
    with pytest.raises(SettingsError, match=message):
        WebPage(WebSettings(port=port(page))).start(None)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"a.b port 8765 cannot be used"):
        WebPage(WebSettings(host="a\0b")).start(None)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"x{70} port 8765 cannot be used"):
        WebPage(WebSettings(host=70 * "x")).start(None)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"192.0.2.7 port 0 cannot be used .* set another host or port"):
        WebPage(WebSettings(host="192.0.2.7", port=0)).start(None)  # type: ignore[arg-type]


def test_closing_frees_the_port_and_leaves_no_thread() -> None:
    threads = [thread.name for thread in threading.enumerate()].count("serkit-web")
    page = WebPage(WebSettings(port=0))
    page.send(heard(0.0))
    page.close()  # never started
    with opened() as (page, _), Stream(page) as stream, stalled(page, stream):
        taken = port(page)
        page.send(heard(-1.0))
        page.close()
        assert stream.until("event")["time_s"] == -1.0  # what was queued was delivered
        page.close()
        page.send(heard(2.0))
        assert [thread.name for thread in threading.enumerate()].count("serkit-web") == threads
        with opened(WebSettings(port=taken)) as (again, _):
            assert ask(again, "/").status == 200

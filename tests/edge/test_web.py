from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serkit.edge.config import read_config
from serkit.edge.errors import MissingExtraError, SettingsError
from serkit.edge.sinks.web import WebPage, WebSettings

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")


def test_a_missing_extra_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "serkit.edge.sinks.web_server", raising=False)
    monkeypatch.delattr("serkit.edge.sinks.web_server", raising=False)
    with pytest.raises(MissingExtraError, match=r"the web page needs uvicorn.*pip install -e '.\[web\]'"):
        WebPage().start(None)  # type: ignore[arg-type]


def test_a_configuration_names_the_page(tmp_path: Path) -> None:
    path = tmp_path / "serkit.toml"
    path.write_text('[web]\nport = 8080\ntoken = "open-sesame"\n')
    (sink,) = read_config(path).sinks()
    assert isinstance(sink, WebPage)
    assert sink.settings == WebSettings(port=8080, token="open-sesame")
    assert read_config().sinks() == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"port": 65536}, "port is 65536"),
        ({"host": ""}, "host is empty"),
        ({"token": "short"}, "8 to 128"),
        ({"token": "a b c d e f"}, "8 to 128"),
    ],
)
def test_settings_say_what_is_wrong(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        WebSettings(**values)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_this_machine_alone_needs_no_token(host: str) -> None:
    assert WebPage(WebSettings(host=host)).token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "box.local"])
def test_every_other_address_gets_one(host: str) -> None:
    tokens = {WebPage(WebSettings(host=host)).token for _ in range(3)}
    assert len(tokens) == 3
    assert None not in tokens


def test_reading_a_configuration_loads_no_server() -> None:
    code = "import sys, serkit.edge.config; print({'uvicorn', 'starlette', 'asyncio'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serkit.edge.config import read_config
from serkit.edge.errors import SettingsError

ALL = """
preset = "driver"
[json_lines]
path = "events.jsonl"
max_bytes = 100000
[mqtt]
host = "homeassistant.local"
username = "edge"
password = "s3cret"
[prometheus]
"""


def test_a_table_makes_a_sink(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(ALL)
    config = read_config(tmp_path / "c.toml")
    assert [sink.name for sink in config.sinks()] == ["json_lines", "mqtt", "prometheus"]
    assert config.json_lines is not None
    assert config.json_lines.max_bytes == 100_000
    assert config.mqtt is not None
    assert config.mqtt.host == "homeassistant.local"
    assert "s3cret" not in repr(config)
    assert read_config().sinks() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[json_lines]", "json_lines: path is missing; add it"),
        ("[mqtt]\nhots = 'x'", "mqtt: unknown setting 'hots'; known: host, port"),
        ("[mqtt]\nport = 'x'", "mqtt: port is 'x'; a whole number is needed"),
        ("[mqtt]\nport = 70000", "mqtt: port is 70000; it needs 1 to 65535"),
        ("mqtt = 1", "mqtt: a table of settings is needed, found 1"),
        ("[kafka]", "unknown setting 'kafka'"),
        (f"a = {'9' * 5000}", "not TOML (Exceeds the limit"),
        (f"a = {'[' * 100_000}", "c.toml: not TOML ("),
    ],
)
def test_a_table_with_a_mistake(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(SettingsError) as raised:
        read_config(tmp_path / "c.toml")
    assert message in str(raised.value)


def test_a_configuration_without_sinks_imports_none() -> None:
    code = "import sys; from serkit.edge.config import *; Config().sinks(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"paho", "prometheus_client", "ssl"} & set(loaded)

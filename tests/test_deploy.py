"""The files in deploy/: a configuration that documents every option, and a unit that systemd finds tight."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import typing
from pathlib import Path
from typing import Any

import pytest

from serkit.edge.config import Config, read_config
from serkit.edge.decision import ClassSettings
from serkit.edge.settings import tomllib

DEPLOY = Path(__file__).parent.parent / "deploy"
UNIT = DEPLOY / "systemd" / "serkit.service"
OPTION = re.compile(r"^#(?P<line>(?P<name>\w+) = .*?)(?P<example> +# no default.*)?$")
TABLE = re.compile(r"^#\[(?P<name>[\w.]+)\]$")


def uncommented(*left_out: str) -> str:
    kept = [
        line[1:] if re.match(r"^#[\w\[]", line) else line
        for line in (DEPLOY / "serkit.toml").read_text().splitlines()
        if not any(line.startswith(f"#{name} = ") for name in left_out)
    ]
    return "\n".join(kept)


def settings_of(kind: Any) -> dict[str, Any]:
    """Each table's dataclass, by its name in the file; the top has none."""
    found = {"": kind}
    for name, hint in typing.get_type_hints(kind).items():
        inner = next((h for h in [hint, *typing.get_args(hint)] if dataclasses.is_dataclass(h)), None)
        found |= {f"{name}.{k}".rstrip("."): v for k, v in settings_of(inner).items()} if inner else {}
    return found


def shown() -> dict[str, dict[str, tuple[Any, bool]]]:
    """Table to option to its value and whether that is only an example."""
    tables: dict[str, dict[str, tuple[Any, bool]]] = {"": {}}
    table = ""
    for line in (DEPLOY / "serkit.toml").read_text().splitlines():
        if match := TABLE.match(line):
            table = match["name"].replace("classes.calm", "classes")
            tables[table] = {}
        elif match := OPTION.match(line):
            value = tomllib.loads(match["line"])[match["name"]]
            tables[table][match["name"]] = (value, match["example"] is not None)
    return tables


def test_the_configuration_changes_nothing_as_it_is() -> None:
    assert read_config(DEPLOY / "serkit.toml") == read_config()


# one password, and a certificate authority only with tls
@pytest.mark.parametrize("left_out", [("password", "ca_file"), ("password_file", "tls")])
def test_every_option_uncommented_is_understood(left_out: tuple[str, ...], tmp_path: Path) -> None:
    text = uncommented(*left_out)
    if "tls" in left_out:
        text = text.replace("ca_file =", "tls = true\nca_file =")
    (tmp_path / "all.toml").write_text(text)
    config = read_config(tmp_path / "all.toml")
    assert None not in (config.json_lines, config.mqtt, config.prometheus, config.web)


def test_every_option_is_shown_with_its_default() -> None:
    tables, found = settings_of(Config), shown()
    assert tables["decision.classes"] is ClassSettings
    assert set(found) == set(tables)
    for name, kind in tables.items():
        fields = {f.name: f for f in dataclasses.fields(kind) if f"{name}.{f.name}".lstrip(".") not in tables}
        assert list(found[name]) == list(fields), name
        for key, (value, example) in found[name].items():
            default = fields[key].default
            if default in (None, (), dataclasses.MISSING):
                assert example, f"{name}.{key} has no default, and its line says so"
            else:
                assert (value, type(value), example) == (default, type(default), False), f"{name}.{key}"


@pytest.fixture
def _systemd() -> None:
    if shutil.which("systemd-analyze") is None:
        missing = "systemd-analyze is not installed: apt install systemd"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)


@pytest.mark.usefixtures("_systemd")
def test_the_unit_is_tight() -> None:
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=14", str(UNIT)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-200:]


@pytest.mark.usefixtures("_systemd")
def test_the_unit_is_understood(tmp_path: Path) -> None:
    text = UNIT.read_text().replace("/opt/serkit/bin/serkit", "/bin/true")
    (tmp_path / "serkit.service").write_text(re.sub(r"^Documentation=.*\n", "", text, flags=re.MULTILINE))
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "serkit.service")]
    lines = subprocess.run(command, capture_output=True, text=True).stderr.splitlines()
    newer = ("RestartSteps", "RestartMaxDelaySec")  # systemd 254
    assert [line for line in lines if "serkit" in line and not any(f"'{name}'" in line for name in newer)] == []


def test_the_unit_leaves_out_what_breaks_it() -> None:
    settings = [line for line in UNIT.read_text().splitlines() if not line.startswith("#")]
    for broken in ("MemoryDenyWriteExecute", "ProcSubset", "PrivateDevices", "notify-reload"):
        assert not any(broken in line for line in settings), broken
    assert "SystemCallErrorNumber=EPERM" in settings


def test_the_assistant_goes_on_when_serkit_ends() -> None:
    guide = (UNIT.parents[1] / "guides" / "voice-assistant.md").read_text()
    tees = re.findall(r"\| (tee[^>]*)>\(", guide)
    assert len(tees) == 2
    for tee in tees:
        heard = f"yes 2>/dev/null | {tee}>(head -c 10 >/dev/null) 2>/dev/null | head -c 10000000 | wc -c"
        assert subprocess.run(["bash", "-c", heard], capture_output=True, text=True).stdout.strip() == "10000000"

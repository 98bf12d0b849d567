"""The image's own programs: what serkit.txt makes of a device, and the list of what an image holds."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import io
import json
import os
import re
import stat
import subprocess
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

tomllib = pytest.importorskip("tomllib", reason="the image's Python is 3.11")

PI = Path(__file__).parents[1] / "deploy" / "pi"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup = load(PI / "root/usr/local/lib/serkit/setup.py")
sbom = load(PI / "sbom.py")

BLOB = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes(range(32))).decode()
KEY = f"ssh-ed25519 {BLOB} me@home"


def device(tmp_path: Path, text: str, toml: str = "") -> tuple[int, Path]:
    """Configure a root from a serkit.txt."""
    (tmp_path / "etc/serkit").mkdir(parents=True)
    (tmp_path / "etc/serkit/serkit.toml").write_text(toml)
    (tmp_path / "serkit.txt").write_bytes(text.encode())
    return setup.main(tmp_path / "serkit.txt", tmp_path), tmp_path


def test_the_file_on_the_card_names_every_setting_and_sets_none(tmp_path: Path) -> None:
    text = (PI / "serkit.txt").read_text()
    assert tuple(re.findall(r"^(\w+) =$", text, re.MULTILINE)) == setup.NAMES
    code, root = device(tmp_path, text, "# as packaged\n")
    assert code == 0
    assert (root / "etc/serkit/serkit.toml").read_text() == "# as packaged\n"
    assert not (root / "root").exists()
    assert not (root / "etc/wpa_supplicant").exists()
    assert not (root / "etc/systemd").exists()


def test_every_setting_reaches_its_program(tmp_path: Path) -> None:
    text = f"""
    name = kitchen
    wifi_name = Café "5 GHz"
    wifi_password = pass "word" # with = and #
    wifi_country = de
    microphone = USB "PnP": Audio (hw:1,0)
    preset = driver
    mqtt_host = homeassistant.local
    mqtt_port = 1884
    mqtt_username = me
    mqtt_password = a\\b"c
    ssh_key = {KEY}
    ssh_key = {KEY} too
    """
    code, root = device(tmp_path, text, 'model = "default"\n[pace]\nthreads = 1\n')
    assert code == 0
    assert (root / "etc/hostname").read_text() == "kitchen\n"
    assert "127.0.1.1 kitchen\n" in (root / "etc/hosts").read_text()
    wifi = root / "etc/wpa_supplicant/wpa_supplicant-wlan0.conf"
    assert stat.S_IMODE(wifi.stat().st_mode) == 0o600
    assert "country=DE\n" in wifi.read_text()
    ssid = 'Café "5 GHz"'.encode().hex()
    assert f"\tssid={ssid}\n" in wifi.read_text()
    assert '\tpsk="pass "word" # with = and #"\n' in wifi.read_text()
    keys = root / "root/.ssh/authorized_keys"
    assert keys.read_text() == f"{KEY}\n{KEY} too\n"
    assert [stat.S_IMODE(p.stat().st_mode) for p in (keys, keys.parent)] == [0o600, 0o700]
    assert tomllib.loads((root / "etc/serkit/serkit.toml").read_text()) == {
        "device": 'USB "PnP": Audio (hw:1,0)',
        "preset": "driver",
        "model": "default",
        "pace": {"threads": 1},
        "mqtt": {
            "host": "homeassistant.local",
            "port": 1884,
            "username": "me",
            "password_file": "/run/credentials/serkit.service/mqtt",
        },
    }
    password = root / "etc/serkit/mqtt-password"
    assert password.read_text() == 'a\\b"c'
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    unit = (root / "etc/systemd/system/serkit.service.d/reach.conf").read_text()
    assert unit == "[Service]\nIPAddressAllow=any\nLoadCredential=mqtt:/etc/serkit/mqtt-password\n"


def test_serkit_takes_the_configuration(tmp_path: Path) -> None:
    from serkit.edge.config import read_config

    _, root = device(tmp_path, "preset = driver\nmqtt_host = broker\nmqtt_username = me\nmqtt_password = secret")
    config = read_config(root / "etc/serkit/serkit.toml")
    assert config.preset == "driver"
    assert config.mqtt is not None
    assert (config.mqtt.host, config.mqtt.username) == ("broker", "me")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("wifi = home", "line 1: 'wifi' is no setting; write NAME = VALUE with one of name, wifi_name"),
        ("\n\njust words", "line 3: 'just words' is no setting"),
        ("name = my kitchen", "line 1: name is 'my kitchen'; up to 63 letters, digits and - are needed"),
        ("name = a\nname = b", "line 2: name is given twice; keep one"),
        ("wifi_name = " + "ü" * 17 + "\nwifi_country = DE", "line 1: wifi_name has 34 bytes"),
        ("wifi_name = home", "wifi_name is given without wifi_country; add it"),
        ("wifi_password = 12345678", "wifi_password is given without wifi_name; add it"),
        ("wifi_password = short", "line 1: wifi_password has 5 characters; 8 to 63 plain ones are needed"),
        ("wifi_country = Germany", "line 1: wifi_country is 'Germany'; two letters such as DE are needed"),
        ("preset = loud", "line 1: preset is 'loud'; choose one of driver, assistant, research"),
        ("mqtt_host = http://broker/", "line 1: mqtt_host is 'http://broker/'"),
        ("mqtt_host = b\nmqtt_port = 0", "line 2: mqtt_port is '0'; a number from 1 to 65535 is needed"),
        ("mqtt_host = b\nmqtt_password = geheim12", "mqtt_password is given without mqtt_username; add it"),
        ("microphone = a\x07b", "line 1: microphone holds characters that cannot be seen; type it anew"),
        ("ssh_key = -----BEGIN OPENSSH PRIVATE KEY-----", "line 1: ssh_key is a private key, which stays secret"),
        (f"ssh_key = {KEY[:40]}", "line 1: ssh_key is no public key; the one line of a .pub file is needed, whole"),
        (f"ssh_key = ssh-rsa {BLOB}", "line 1: ssh_key is no public key"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_the_rest_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, problem: str
) -> None:
    code, root = device(tmp_path, f"{text}\nssh_key = {KEY}")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"serkit.txt: {problem}")
    assert code == 1
    assert not re.search("geheim|short$|12345678", line)
    assert (root / "root/.ssh/authorized_keys").read_text() == f"{KEY}\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_any_editor_will_do(encoding: str) -> None:
    content = "# à\r\nwifi_name = Über\r\nwifi_country = AT\r\n".encode(encoding)
    assert setup.read_settings(setup.decode(content)) == ({"wifi_name": ["Über"], "wifi_country": ["AT"]}, [])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"name = \xff", "serkit.txt: not a text in UTF-8; save it anew with that encoding"),
        (b"#" * 65537, "serkit.txt: 65537 bytes; a text of a few lines is needed"),
        (None, "serkit.txt: cannot be read (No such file or directory); the device runs without settings"),
    ],
)
def test_a_file_that_is_none_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / "serkit.txt").write_bytes(content)
    assert setup.main(tmp_path / "serkit.txt", tmp_path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(problem)


def test_a_configuration_with_its_own_broker_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packaged = '[mqtt]\nhost = "mine"\n'
    code, root = device(tmp_path, "mqtt_host = other", packaged)
    assert code == 1
    assert capsys.readouterr().err.startswith("serkit.txt: serkit.toml does not take the settings (")
    assert (root / "etc/serkit/serkit.toml").read_text() == packaged


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    settings, problems = setup.read_settings(text)
    assert set(settings) <= set(setup.NAMES)
    assert all("\n" not in problem for problem in problems)


@given(st.binary())
def test_no_bytes_break_it(content: bytes) -> None:
    with contextlib.suppress(setup.SettingError):
        settings, _ = setup.read_settings(setup.decode(content))
        assert settings.keys() <= set(setup.NAMES)
        assert all(len(values) == 1 or name == "ssh_key" for name, values in settings.items())


def test_sbom_lists_debs_and_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = """Package: serkit
Status: install ok installed
Architecture: arm64
Version: 1.2~git1+py3.11

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1

Package: systemd
Status: install ok installed
Architecture: arm64
Version: 252.1-1~deb12u1
Description: two
 lines
"""
    files = {
        "./usr/lib/os-release": 'ID=debian\nVERSION_ID="12"\n',
        "./var/lib/dpkg/status": status,
        "./opt/serkit/lib/python3.11/site-packages/Foo_Bar-2.0.dist-info/METADATA": "Name: Foo_Bar\nVersion: 2.0\n"
        "License-Expression: MIT\n\nIt does.\n",
    }
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    found = sbom.components(sbom.read_members(tmp_path / "root.tar"))
    assert [c["purl"] for c in found] == [
        "pkg:deb/debian/serkit@1.2~git1%2Bpy3.11?arch=arm64&distro=debian-12",
        "pkg:deb/debian/systemd@252.1-1~deb12u1?arch=arm64&distro=debian-12",
        "pkg:pypi/foo-bar@2.0",
    ]
    assert found[2]["licenses"] == [{"expression": "MIT"}]
    document = json.loads(json.dumps(sbom.document(found, "serkit-pi")))
    assert document["metadata"]["timestamp"] == "1970-01-01T00:00:00Z"
    assert document["metadata"]["component"]["version"] == "1.2~git1+py3.11"


def test_a_whole_configuration_keys_and_voices_lie_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "serkit.toml").write_text("[pace]\nhops = 2\n\n[web]\n")
    (tmp_path / "mine.pub").write_text("untrusted comment: a key\nRWQ=\n")
    (tmp_path / "anna.json").write_text('{"name": "anna"}')
    code, root = device(tmp_path, "microphone = USB\n")
    assert (code, capsys.readouterr().err) == (0, "")
    written = (root / "etc/serkit/serkit.toml").read_text()
    assert tomllib.loads(written) == {"device": "USB", "pace": {"hops": 2}, "web": {}}
    assert (root / "etc/serkit/trusted/mine.pub").read_text().endswith("RWQ=\n")
    assert (root / "etc/serkit/voices/anna.json").read_text() == '{"name": "anna"}'
    assert "IPAddressAllow=any" in (root / "etc/systemd/system/serkit.service.d/reach.conf").read_text()


def test_a_configuration_with_a_mistake_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "serkit.toml").write_text("[pace\n")
    (tmp_path / "mine.pub").write_bytes(b"\xff\xff")
    code, root = device(tmp_path, "preset = driver\n")
    assert code == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("serkit.toml: ")
    assert first.endswith("; the packaged one is used")
    assert second == "mine.pub: not a text in UTF-8; save it anew with that encoding; it is not trusted"
    assert tomllib.loads((root / "etc/serkit/serkit.toml").read_text()) == {"preset": "driver"}
    assert not (root / "etc/serkit/trusted").exists()


@pytest.mark.parametrize(
    ("found", "checks", "code", "said"),
    [
        ("echo ext4", (0,), 0, ""),
        ("echo ext4", (1,), 0, ""),
        ("echo ext4", (4, 1), 0, ""),
        ("echo ext4", (4, 4), None, "beyond repair and is made anew"),
        ("echo ext4", (8, 8), 1, "cannot be checked (e2fsck: 8)"),
        ("echo ext4", (4, 12), 1, "cannot be checked (e2fsck: 12)"),
        ("exit 8", (), 1, "cannot be read"),
    ],
)
def test_only_what_is_beyond_repair_is_made_anew(
    tmp_path: Path, found: str, checks: tuple[int, ...], code: int | None, said: str
) -> None:
    results = " ".join(str(c) for c in checks)
    scripts = {
        "blkid": found,
        "e2fsck": f"n=$(cat {tmp_path}/n 2>/dev/null || echo 1); echo $((n + 1)) > {tmp_path}/n; "
        f"set -- {results}; shift $((n - 1)); exit $1",
        **dict.fromkeys(("sfdisk", "partx", "mkfs.ext4", "udevadm", "sync", "flock"), f"echo $0 >> {tmp_path}/made"),
    }
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["sh", str(PI / "root/usr/local/lib/serkit/data"), "/dev/null"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert said in done.stdout
    if code is not None:
        assert done.returncode == code
        assert not (tmp_path / "made").exists()

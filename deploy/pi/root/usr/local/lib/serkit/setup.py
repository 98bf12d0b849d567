"""Configure the device from serkit.txt, which its owner writes on the card's boot partition.

    python3 setup.py FILE

It runs at every start, before the network, ssh and serkit, and writes into an `/etc` that is gone at the next start:
what the file says is all there is. A line that cannot be used is named, once, and the other lines still count.

What serkit.txt has no word for its owner puts beside it: a whole `serkit.toml`, in place of the packaged one, keys to
trust, `*.pub`, and enrolled voices, `*.json`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import tomllib

NAMES = (
    "name",
    "wifi_name",
    "wifi_password",
    "wifi_country",
    "microphone",
    "preset",
    "mqtt_host",
    "mqtt_port",
    "mqtt_username",
    "mqtt_password",
    "ssh_key",
)
PRESETS = ("driver", "assistant", "research")
_NEEDS = {
    "wifi_name": "wifi_country",
    "wifi_password": "wifi_name",
    "mqtt_port": "mqtt_host",
    "mqtt_username": "mqtt_host",
    "mqtt_password": "mqtt_username",
}
REACH_UNIT = "etc/systemd/system/serkit.service.d/reach.conf"
REACH = "[Service]\nIPAddressAllow=any\n"
_KEY = re.compile(r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-[a-z0-9@.-]+) ([A-Za-z0-9+/]+=*)( .*)?")
_HOST = re.compile(r"([0-9A-Za-z_-]{1,63}(\.|$))+|(?=.*:)[0-9A-Fa-f.:]{2,45}")
_MAX_BYTES = 65536

Settings = dict[str, list[str]]


class SettingError(ValueError):
    """A line of serkit.txt cannot be used."""


def decode(content: bytes) -> str:
    """The text, whatever editor wrote it.

    Raises:
        SettingError: It is no text.
    """
    if len(content) > _MAX_BYTES:
        raise SettingError(f"{len(content)} bytes; a text of a few lines is needed")
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise SettingError("not a text in UTF-8; save it anew with that encoding") from None


def read_settings(text: str) -> tuple[Settings, list[str]]:
    """What the lines say.

    Returns:
        Name to its values (several for ``ssh_key`` only), and one sentence for each line that cannot be used.
    """
    settings: Settings = {}
    refused = set()
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        try:
            if not equals or name not in NAMES:
                known = ", ".join(NAMES)
                raise SettingError(f"{name[:40]!r} is no setting; write NAME = VALUE with one of {known}")
            if not value:
                continue
            if name in settings and name != "ssh_key":
                raise SettingError(f"{name} is given twice; keep one")
            check(name, value)
        except SettingError as error:
            problems.append(f"line {number}: {error}")
            refused.add(name)
        else:
            settings.setdefault(name, []).append(value)
    for name, needed in _NEEDS.items():
        if name in settings and needed not in settings:
            if needed not in refused:
                problems.append(f"{name} is given without {needed}; add it")
            del settings[name]
            refused.add(name)
    return settings, problems


def check(name: str, value: str) -> None:
    """Refuse a value that cannot work. Passwords are never repeated.

    Raises:
        SettingError: It cannot.
    """
    if not value.isprintable():
        raise SettingError(f"{name} holds characters that cannot be seen; type it anew")
    if name == "name" and not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", value):
        raise SettingError(f"name is {value!r}; up to 63 letters, digits and - are needed")
    if name == "wifi_name" and len(value.encode()) > 32:
        raise SettingError(f"wifi_name has {len(value.encode())} bytes; a network's name has at most 32")
    if name == "wifi_password" and not re.fullmatch(r"[ -~]{8,63}|[0-9A-Fa-f]{64}", value):
        raise SettingError(f"wifi_password has {len(value)} characters; 8 to 63 plain ones are needed")
    if name == "wifi_country" and not re.fullmatch(r"[A-Za-z]{2}", value):
        raise SettingError(f"wifi_country is {value!r}; two letters such as DE are needed")
    if name == "preset" and value not in PRESETS:
        raise SettingError(f"preset is {value!r}; choose one of {', '.join(PRESETS)}")
    if name == "mqtt_host" and not _HOST.fullmatch(value):
        raise SettingError(f"mqtt_host is {value!r}; a name such as homeassistant.local or an address is needed")
    if name == "mqtt_port" and not (value.isascii() and value.isdigit() and 1 <= int(value) <= 65535):
        raise SettingError(f"mqtt_port is {value!r}; a number from 1 to 65535 is needed")
    if name == "ssh_key":
        check_key(value)


def check_key(value: str) -> None:
    """Refuse what is no public key; half a key would lock its owner out."""
    if "PRIVATE" in value:
        raise SettingError("ssh_key is a private key, which stays secret; the line of its .pub file is needed")
    match = _KEY.fullmatch(value)
    try:
        blob = base64.b64decode(match[3], validate=True) if match else b""
    except binascii.Error:
        blob = b""
    if match is None or blob[4 : 4 + len(match[1])] != match[1].encode() or len(blob) < 51:
        raise SettingError("ssh_key is no public key; the one line of a .pub file is needed, whole")


def take(folder: Path, root: Path) -> list[str]:
    """Put the boot partition's serkit.toml, keys and voices where serkit looks for them.

    Returns: A sentence for each that is no use.
    """
    problems = []
    own = folder / "serkit.toml"
    if own.exists():
        try:
            text = decode(own.read_bytes())
            values = tomllib.loads(text)
        except (OSError, SettingError, tomllib.TOMLDecodeError) as error:
            problems.append(f"serkit.toml: {error}; the packaged one is used")
        else:
            put(root / "etc/serkit/serkit.toml", text)
            if values.keys() & {"mqtt", "web", "prometheus"}:  # they are for others, in the network
                put(root / REACH_UNIT, REACH)
    for pattern, place, lost in (("*.pub", "trusted", "it is not trusted"), ("*.json", "voices", "it is not known")):
        for file in sorted(folder.glob(pattern)):
            try:
                put(root / "etc/serkit" / place / file.name, decode(file.read_bytes()))
            except (OSError, SettingError) as error:
                problems.append(f"{file.name}: {error}; {lost}")
    return problems


def write(settings: Settings, root: Path) -> None:
    """Put the settings where the programs look for them, under ``root``.

    Raises:
        SettingError: serkit's own configuration does not take them.
    """
    one = {name: values[0] for name, values in settings.items()}
    if name := one.get("name"):
        put(root / "etc/hostname", f"{name}\n")
        put(root / "etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost ip6-loopback\n")
    if "wifi_name" in one:
        put(root / "etc/wpa_supplicant/wpa_supplicant-wlan0.conf", wpa_supplicant(one), 0o600)
    if keys := settings.get("ssh_key"):
        put(root / "root/.ssh/authorized_keys", "".join(f"{key}\n" for key in keys), 0o600)
    path = root / "etc/serkit/serkit.toml"
    put(path, serkit_toml(path.read_text() if path.exists() else "", one))
    if "mqtt_host" in one:  # the service is otherwise kept to this device
        put(root / REACH_UNIT, REACH)
    if "mqtt_password" in one:
        put(root / "etc/serkit/mqtt-password", one["mqtt_password"], 0o600)
        put(root / REACH_UNIT, f"{REACH}LoadCredential=mqtt:/etc/serkit/mqtt-password\n")


def put(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file; what is secret in it is never readable by others, not even for a moment."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755 if mode & 0o044 else 0o700)
    path.touch(mode)
    path.chmod(mode)
    path.write_text(text)


def wpa_supplicant(settings: dict[str, str]) -> str:
    """One network. Its name is given in hex, which needs no quoting."""
    password = settings.get("wifi_password")
    if password is None:
        key = "key_mgmt=NONE"
    elif len(password) == 64:  # the key itself
        key = f"psk={password}"
    else:
        key = f'psk="{password}"'  # the last quote ends it
    return (
        f"ctrl_interface=/run/wpa_supplicant\ncountry={settings['wifi_country'].upper()}\n"
        f"network={{\n\tssid={settings['wifi_name'].encode().hex()}\n\tscan_ssid=1\n\t{key}\n}}\n"
    )


def serkit_toml(packaged: str, settings: dict[str, str]) -> str:
    """serkit's configuration: the packaged one, with the settings in their places.

    Raises:
        SettingError: The packaged one has values of its own there.
    """
    top = {"device": settings.get("microphone"), "preset": settings.get("preset")}
    mqtt = {
        "host": settings.get("mqtt_host"),
        "port": int(settings["mqtt_port"]) if "mqtt_port" in settings else None,
        "username": settings.get("mqtt_username"),
        "password_file": "/run/credentials/serkit.service/mqtt" if "mqtt_password" in settings else None,
    }
    text = _lines(top) + packaged.rstrip("\n") + "\n"
    if table := _lines(mqtt):
        text += f"\n[mqtt]\n{table}"
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"serkit.toml does not take the settings ({error}); remove them from one of both") from None
    return text


def _lines(values: Mapping[str, str | int | None]) -> str:
    return "".join(f"{k} = {json.dumps(v, ensure_ascii=False)}\n" for k, v in values.items() if v is not None)


def say(problem: str) -> None:
    print(problem, file=sys.stderr, flush=True)


def main(path: Path, root: Path = Path("/")) -> int:
    """Returns 1 if anything in the file could not be used."""
    try:
        settings, problems = read_settings(decode(path.read_bytes()))
    except OSError as error:
        settings, problems = {}, [f"cannot be read ({error.strerror}); the device runs without settings"]
    except SettingError as error:
        settings, problems = {}, [f"{error}; the device runs without settings"]
    beside = take(path.parent, root)
    try:
        write(settings, root)
    except SettingError as error:
        problems.append(str(error))
    problems = [*beside, *(f"serkit.txt: {problem}" for problem in problems)]
    if root == Path("/"):
        if "name" in settings:
            socket.sethostname(settings["name"][0])
        if Path("/", REACH_UNIT).exists():
            subprocess.run(["systemctl", "daemon-reload"], check=False)
    for problem in problems:
        say(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

"""The MQTT broker: where it is, what the device is called there, and a client by these settings."""

from __future__ import annotations

import re
import secrets
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from serkit.edge.errors import MissingExtraError, SettingsError
from serkit.edge.settings import path_of

if TYPE_CHECKING:
    import ssl

    from paho.mqtt.client import Client

_CONNECT_S = 5.0
_SHORTEST_S, _LONGEST_S = 1.0, 31_536_000.0  # from one report to the next


@dataclass(frozen=True, kw_only=True)
class MqttSettings:
    """The broker, and what the device is called there.

    Attributes:
        host: The broker.
        port: TCP port; 1883, or 8883 with ``tls``.
        username: If the broker asks for one.
        password: Its password.
        password_file: A file that holds the password, instead of ``password``.
        tls: Encrypt, and check the broker's certificate.
        ca_file: PEM file of the certificate authority; by default those the system trusts.
        name: Of the device; has to differ between devices. By default the host name.
        client_id: By default one that no other client has.
        prefix: Of the topics; by default ``serkit/<name>``.
        discovery: Whether Home Assistant is told about the device.
        discovery_prefix: Home Assistant's own setting.
        keepalive_s: A connection that says nothing for this long is tested, s.
        queue_events: Events kept while the broker is away; then the oldest give way.
        events: Whether every event and the current answer are published.
        health_every_s: How the device does, so often and whenever that changes, s; by default not at all.
        summary_every_s: How long each answer held, so often, s; by default not at all.
        updates: Whether the fleet's controller may have models installed.
    """

    host: str = "localhost"
    port: int | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: str | None = None
    tls: bool = False
    ca_file: str | None = None
    name: str = field(default_factory=socket.gethostname)
    client_id: str | None = None
    prefix: str | None = None
    discovery: bool = True
    discovery_prefix: str = "homeassistant"
    keepalive_s: int = 30
    queue_events: int = 10_000
    events: bool = True
    health_every_s: float | None = None
    summary_every_s: float | None = None
    updates: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"([0-9A-Za-z_-]{1,63}(\.|$))+|(?=.*:)[0-9A-Fa-f.:]{2,45}", self.host):
            raise SettingsError(f"host is {self.host!r}; a name such as homeassistant.local or an address is needed")
        if self.port is not None and not 1 <= self.port <= 65535:
            raise SettingsError(f"port is {self.port}; it needs 1 to 65535")
        if self.password is not None and self.password_file is not None:
            raise SettingsError("password and password_file are both given; keep one")
        if self.username is None and (self.password is not None or self.password_file is not None):
            raise SettingsError("a password is given without username; add it")
        for name in ("username", "password", "client_id"):
            value = getattr(self, name)
            if value is not None and re.search(r"[\0\ud800-\udfff]", value):  # NUL, and bytes that were no UTF-8
                raise SettingsError(f"{name} has characters that MQTT cannot send; leave them out")
        if self.ca_file is not None and not self.tls:
            raise SettingsError("ca_file is given, but tls is off; set tls = true")
        if not self.name or not self.name.isprintable() or set("+#/$") & set(self.name):
            raise SettingsError(f"name is {self.name!r}; letters, digits and - are fine, + # / $ are not")
        for name, topic in (("prefix", self.topic_prefix), ("discovery_prefix", self.discovery_prefix)):
            if not re.fullmatch(r"[^/+#$]+(/[^/+#]+)*", topic) or not topic.isprintable() or len(topic) > 200:
                raise SettingsError(f"{name} is {topic!r}; it needs words joined by /, without + and #")
        if not 5 <= self.keepalive_s <= 65535:
            raise SettingsError(f"keepalive_s is {self.keepalive_s}; it needs 5 to 65535 s")
        if self.queue_events < 1:
            raise SettingsError(f"queue_events is {self.queue_events}; it needs 1 or more")
        for name in ("health_every_s", "summary_every_s"):
            every_s = getattr(self, name)
            if every_s is not None and not _SHORTEST_S <= every_s <= _LONGEST_S:
                raise SettingsError(f"{name} is {every_s:g}; it needs {_SHORTEST_S:g} s or more, and at most a year")

    @property
    def topic_prefix(self) -> str:
        """What every topic begins with."""
        return f"serkit/{self.name}" if self.prefix is None else self.prefix

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port or (8883 if self.tls else 1883)


def check_paho() -> None:
    """Stop where paho-mqtt is missing.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import paho.mqtt.client  # noqa: F401
    except ImportError:
        raise MissingExtraError(
            "[mqtt] needs paho-mqtt, which is not installed; in the clone, `pip install -e '.[mqtt]'`"
        ) from None


def new_client(settings: MqttSettings) -> Client:
    """A client that knows the password and whom to trust, and is not connected yet.

    Its id stays the same from connection to connection: a broker that has not noticed that the one before is dead then
    ends it before, and not long after, the new one says that it is there.

    Raises:
        SettingsError: ``password_file`` or ``ca_file`` cannot be read.
    """
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    client = Client(CallbackAPIVersion.VERSION2, client_id=settings.client_id or f"serkit{secrets.token_hex(8)}")
    if settings.username is not None:
        client.username_pw_set(settings.username, _password(settings))
    if settings.tls:
        client.tls_set_context(_tls(settings.ca_file))
    client.connect_timeout = _CONNECT_S
    return client


def _password(settings: MqttSettings) -> str | None:
    path = settings.password_file
    if path is None:
        return settings.password
    try:
        return path_of(path).read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise SettingsError(f"mqtt: password_file {path} cannot be read ({reason}); correct it") from None


def _tls(ca_file: str | None) -> ssl.SSLContext:
    import ssl

    try:
        return ssl.create_default_context(cafile=ca_file and str(path_of(ca_file)))
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(
            f"mqtt: ca_file {ca_file} cannot be read ({error.strerror or error}); a PEM file is needed"
        ) from None

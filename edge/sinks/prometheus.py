"""What is heard, and how well the listening does, for Prometheus to fetch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serkit import __version__
from serkit.edge.errors import MissingExtraError, SettingsError
from serkit.edge.events import Event
from serkit.edge.sinks import Sink

if TYPE_CHECKING:
    from prometheus_client import Metric

    from serkit.edge.listener import Listener

_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(frozen=True, kw_only=True)
class PrometheusSettings:
    """Where the metrics are, at ``http://host:port/metrics``.

    Attributes:
        host: Address to listen on; ``0.0.0.0`` is every network this machine is in.
        port: TCP port.
    """

    host: str = "127.0.0.1"
    port: int = 9108

    def __post_init__(self) -> None:
        if not self.host:
            raise SettingsError("host is empty; 127.0.0.1 is this machine, 0.0.0.0 every network it is in")
        if not 1 <= self.port <= 65535:
            raise SettingsError(f"port is {self.port}; it needs 1 to 65535")


class Prometheus(Sink):
    """Serves the newest event and the listener's counters; nothing is kept, so nothing can be lost.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """

    name = "prometheus"

    def __init__(self, settings: PrometheusSettings) -> None:
        try:
            from prometheus_client import CollectorRegistry, Histogram
        except ImportError:
            raise MissingExtraError(
                "[prometheus] needs prometheus-client, which is not installed; "
                "in the clone, `pip install -e '.[prometheus]'`"
            ) from None
        self._settings = settings
        self._registry = CollectorRegistry()
        self._latency = Histogram(
            "serkit_latency_seconds",
            "From the arrival of a window's last block to its event.",
            buckets=_LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self._listener: Listener | None = None
        self._event: Event | None = None
        self._server: tuple[Any, threading.Thread] | None = None

    def start(self, listener: Listener) -> None:
        """Open the port.

        Raises:
            SettingsError: It is in use, or there is no such address.
        """
        from prometheus_client import start_http_server

        self._listener = listener
        self._registry.register(self)
        where = f"{self._settings.host}:{self._settings.port}"
        try:
            self._server = start_http_server(self._settings.port, self._settings.host, self._registry)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SettingsError(
                f"prometheus: {where} cannot be opened ({reason}); choose another host or port"
            ) from None

    def send(self, event: Event) -> None:
        if event.kind != "status" and self._listener is not None:
            self._event = event
            self._latency.observe(self._listener.health.latency_ms / 1000)

    def close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            httpd, thread = server
            httpd.shutdown()
            httpd.server_close()
            thread.join()

    def collect(self) -> Iterator[Metric]:
        """Everything but the latency, as it is now; called by Prometheus's own thread."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        listener, event = self._listener, self._event
        if listener is None:
            return
        bundle, health = listener.recognizer.bundle, listener.health
        yield InfoMetricFamily("serkit_build", "What runs.", value={"version": __version__, "model": bundle.name})
        for name, documentation, total in (
            ("serkit_audio_seconds", "Audio heard.", health.audio_s),
            ("serkit_windows", "Windows decided on.", health.windows),
            ("serkit_scored_windows", "Windows the model was asked about; the rest held no speech.", health.scored),
            ("serkit_notices", "Status events: something went wrong or right.", health.notices),
        ):
            yield CounterMetricFamily(name, documentation, value=total)
        yield GaugeMetricFamily("serkit_hop_seconds", "From one window to the next, as it is now.", value=health.hop_s)
        yield GaugeMetricFamily("serkit_muted", "1 while nothing is heard.", value=listener.muted)
        answer = GaugeMetricFamily("serkit_answer", "1 for the newest answer, 0 for all others.", labels=["answer"])
        probability = GaugeMetricFamily("serkit_probability", "Smoothed, of every answer.", labels=["answer"])
        if event is not None:
            for name in dict.fromkeys((*listener.answers, "silence", "unsure")):
                answer.add_metric([name], name == event.answer)
            for name, p in (event.probabilities or {}).items():
                probability.add_metric([name], p)
            for name, documentation, value in (
                ("serkit_arousal", "Expected, -1 (drowsy) to 1 (agitated).", event.arousal),
                ("serkit_valence", "Expected, -1 (unpleasant) to 1 (pleasant).", event.valence),
                ("serkit_level_dbfs", "Of the newest hop's loudest frame, dB of full scale.", event.level_dbfs),
                ("serkit_speech_ratio", "Share of the newest window that holds speech.", event.speech_ratio),
            ):
                if value is not None:
                    yield GaugeMetricFamily(name, documentation, value=value)
        yield answer
        yield probability

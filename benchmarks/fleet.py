"""A fleet on one broker: is a message lost when the broker restarts, how fast is it, and do roll-outs stop?"""

from __future__ import annotations

import json
import signal
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from serkit.benchmarks.mosquitto import PERSISTENT, Mosquitto
from serkit.benchmarks.simulated import Devices
from serkit.edge.bundle import read_bundle, read_signed
from serkit.edge.fleet import Fleet
from serkit.edge.sinks.broker import MqttSettings

HEALTH_S, SUMMARY_S = 10.0, 15.0
_DOWN_S = 5.0  # how long the broker stays away
_EVERY_S = 2.0  # from one event of a device to the next
_BURST = 20  # events of every device at once
_PROCESSES = 4
_WAVES = "1,5%,25%,100%"
_STOP_AT = 5
_SETTLE_S = 120.0  # for what waits to arrive, once nothing more is sent
_QUIET_S = 3.0


class Consumer:
    """Takes all that devices publish, with a session that the broker keeps.

    Attributes:
        seen: Topic, payload and the time of its arrival on the streams' clock, s.
    """

    def __init__(self, port: int, base_s: float) -> None:
        self.seen: list[tuple[str, bytes, float]] = []
        self._base_s = base_s
        self._subscribed = threading.Event()
        client = self._client = Client(CallbackAPIVersion.VERSION2, client_id="consumer", clean_session=False)
        client.reconnect_delay_set(1, 1)
        client.on_connect = self._on_connect
        client.on_subscribe = lambda *_: self._subscribed.set()
        client.on_message = self._on_message
        client.connect("127.0.0.1", port)
        client.loop_start()
        self._subscribed.wait(30)

    def _on_connect(self, client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        client.subscribe("serkit/#", qos=1)

    def _on_message(self, client: Client, userdata: Any, message: Any) -> None:
        self.seen.append((message.topic, message.payload, time.monotonic() - self._base_s))

    def settle(self) -> None:
        """Wait until nothing but what devices say by the clock arrives."""
        deadline = time.monotonic() + _SETTLE_S
        quiet_since, n = time.monotonic(), -1
        while time.monotonic() < deadline and time.monotonic() - quiet_since < _QUIET_S:
            time.sleep(0.1)
            if (now := sum(topic.endswith("/event") for topic, _, _ in list(self.seen))) != n:
                quiet_since, n = time.monotonic(), now

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()


def measure(
    n_devices: int,
    seconds: float,
    shown: Callable[[dict[str, Any]], None],
    told: Callable[[str], None] = lambda line: None,
) -> tuple[list[dict[str, Any]], list[float]]:
    """Run a fleet of simulated devices; see `serkit.benchmarks.simulated` for what is simulated.

    Args:
        n_devices: How many.
        seconds: Of each part in which devices talk while the broker is restarted in the middle.
        shown: Called with each row as it is made.
        told: Called with what is being done.

    Returns:
        Rows by ``what``, in the order of their being made, and the times of arrival of all events, s.

        - ``connect``: ``seconds`` until all had said so.
        - ``roll-out``: with one device in twenty that refuses the model, and then without; what came of it.
        - ``restart`` and ``kill``: the broker was ended by SIGTERM or SIGKILL and came back 5 s later. Events ``sent``,
          ``lost`` and ``duplicates``, ``messages_per_s`` and ``most_in_a_second``, percentiles of the time from
          publishing to arrival before the broker ended, ``median_ms`` and ``p95_ms``, and the longest, ``longest_s``.
        - ``burst``: the same, when every device has 20 events at once; devices, which share this machine's cores, are
          slower at that than the broker.
        - ``whole``: of all parts, events ``sent``, those that ``gave_way`` in a full queue, devices with something
          ``undelivered`` at the end, how many ``health`` and ``summaries`` arrived, and on how many devices the
          summaries add up to what was heard.
        - ``memory``: of a device (sink, threads and connection) and of the broker, kB.
    """
    base_s = time.monotonic()
    rows: list[dict[str, Any]] = []

    def row(what: str, **figures: Any) -> None:
        rows.append({"what": what, "devices": n_devices, **figures})
        shown(rows[-1])

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(Mosquitto(folder, PERSISTENT))
        idle_kb = broker.memory_kb()
        consumer = Consumer(broker.port, base_s)
        stack.callback(consumer.close)
        names = [f"device-{i:03d}" for i in range(n_devices)]
        failing = names[7::20]
        settings = [
            MqttSettings(
                host="127.0.0.1", port=broker.port, name=name, discovery=False, updates=True,
                health_every_s=HEALTH_S, summary_every_s=SUMMARY_S,
            )
            for name in names
        ]  # fmt: skip
        groups = [Devices(settings[i::_PROCESSES], base_s, failing) for i in range(min(_PROCESSES, n_devices))]
        for group in groups:
            stack.callback(group.end)
        told(f"{n_devices} devices connect")
        began = time.monotonic()
        _all(groups, "start")
        fleet_settings = MqttSettings(host="127.0.0.1", port=broker.port)
        _until(lambda: _online(consumer) == n_devices)
        row("connect", seconds=round(time.monotonic() - began, 1))

        parts: dict[str, tuple[float, float, float]] = {}  # begin, end, and when the broker was back
        for what, number in (("restart", signal.SIGTERM), ("kill", signal.SIGKILL)):
            told(f"devices talk, and the broker meets {number.name} after {seconds / 2:g} s")
            from_s = time.monotonic() - base_s
            with _asked(groups, "talk", seconds, _EVERY_S):
                time.sleep(seconds / 2)
                broker.end(number)
                time.sleep(_DOWN_S)
                broker.start()
                back_s = time.monotonic() - base_s
            to_s = time.monotonic() - base_s
            consumer.settle()
            parts[what] = from_s, to_s, back_s
        told("every device has events at once")
        burst_s = time.monotonic() - base_s
        _all(groups, "burst", _BURST)
        consumer.settle()
        memory = _all(groups, "memory")
        broker_kb = broker.memory_kb()

        told("a model is rolled out")
        for failures in (True, False):
            if not failures:
                _all(groups, "heal")
            row("roll-out", **_roll_out(fleet_settings, len(failing) if failures else 0))
        rolled_kb = broker.memory_kb()

        told("devices end")
        sent = {device["name"]: device for devices in _all(groups, "close") for device in devices}
        consumer.settle()
        received = _received(consumer)
        for what, (from_s, to_s, back_s) in parts.items():
            row(what, down_s=_DOWN_S, **_delivery(sent, received, from_s, to_s, back_s))
        in_burst = _delivery(sent, received, burst_s, burst_s + _SETTLE_S, burst_s)
        row("burst", **{k: v for k, v in in_burst.items() if k not in ("median_ms", "p95_ms")})
        row("whole", **_reports(sent, consumer))
        row(
            "memory",
            device_kb=round(sum(m["memory_kb"] for m in memory) / n_devices),
            threads=sum(m["threads"] for m in memory),
            broker_idle_kb=idle_kb,
            broker_kb=broker_kb,
            broker_after_roll_out_kb=rolled_kb,
        )
    return rows, sorted(at_s for times in received.values() for _, at_s in times)


def _all(groups: list[Devices], command: str, *arguments: Any) -> list[Any]:
    for group in groups:
        group.ask(command, *arguments)
    return [group.answer() for group in groups]


@contextmanager
def _asked(groups: list[Devices], command: str, *arguments: Any) -> Iterator[None]:
    """Meanwhile something else can be done."""
    for group in groups:
        group.ask(command, *arguments)
    yield
    for group in groups:
        group.answer()


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SETTLE_S
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError("the devices did not all connect")
        time.sleep(0.1)


def _online(consumer: Consumer) -> int:
    return len({topic for topic, payload, _ in list(consumer.seen) if topic.endswith("/update")})


def _roll_out(settings: MqttSettings, n_failing: int) -> dict[str, Any]:
    bundle = read_bundle("default")
    signature = read_signed(bundle.path)[1]
    lines: list[str] = []
    began = time.monotonic()
    with Fleet(settings) as fleet:
        outcome = fleet.roll_out(
            bundle.data, signature, waves=_WAVES, stop_at=_STOP_AT, patience_s=300, shown=lines.append
        )
    seconds = time.monotonic() - began
    return {
        "failing": n_failing,
        "waves": _WAVES,
        "stop_at": _STOP_AT,
        "size_bytes": len(bundle.data),
        "stopped": outcome.stopped,
        "accepted": len(outcome.accepted),
        "already": len(outcome.already),
        "failed": len(outcome.failed),
        "left": len(outcome.left),
        "absent": len(outcome.absent),
        "seconds": round(seconds, 1),
        "mb_per_s": round(len(bundle.data) * len(outcome.accepted) / seconds / 1e6, 1),
        "last_line": lines[-1],
    }


def _received(consumer: Consumer) -> dict[str, list[tuple[float, float]]]:
    """By device, the time in every event and that of its arrival, s."""
    received: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for topic, payload, at_s in consumer.seen:
        _, name, what = topic.split("/", 2)
        if what == "event":
            received[name].append((json.loads(payload)["time_s"], at_s))
    return received


def _delivery(
    sent: dict[str, Any], received: dict[str, list[tuple[float, float]]], from_s: float, to_s: float, back_s: float
) -> dict[str, Any]:
    """What became of the events that were sent in a part."""
    n_sent = n_lost = n_duplicates = 0
    delays: list[tuple[float, float]] = []  # when it was sent, and how long it took
    for name, device in sent.items():
        times = [t for t in device["sent"] if from_s <= t < to_s]
        counts = Counter(t for t, _ in received[name])
        n_sent += len(times)
        n_lost += sum(counts[t] == 0 for t in times)
        n_duplicates += sum(max(0, counts[t] - 1) for t in times)
        first = dict(reversed(received[name]))
        delays += [(t, first[t] - t) for t in times if t in first]
    calm = [1000 * delay for t, delay in delays if t < back_s - 2 * _DOWN_S]
    arrived = np.asarray([t + delay - from_s for t, delay in delays], dtype=int)
    last_s = max((t + delay for t, delay in delays), default=from_s)
    return {
        "sent": n_sent,
        "lost": n_lost,
        "duplicates": n_duplicates,
        "messages_per_s": round(len(delays) / (last_s - from_s), 1) if delays else 0.0,
        "most_in_a_second": int(np.bincount(arrived).max()) if delays else 0,
        "median_ms": round(float(np.median(calm)), 1) if calm else None,
        "p95_ms": round(float(np.percentile(calm, 95)), 1) if calm else None,
        "longest_s": round(max((d for _, d in delays), default=0.0), 2),
    }


def _reports(sent: dict[str, Any], consumer: Consumer) -> dict[str, Any]:
    """Whether all that the devices sent, in all parts, is accounted for."""
    summed: Counter[str] = Counter()
    summaries: set[tuple[str, bytes]] = set()
    health: Counter[str] = Counter()
    for topic, payload, _ in consumer.seen:
        _, name, what = topic.split("/", 2)
        health[name] += what == "health"
        if what == "summary" and (name, payload) not in summaries:
            summaries.add((name, payload))
            summed[name] += sum(a["times"] for a in json.loads(payload)["answers"].values())
    return {
        "sent": sum(len(d["sent"]) for d in sent.values()),
        "gave_way": sum(d["gave_way"] for d in sent.values()),
        "undelivered": sum(bool(d["undelivered"]) for d in sent.values()),
        "health": sum(health.values()),
        "summaries": len(summaries),
        "devices_whose_summaries_add_up": sum(summed[name] == d["began"] for name, d in sent.items()),
    }


def plot(arrivals: list[float], rows: list[dict[str, Any]], path: Path) -> None:
    """Events that arrived in every second."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3), layout="constrained")
    counts = np.bincount(np.asarray(arrivals, dtype=int))
    axes.step(np.arange(len(counts)), counts, where="post", linewidth=1)
    axes.set_xlabel("s")
    axes.set_ylabel("events per s")
    axes.set_title(f"{rows[0]['devices']} devices: the broker ends twice for {_DOWN_S:g} s, then a burst")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)

"""Against a real mosquitto."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from serkit.benchmarks.mosquitto import Mosquitto
from serkit.edge.listener import Listener
from serkit.edge.sinks.mqtt import Mqtt


def notices(sink: Mqtt) -> list[str]:
    return list(iter(sink.notice, None))


def test_events_state_and_availability(
    event: Any, broker: Mosquitto, mqtt: Any, subscribe: Any, listener: Listener, wait_until: Any
) -> None:
    consumer = subscribe(broker.port)
    sink = mqtt(broker.port)
    sink.send(event(0, "calm", confidence=0.75))
    sink.send(event(1, "calm"))
    sink.send(event(2, "angry"))
    sink.send(event(3, "status", message="something"))
    wait_until(lambda: consumer.times() == [0, 1, 2, 3] and consumer.last("serkit/car/state") == "angry")
    first = consumer.on("serkit/car/event")[0]
    assert first["schema"] == 1
    assert first["confidence"] == 0.75
    late = subscribe(broker.port)
    wait_until(lambda: len(late.messages) == 4)
    assert {(topic, retained) for topic, _, retained in late.messages} == {
        ("serkit/car/availability", True),
        ("serkit/car/state", True),
        ("serkit/car/mute", True),
        ("homeassistant/device/serkit-car/config", True),
    }
    assert late.last("serkit/car/availability") == "online"
    assert late.last("serkit/car/mute") == "OFF"
    sink.close()
    wait_until(lambda: late.last("serkit/car/availability") == "offline")
    assert sink.notice() is None


def test_closing_delivers_what_waits(event: Any, broker: Mosquitto, mqtt: Any, subscribe: Any, wait_until: Any) -> None:
    consumer = subscribe(broker.port)
    sink = mqtt(broker.port)
    wait_until(lambda: consumer.last("serkit/car/availability") == "online")
    for i in range(100):
        sink.send(event(i))
    sink.close()
    wait_until(lambda: consumer.last("serkit/car/availability") == "offline")
    assert consumer.times() == list(range(100))


def test_the_last_will(broker: Mosquitto, subscribe: Any, wait_until: Any) -> None:
    consumer = subscribe(broker.port)
    code = f"""
import time
from types import SimpleNamespace as N
from serkit.edge.listener import Listener
from serkit.edge.sinks.broker import MqttSettings
from serkit.edge.sinks.mqtt import Mqtt
listener = Listener(N(bundle=N(name="tiny")), N(close=lambda: 0), N(answers=("calm",)))
Mqtt(MqttSettings(host="127.0.0.1", port={broker.port}, name="car")).start(listener)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_until(lambda: consumer.last("serkit/car/availability") == "online")
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: consumer.last("serkit/car/availability") == "offline")
    late = subscribe(broker.port)  # who comes later learns it, too
    wait_until(lambda: late.last("serkit/car/availability") is not None)
    assert ("serkit/car/availability", b"offline", True) in late.messages


def test_a_connection_that_died_unnoticed_does_not_leave_the_device_offline(
    broker: Mosquitto, mqtt: Any, subscribe: Any, wait_until: Any
) -> None:
    """As when Wi-Fi goes: the device notices, and the broker, which still holds the old connection, does not."""
    consumer = subscribe(broker.port)
    links: list[tuple[socket.socket, socket.socket]] = []

    def said() -> list[str]:
        return [payload.decode() for topic, payload, _ in list(consumer.messages) if topic == "serkit/car/availability"]

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                links.append((proxy.accept()[0], socket.create_connection(("127.0.0.1", broker.port))))
                for ends in (links[-1], links[-1][::-1]):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as proxy:
        threading.Thread(target=accept, daemon=True).start()
        mqtt(proxy.getsockname()[1])
        wait_until(lambda: consumer.last("serkit/car/availability") == "online")
        links[0][0].shutdown(socket.SHUT_RDWR)
        wait_until(lambda: "offline" in said())
        wait_until(lambda: said()[-1] == "online")
        assert said() == ["online", "offline", "online"]
    for link in links:
        for end in link:
            end.close()


def test_mute(event: Any, broker: Mosquitto, mqtt: Any, subscribe: Any, listener: Listener, wait_until: Any) -> None:
    consumer = subscribe(broker.port)
    sink = mqtt(broker.port, discovery=False)
    wait_until(lambda: consumer.last("serkit/car/mute") == "OFF")
    consumer.put("serkit/car/mute/set", "ON")
    wait_until(lambda: consumer.last("serkit/car/mute") == "ON")
    assert listener.muted
    for odd in ("off", "", "x" * 100_000, b"\xff\0"):
        consumer.put("serkit/car/mute/set", odd)
    consumer.put("serkit/car/mute/set", "OFF")
    wait_until(lambda: not listener.muted)
    assert notices(sink) == ["b'off' on serkit/car/mute/set ignored; publish ON or OFF, not retained"]
    listener.mute()  # from elsewhere
    sink.send(event(0, "silence"))
    wait_until(lambda: consumer.last("serkit/car/mute") == "ON")
    assert consumer.last("homeassistant/device/serkit-car/config") is None


def test_a_retained_command_is_old_and_ignored(
    broker: Mosquitto, mqtt: Any, subscribe: Any, listener: Listener, wait_until: Any
) -> None:
    consumer = subscribe(broker.port)
    consumer.put("serkit/car/mute/set", "OFF", retain=True)
    wait_until(lambda: consumer.messages)
    listener.mute()
    sink = mqtt(broker.port)
    wait_until(lambda: sink._odd)
    assert listener.muted
    assert notices(sink) == ["a retained command on serkit/car/mute/set ignored; publish ON or OFF, not retained"]


def test_a_broker_that_comes_late_gets_all_in_order(
    event: Any, mosquitto: Any, mqtt: Any, subscribe: Any, wait_until: Any
) -> None:
    broker = mosquitto()
    sink = mqtt(broker.port)
    for i in range(50):
        sink.send(event(i))
    wait_until(lambda: sink._trouble)
    assert notices(sink) == [f"127.0.0.1:{broker.port} cannot be reached ([Errno 111] Connection refused); events wait"]
    gate = threading.Event()
    sink._client.on_pre_connect = lambda *_: gate.wait(30)  # the consumer first
    broker.start()
    consumer = subscribe(broker.port)
    gate.set()
    wait_until(lambda: len(consumer.times()) == 50)
    assert consumer.times() == list(range(50))
    assert notices(sink) == [f"connected to 127.0.0.1:{broker.port}"]


def test_a_killed_broker_gets_all_in_order_when_it_is_back(
    event: Any, broker: Mosquitto, mqtt: Any, subscribe: Any, wait_until: Any
) -> None:
    before = subscribe(broker.port)
    sink = mqtt(broker.port)
    for i in range(50):
        sink.send(event(i))
    wait_until(lambda: len(before.times()) == 50 and sink._idle())
    before.close()
    assert broker.process is not None
    broker.process.send_signal(signal.SIGSTOP)  # what is sent now is on its way when the broker dies
    sink.send(event(50))
    wait_until(lambda: sink._in_flight)
    broker.end(signal.SIGKILL)
    gate = threading.Event()
    sink._client.on_pre_connect = lambda *_: gate.wait(30)
    for i in range(51, 150):
        sink.send(event(i, "angry"))
    wait_until(lambda: sink._trouble)
    broker.start()
    after = subscribe(broker.port)
    gate.set()
    for i in range(150, 200):
        sink.send(event(i))
    wait_until(lambda: len(after.times()) >= 150 and sink._idle())
    assert before.times() + after.times() == list(range(200))
    assert after.last("serkit/car/availability") == "online"
    assert after.last("serkit/car/state") == "calm"
    where = f"127.0.0.1:{broker.port}"
    assert notices(sink) == [f"connection to {where} lost; events wait", f"connected to {where}"]
    assert sink.lost == 0


def test_a_full_queue_loses_the_oldest_and_says_how_many(
    event: Any, mosquitto: Any, mqtt: Any, subscribe: Any, wait_until: Any
) -> None:
    broker = mosquitto()
    sink = mqtt(broker.port, queue_events=10)
    wait_until(lambda: sink._trouble)
    notices(sink)
    gate = threading.Event()
    sink._client.on_pre_connect = lambda *_: gate.wait(30)
    for i in range(25):
        sink.send(event(i))
    where = f"127.0.0.1:{broker.port}"
    assert notices(sink) == [f"10 events wait for {where}; older are lost"]
    broker.start()
    consumer = subscribe(broker.port)
    gate.set()
    wait_until(lambda: len(consumer.times()) == 10 and sink._idle())
    assert consumer.times() == list(range(15, 25))
    assert sink.lost == 15
    assert notices(sink) == [f"connected to {where}", f"{where} has all waiting events; 15 were lost"]


def test_a_broker_that_hangs_holds_up_nothing(event: Any, mqtt: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and says nothing
        sink = mqtt(server.getsockname()[1])
        begin = time.monotonic()
        for i in range(1000):
            sink.send(event(i))
        assert time.monotonic() - begin < 5
        sink.close()

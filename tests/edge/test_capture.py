from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serkit.edge import capture
from serkit.edge.capture import AUDIO, FAILED, OPENED, Message, Recording, devices, find_device, unpack
from serkit.edge.errors import MicrophoneError


class PortAudioError(Exception):
    pass


class FakeStream:
    """Delivers two seconds of blocks of 20 ms from a thread, as PortAudio does, then stops."""

    refused_rates: tuple[float, ...] = ()
    overflow_at = -1
    active = True
    opened: list[FakeStream]

    def __init__(self, *, samplerate: float, callback: Any, **_: Any) -> None:
        if samplerate in self.refused_rates:
            raise PortAudioError(f"Invalid sample rate {samplerate:g}")
        self.rate, self.callback = samplerate, callback
        self.opened.append(self)

    def start(self) -> None:
        def play() -> None:
            size = int(self.rate / 50)
            for i in range(100):
                status = SimpleNamespace(input_overflow=i == self.overflow_at)
                self.callback(memoryview(bytes([i]) * 4 * size), size, None, status)
            self.active = False

        thread = threading.Thread(target=play)
        thread.start()
        thread.join()

    def close(self, ignore_errors: bool) -> None:
        self.opened.remove(self)


@pytest.fixture
def portaudio(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    fake = SimpleNamespace(
        PortAudioError=PortAudioError,
        RawInputStream=type("Stream", (FakeStream,), {"opened": []}),
        default=SimpleNamespace(device=(1, 0)),
        query_devices=lambda: [
            {"name": "HDMI", "max_input_channels": 0, "default_samplerate": 48000.0},
            {"name": "USB Microphone: Audio (hw:1,0)", "max_input_channels": 1, "default_samplerate": 32000.0},
            {"name": "Webcam Microphone", "max_input_channels": 2, "default_samplerate": 44100.0},
        ],
    )
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    monkeypatch.setattr(capture, "_LOOK_S", 0.01)
    return fake


def unpacked(received: bytearray) -> list[Message]:
    return list(iter(lambda: unpack(received), None))


def captured(device: str | None = None) -> list[Message]:
    out = io.BytesIO()
    capture.capture(out, 16000, device)
    return unpacked(bytearray(out.getvalue()))


def test_devices_are_the_inputs(portaudio: SimpleNamespace) -> None:
    assert [(d.index, d.name, d.default) for d in devices()] == [
        (1, "USB Microphone: Audio (hw:1,0)", True),
        (2, "Webcam Microphone", False),
    ]


def test_a_device_is_found_by_number_name_or_default(portaudio: SimpleNamespace) -> None:
    assert find_device(None).index == 1
    assert find_device("2").name == "Webcam Microphone"
    assert find_device("webcam").index == 2
    assert find_device("USB Microphone: Audio (hw:3,0)").index == 1  # plugged into another port
    with pytest.raises(MicrophoneError, match="2 microphones called 'microphone'; choose one of 1: USB"):
        find_device("microphone")
    for name in ("HDMI", "(hw:9,9)"):
        with pytest.raises(MicrophoneError, match="no microphone called"):
            find_device(name)
    portaudio.query_devices = list
    with pytest.raises(MicrophoneError, match="no microphone found; plug one in"):
        find_device(None)


@pytest.mark.parametrize(
    ("refused", "rate"), [((), 16000), ((16000,), 32000), ((16000, 32000), 48000), ((16000, 32000, 48000), 44100)]
)
def test_every_block_is_told_whatever_the_rate(
    portaudio: SimpleNamespace, refused: tuple[float, ...], rate: int
) -> None:
    portaudio.RawInputStream.refused_rates = refused
    portaudio.RawInputStream.overflow_at = 3
    opened, *blocks, failed = captured()
    assert opened.kind == OPENED
    assert json.loads(opened.payload) == {"name": "USB Microphone: Audio (hw:1,0)", "rate": rate}
    assert [b.kind for b in blocks] == [AUDIO] * 100
    assert [b.payload for b in blocks] == [bytes([i]) * 4 * (rate // 50) for i in range(100)]
    assert [b.overflows for b in blocks] == [0] * 3 + [1] * 97
    assert {b.dropped for b in blocks} == {0}
    assert (failed.kind, failed.payload) == (FAILED, b"its stream stopped")
    assert [b.time_s for b in blocks] == sorted(b.time_s for b in blocks)


def test_audio_nobody_takes_is_dropped_oldest_first_and_counted(
    portaudio: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "_QUEUE_S", 0.5)
    _, *blocks, _ = captured()
    assert [b.payload[0] for b in blocks] == list(range(75, 100))
    assert {b.dropped for b in blocks} == {75 * 320}


@pytest.mark.parametrize(("heard", "seconds"), [(False, 0.2), (True, 0.1)])
def test_a_callback_that_falls_silent_is_told(
    portaudio: SimpleNamespace, heard: bool, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(stream: FakeStream) -> None:
        if heard:
            stream.callback(memoryview(bytes(4)), 1, None, SimpleNamespace(input_overflow=False))

    portaudio.RawInputStream.start = start
    monkeypatch.setattr(capture, "_FIRST_BLOCK_S", 0.2)
    monkeypatch.setattr(capture, "_NEXT_BLOCK_S", 0.1)
    started = time.monotonic()
    messages = captured()
    assert [m.kind for m in messages] == [OPENED, *[AUDIO] * heard, FAILED]
    assert messages[-1].payload.decode() == f"no audio for {seconds:g} s"
    assert messages[-1].time_s - started >= seconds


def test_a_device_that_does_not_open_says_so_and_is_let_go(portaudio: SimpleNamespace) -> None:
    def start(stream: FakeStream) -> None:
        raise PortAudioError("Device unavailable")

    portaudio.RawInputStream.start = start
    expected = (
        "microphone 'Webcam Microphone' does not open (Device unavailable); is another program using it? "
        "`serkit devices` lists all"
    )
    assert [(m.kind, m.payload.decode()) for m in captured("webcam")] == [(FAILED, expected)]
    assert portaudio.RawInputStream.opened == []
    with pytest.raises(MicrophoneError, match="Device unavailable"):
        Recording(find_device("webcam"), 16000)


def test_what_nobody_foresaw_is_told_too(portaudio: SimpleNamespace) -> None:
    portaudio.query_devices = lambda: [{}]
    assert captured()[-1].payload == b"KeyError('max_input_channels')"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("PortAudio library not found"), "sudo apt install libportaudio2"),
        (PortAudioError("Host error"), r"PortAudio does not start \(Host error\)"),
    ],
)
def test_without_portaudio_it_says_what_to_do(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoLibrary:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "sounddevice":
                raise error

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoLibrary(), *sys.meta_path])
    with pytest.raises(MicrophoneError, match=message):
        devices()


def test_portaudio_that_does_not_list_devices_says_so(portaudio: SimpleNamespace) -> None:
    def fail() -> None:
        raise PortAudioError("Internal error")

    portaudio.query_devices = fail
    with pytest.raises(MicrophoneError, match=r"PortAudio does not start \(Internal error\)"):
        devices()


messages = st.builds(
    Message,
    kind=st.sampled_from([OPENED, FAILED]),
    payload=st.binary(max_size=50),
    time_s=st.floats(0, 1e9),
    overflows=st.integers(0, 2**64 - 1),
    dropped=st.integers(0, 2**64 - 1),
)


@given(st.lists(messages, max_size=5), st.integers(1, 100))
def test_messages_come_out_as_they_went_in_however_they_are_cut(sent: list[Message], cut: int) -> None:
    stream, received, got = b"".join(m.pack() for m in sent), bytearray(), []
    for i in range(0, len(stream), cut):
        received += stream[i : i + cut]
        got += unpacked(received)
    assert got == sent
    assert not received


def test_what_is_no_message_is_refused() -> None:
    for nonsense in (
        b"ALSA lib pcm_dmix.c:1032:(snd_pcm_dmix_open) unable to open slave",
        Message(AUDIO, bytes(5), 0.0).pack(),
        Message(AUDIO, bytes(1 << 23), 0.0).pack(),
    ):
        with pytest.raises(ValueError, match="not a message"):
            unpack(bytearray(nonsense))


HANGS = """
import os, sys, time
from types import SimpleNamespace
os.write(1, b"chatter on standard output")
os.write(2, b"chatter on standard error")
class PortAudioError(Exception): pass
class RawInputStream:
    active = True
    def __init__(self, callback, **_): self.callback = callback
    def start(self): self.callback(bytes(1280), 320, None, SimpleNamespace(input_overflow=False))
    def close(self, ignore_errors): time.sleep(1000)
    abort = stop = close
default = SimpleNamespace(device=(0, 0))
query_devices = lambda: [{"name": "Fake", "max_input_channels": 1, "default_samplerate": 16000.0}]
import atexit
atexit.register(time.sleep, 1000)
"""


def test_the_process_outlives_signals_but_not_its_parent(tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM are the parent's business; without a parent it ends, however PortAudio hangs."""
    (tmp_path / "sounddevice.py").write_text(HANGS)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "serkit.edge.capture", "16000"]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        received, heard = bytearray(), []
        while len(heard) < 2:
            received += os.read(process.stdout.fileno(), 4096)
            heard += unpacked(received)
        assert [m.kind for m in heard] == [OPENED, AUDIO]
        for number in (signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.stdin.close()
        assert process.wait(5) == 0


def test_the_process_is_small() -> None:
    code = "import sys, serkit.edge.capture; print([m for m in sys.modules if m.split('.')[0] in ('numpy', 'click')])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serkit.edge import microphone
from serkit.edge.errors import MicrophoneError
from serkit.edge.microphone import Microphone, devices, find_device


class PortAudioError(Exception):
    pass


class FakeStream:
    """Delivers two seconds of counting samples from a thread, as PortAudio does, then falls silent."""

    refused_rates: tuple[float, ...] = ()
    blocks = 100
    overflow = False

    def __init__(self, *, samplerate: float, callback: Any, **_: Any) -> None:
        if samplerate in self.refused_rates:
            raise PortAudioError("Invalid sample rate")
        self.rate, self.callback = samplerate, callback
        self.closed = 0

    def start(self) -> None:
        def play() -> None:
            size = int(self.rate / 50)
            for i in range(self.blocks):
                block = np.full((size, 1), i / 1000, np.float32)
                self.callback(block, size, None, SimpleNamespace(input_overflow=self.overflow and i == 3))
                block[:] = -1  # PortAudio reuses its buffer

        self.thread = threading.Thread(target=play)
        self.thread.start()

    def abort(self, ignore_errors: bool) -> None:
        self.thread.join(10)

    def close(self, ignore_errors: bool) -> None:
        self.closed += 1


@pytest.fixture
def portaudio(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    fake = SimpleNamespace(
        PortAudioError=PortAudioError,
        InputStream=type("Stream", (FakeStream,), {}),
        default=SimpleNamespace(device=(1, 0)),
        query_devices=lambda: [
            {"name": "HDMI", "max_input_channels": 0, "default_samplerate": 48000.0},
            {"name": "USB Microphone", "max_input_channels": 1, "default_samplerate": 48000.0},
            {"name": "Webcam Microphone", "max_input_channels": 2, "default_samplerate": 44100.0},
        ],
    )
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    monkeypatch.setattr(microphone, "_NEXT_BLOCK_S", 0.05)
    return fake


def test_devices_are_the_inputs(portaudio: SimpleNamespace) -> None:
    assert [(d.index, d.name, d.default) for d in devices()] == [
        (1, "USB Microphone", True),
        (2, "Webcam Microphone", False),
    ]


def test_a_device_is_found_by_number_name_or_default(portaudio: SimpleNamespace) -> None:
    assert find_device(None).index == 1
    assert find_device("2").name == "Webcam Microphone"
    assert find_device("webcam").index == 2
    with pytest.raises(MicrophoneError, match="2 microphones called 'microphone'; choose one of 1: USB"):
        find_device("microphone")
    with pytest.raises(MicrophoneError, match="no microphone called 'HDMI'"):
        find_device("HDMI")
    portaudio.query_devices = list
    with pytest.raises(MicrophoneError, match="no microphone found; plug one in"):
        find_device(None)


@pytest.mark.parametrize("refused", [(), (16000.0,)])
def test_every_sample_arrives_whatever_the_rate(portaudio: SimpleNamespace, refused: tuple[float, ...]) -> None:
    portaudio.InputStream.refused_rates = refused
    portaudio.InputStream.overflow = True
    heard = []
    source = Microphone(16000, 512)
    with pytest.raises(MicrophoneError, match=r"'USB Microphone' went silent for 0\.05 s; was it unplugged\?"), source:
        heard.extend(source)
    samples = np.concatenate(heard)
    assert len(samples) == pytest.approx(2 * 16000, abs=1500)
    assert samples[:300].max() < 0.01
    assert np.all(np.diff(samples[1000:-1000:320]) > 0)
    assert (source.overflows, source.dropped_samples) == (1, 0)


def test_audio_nobody_takes_is_dropped_and_counted(portaudio: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microphone, "_QUEUE_SECONDS", 0.5)
    source = Microphone(16000)
    source.close()
    source.close()
    assert source.dropped_samples == pytest.approx(1.5 * 16000, rel=0.05)


def test_a_device_that_does_not_open_says_so(portaudio: SimpleNamespace) -> None:
    portaudio.InputStream.refused_rates = (16000.0, 48000.0)
    with pytest.raises(MicrophoneError, match=r"does not open \(Invalid sample rate\)"):
        Microphone(16000)


def test_without_portaudio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoLibrary:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoLibrary(), *sys.meta_path])
    with pytest.raises(MicrophoneError, match="sudo apt install libportaudio2"):
        devices()


def test_portaudio_that_does_not_start_says_so(portaudio: SimpleNamespace) -> None:
    def fail() -> None:
        raise PortAudioError("Internal error")

    portaudio.query_devices = fail
    with pytest.raises(MicrophoneError, match=r"PortAudio does not start \(Internal error\)"):
        devices()

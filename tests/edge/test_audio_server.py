"""The real thing: PulseAudio, ALSA, PortAudio and sounddevice, with a virtual microphone."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serkit.benchmarks import reconnect
from serkit.benchmarks.reconnect import AudioServer, environment, held
from serkit.edge.errors import MissingExtraError
from serkit.edge.microphone import Microphone

RATE = 16000


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path) -> None:
    try:
        AudioServer(tmp_path)
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AudioServer]:
    with AudioServer(tmp_path) as server, environment(server.env):
        yield server


def test_what_is_played_is_heard(server: AudioServer, speech: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "speech.wav", speech[: 3 * RATE], RATE)
    heard: list[np.ndarray] = []
    with Microphone(RATE) as source:
        started = time.monotonic()
        next(iter(source))
        server.play(tmp_path / "speech.wav")
        for block in source:
            heard.append(block)
            if (n := sum(map(len, heard))) > 5 * RATE:
                break
        assert n / RATE == pytest.approx(time.monotonic() - started, abs=0.5)
        assert (source.notice(), source.lost_s, source.reconnects) == (None, pytest.approx(0, abs=2.5), 0)
    x, y = np.concatenate(heard), speech[RATE : 2 * RATE]
    correlation = np.correlate(x, y, "valid")
    energy = np.sqrt(np.convolve(x**2, np.ones(len(y)), "valid") * np.sum(y**2))
    assert np.max(correlation / np.maximum(energy, 1e-6)) > 0.95


def test_a_server_that_restarts_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "_DOWN_S", 1.0)
    rows = reconnect.reconnect(restarts=2, every_s=6)
    assert [r["reconnects"] for r in rows] == [1, 2]
    assert all(r["noticed"] and r["recovery_s"] <= 3 for r in rows), rows
    assert all(abs(r["stream_error_s"]) < 0.5 for r in rows), rows
    for figure in ("threads", "file_handles", "children"):
        assert rows[0][figure] == rows[1][figure], rows


def test_a_server_that_hangs_is_waited_for(server: AudioServer) -> None:
    before = held()
    notices: list[str] = []
    with Microphone(RATE) as source:
        assert held()["children"] == before["children"] + 1
        started = time.monotonic()
        stopped = resumed = False
        for _ in source:
            notices += iter(source.notice, None)
            if source.connected and not stopped:
                server.signal(signal.SIGSTOP)
                stopped = True
            if notices and not resumed:
                assert not source.connected
                server.signal(signal.SIGCONT)
                resumed = True
            if source.reconnects:
                break
            assert time.monotonic() < started + 30, notices
        notices += iter(source.notice, None)
    assert notices[0] == "microphone 'default' lost (no audio for 3 s); trying again"
    assert notices[-1].startswith("microphone 'default' is back after ")
    assert {k: v for k, v in held().items() if k != "rss_kb"} == {k: v for k, v in before.items() if k != "rss_kb"}

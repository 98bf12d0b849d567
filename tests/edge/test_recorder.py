from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

import serkit
from serkit.edge.audio import FakeSource, read_audio
from serkit.edge.errors import AudioError
from serkit.edge.recorder import Recorder

RATE = 16000


def test_all_that_is_heard_is_in_the_recording_and_nothing_muted(tmp_path: Path, speech: np.ndarray) -> None:
    file = tmp_path / "heard.flac"
    with serkit.listen(lambda rate: FakeSource(speech, rate, 1600), record=file) as listener:
        events = iter(listener)
        next(events)
        listener.mute()
        list(events)
    heard = read_audio(file, RATE)
    assert len(heard) == len(speech)
    silent = int(np.flatnonzero(np.abs(heard) > 1e-4)[-1]) + 1
    assert 2.3 * RATE < silent < 2.6 * RATE  # the first window, 2.4 s, and no more
    assert np.allclose(heard[:silent], speech[:silent], atol=1e-4)


def test_without_record_no_audio_is_written(
    tmp_path: Path, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a file was opened for writing")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(soundfile, "SoundFile", refuse)
    with serkit.listen(lambda rate: FakeSource(speech, rate, 1600)) as listener:
        list(listener)
    assert list(tmp_path.iterdir()) == []


def test_a_recording_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "old.wav").touch()
    for name, message in (
        ("old.wav", "exists already; give a new name"),
        ("new.xyz", r"\.xyz is no audio format; name it \.flac or \.wav"),
        ("new", "no suffix is no audio format"),
        ("new.raw", r"\.raw is no audio format"),  # libsndfile writes it, but does not know how
        ("gone/new.wav", "cannot be written"),
    ):
        with pytest.raises(AudioError, match=message):
            Recorder(tmp_path / name, RATE)


def test_where_nothing_was_heard_no_file_is_in_the_way_of_the_next_try(tmp_path: Path, speech: np.ndarray) -> None:
    for samples, exists in (([], False), (speech, True)):
        recorder = Recorder(tmp_path / "new.wav", RATE)
        recorder.push(np.asarray(samples, np.float32))
        recorder.close()
        assert recorder.path.exists() == exists


@pytest.mark.parametrize(("name", "whole"), [("long.wav", False), ("long.flac", True)])
def test_what_a_header_cannot_count_is_not_written(
    name: str, whole: bool, tmp_path: Path, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serkit.edge.recorder._MOST_SAMPLES", RATE)
    recorder = Recorder(tmp_path / name, RATE, live=False)
    for block in np.split(speech[: 2 * RATE], 20):
        recorder.push(block)
    recorder.close()
    notice = recorder.notice()
    assert soundfile.info(tmp_path / name).frames == (2 if whole else 1) * RATE
    assert whole == (notice is None)
    assert whole or "ended: a .wav file holds no more; name the next one .flac" in str(notice)


def test_a_full_disk_ends_the_recording_and_not_the_listening(
    tmp_path: Path, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(tmp_path / "new.wav", RATE)

    def full(block: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorder._file, "write", full)
    recorder.push(speech)
    recorder.close()
    assert "new.wav ended: it cannot be written" in str(recorder.notice())
    assert recorder.notice() is None
    recorder.push(speech)  # goes nowhere
    recorder.close()


@pytest.mark.parametrize("size", [1, 512, 50 * RATE])
def test_a_file_is_recorded_whole_however_slow_the_disk_and_small_the_blocks(
    tmp_path: Path, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("serkit.edge.recorder._QUEUE_PIECES", 3)
    recorder = Recorder(tmp_path / "new.wav", RATE, live=False)
    write, gate = recorder._file.write, threading.Event()
    threading.Timer(0.2, gate.set).start()
    monkeypatch.setattr(recorder._file, "write", lambda block: gate.wait(10) and write(block))
    for block in np.split(speech, range(size, len(speech), size)):
        recorder.push(block)
    recorder.close()
    assert recorder.notice() is None
    assert np.allclose(read_audio(recorder.path, RATE), speech, atol=1e-4)


@pytest.mark.parametrize("size", [1, 512])
def test_a_disk_that_hangs_for_longer_than_the_queue_ends_a_live_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("serkit.edge.recorder._QUEUE_PIECES", 3)
    recorder = Recorder(tmp_path / "new.wav", RATE)
    hangs = threading.Event()
    monkeypatch.setattr(recorder._file, "write", lambda block: hangs.wait(30))
    pushed = 0
    while recorder.notice() is None:
        recorder.push(np.zeros(size, np.float32))
        pushed += size
    hangs.set()
    recorder.close()
    assert 0.4 * RATE <= pushed < 0.7 * RATE  # three pieces wait; one is written, one finds no room

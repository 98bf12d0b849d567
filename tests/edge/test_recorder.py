from __future__ import annotations

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
        ("gone/new.wav", "cannot be written"),
    ):
        with pytest.raises(AudioError, match=message):
            Recorder(tmp_path / name, RATE)


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

from __future__ import annotations

import io
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serkit.edge.errors import SettingsError
from serkit.edge.listener import Listener
from serkit.edge.sinks.json_lines import JsonLines, JsonLinesSettings

Start = Callable[..., JsonLines]


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serkit.edge.sinks.json_lines._RETRY_S", 0.01)


@pytest.fixture
def start(listener: Listener) -> Iterator[Start]:
    sinks: list[JsonLines] = []

    def make(path: Path, **settings: Any) -> JsonLines:
        sinks.append(JsonLines(JsonLinesSettings(path=str(path), **settings)))
        sinks[-1].start(listener)
        return sinks[-1]

    yield make
    for sink in sinks:
        sink.close()
        sink.close()


def times(*paths: Path) -> list[float]:
    return [json.loads(line)["time_s"] for path in paths for line in path.read_text().splitlines()]


def next_notice(sink: JsonLines) -> str:
    end = time.monotonic() + 30
    while (notice := sink.notice()) is None:
        assert time.monotonic() < end, "a notice was due"
        time.sleep(0.01)
    return notice


def test_one_event_per_line(start: Start, event: Any, tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text('{"time_s": -1}\n')  # is continued
    sink = start(tmp_path / "e.jsonl")
    for i in range(100):
        sink.send(event(i, confidence=0.5))
    sink.close()
    assert times(tmp_path / "e.jsonl") == list(range(-1, 100))
    last = json.loads((tmp_path / "e.jsonl").read_text().splitlines()[-1])
    assert (last["schema"], last["kind"], last["emotion"], last["confidence"]) == (1, "emotion", "calm", 0.5)
    assert sink.notice() is None


def test_a_full_file_is_renamed(start: Start, event: Any, tmp_path: Path) -> None:
    sink = start(tmp_path / "e.jsonl", max_bytes=1000, backups=2)
    for i in range(50):
        sink.send(event(i))
    sink.close()
    files = [tmp_path / name for name in ("e.jsonl.2", "e.jsonl.1", "e.jsonl")]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(0 < file.stat().st_size <= 1000 for file in files)
    kept = times(*files)
    assert kept == list(range(50))[-len(kept) :]


def test_no_backups(start: Start, event: Any, tmp_path: Path) -> None:
    sink = start(tmp_path / "e.jsonl", max_bytes=1000, backups=0)
    for i in range(50):
        sink.send(event(i))
    sink.close()
    assert [file.name for file in tmp_path.iterdir()] == ["e.jsonl"]
    assert times(tmp_path / "e.jsonl")[-1] == 49


def test_a_vanished_folder_that_comes_back(start: Start, event: Any, tmp_path: Path) -> None:
    path = tmp_path / "stick" / "e.jsonl"
    path.parent.mkdir()
    sink = start(path)
    shutil.rmtree(path.parent)
    for i in range(20):
        sink.send(event(i))
    assert next_notice(sink) == (f"{path} cannot be written (No such file or directory); the newest 2000 events wait")
    assert sink.notice() is None
    path.parent.mkdir()
    assert next_notice(sink) == f"{path} is written again, 0 events were lost"
    assert times(path) == list(range(20))


def test_what_is_lost_is_counted(start: Start, event: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serkit.edge.sinks.json_lines._QUEUE_LINES", 10)
    path = tmp_path / "stick" / "e.jsonl"
    path.parent.mkdir()
    sink = start(path)
    shutil.rmtree(path.parent)
    sink.send(event(0))
    next_notice(sink)  # the first is tried again and again
    for i in range(1, 26):
        sink.send(event(i))
    assert sink.lost == 15
    path.parent.mkdir()
    assert next_notice(sink) == f"{path} is written again, 15 events were lost"
    assert times(path) == [0, *range(16, 26)]


def test_a_full_disk_leaves_no_half_line(
    start: Start, event: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk(io.FileIO):
        full = False

        def write(self, data: Any) -> int:
            return super().write(data[:30] if FullDisk.full else data)

    monkeypatch.setattr(Path, "open", lambda path, mode, buffering: FullDisk(path, mode))
    path = tmp_path / "e.jsonl"
    sink = start(path)
    FullDisk.full = True
    sink.send(event(0))
    assert next_notice(sink).startswith(f"{path} cannot be written (No space left on device)")
    sink.send(event(1))
    FullDisk.full = False
    assert next_notice(sink) == f"{path} is written again, 0 events were lost"
    monkeypatch.undo()
    assert times(path) == [0, 1]


def test_a_file_system_that_hangs(start: Start, event: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "e.jsonl"
    sink = start(path)
    monkeypatch.setattr("serkit.edge.sinks.json_lines._HANGS_S", 0.01)
    answers, append = threading.Event(), sink._append
    monkeypatch.setattr(sink, "_append", lambda line: (answers.wait(30), append(line)))
    for i in range(3000):  # more than wait
        sink.send(event(i))
    assert next_notice(sink) == f"{path} does not answer; the newest 2000 events wait"
    answers.set()
    assert next_notice(sink) == f"{path} is written again, {sink.lost} events were lost"
    sink.close()
    assert sink.lost in (999, 1000)  # one may be on its way
    assert times(path)[-2000:] == list(range(1000, 3000))


def test_a_file_system_that_hangs_for_good_does_not_hold_up_the_end(
    start: Start, event: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serkit.edge.sinks.json_lines._CLOSE_S", 0.02)
    sink = start(tmp_path / "e.jsonl")
    answers = threading.Event()
    monkeypatch.setattr(sink, "_append", lambda line: answers.wait(30))
    thread = sink._thread
    sink.send(event(0))
    sink.close()
    assert thread is not None
    assert thread.is_alive()
    answers.set()
    thread.join(30)


def test_a_file_system_that_hangs_at_the_start(
    start: Start, event: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serkit.edge.sinks.json_lines._HANGS_S", 0.05)
    answers, begin = threading.Event(), JsonLines._begin
    monkeypatch.setattr(JsonLines, "_begin", lambda sink: answers.wait(30) and begin(sink))
    path = tmp_path / "e.jsonl"
    sink = start(path)
    sink.send(event(0))
    assert next_notice(sink) == f"{path} does not answer; the newest 2000 events wait"
    answers.set()
    assert next_notice(sink) == f"{path} is written again, 0 events were lost"
    assert times(path) == [0]


def test_half_a_line_after_a_power_cut(start: Start, event: Any, tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text('{"sche')
    sink = start(tmp_path / "e.jsonl")
    sink.send(event(0))
    sink.close()
    half, whole = (tmp_path / "e.jsonl").read_text().splitlines()
    assert half == '{"sche'
    assert json.loads(whole)["time_s"] == 0


@pytest.mark.parametrize(
    ("path", "reason"),
    [("missing/e.jsonl", "No such file or directory"), (".", "Is a directory"), ("fifo", "Illegal seek")],
)
def test_a_path_that_cannot_be_written(start: Start, tmp_path: Path, path: str, reason: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SettingsError, match=rf"json_lines: .* cannot be written \({reason}\); create the folder"):
        start(tmp_path / path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": ""}, "path is ''; name a file"),
        ({"path": "e", "max_bytes": 10}, "max_bytes is 10; it needs 1000 or more"),
        ({"path": "e", "backups": -1}, "backups is -1; it needs 0 or more"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        JsonLinesSettings(**settings)

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from serkit.edge import microphone
from serkit.edge.errors import MicrophoneError
from serkit.edge.microphone import Device, Microphone, list_devices

RATE = 16000

PRELUDE = """
import json, os, signal, struct, sys, time
from serkit.edge.capture import AUDIO, FAILED, OPENED, Message

def say(kind, payload=b"", overflows=0, dropped=0, time_s=None):
    now = time.monotonic() if time_s is None else time_s
    os.write(1, Message(kind, payload, now, overflows, dropped).pack())

def opened(name="Fake", rate=16000):
    say(OPENED, json.dumps({"name": name, "rate": rate}).encode())

def play(seconds, value=0.5, rate=16000, **counts):
    started = time.monotonic()
    for i in range(1, round(50 * seconds) + 1):
        say(AUDIO, struct.pack("<f", value) * (rate // 50), **counts)
        time.sleep(max(0, started + i / 50 - time.monotonic()))
"""

GOOD = "opened(); play(60)"
CRASH = "os.kill(os.getpid(), signal.SIGSEGV)"
HANG = "time.sleep(60)"
REFUSED = "say(FAILED, b\"microphone 'Fake' does not open\\n (Device unavailable); is another program using it?\")"


class FakeProcesses:
    """What to start instead of the capture process: each script once, the last one from then on."""

    def __init__(self) -> None:
        self.scripts: list[str] = []
        self.devices: list[str | None] = []

    def command(self, sample_rate: int, device: str | None) -> list[str]:
        script = self.scripts[min(len(self.devices), len(self.scripts) - 1)]
        self.devices.append(device)
        return [sys.executable, "-c", PRELUDE + script]


def children() -> list[str]:
    """Process numbers of this process's children, those that nobody waited for included."""
    return sorted(n for own in Path("/proc/self/task").glob("*/children") for n in own.read_text().split())


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProcesses]:
    """Fake capture processes, and less patience; afterwards nothing may be left of them."""
    fake = FakeProcesses()
    monkeypatch.setattr(microphone, "_command", fake.command)
    monkeypatch.setattr(microphone, "_RETRY_S", 0.05)
    monkeypatch.setattr(microphone, "_MAX_RETRY_S", 0.1)
    monkeypatch.setattr(microphone, "_ANSWER_S", 0.5)
    before = os.listdir("/proc/self/fd"), threading.active_count()  # noqa: PTH208
    left = children()  # of tests before
    yield fake
    files, threads = before  # some of which an earlier test may have left to end by itself
    assert set(os.listdir("/proc/self/fd")) <= set(files)  # noqa: PTH208
    assert threading.active_count() <= threads
    assert children() == left


def hear(source: Microphone, enough: Callable[[], bool]) -> SimpleNamespace:
    """Listen until there is enough: samples, notices, and how long it took."""
    heard: list[np.ndarray] = []
    notices: list[str] = []
    started = time.monotonic()
    for block in source:
        heard.append(block)
        notices += iter(source.notice, None)
        if enough():
            break
        assert time.monotonic() < started + 30, notices
    return SimpleNamespace(samples=np.concatenate(heard), notices=notices, seconds=time.monotonic() - started)


def for_seconds(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


@pytest.mark.parametrize("rate", [16000, 48000, 44100])
def test_audio_comes_at_the_wanted_rate_in_blocks(processes: FakeProcesses, rate: int) -> None:
    processes.scripts = [f"opened(rate={rate}); play(60, rate={rate})"]
    with Microphone(RATE, 512, device="fake") as source:
        assert source.name == "Fake"
        heard = hear(source, for_seconds(1.0))
        assert source.connected
    assert processes.devices == ["fake"]
    assert len(heard.samples) % 512 == 0
    assert len(heard.samples) == pytest.approx(RATE * heard.seconds, abs=0.3 * RATE)
    assert np.allclose(heard.samples[RATE // 4 : RATE // 2], 0.5, atol=0.01)
    assert heard.notices == []
    assert (source.reconnects, source.overflows, source.dropped_samples, source.lost_s) == (0, 0, 0, 0.0)


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("opened(); play(0.3); say(FAILED, b'its stream stopped')", "microphone 'Fake' lost (its stream stopped)"),
        ("opened(); play(0.3); say(FAILED, b'no audio for 3 s')", "microphone 'Fake' lost (no audio for 3 s)"),
        ("opened(); play(0.3)", "microphone 'Fake' lost (the capture process ended (exit code 0))"),
        ("opened(); play(0.3);" + CRASH, "(the capture process ended (Segmentation fault))"),
        ("opened(); play(0.3);" + HANG, "(the sound system does not answer (0.5 s); restart it)"),
        ("opened(); play(0.3); os.kill(os.getpid(), signal.SIGSTOP)", "(the sound system does not answer (0.5 s)"),
        ("opened(); play(0.3); os.close(1);" + HANG, "(the capture process fell silent)"),
        ("opened(); play(0.3); os.write(1, b'ALSA lib ' * 20);" + HANG, "(the capture process speaks nonsense)"),
        ("opened(); play(0.3); say(OPENED, b'{}');" + HANG, "(the capture process speaks nonsense)"),
        ("opened(); play(0.3); os.write(1, Message(AUDIO, bytes(4000), 0.0).pack()[:99])", "(exit code 0)"),
    ],
)
def test_every_trouble_is_said_and_the_microphone_comes_back(
    processes: FakeProcesses, trouble: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microphone, "_KILL_S", 0.2)
    processes.scripts = [trouble, GOOD]
    with Microphone(RATE) as source:
        heard = hear(source, lambda: source.reconnects == 1)
        lost, back = heard.notices
        assert message in lost
        assert lost.endswith("; trying again")
        assert back.startswith("microphone 'Fake' is back after ")
        heard = hear(source, for_seconds(0.2))
        assert np.all(heard.samples == 0.5)


def test_time_goes_on_while_the_microphone_is_away(processes: FakeProcesses) -> None:
    """Stream time is time: what was not heard is silence, yielded while it passes."""
    processes.scripts = ["opened(); play(1)", REFUSED, REFUSED, REFUSED, "time.sleep(1); " + GOOD]
    with Microphone(RATE) as source:
        started = time.monotonic()
        heard, times, notices, back_s = [], [], [], 0.0
        for block in source:
            heard.append(block)
            times.append(time.monotonic() - started)
            notices += iter(source.notice, None)
            if source.reconnects and times[-1] - back_s > 1:
                break
            if not source.reconnects:
                back_s = times[-1]
        position = np.cumsum([len(b) for b in heard]) / RATE
        assert np.abs(position - times).max() < 0.8
        samples = np.concatenate(heard)
        silent = samples == 0
        assert np.flatnonzero(np.diff(silent)).shape == (2,)  # audio, silence, audio
        assert silent.sum() / RATE == pytest.approx(source.lost_s, abs=1e-9)
        assert silent.sum() / RATE == pytest.approx(back_s - 1, abs=0.5)
    assert notices[:-1] == [
        "microphone 'Fake' lost (the capture process ended (exit code 0)); trying again",
        "microphone 'Fake' does not open (Device unavailable); is another program using it?; trying again",
    ]
    assert len(processes.devices) == 5


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (REFUSED, r"^microphone 'Fake' does not open \(Device unavailable\); is another program using it\?$"),
        (CRASH, r"^the capture process ended \(Segmentation fault\)$"),
        ("opened(rate=0); " + HANG, "^the capture process speaks nonsense$"),
        (HANG, r"^the sound system does not answer \(0\.5 s\); restart it$"),
    ],
)
def test_the_first_opening_fails_in_one_line(
    processes: FakeProcesses, script: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microphone, "_OPENING_S", 0.5)
    processes.scripts = [script]
    with pytest.raises(MicrophoneError, match=message):
        Microphone(RATE)


def test_a_service_waits_for_its_microphone(processes: FakeProcesses) -> None:
    processes.scripts = [REFUSED, REFUSED, GOOD]
    with Microphone(RATE, wait=True) as source:
        assert (source.name, source.connected) == (None, False)
        heard = hear(source, lambda: source.connected)
        assert np.all(heard.samples[:-3200] == 0)
        assert len(heard.samples) / RATE == pytest.approx(heard.seconds, abs=0.8)
        assert len(heard.notices) == 2
        assert heard.notices[0].startswith("microphone 'Fake' does not open (Device unavailable)")
        assert heard.notices[1].startswith("microphone 'Fake' is there after ")
        assert source.reconnects == 0


def test_a_device_that_opens_and_says_nothing_is_silence(processes: FakeProcesses) -> None:
    processes.scripts = ["opened(); time.sleep(1.5); play(60)"]
    with Microphone(RATE) as source:
        heard = hear(source, lambda: source.lost_s > 0.5)
        assert np.all(heard.samples == 0)
        heard = hear(source, for_seconds(1.5))
        assert np.flatnonzero(np.diff(heard.samples)).shape == (1,)  # silence, then audio
        assert heard.notices == []
        assert source.lost_s == pytest.approx(1.5, abs=0.3)


def test_a_system_without_processes_to_spare_is_waited_for(
    processes: FakeProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes.scripts = [GOOD]
    real = microphone.subprocess.Popen
    failures = iter([OSError(11, "Resource temporarily unavailable")] * 2)

    def popen(*args: object, **options: object) -> object:
        for failure in failures:
            raise failure
        return real(*args, **options)  # type: ignore

    monkeypatch.setattr(microphone.subprocess, "Popen", popen)
    with Microphone(RATE, wait=True) as source:
        heard = hear(source, lambda: source.connected)
    assert heard.notices[0] == ("the capture process does not start (Resource temporarily unavailable); trying again")


def test_a_program_that_is_busy_for_long_loses_nothing(processes: FakeProcesses) -> None:
    """Silence counts only while somebody listens for it."""
    processes.scripts = ["opened(); play(0.2); time.sleep(1); " + GOOD.removeprefix("opened(); ")]
    with Microphone(RATE) as source:
        hear(source, for_seconds(0.1))
        time.sleep(1)
        heard = hear(source, for_seconds(0.5))
    assert not [n for n in heard.notices if "lost" in n]
    assert source.reconnects == 0


def test_a_number_is_the_device_it_was_and_another_one_is_said(processes: FakeProcesses) -> None:
    processes.scripts = ["opened('Left'); play(0.2)", "opened('Right'); play(60)"]
    with Microphone(RATE, device="3") as source:
        heard = hear(source, lambda: source.reconnects == 1)
    assert processes.devices == ["3", "Left"]
    assert heard.notices[1] == "microphone 'Right' in place of 'Left'"
    assert heard.notices[2].startswith("microphone 'Right' is back")


def test_what_is_lost_on_the_way_is_counted_and_silence_takes_its_place(processes: FakeProcesses) -> None:
    processes.scripts = [
        "opened(rate=32000); play(0.2, rate=32000); play(60, rate=32000, overflows=3, dropped=16000)",
    ]
    with Microphone(RATE) as source:
        later = iter(range(20))  # the resampler holds some back
        heard = hear(source, lambda: source.dropped_samples > 0 and next(later, None) is None)
        assert (source.overflows, source.dropped_samples, source.lost_s) == (3, 8000, 0.5)
    assert heard.notices == ["audio lost: 3 xruns, 0.5 s dropped because this machine is too busy"]
    assert np.sum(np.abs(heard.samples) < 0.1) == pytest.approx(8000, abs=200)


def test_samples_that_are_no_numbers_are_silence(processes: FakeProcesses) -> None:
    processes.scripts = ["opened(); play(60, value=float('nan'))"]
    with Microphone(RATE) as source:
        assert np.all(hear(source, for_seconds(0.2)).samples == 0)


def test_notices_are_told_in_turn_and_never_pile_up(processes: FakeProcesses) -> None:
    processes.scripts = [REFUSED]
    with Microphone(RATE, wait=True) as source:
        assert source.notice() is None
        for i in range(1000):
            source._notices.append(str(i))
        assert list(iter(source.notice, None)) == [str(i) for i in range(900, 1000)]
        source.overflows = 1
        assert source.notice() == "audio lost: 1 xruns, 0.0 s dropped because this machine is too busy"
        source.overflows = 2
        assert source.notice() is None  # not with every block
        source._counts_due_s = 0.0
        assert source.notice() == "audio lost: 2 xruns, 0.0 s dropped because this machine is too busy"


@pytest.mark.parametrize("script", [GOOD, "opened(); os.kill(os.getpid(), signal.SIGSTOP)"])
def test_closing_takes_no_time_whatever_hangs(processes: FakeProcesses, script: str) -> None:
    processes.scripts = [script]
    source = Microphone(RATE)
    started = time.monotonic()
    source.close()
    source.close()
    assert time.monotonic() - started < 2
    assert list(source) == []


def test_closing_from_another_thread_ends_the_stream(processes: FakeProcesses) -> None:
    processes.scripts = [GOOD]
    source = Microphone(RATE)
    closing = threading.Timer(0.3, source.close)
    closing.start()
    assert sum(len(block) for block in source) > 0
    closing.join()
    assert source.notice() is None


def test_a_clock_that_drifts_is_said_once_with_figures(processes: FakeProcesses) -> None:
    """Three minutes, told in no time, of a device that delivers 2 % less than it promised."""
    processes.scripts = [
        "started = time.monotonic(); opened(); block = struct.pack('<f', 0.5) * 3200\n"
        "for i in range(1, 900): say(AUDIO, block, time_s=started + i * 0.2 * 1.02)\n" + HANG
    ]
    with Microphone(RATE) as source:
        n = 0
        for block in source:
            n += len(block)
            if n >= 890 * 3200:
                break
        (notice,) = iter(source.notice, None)
        assert notice.startswith("the clock of microphone 'Fake' is 2.0% slow (1568")
        assert notice.endswith(" samples a second instead of 16000); times are off by as much")


def test_audio_that_stalls_without_a_word_is_said(processes: FakeProcesses) -> None:
    processes.scripts = [
        "opened(); start = time.monotonic(); block = struct.pack('<f', 0.5) * 320\n"
        "for i in range(1, 500): say(AUDIO, block, time_s=start + i / 50 + (2.0 if i > 150 else 0))\n" + HANG
    ]
    with Microphone(RATE) as source:
        n = 0
        for block in source:
            n += len(block)
            if n >= 499 * 320 + 32000:
                break
        assert list(iter(source.notice, None)) == ["microphone 'Fake' stalled; 2.0 s of silence in place"]
        assert source.lost_s == pytest.approx(2.0, abs=0.01)


def test_devices_are_listed_by_a_process_that_may_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(code: str) -> None:
        monkeypatch.setattr("serkit.edge.microphone._lister", lambda: [sys.executable, "-c", code])

    device = Device(index=3, name="desk", channels=1, sample_rate=48000.0, default=True)
    answers(f"import json; print(json.dumps([{asdict(device)!r}]))")
    assert list_devices() == [device]
    answers("print('\"PortAudio is not installed; do that\"')")
    with pytest.raises(MicrophoneError, match="PortAudio is not installed; do that"):
        list_devices()
    answers("raise SystemExit(1)")
    with pytest.raises(MicrophoneError, match="ended without an answer"):
        list_devices()
    monkeypatch.setattr("serkit.edge.microphone._OPENING_S", 0.5)
    answers("import time; time.sleep(60)")
    with pytest.raises(MicrophoneError, match=r"does not answer \(0\.5 s\); restart it"):
        list_devices()


def test_devices_are_not_listed_by_what_lies_in_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "struct.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    monkeypatch.chdir(tmp_path)
    with suppress(MicrophoneError):  # there may be no sound system here
        list_devices()
    assert not (tmp_path / "ran").exists()


def test_audio_that_comes_during_a_rest_is_heard_after_it(processes: FakeProcesses) -> None:
    processes.scripts = [GOOD]
    waits: list[float] = []

    class Closed(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return self.is_set()

    with Microphone(RATE) as source:
        blocks = iter(source)
        next(blocks)
        source._closed = Closed()
        source.rest(30.0)
        heard = [next(blocks) for _ in range(10)]
        assert 0 < waits[0] <= 30
        source.rest(-30.0)
        n = len(waits)
        heard += [next(blocks) for _ in range(10)]
        assert len(waits) == n
        assert np.all(np.concatenate(heard) == 0.5)
        assert (source.notice(), source.lost_s) == (None, 0)

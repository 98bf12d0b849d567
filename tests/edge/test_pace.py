from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import serkit
from serkit.edge.audio import FakeSource
from serkit.edge.bundle import read_bundle
from serkit.edge.config import Config, read_config
from serkit.edge.errors import SettingsError
from serkit.edge.pace import Pace, PaceSettings, hops_of, hottest
from serkit.edge.stream import Recognizer
from serkit.edge.vad import VadSettings, VoiceGate

RATE = 16000
BY_LEVEL = VadSettings(detector="level")


class Board:
    """A pace on a board whose load and heat are as the test says; it hears ten seconds at a time."""

    def __init__(self, thermal: Path, window_s: float = 2.56, live: bool = True, **settings: Any) -> None:
        (thermal / "thermal_zone0").mkdir(parents=True)
        self._zone = thermal / "thermal_zone0"
        (self._zone / "type").write_text("cpu-thermal\n")
        self.pace = Pace(PaceSettings(**settings), window_s, 0.5, live, thermal=thermal)

    def hear(self, load: float, celsius: float = 50.0, times: int = 1) -> str | None:
        """What it says after so many looks."""
        (self._zone / "temp").write_text(f"{1000 * celsius:.0f}\n")
        for _ in range(100 * times):
            self.pace.worked(0.1 * load, 0.1 + 1e-9)
        said = list(iter(self.pace.notice, None))
        assert len(said) <= 1
        return said[0] if said else None


@pytest.fixture
def board(tmp_path: Path) -> Callable[..., Board]:
    return lambda **settings: Board(tmp_path / str(len(list(tmp_path.iterdir()))), **settings)


def test_heat_and_load_make_windows_rarer(board: Callable[..., Board]) -> None:
    b = board()
    assert (b.hear(0.5, 80.0), b.pace.hops) == (None, 1)
    assert (b.hear(0.1, 82.2), b.pace.hops) == ("82 C: windows every 1 s now", 2)
    assert (b.hear(0.7), b.pace.hops) == ("processing takes 70% of the time: windows every 2 s now", 4)
    assert (b.hear(0.9, 90.0), b.pace.hops) == (None, 4)  # there is no more to give
    b = board()
    assert b.hear(0.6, 81.0) == "81 C, processing takes 60% of the time: windows every 1 s now"


def test_they_come_back_after_half_a_minute_of_calm(board: Callable[..., Board]) -> None:
    b = board()
    b.hear(0.9)
    b.hear(0.9)
    assert b.hear(0.19, 74.9, times=2) is None
    assert b.hear(0.21, 74.9) is None  # not calm: it begins again
    assert b.hear(0.19, 74.9, times=2) is None
    assert b.hear(0.19, 75.1) is None
    assert b.hear(0.19, 74.9, times=2) is None
    assert b.hear(0.19, 74.9) == "75 C, processing takes 19% of the time: windows every 1 s again"
    assert b.hear(0.01, 50.0, times=2) is None
    assert b.hear(0.01, 50.0) == "50 C, processing takes 1% of the time: windows every 0.5 s again"
    assert (b.hear(0.01, 50.0, times=10), b.pace.hops) == (None, 1)


def test_what_is_not_live_never_depends_on_the_machine(board: Callable[..., Board]) -> None:
    b = board(live=False)
    assert (b.hear(5.0, 100.0, times=10), b.pace.hops) == (None, 1)


def test_every_sound_stays_in_some_window(board: Callable[..., Board]) -> None:
    assert [board(window_s=s).pace.hops for s in (0.1, 0.5, 2.56)] == [1, 1, 1]
    for window_s, hops, most in ((0.4, 1, 1), (1.0, 1, 2), (1.9, 1, 2), (2.56, 2, 4), (2.56, 3, 3), (30.0, 2, 8)):
        b = board(window_s=window_s, hops=hops)
        b.hear(0.9, times=1)
        for _ in range(5):
            b.hear(0.9)
        assert b.pace.hops == most
    with pytest.raises(SettingsError, match=r"every 3 s leaves audio out: .* 2\.56 s long; .* 2\.5 s \(hops = 5\)"):
        board(hops=6)


@given(loads=st.lists(st.tuples(st.floats(0, 2), st.floats(20, 110)), max_size=60), hops=st.integers(1, 3))
def test_the_pace_stays_between_its_limits(loads: list[tuple[float, float]], hops: int) -> None:
    pace = Pace(PaceSettings(hops=hops), 30.0, 0.5, live=True)
    for load, celsius in loads:
        before = pace.hops
        pace._judge(load, celsius)
        assert pace.hops in (hops, 2 * hops, 4 * hops)
        assert pace.hops in (before, 2 * before, before // 2)
        assert (pace.notice() is None) == (pace.hops == before)
        if load > 0.5 or celsius > 80:
            assert pace.hops >= before
            assert pace.hops > before or before == 4 * hops
        assert [n for n in range(3 * pace.hops) if pace.due(n)] == [0, pace.hops, 2 * pace.hops]


def test_the_hottest_sensor(tmp_path: Path) -> None:
    assert hottest(tmp_path / "none") is None
    for i, (kind, text) in enumerate(
        [
            ("cpu-thermal", "48500\n"),
            ("gpu-thermal", "51250\n"),
            ("PMIC-Die", "100000\n"),
            ("asleep", None),
            ("odd", "x"),
        ]
    ):
        zone = tmp_path / f"thermal_zone{i}"
        zone.mkdir()
        (zone / "type").write_text(f"{kind}\n")
        if text is not None:
            (zone / "temp").write_text(text)
    (tmp_path / "cooling_device0").mkdir()
    assert hottest(tmp_path) == 51.25


@pytest.mark.parametrize(("seconds", "hops"), [(0.01, 1), (0.5, 1), (0.51, 2), (1.0, 2), (1.5, 3), (0.3 * 5, 3)])
def test_a_hop_is_made_longer_to_fit(seconds: float, hops: int) -> None:
    assert hops_of(seconds, 0.5) == hops


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_hop_that_is_none(seconds: float) -> None:
    with pytest.raises(SettingsError, match=r"a hop of .* s; more than 0 s is needed"):
        hops_of(seconds, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hops = 0", "hops is 0; it needs 1 to 1000"),
        (f"hops = {10**400}", f"hops is {10**400}; it needs 1 to 1000"),
        ("threads = 65", "threads is 65; it needs 1 to 64"),
        ("max_load = 0", "max_load is 0.0; it needs more than 0 and at most 1"),
        ("max_celsius = nan", "max_celsius is nan; it needs degrees Celsius"),
    ],
)
def test_settings_that_make_no_sense(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f"[pace]\n{text}\n")
    with pytest.raises(SettingsError, match=message):
        read_config(tmp_path / "c.toml")


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(read_bundle("default"))


class Whim(Pace):
    """Leaves out whichever windows it likes."""

    def __init__(self, due: set[int]) -> None:
        self._due = due

    def due(self, number: int) -> bool:
        return number in self._due


@given(due=st.sets(st.integers(0, 20)), n=st.integers(RATE, 8 * RATE), pause=st.integers(0, 5 * RATE))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_windows_left_out_change_nothing_in_the_others(
    recognizer: Recognizer, speech: np.ndarray, due: set[int], n: int, pause: int
) -> None:
    x = np.resize(speech, n)
    x[n // 2 : n // 2 + pause] = 0
    for gate in (None, VoiceGate(RATE, VadSettings(detector="level", hang_over_s=0.1))):
        whole = {w.time_s: w for w in recognizer.windows([x], gate)}
        times = sorted(whole)
        heard = list(recognizer.windows([x], gate, Whim(due)))
        if heard and heard[-1].time_s not in {times[i] for i in due if i < len(times)}:
            assert heard.pop().time_s == pytest.approx(n / RATE, abs=0.01)  # the stream's end is always heard
        assert [w.time_s for w in heard] == [t for i, t in enumerate(times) if i in due]
        for w in heard:
            unpaced = whole[w.time_s]
            assert w.speech_ratio == unpaced.speech_ratio
            assert w.level_dbfs >= unpaced.level_dbfs
            if unpaced.probabilities is not None:
                assert w.probabilities is not None
                assert np.array_equal(w.probabilities, unpaced.probabilities)


def test_speech_in_hops_left_out_is_scored_with_the_next_window(recognizer: Recognizer, speech: np.ndarray) -> None:
    x = np.zeros(12 * RATE, np.float32)
    x[round(5.2 * RATE) : round(5.7 * RATE)] = speech[: RATE // 2]
    gate = VoiceGate(RATE, VadSettings(detector="level", hang_over_s=0.0))
    scored = [w.time_s for w in recognizer.windows([x], gate, Whim({0, 4, 8, 12, 16})) if w.probabilities is not None]
    assert scored == [pytest.approx(6.255)]


class Live(FakeSource):
    """An array that passes for a microphone."""

    live = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.rests: list[float] = []

    def rest(self, seconds: float) -> None:
        self.rests.append(seconds)


@pytest.fixture
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock takes 20 ms, so a block of 32 ms takes 63 % of its time."""
    ticks = iter(range(10**9))
    monkeypatch.setattr("serkit.edge.listener.time", SimpleNamespace(monotonic=lambda: 0.02 * next(ticks)))


def listened(source: type[FakeSource], speech: np.ndarray, seconds: int, **pace: Any) -> tuple[Any, list[Any]]:
    config = Config(vad=BY_LEVEL, pace=PaceSettings(**pace))
    x = np.resize(speech, seconds * RATE)
    with serkit.listen(lambda rate: source(x, rate, 512), config=config) as listener:
        listener._pace._thermal = Path("nowhere")  # type: ignore[union-attr]
        return listener, list(listener)


def test_a_microphone_on_a_slow_machine_is_heard_less_often(slow_machine: None, speech: np.ndarray) -> None:
    listener, events = listened(Live, speech, 40)
    said = [e.message for e in events if e.kind == "status"]
    assert len(said) == 2
    assert str(said[0]).endswith("% of the time: windows every 0.96 s now")
    assert str(said[1]).endswith("% of the time: windows every 1.92 s now")
    assert "silence" not in {e.kind for e in events}
    times = [e.time_s for e in events if e.kind != "status"]
    assert {round(b - a, 6) for a, b in pairwise(times[:-1])} == {0.48, 0.96, 1.92}
    assert listener.health.hop_s == pytest.approx(1.92)
    assert listener.health.windows == listener.health.scored == len(times)


def test_a_file_on_a_slow_machine_is_heard_as_ever(slow_machine: None, speech: np.ndarray) -> None:
    _, events = listened(FakeSource, speech, 30)
    assert [e.time_s for e in events[:-1]] == pytest.approx([2.415 + 0.48 * i for i in range(len(events) - 1)])
    assert events[-1].time_s == 30.0


def test_the_users_own_hop_holds_for_files_too(speech: np.ndarray) -> None:
    _, events = listened(FakeSource, speech, 10, hops=3)
    times = [e.time_s for e in events]
    assert times[:-1] == pytest.approx([2.415 + 1.44 * i for i in range(len(times) - 1)])
    assert times[-1] == 10.0
    with serkit.listen(lambda rate: FakeSource(np.zeros(RATE), rate), hop_s=0.7) as listener:
        assert listener.health.hop_s == pytest.approx(0.96)


def test_a_live_source_may_rest_until_the_next_window_unless_muted() -> None:
    x = np.zeros(10 * RATE, np.float32)
    source = Live(x, RATE, 512)
    with serkit.listen(lambda rate: source) as listener:
        for event in listener:
            if event.time_s > 6:
                listener.mute()
                break
        assert len(source.rests) == 9
        assert all(0.43 < s <= 0.48 for s in source.rests[:-1])
        list(listener)
    assert len(source.rests) == 9

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serkit.benchmarks import device, latency, memory, startup
from serkit.benchmarks.cost_report import cost_tables
from serkit.benchmarks.hops import OpenGate, Recomputed, Streamed, Times, in_turn, quiet, talking, with_hop
from serkit.benchmarks.listening import Listening
from serkit.benchmarks.peer import open_peer
from serkit.benchmarks.stages import run_stages
from serkit.edge.bundle import read_bundle
from serkit.edge.errors import SerkitError, SettingsError
from serkit.edge.stream import Recognizer
from serkit.edge.vad import VoiceGate
from serkit.edge.window import WindowSettings

pytestmark = pytest.mark.slow

EDGE_ONLY = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"tensorflow", "keras", "sklearn", "matplotlib", "librosa", "scipy", "jax", "ray"}:
            raise ImportError(f"{name} is not part of a plain install")
sys.meta_path.insert(0, Blocked())
from serkit.benchmarks import device, latency, memory, startup
from serkit.edge.cli import main
main()
"""


@pytest.fixture
def tiny(tiny_bundles: dict[str, Path]) -> Path:
    return tiny_bundles["dynamic"]


def test_somebody_talks_without_a_pause_and_a_room_is_silent() -> None:
    for audio, asked in ((talking(16000), True), (quiet(16000), False)):
        gate = VoiceGate(16000)
        gate.push(np.resize(audio, 10 * 16000))
        assert gate.speech_ratio(1.0, 10.0) == float(asked)


def test_computed_anew_and_streamed_are_the_same_answers(tiny_bundles: dict[str, Path]) -> None:
    bundle = read_bundle(tiny_bundles["float32"])  # 8-bit activations may turn what is rounded otherwise into a step
    assert with_hop(bundle, 0.1) is bundle  # it encodes hop by hop
    plain = with_hop(replace(bundle, window=WindowSettings()), 0.1)
    assert plain.window.hop_frames == 10
    assert with_hop(plain, 0.103) is plain
    asked: dict[str, list[np.ndarray]] = {"streamed": [], "anew": []}

    class Listed(Recognizer):
        def __init__(self, name: str) -> None:
            super().__init__(bundle)
            self.heard = asked[name]

        def score(self, window: np.ndarray, hop: int | None = None) -> np.ndarray:
            self.heard.append(super().score(window, hop))
            return self.heard[-1]

    audio = talking(16000)
    for stepper in (Streamed(Listed("streamed"), audio, OpenGate(16000)), Recomputed(Listed("anew"), audio)):
        assert all(stepper.hop() for _ in range(20))
    # a frame computed anew stands in another row of the mel product, which may round it otherwise
    assert np.allclose(asked["streamed"], asked["anew"], atol=1e-4)


def test_turns_are_taken_in_turn() -> None:
    class Turn:
        def __init__(self, name: str) -> None:
            self.name = name

        def hop(self) -> bool:
            order.append(self.name)
            return self.name == "a"

    order: list[str] = []
    times = in_turn({"a": Turn("a"), "b": Turn("b")}, rounds=30, seconds=0.0)
    assert "".join(order[-40:]) == "abba" * 10
    figures = times["a"].figures(0.5)
    assert (figures["n_hops"], figures["hop_ms"], figures["scored_share"]) == (20, 500.0, 1.0)
    assert figures["median_ms"] <= figures["p95_ms"] <= figures["p99_ms"]
    assert isinstance(times["b"], Times)
    assert times["b"].n_asked == 0


def test_latency_beside_a_peer(tiny_bundles: dict[str, Path]) -> None:
    model, peer = read_bundle(tiny_bundles["dynamic"]), read_bundle(tiny_bundles["int8"])
    rows = latency.measure([model], [peer], rounds=20)
    assert [(r["system"], r["way"], r["scene"]) for r in rows] == [
        ("tiny-dynamic", "streamed", "talking"),
        ("tiny-dynamic", "anew", "talking"),
        ("tiny-int8", "streamed", "talking"),
        ("tiny-dynamic", "streamed", "talking"),
        ("tiny-dynamic", "streamed", "silent"),
    ]
    assert [r["scored_share"] for r in rows] == [1.0, 1.0, 1.0, 1.0, 0.0]
    assert [r["peer"] for r in rows] == [False, False, True, False, False]
    assert rows[0]["ratio"] == 1.0
    assert "ratio" not in rows[3]
    with pytest.raises(SettingsError, match="two models are called tiny-dynamic; convert one of them with another"):
        latency.measure([model], [model], rounds=20)


@pytest.mark.parametrize(("recipe", "n_frames"), [("light-sernet", 188), ("serkit-cnn-tiny", 385)])
def test_a_peer_is_built_from_a_recipe_and_says_that_it_never_trained(recipe: str, n_frames: int) -> None:
    peer = open_peer(recipe)
    assert (peer.name, peer.format, peer.info["trained"]) == (f"{recipe}-int8", "int8", None)
    assert Recognizer(peer).score(np.zeros((n_frames, 64), np.float32)).shape == (len(peer.labels),)


def test_a_peer_needs_a_recipe() -> None:
    with pytest.raises(SerkitError, match="no recipe"):
        open_peer("no-such-recipe")


def test_the_stages_add_up_and_a_missing_model_is_one_line(tiny: Path) -> None:
    rows = run_stages(str(tiny))
    assert [r["stage"] for r in rows][:3] == ["python", "command line", "numpy"]
    assert rows[-1]["stage"] == "first window"
    assert all(r["seconds"] > 0 for r in rows)
    assert rows[-1]["rss_kb"] > rows[0]["rss_kb"] > 1000
    assert all(r["pss_kb"] <= r["rss_kb"] for r in rows)
    with pytest.raises(SerkitError, match="no model 'nothing'"):
        run_stages("nothing")


def test_a_real_process_hears_what_it_is_given(tiny: Path) -> None:
    speech = np.resize(talking(16000), 10 * 16000)
    with Listening(str(tiny)) as listening:
        events = listening.hear(speech) + listening.hear(speech)
        assert events[-1]["time_s"] > 19
        assert any(e["probabilities"] for e in events)
    listening.close()
    with Listening(str(tiny)) as listening:
        listening._process.kill()
        with pytest.raises(SerkitError, match="`serkit listen` ended"):
            listening.hear(speech)


def test_memory_and_startup_of_a_real_process(tiny: Path) -> None:
    rows = memory.measure([str(tiny)], minutes=1, repeats=1, microphone=False)
    assert [r["what"] for r in rows][:2] == ["listen", "stage"]
    assert sum(r.get("grown_kb", 0) for r in rows) == rows[-1]["rss_kb"]
    started = startup.measure([str(tiny)], repeats=3)
    assert started[0]["what"] == "listen"
    assert started[0]["least_ms"] <= started[0]["median_ms"] <= started[0]["p99_ms"]
    assert {r.get("stage") for r in started} == {None, *(r.get("stage") for r in rows[1:])}


def test_a_plain_install_can_measure_its_board(tiny: Path, tmp_path: Path) -> None:
    """Nothing but the edge's dependencies: the whole command, with fewer hops."""
    quick = EDGE_ONLY.replace("main()\n", "device._HOPS, device._STARTS = 20, 3\nmain()\n")
    out = tmp_path / "board.json"
    arguments = ["bench", "device", "--out", str(out), "--json"]
    ran = subprocess.run([sys.executable, "-c", quick, *arguments], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    file = json.loads(out.read_text())
    assert len(ran.stdout.splitlines()) == len(file["rows"])
    assert {r["what"] for r in file["rows"]} == {"latency", "memory", "startup"}
    checked = subprocess.run(
        [sys.executable, "-c", EDGE_ONLY, "bench", "device", "--check", str(out)], capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout) == (0, "1 file is as they should be\n"), checked.stderr
    table = cost_tables({"board": file})
    assert any("serkit" in line for line in table)
    assert device.file_name() == device.file_name().lower()

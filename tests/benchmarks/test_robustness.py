from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from serkit.benchmarks.robustness import measure
from serkit.train.conditions import Condition


class Scorer:
    """Loses 0.1 of its UAR to whatever changes a recording."""

    sample_rate = 16000

    def __init__(self, trained_under: list[str] | None, side: str = "test") -> None:
        self.trained_under = trained_under
        self.side = side

    def row(self, condition: Condition) -> dict[str, Any]:
        samples = np.linspace(-0.9, 0.9, 16000, dtype=np.float32)
        changed = condition.apply(samples, "an utterance")
        assert changed.shape == samples.shape
        tables = ("confusion", "per_class", "per_speaker_uar", "refused", "noise", "risk_coverage")
        return {"uar": 0.6 if np.array_equal(changed, samples) else 0.5, **dict.fromkeys(tables)}


@pytest.fixture
def folders(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, Path]:
    for name in ("noise/household/a.wav", "noise/telephone/a.wav", "rir/hall.wav"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        soundfile.write(path, 0.1 * rng.standard_normal(8000), 16000)
    return tmp_path / "noise", tmp_path / "rir"


def heard(rows: list[dict[str, Any]]) -> dict[tuple[str, str], bool | None]:
    return {(r["condition"], r["what"]): r["heard_in_training"] for r in rows}


def test_rows_say_what_was_lost_and_what_training_heard(folders: tuple[Path, Path]) -> None:
    shown: list[dict[str, Any]] = []
    scorer = Scorer(["household", "telephone", "simulated rooms"])
    rows = measure(scorer, *folders, shown.append)  # type: ignore[arg-type]
    assert rows == shown
    assert [r["uar_loss"] for r in rows if r["condition"] != "gain"] == [0.0, *[0.1] * (len(rows) - 4)]
    known = heard(rows)
    assert known["noise", "household"]
    assert known["telephone", "300-3400 Hz"]
    assert not known["room", "hall"]  # a recorded one
    assert not known["clean", ""]


def test_a_kind_of_noise_is_no_condition_of_the_same_name(folders: tuple[Path, Path]) -> None:
    known = heard(measure(Scorer(["household"]), *folders, lambda row: None))  # type: ignore[arg-type]
    assert not known["noise", "telephone"]
    assert not known["telephone", "300-3400 Hz"]


def test_a_model_that_does_not_say_is_taken_at_that(folders: tuple[Path, Path]) -> None:
    assert set(heard(measure(Scorer(None), *folders, lambda row: None)).values()) == {None}  # type: ignore[arg-type]


def test_recipes_are_chosen_without_the_noises_and_rooms_of_tests(
    folders: tuple[Path, Path], tmp_path: Path, rng: np.random.Generator
) -> None:
    (tmp_path / "noise" / "babble").mkdir()
    soundfile.write(tmp_path / "noise" / "babble" / "a.wav", 0.1 * rng.standard_normal(8000), 16000)
    scorer = Scorer(["simulated rooms"], "validation")
    rows = measure(scorer, *folders, lambda row: None)  # type: ignore[arg-type]
    assert {r["what"] for r in rows if r["condition"] == "noise"} == {"household", "telephone"}
    assert [r["what"] for r in rows if "room" in r["condition"]] == ["0.3 s, +3 dB", "0.6 s, +0 dB", "1 s, -3 dB"]
    assert heard(rows)["simulated rooms", "0.6 s, +0 dB"]
    tests = measure(Scorer(None), *folders, lambda row: None)  # type: ignore[arg-type]
    assert {"babble", "hall"} <= {r["what"] for r in tests}

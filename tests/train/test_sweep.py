"""The sweep as a user starts it: Ray's processes stay out of the test process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

RECIPE = """
system = "svm"
labels = ["neutral", "happy", "angry", "fearful"]
[frontend]
n_mels = 40
[window]
n_frames = 64
[model]
n_mfcc = 13
"""


def serkit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serkit.edge", *map(str, arguments)]
    as_urgent = os.environ | {"RAY_worker_niceness": "0"}  # Ray's 15 would wait for every other test
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=as_urgent)


def test_a_sweep_trains_what_is_missing_and_prints_one_row(corpus: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE)
    sweep = ("sweep", recipe, "--data", corpus, "--runs", tmp_path / "runs", "--seeds", "0,1", "--workers", "2")
    partly = serkit(*sweep, "--folds", "0,1")
    assert partly.returncode == 0, partly.stderr
    done = {p.name: (p / "metrics.json").stat().st_mtime_ns for p in (tmp_path / "runs").iterdir()}
    assert set(done) == {f"small-ravdess-speaker-independent-{f}-{s}" for f in (0, 1) for s in (0, 1)}

    whole = serkit(*sweep, "--folds", "0,1,2", "--ensemble", "--json")
    assert whole.returncode == 0, whole.stderr
    assert all((tmp_path / "runs" / n / "metrics.json").stat().st_mtime_ns == t for n, t in done.items())
    rows = [json.loads(line) for line in whole.stdout.splitlines()]
    assert {(r["recipe"], r["complete"], tuple(r["seeds"])) for r in rows} == {
        ("small", False, (0, 1)),
        ("small-ensemble", False, (0, 1)),
    }
    said = "--corpus ravdess --protocol speaker-independent --folds 0,1,2 --seeds 0,1 --ensemble"
    assert rows[1]["command"] == f"serkit sweep small.toml {said}"
    assert all(r["folds"] == [0, 1, 2] and r["uar"] > 0.8 for r in rows)


def test_a_run_that_fails_is_named_and_the_others_are_kept(corpus: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(RECIPE)
    bad.write_text(RECIPE.replace("n_mfcc = 13", "n_mfc = 13"))
    ran = serkit(
        "sweep", bad, good, "--data", corpus, "--runs", tmp_path / "runs", "--seeds", "0", "--folds", "0",
    )  # fmt: skip
    assert ran.returncode == 1
    assert "1 of 2 runs failed; the first: bad-ravdess-speaker-independent-0-0: recipe bad, [model]:" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert (tmp_path / "runs" / "good-ravdess-speaker-independent-0-0" / "metrics.json").exists()


def test_what_others_start_from_is_trained_first_and_once(tiny_recipe: Path, corpus: Path, tmp_path: Path) -> None:
    first, small = tmp_path / "first.toml", tmp_path / "small.toml"
    first.write_text(tiny_recipe.read_text() + 'monitor = "imitated"\n[teacher]\nweight = 1.0\nalone = true\n')
    small.write_text(f"start = '{first}'\n" + tiny_recipe.read_text())
    sweep = (
        "sweep", small, "--protocol", "speaker-independent", "--epochs", "1", "--data", corpus, "--runs",
        tmp_path / "runs", "--workers", "2", "--seeds",
    )  # fmt: skip
    refused = serkit(*sweep, "0", "--folds", "0,1")  # ship-test keeps back whom fold 0 tests, not those of fold 1
    assert refused.returncode == 1
    assert "first, which this run would start from, heard a speaker that tests it" in refused.stderr
    assert not (tmp_path / "runs").exists()
    ran = serkit(*sweep, "0,1", "--folds", "0")
    assert ran.returncode == 0, ran.stderr
    names = [line.split()[0] for line in ran.stderr.splitlines() if "-ravdess-" in line]
    assert names[0] == "first-ravdess-ship-test-0-0"
    assert sorted(names[1:]) == [f"small-ravdess-speaker-independent-0-{seed}" for seed in (0, 1)]
    splits = [json.loads((tmp_path / "runs" / name / "split.json").read_text()) for name in names]
    assert splits[1]["start"] == splits[2]["start"]
    assert splits[1]["start"]["trained_voices"] == splits[0]["train"]["voices"]


def test_no_cluster_at_the_address_is_one_line(corpus: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE)
    ran = serkit("sweep", recipe, "--data", corpus, "--runs", tmp_path / "runs", "--ray-address", "127.0.0.1:1")
    assert ran.returncode == 1
    assert ran.stderr.strip().splitlines()[-1] == (
        "serkit: no Ray cluster answers at 127.0.0.1:1 (Connection refused); start one with `ray start --head`, or "
        "leave --ray-address out"
    )

"""What the emulated aarch64 prints, read and compared; the emulation itself is `make arm-test`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serkit.benchmarks import arm
from serkit.benchmarks.answers import answers


@pytest.fixture(scope="module")
def heard() -> dict[str, Any]:
    return json.loads(json.dumps(answers("litert", [str(arm.CLIP)])))


def test_a_machine_answers_as_it_did_before(heard: dict[str, Any]) -> None:
    for row in arm.compare(heard, heard, "litert"):
        assert row["windows"] > 30
        assert row["same_samples"] == row["same_frame_values"] == row["same_labels"] == row["same_logits"] == 1
        assert row["frames_largest_ulp"] == row["logits_largest_difference"] == 0


def test_another_label_in_one_window_shows(heard: dict[str, Any]) -> None:
    other = json.loads(json.dumps(heard))
    window = other["windows"][0]["probabilities"][3]
    window.append(window.pop(0))
    row, *_ = arm.compare(heard, other, "litert")
    assert row["same_labels"] == row["same_logits"] == 1 - 1 / row["windows"]
    assert row["probabilities_largest_difference"] > 0.01


def test_float32_numbers_are_counted_across_zero() -> None:
    tiny = np.nextafter(np.float32(0), np.float32(1))
    pairs = np.float32([[tiny, -tiny], [0.0, -0.0], [1.0, np.nextafter(np.float32(1), np.float32(2))]])
    assert arm.ulps(pairs[:, 0], pairs[:, 1]).tolist() == [2, 0, 1]


def test_every_stage_is_marked_thrice() -> None:
    command = [sys.executable, "-m", "serkit.benchmarks.instructions", "litert", str(arm.CLIP), "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    marks, total = "noise\n", 0
    for i, _ in enumerate(done.stdout.splitlines()):  # 10 to start with, then (i + 1) million for each stretch
        for step in (10, 10 + 1_000_000 * (i + 1), 10 + 2_000_000 * (i + 1)):
            total += step
            marks += f"instructions {total} vector {total // 4}\n"
    rows = {row["stage"]: row for row in reversed(arm.stages(done.stdout, marks))}  # of the first model
    assert set(rows) == {"front end", "voice gate", "windows", "listen, speech", "listen, quiet", "model"}
    assert [rows[stage]["instructions_per_s"] for stage in ("front end", "voice gate")] == [333_333, 666_667]
    assert rows["front end"]["vector_share"] == 0.25
    assert rows["windows"]["scored"] > 2
    assert rows["model"]["instructions_per_window"] == pytest.approx(2_000_000 / rows["windows"]["scored"], abs=1)
    assert rows["listen, quiet"]["scored"] == 0


@pytest.mark.skipif(f"{os.uname().sysname} {os.uname().machine}" != "Linux x86_64", reason="needs Linux on x86-64")
@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("1000", "emulate: needs root, for chroot and mounts: sudo deploy/arm/emulate build"),
        ("0", "emulate: no mmdebstrap; apt install mmdebstrap arch-test"),
    ],
)
def test_what_the_emulation_needs_it_says_in_one_line(user: str, message: str, tmp_path: Path) -> None:
    for name in ("dirname", "uname"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    (tmp_path / "id").write_text(f"#!/bin/bash\necho {user}\n")
    (tmp_path / "id").chmod(0o755)
    done = subprocess.run(
        ["/bin/bash", arm.EMULATE, "build"], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message + "\n")


def test_an_engine_that_crashes_on_one_core_does_not_cost_the_others_their_rows(monkeypatch, tmp_path):
    emulate = tmp_path / "emulate"
    emulate.write_text('#!/bin/bash\n[ "$QEMU_CPU $2" = "cortex-a76 both" ] && kill -SEGV $$\nexit 0\n')
    emulate.chmod(0o755)
    monkeypatch.setattr(arm, "EMULATE", emulate)

    rows = list(arm._instructions(["cortex-a72", "cortex-a76"]))

    (failure,) = rows
    assert (failure["core"], failure["engine"]) == ("cortex-a76", "tflite-runtime")
    assert failure["error"] == "deploy/arm/emulate count: the program was ended by SIGSEGV"
    assert "not counted" in arm.described(failure)

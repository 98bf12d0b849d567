from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serkit.edge import probe as probe_module
from serkit.edge.bundle import parse_bundle, read_bundle
from serkit.edge.errors import ModelError
from serkit.edge.probe import probe


def test_a_corrupt_but_signed_file_harms_nobody(new: Path) -> None:
    """A child dies or answers; we live. Half of the places are in the graph's tables, where a crash is likely."""
    data, size = new.read_bytes(), read_bundle(new).info["size_bytes"]
    rng = np.random.default_rng(1)
    places = np.concatenate([rng.integers(*span, 3) for span in ((8, 4000), (4000, size), (size, len(data)))])
    refused = 0
    for position in places:
        flipped = bytearray(data)
        flipped[position] ^= 0x80
        try:
            probe(parse_bundle(bytes(flipped), new, ""))
        except ModelError:
            refused += 1
    assert refused


def test_a_child_that_crashes_hangs_or_says_nothing(new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = read_bundle(new)
    child = tmp_path / "child"
    monkeypatch.setattr(probe_module.sys, "executable", str(child))
    for script, message in (
        ("cat > /dev/null; kill -SEGV $$", r"crashed the engine \(SIGSEGV\) in a test; convert it again"),
        ("cat > /dev/null; echo lost >&2; exit 3", r"ended its test without an answer \(lost\)"),
        ("exec sleep 60", "did not answer within 0.2 s in a test"),
    ):
        child.write_text(f"#!/bin/sh\n{script}\n")
        child.chmod(0o755)
        with pytest.raises(ModelError, match=message):
            probe(bundle, 0.2 if "sleep" in script else 60)


def test_a_child_has_only_so_much_memory() -> None:
    code = "from serkit.edge.probe import _limit; _limit(1 << 30); bytearray(2 << 30)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "MemoryError" in child.stderr


def test_a_child_is_not_root() -> None:
    """Not when it reads the model; run by another user, it stays that one."""
    code = "import os; from serkit.edge import probe; probe._give_up_root(); print(*os.getresuid(), *os.getresgid())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    ids = [int(text) for text in child.stdout.split()]
    assert ids == ([65534] * 6 if os.geteuid() == 0 else [os.geteuid()] * 3 + [os.getegid()] * 3)

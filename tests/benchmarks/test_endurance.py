from __future__ import annotations

from pathlib import Path

import pytest

from serkit.benchmarks import endurance

pytestmark = pytest.mark.slow


def test_no_window_is_missed_and_every_event_is_written(
    tiny_bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endurance, "_ROW_S", 60.0)
    shown: list[dict[str, object]] = []
    rows = endurance.endurance(0.05, tmp_path, str(tiny_bundles["dynamic"]), shown.append)
    assert rows == shown
    assert [round(r["audio_s"]) for r in rows] == [60, 120, 180]
    assert all(r["windows"] == r["expected_windows"] for r in rows)
    assert rows[-1]["lines"] == rows[-1]["windows"] == 719  # every quarter of a second, once 0.66 s are heard
    assert rows[0]["file_handles"] == rows[1]["file_handles"]
    assert rows[0]["threads"] == rows[1]["threads"]

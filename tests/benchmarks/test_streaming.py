from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from serkit.benchmarks import streaming
from serkit.edge.cli import main


@pytest.mark.slow
def test_no_window_is_missed_and_every_event_is_written(
    tiny_bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_ROW_S", 60.0)
    shown: list[dict[str, object]] = []
    rows = streaming.measure(0.05, tmp_path, str(tiny_bundles["dynamic"]), shown.append)
    assert rows == shown
    assert [round(r["audio_s"]) for r in rows] == [60, 120, 180]
    assert all(r["windows"] == r["expected_windows"] for r in rows)
    assert rows[-1]["lines"] == rows[-1]["windows"] == 748  # every 0.24 s, once 0.735 s are heard, and what is left
    assert streaming.missed(rows) == 0
    assert rows[0]["file_handles"] == rows[1]["file_handles"]
    assert rows[0]["threads"] == rows[1]["threads"]
    for row in rows:
        assert set(row["hops"]) == {"scored", "silent", "yardstick"}
        assert row["hops"]["scored"]["median_ms"] > row["hops"]["silent"]["median_ms"] > 0


def row(hour: int, cost_ms: float, rss_kb: int, **more: int) -> dict[str, Any]:
    hops = {"scored": {"median_ms": cost_ms * hour}, "yardstick": {"median_ms": 1.0 * hour}}  # a busier machine
    return {
        "hour": hour, "audio_s": 3600.0 * hour, "windows": 7200 * hour, "expected_windows": 7200 * hour,
        "times_realtime": 100.0, "hops": hops, "rss_kb": rss_kb, "threads": 2, "file_handles": 5, **more,
    }  # fmt: skip


def test_flatness_leaves_out_the_hour_in_which_caches_fill() -> None:
    rows = [row(1, 9.0, 500)] + [row(h, 2.0, 1000) for h in range(2, 10)] + [row(10, 3.0, 1100)]
    assert streaming.flatness(rows) == {"scored_ratio": 1.25, "rss_growth_kb": 100}
    assert streaming.flatness(rows[:1]) == {"scored_ratio": 1.0, "rss_growth_kb": 0}


@pytest.mark.parametrize(("lost", "code"), [(0, 0), (3, 1)])
def test_missed_windows_are_an_error(lost: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    last = row(1, 2.0, 1000, lines=7200 - lost)
    monkeypatch.setattr(streaming, "measure", lambda *_: [last | {"windows": 7200 - lost}])
    result = CliRunner().invoke(main, ["bench", "streaming"])
    assert result.exit_code == code, result.output
    assert ("3 windows or events are missing" in result.output) == bool(lost)

from __future__ import annotations

from pathlib import Path

import pytest

from serkit.edge.errors import SettingsError
from serkit.edge.listener import Listener
from serkit.edge.sinks.json_lines import JsonLines, JsonLinesSettings


def test_a_sink_that_does_not_start_leaves_nothing_open(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(listener._source, "close", lambda: closed.append("source"))
    good, bad = (JsonLines(JsonLinesSettings(path=str(tmp_path / p))) for p in ("e.jsonl", "missing/e.jsonl"))
    listener.sinks = [good, bad]
    with pytest.raises(SettingsError, match="cannot be written"), listener:
        raise AssertionError("not reached")
    assert closed == ["source"]
    assert good._thread is None

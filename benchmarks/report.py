"""Tables for people, made from the results files and never typed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from serkit.edge.errors import SettingsError
from serkit.train.results import read_results

#: What a paper claims: system and corpus to accuracy and the paper's own word on its split.
CLAIMS = {
    ("r1-cnn-bilstm", "ravdess"): 0.932,
    ("r1-cnn-bilstm", "emodb"): 0.914,
}

_BEGIN, _END = "<!-- results: made by `serkit report --readme` -->", "<!-- end of results -->"


def _accuracy(results: dict[str, dict[str, Any]]) -> list[str]:
    rows = [(name, row) for name, file in results.items() if file["benchmark"] == "evaluate" for row in file["rows"]]
    lines = [
        "| model | format | corpus | protocol | files | UAR (95 %) | accuracy | paper's | macro-F1 | worst speaker |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for _, r in sorted(rows, key=lambda item: (item[1]["corpus"], item[1]["protocol"], item[1]["format"])):
        claim = CLAIMS.get((r["system"], r["corpus"]))
        low, high = r["uar_ci95"]
        cells = [
            r["model"], r["format"], r["corpus"], r["protocol"], r["n_utterances"],
            f"{r['uar']:.3f} ({low:.2f}-{high:.2f})",
            f"{r['accuracy']:.3f}", "" if claim is None else f"{claim:.3f}", f"{r['macro_f1']:.3f}",
            f"{r['worst_speaker_uar']:.3f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _frontend(results: dict[str, dict[str, Any]]) -> list[str]:
    rows = results["frontend"]["rows"] if "frontend" in results else []
    lines = [
        "| features | audio at once | serkit | python_speech_features | librosa |",
        "|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((r["features"], r["scenario"], r["length_s"]) for r in rows):
        cells = {r["system"]: r for r in rows if (r["features"], r["scenario"], r["length_s"]) == key}
        peers = " | ".join(
            f"{cells[name]['median_ms']:.2f} ms, {cells[name]['ratio']:.1f} x"
            for name in ("python_speech_features", "librosa")
        )
        kind, scenario, length_s = key
        lines.append(f"| {kind} | {scenario}, {length_s:g} s | {cells['serkit']['median_ms']:.2f} ms | {peers} |")
    return lines


def tables() -> str:
    """All tables as Markdown."""
    results = read_results()
    return "\n".join([
        "Accuracy, as fractions; the last column is that speaker's UAR. `random` splits have the same speakers in",
        "training and test and come out far too high; `ship-test` speakers were never seen:",
        "",
        *_accuracy(results),
        "",
        "Front end, milliseconds per second of audio, and how many times serkit's that is. `stream`: 0.5 s",
        "of new audio per step, of which the model sees the last 2.56 s, which the others compute anew each time:",
        "",
        *_frontend(results),
    ])  # fmt: skip


def update_readme(path: Path) -> None:
    """Replace what stands between the results markers.

    Raises:
        SettingsError: There is no README.md with the markers here.
    """
    pattern = re.compile(re.escape(_BEGIN) + ".*?" + re.escape(_END), re.DOTALL)
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not pattern.search(text):
        raise SettingsError(f"{path}: no results markers; run this in the folder of serkit's README.md")
    path.write_text(pattern.sub(lambda _: f"{_BEGIN}\n{tables()}\n{_END}", text), encoding="utf-8")

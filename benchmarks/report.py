"""Tables for people, made from the results files and never typed."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median
from typing import Any

from serkit.benchmarks.choices import matrix_tables
from serkit.benchmarks.claims import CLAIMS_HEAD, claims_table, recipe_words
from serkit.benchmarks.comparison import BATCHES, merged, plot
from serkit.benchmarks.cost_report import boards, cost_tables
from serkit.edge.errors import SettingsError
from serkit.train.results import read_results

_ONE_FIGURE = ("gain", "telephone", "clipped")
_BEGIN, _END = "<!-- results: made by `serkit report --readme` -->", "<!-- end of results -->"
_BOARDS_BEGIN, _BOARDS_END = "<!-- boards: made by `serkit report --readme` -->", "<!-- end of boards -->"


def _protocol(row: dict[str, Any]) -> str:
    one_fold = row["protocol"] in ("speaker-independent", "cross-corpus")
    return f"{row['protocol']}, fold {row['fold']} only" if one_fold else str(row["protocol"])


def _accuracy(results: dict[str, dict[str, Any]]) -> list[str]:
    rows = [(name, row) for name, file in results.items() if file["benchmark"] == "evaluate" for row in file["rows"]]
    lines = [
        "| model | format | corpus | protocol | files | UAR (95 %) | accuracy | macro-F1 | worst speaker |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = [(name, row) for name, row in rows if row["noise"] is None]
    for _, r in sorted(rows, key=lambda item: (item[1]["corpus"], item[1]["protocol"], item[1]["format"])):
        low, high = r["uar_ci95"]
        cells = [
            r["model"], r["format"], r["corpus"], _protocol(r), r["n_utterances"],
            f"{r['uar']:.3f} ({low:.2f}-{high:.2f})",
            f"{r['accuracy']:.3f}", f"{r['macro_f1']:.3f}",
            f"{r['worst_speaker_uar']:.3f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _systems(results: dict[str, dict[str, Any]]) -> list[str]:
    rows = [row for file in results.values() if file["benchmark"] == "systems" for row in file["rows"]]
    lines = [
        "| recipe | corpus | protocol | UAR (95 %) | accuracy | worst speaker | ECE | in training | size | made by |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(rows, key=lambda r: (r["corpus"], r["protocol"].startswith("random"), -r["uar"])):
        interval = "({:.2f}-{:.2f})".format(*r["uar_ci95"]) if r["uar_ci95"] else ""
        cells = [
            recipe_words(r), r["corpus"], r["protocol"] + ("" if r["complete"] else f", folds {r['folds']} only"),
            f"{r['uar']:.3f} {interval}", f"{r['accuracy']:.3f}", f"{r['worst_speaker_uar']:.3f}", f"{r['ece']:.3f}",
            "" if r["train_accuracy"] is None else f"{r['train_accuracy']:.2f}", f"{r['n_parameters']:,}",
            f"`{r['command']}`",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _claims(results: dict[str, dict[str, Any]]) -> list[str]:
    rows = [row for file in results.values() if file["benchmark"] == "systems" for row in file["rows"]]
    lines = [f"| {' | '.join(CLAIMS_HEAD)} |", f"|{'---|' * len(CLAIMS_HEAD)}"]
    return [*lines, *(f"| {' | '.join(line)} |" for line in claims_table(rows))]


def _robustness(results: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for name, file in results.items():
        if file["benchmark"] != "robustness":
            continue
        rows = file["rows"]
        snrs = sorted({r["snr_db"] for r in rows if r["condition"] == "noise"}, reverse=True)
        lines += [
            f"`{file['command']}`, clean {rows[0]['uar']:.3f}:",
            "",
            f"| condition | {' | '.join(f'{snr:g} dB' for snr in snrs)} |",
            f"|---|{'---|' * len(snrs)}",
        ]
        for kind in dict.fromkeys(r["what"] for r in rows if r["condition"] == "noise"):
            found = {r["snr_db"]: r["uar"] for r in rows if r["what"] == kind}
            lines.append(f"| {kind} | {' | '.join(f'{found[snr]:.3f}' for snr in snrs)} |")
        rooms = [r["uar"] for r in rows if r["condition"] == "room"]
        other = [f"{r['condition']} {r['what']} {r['uar']:.3f}" for r in rows if r["condition"] in _ONE_FIGURE]
        if rooms:
            other.insert(0, f"rooms {min(rooms):.3f} to {max(rooms):.3f}")
        lines += ["", "; ".join(other) + ".", "", f"![UAR under each condition]({name}.png)", ""]
    return lines


def _correlation(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return ""
    interval = " ({:+.2f} to {:+.2f})".format(*figures["ci95"]) if figures["ci95"] else ""
    return f"{figures['rho']:+.2f}{interval}"


def _explain(results: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "| run | attribution in 300-3000 Hz | mel bands in it | UAR | without it | it alone | centroid, arousal | "
        "bandwidth, valence |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for file in results.values():
        for r in file["rows"] if file["benchmark"] == "explain" else ():
            o, c = r["occlusion"], r["correlates"]
            rhos = [_correlation(c.get(k)) for k in ("centroid_arousal", "bandwidth_valence")]
            cells = [
                r["run"], f"{r['attribution_share_in_band']:.0%}", f"{r['share_of_mel_bands_in_band']:.0%}",
                f"{o['uar']:.3f}", f"{o['uar_without_band']:.3f}", f"{o['uar_band_alone']:.3f}", *rhos,
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _runtimes(results: dict[str, dict[str, Any]]) -> list[str]:
    rows = merged(results)
    rates = [str(b) for b in BATCHES]
    lines = [
        f"| runs on | model | bytes | UAR (95 %) | accuracy | same answer | ms per window (p95, p99) | streamed | "
        f"x reference | windows/s, one at a time | {' | '.join(rates[1:])} at once | mJ per window |",
        f"|{'---|' * (10 + len(rates))}",
    ]
    for r in sorted(rows, key=lambda r: (r["processor"] == "cpu", r["format"] != "keras")):
        threads = "" if r["threads"] is None else f", {r['threads']} thread{'s' if r['threads'] > 1 else ''}"
        on = f"{r['engine']}, {r['processor'].upper()} ({r['device']}){threads}"
        model = f"{r['recipe']}, {r['format']}"
        if "error" in r:
            lines.append(f"| {on} | {model} | {r['size_bytes']:,} | {r['error']} |{' |' * (6 + len(rates))}")
            continue
        low, high = r["uar_ci95"]
        energy = r["energy_mj"] or {}
        cells = [
            on, model, f"{r['size_bytes']:,}", f"{r['uar']:.3f} ({low:.2f}-{high:.2f})", f"{r['accuracy']:.3f}",
            "" if r["label_agreement"] is None else f"{r['label_agreement']:.3f}",
            f"{r['median_ms']:.2f} ({r['p95_ms']:.2f}, {r['p99_ms']:.2f})",
            "" if r["streamed_ms"] is None else f"{r['streamed_ms']:.2f}",
            "" if r["ratio"] is None else f"{r['ratio']:.2f}",
            *(f"{r['windows_per_s'][b]:,.0f}" if b in r["windows_per_s"] else "" for b in rates),
            "; ".join(f"{mj:.3g} at {b}" for b, mj in energy.items()) or "not readable",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    if not any(r["processor"] == "gpu" for r in rows):
        lines.insert(2, f"| Keras on a GPU | not measured |{' |' * (8 + len(rates))}")
    return lines


def _frontend(results: dict[str, dict[str, Any]]) -> list[str]:
    rows = results["frontend"]["rows"] if "frontend" in results else []
    lines = [
        "| features | audio at once | serkit | python_speech_features | librosa | tflite graph |",
        "|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((r["features"], r["scenario"], r["length_s"]) for r in rows):
        cells = {r["system"]: r for r in rows if (r["features"], r["scenario"], r["length_s"]) == key}
        peers = " | ".join(
            f"{cells[name]['median_ms']:.2f} ms, {cells[name]['ratio']:.1f} x" if name in cells else ""
            for name in ("python_speech_features", "librosa", "tflite graph")
        )
        kind, scenario, length_s = key
        lines.append(f"| {kind} | {scenario}, {length_s:g} s | {cells['serkit']['median_ms']:.2f} ms | {peers} |")
    return lines


def _sessions(results: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for name, file in results.items():
        if file["benchmark"] != "sessions":
            continue
        lines += [
            f"`{file['command']}`:",
            "",
            "| decided by | sessions | minutes | frame UAR | clip UAR | episodes F1 | found | delay | "
            "flips per min | false alarms, per h (at most) | model asked |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for r in file["rows"]:
            where = r["sessions"] if r["bed"] is None else f"{r['sessions']}, {r['bed']}"
            where += " (tuned on)" if r.get("test_only") is False and r["bed"] != "quiet" else ""
            if r["sessions"] == "emotion":
                found = [f"{r['frame_uar']:.3f}", f"{r['clip_uar']:.3f}", f"{r['event_f1']:.2f}"]
                delay = "" if r["delay_median_s"] is None else f"{r['delay_median_s']:.1f} s"
                figures = [*found, f"{r['event_recall']:.0%}", delay, f"{r['flips_per_minute']:.1f}", "", ""]
            else:
                alarms = f"{r['alarms']}, {r['false_alarms_per_hour']:.1f} ({r['at_most_per_hour']:.0f})"
                figures = ["", "", "", "", "", "", alarms, f"{r['scored_share']:.0%}"]
            lines.append(f"| {' | '.join([r['decision'], where, format(r['minutes'], '.0f'), *figures])} |")
        lines += ["", f"![A session, minute by minute]({name}.png)", ""]
    return lines


def _enrolment(results: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "| model | corpus | protocol | heard before | strength | UAR without | UAR with | change | "
        "neutral taken for something else | worst change of a speaker |",
        f"|{'---|' * 10}",
    ]
    for name in sorted(n for n in results if n.startswith("enrolment")):
        for r in results[name]["rows"]:
            changes = r["per_voice_change"]
            worst = min(changes, key=changes.__getitem__)
            cells = [
                f"{r['model']} ({r['format']})", r["corpus"], _protocol(r),
                f"{r['speech_s']:g} s", f"{r['strength']:g}",
                f"{r['uar_before']:.3f}", f"{r['uar_after']:.3f}", f"{r['uar_after'] - r['uar_before']:+.3f}",
                f"{r['neutral_missed_before']:.1%} to {r['neutral_missed_after']:.1%}",
                f"{changes[worst]:+.3f} ({worst})",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _vad(results: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for name, file in results.items():
        if file["benchmark"] != "vad":
            continue
        lines += [
            "| detector | cost / model | missed clean | 20 dB | 10 dB | 5 dB | 0 dB | false in pauses, 10 dB | "
            "on noise alone | compute in silence | on noise alone |",
            f"|---|{'---|' * 10}",
        ]

        def mean(rows: list[dict[str, Any]], figure: str) -> str:
            return f"{sum(r[figure] for r in rows) / len(rows):.1%}"

        for detector in dict.fromkeys(r["detector"] for r in file["rows"]):
            mine = [r for r in file["rows"] if r["detector"] == detector]
            by = {c: [r for r in mine if r["condition"] == c] for c in ("clean", "noise", "alone", "silence")}
            at = {snr: [r for r in by["noise"] if r["level_db"] == snr] for snr in (20, 10, 5, 0)}
            cells = [
                detector, f"{mine[0]['cost_ratio']:.2f}", mean(by["clean"][1:2], "miss"),
                *(mean(rows, "miss") for rows in at.values()), mean(at[10], "false_alarm"),
                mean(by["alone"], "false_alarm"), mean(by["silence"], "compute_ratio"),
                mean(by["alone"], "compute_ratio"),
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", f"![Voice detectors]({name}.png)", ""]
    return lines


def _reconnect(results: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for file in results.values():
        if file["benchmark"] == "reconnect":
            rows = file["rows"]
            back = [r["recovery_s"] for r in rows if r["recovery_s"] is not None]
            grown = rows[-1]["rss_kb"] - rows[0]["rss_kb"]
            lines.append(
                f"`{file['command']}`: audio back {len(back)} of {len(rows)} times, after {median(back):.2f} s "
                f"(median; at most {max(back):.2f} s) of the server's first answer; {sum(r['noticed'] for r in rows)} "
                f"outages told; threads {rows[0]['threads']} to {rows[-1]['threads']}, open files "
                f"{rows[0]['file_handles']} to {rows[-1]['file_handles']}, memory {grown:+d} kB."
            )
    return lines


def _machines(results: dict[str, dict[str, Any]]) -> str:
    machines = dict.fromkeys(r["machine"] for r in merged(results))
    return f"Machines: {'; '.join(machines)}. Energy is that of the whole board or package." if machines else ""


def _arm(results: dict[str, dict[str, Any]]) -> list[str]:
    if "arm" not in results:
        return []
    rows = results["arm"]["rows"]
    lines = [
        "## aarch64",
        "",
        "The demo's clip and some recordings, on x86-64 and on an emulated Cortex-A72 (`make arm-bench`).",
        "",
        "| model | engine | windows | same label | same logits | furthest apart | same front-end values | "
        "furthest apart |",
        f"|{'---|' * 8}",
    ]
    for r in (r for r in rows if r["measure"] == "answers"):
        cells = [
            r["model"], r["engine"], r["windows"], f"{r['same_labels']:.1%}", f"{r['same_logits']:.1%}",
            f"{r['logits_largest_difference']:.1e}", f"{r['same_frame_values']:.1%}", f"{r['frames_largest_ulp']} ulp",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    stages = ["front end", "voice gate", "model", "listen, speech", "listen, quiet"]
    lines += ["", "Million instructions per second of audio:", "", f"| core | model | engine | {' | '.join(stages)} |"]
    lines.append(f"|---|---|---|{'---|' * len(stages)}")
    counted = {(r["core"], r["model"], r["engine"], r["stage"]): r for r in rows if r["measure"] == "instructions"}
    for key in dict.fromkeys(k[:3] for k in counted):
        figures = [f"{counted[(*key, stage)]['instructions_per_s'] / 1e6:.1f}" for stage in stages]
        lines.append(f"| {' | '.join([*key, *figures])} |")
    for r in (r for r in rows if r["measure"] == "failure"):
        lines += ["", f"Not counted: {r['engine']} on a {r['core']} ({r['error']})."]
    lines += [
        "",
        "Estimated share of one core (of four), from the instructions above, the clock and the instructions per cycle",
        "assumed beside it: a fifth to a half of what the core decodes (A53 2, A72 3, A76 4). No board was measured.",
        "Not in it: the microphone, the kernel, the sinks.",
        "",
        "| board | clock | instructions per cycle | model | engine | somebody speaks | quiet |",
        "|---|---|---|---|---|---|---|",
    ]
    loads = {(r["board"], r["model"], r["engine"], r["stage"]): r for r in rows if r["measure"] == "load"}
    for key in dict.fromkeys(k[:3] for k in loads):
        speech, quiet = (loads[(*key, f"listen, {what}")] for what in ("speech", "quiet"))
        shares = ["{:.1%} to {:.1%}".format(*r["share_of_one_core"]) for r in (speech, quiet)]
        assumed = "{:g} to {:g}".format(*speech["assumed_instructions_per_cycle"])
        lines.append(
            f"| {key[0]} | {speech['clock_ghz']} GHz | {assumed} | {key[1]} | {key[2]} | {' | '.join(shares)} |"
        )
    return [*lines, ""]


def tables() -> str:
    """What the README shows, as Markdown: how good the shipped models and the published systems are."""
    results = read_results()
    return "\n".join([
        "Accuracy, as fractions; the last column is that speaker's UAR, over the emotions they have. `random` splits",
        "have the same speakers in training and test and come out far too high; `ship-test` speakers were never seen",
        "(those of EMO-DB have a single utterance of disgust, which alone is worth 17 points of UAR):",
        "",
        *_accuracy(results),
        "",
        "The same model on every runtime, on the same utterances (`serkit bench accuracy`): the network alone, from a",
        "window in numpy to logits in numpy, measured in turn. `x reference` (of the same machine) and `same answer`",
        f"compare with the shipped model on LiteRT. {_machines(results)}",
        "",
        *_runtimes(results),
        "",
        "![UAR against latency and size](benchmarks/results/accuracy.png)",
        "",
        "The published systems, their baselines and a peer, trained by the command in each row. `speaker-independent`:",
        "nobody tested was heard in training; folds pooled, seeds averaged, 95 % by drawing speakers anew. Few epochs",
        "and seeds mean a smaller schedule than the recipe's, on two cores; a low accuracy `in training` (augmented",
        "windows) says that it was too small. Two speakers make no interval; size is in parameters:",
        "",
        *_systems(results),
        "",
        "What the papers claim:",
        "",
        *_claims(results),
    ])  # fmt: skip


def more_tables() -> str:
    """The other measurements, as Markdown."""
    results = read_results()
    return "\n".join([
        "# More results",
        "",
        "Made by `serkit report --readme` from the JSON files here; accuracy is in the README.",
        "",
        "## Noise, rooms, level, telephone, clipping",
        "",
        "UAR that is left. No recipe may train on babble, car, street and transport; whether one trained on another",
        "kind, its rows say.",
        "",
        *_robustness(results),
        "## Hours of listening",
        "",
        "Composed sessions of people the model never heard (`serkit bench sessions`): is the answer right in every",
        "tenth of a second of speech, beside the same utterances one by one; are episodes found, and how soon; how",
        "often does the answer change without reason; and what if nobody feels anything, or nobody speaks.",
        "",
        *_sessions(results),
        "## One person",
        "",
        "Test speakers after `serkit enroll` with half of their neutral utterances, which are not scored, then with",
        "the other half; RAVDESS has only a few seconds, not the 30 s of ordinary speech that it asks for.",
        "Everybody's neutral point and the strength were fitted on validation speakers alone.",
        "",
        *_enrolment(results),
        "## Who speaks",
        "",
        "Share of half seconds of speech missed, and of others taken for speech; compute beside a model asked always.",
        "Tuned on other people and other noises; `window-level` is the gate of training and of `predict`.",
        "",
        *_vad(results),
        "## A sound server that dies",
        "",
        *_reconnect(results),
        "",
        "## Conversion",
        "",
        "Each run in every format, LSTM form and engine, one thread; dp, labels and UAR beside Keras on 40 validation",
        "utterances of that run.",
        "",
        *matrix_tables(results),
        "## What a model hears",
        "",
        "Whether R1's claims hold (`serkit explain`, validation side; Spearman correlations with 95 %).",
        "",
        *_explain(results),
        "",
        "## Front end",
        "",
        "Milliseconds per second of audio, and how many times serkit's that is. `stream`: 0.5 s of new audio per step,",
        "of which the model sees the last 2.56 s, which the others compute anew each time.",
        "",
        *_frontend(results),
        "",
        *cost_tables(results),
        *_arm(results),
    ])  # fmt: skip


def update_readme(path: Path) -> None:
    """Replace what stands between the markers of the results, and of the boards where there are some, and write the
    other tables beside the results files.

    Raises:
        SettingsError: There is no README.md with the markers of the results here.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if _between(_BEGIN, _END).search(text) is None:
        raise SettingsError(f"{path}: no results markers; run this in the folder of serkit's README.md")
    folder = path.parent / "benchmarks" / "results"
    if rows := merged(read_results()):
        plot(rows, folder / "accuracy.png")
    parts = {(_BEGIN, _END): tables(), (_BOARDS_BEGIN, _BOARDS_END): "\n".join(boards(read_results()))}
    for (begin, end), part in parts.items():
        whole = f"{begin}\n{part}\n{end}"
        text = _between(begin, end).sub(lambda _, whole=whole: whole, text)  # type: ignore[misc]
    path.write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(more_tables(), encoding="utf-8")


def _between(begin: str, end: str) -> re.Pattern[str]:
    return re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)

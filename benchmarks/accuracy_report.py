"""Tables of how good models and the published systems are, made from the results files."""

from __future__ import annotations

from typing import Any

from serkit.benchmarks.claims import CLAIMS_HEAD, claims_table, recipe_words
from serkit.benchmarks.comparison import BATCHES, merged

Results = dict[str, dict[str, Any]]
_ONE_FIGURE = ("simulated rooms", "gain", "telephone", "clipped")


def accuracy(results: Results) -> list[str]:
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


def systems(results: Results) -> list[str]:
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


def claims(results: Results) -> list[str]:
    rows = [row for file in results.values() if file["benchmark"] == "systems" for row in file["rows"]]
    lines = [f"| {' | '.join(CLAIMS_HEAD)} |", f"|{'---|' * len(CLAIMS_HEAD)}"]
    return [*lines, *(f"| {' | '.join(line)} |" for line in claims_table(rows))]


def runtimes(results: Results) -> list[str]:
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


def machines(results: Results) -> str:
    machines = dict.fromkeys(r["machine"] for r in merged(results))
    return f"Machines: {'; '.join(machines)}. Energy is that of the whole board or package." if machines else ""


def robustness(results: Results) -> list[str]:
    lines = []
    for name, file in results.items():
        if file["benchmark"] != "robustness":
            continue
        rows = file["rows"]
        snrs = sorted({r["snr_db"] for r in rows if r["condition"] == "noise"}, reverse=True)
        lines += [f"`{file['command']}`, clean {rows[0]['uar']:.3f}:", ""]
        if snrs:
            lines += [
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


def enrolment(results: Results) -> list[str]:
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


def explain(results: Results) -> list[str]:
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


def _protocol(row: dict[str, Any]) -> str:
    one_fold = row["protocol"] in ("speaker-independent", "cross-corpus")
    return f"{row['protocol']}, fold {row['fold']} only" if one_fold else str(row["protocol"])


def _correlation(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return ""
    interval = " ({:+.2f} to {:+.2f})".format(*figures["ci95"]) if figures["ci95"] else ""
    return f"{figures['rho']:+.2f}{interval}"

"""Tables of what features, latency, memory, start-up, a day of listening, boards and aarch64 cost."""

from __future__ import annotations

from typing import Any

from serkit.benchmarks.streaming import flatness, missed

Results = dict[str, dict[str, Any]]


def _files(results: Results, benchmark: str) -> list[tuple[str, dict[str, Any]]]:
    return [(name, file) for name, file in results.items() if file["benchmark"] == benchmark]


def _table(head: str, rows: list[list[str]]) -> list[str]:
    columns = head.count("|") + 1
    return [f"| {head} |", f"|{'---|' * columns}", *(f"| {' | '.join(row)} |" for row in rows)]


def _made_by(file: dict[str, Any]) -> str:
    m = file["machine"]
    where = m["board"] or f"{m['cpu'] or m['architecture']}, {m['cores']} cores"
    engine = next(f"{n} {file['versions'][n]}" for n in ("ai-edge-litert", "tflite-runtime") if n in file["versions"])
    return f"`{file['command']}` ({where}, {engine}):"


def frontend(results: Results) -> list[str]:
    rows = results["frontend"]["rows"] if "frontend" in results else []
    lines = [
        "| features | audio at once | serkit | python_speech_features | librosa | tflite graph | numpy's FFT alone |",
        "|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((r["features"], r["scenario"], r["length_s"]) for r in rows):
        cells = {r["system"]: r for r in rows if (r["features"], r["scenario"], r["length_s"]) == key}
        peers = " | ".join(
            f"{cells[name]['median_ms']:.2f} ms, {cells[name]['ratio']:.1f} x" if name in cells else ""
            for name in ("python_speech_features", "librosa", "tflite graph", "numpy's FFT alone")
        )
        kind, scenario, length_s = key
        lines.append(f"| {kind} | {scenario}, {length_s:g} s | {cells['serkit']['median_ms']:.2f} ms | {peers} |")
    return lines


def latency(results: Results) -> list[str]:
    lines = []
    for name, file in _files(results, "latency"):
        rows = []
        for r in file["rows"]:
            what = r["system"] + ("" if r["trained"] else " (peer, untrained)" if r["peer"] else " (untrained)")
            way = {"streamed": "streamed", "anew": "window computed anew"}[r["way"]]
            share = f"{1 / r['ratio']:.2f}" if r.get("ratio") and (r["peer"] or r["way"] == "anew") else ""
            rows.append([
                what, f"{way}, {r['scene']}", r["gate"], f"{r['cpu_ms']:.2f} ms", f"{r['median_ms']:.2f} ms",
                f"{r['p95_ms']:.2f} ms", f"{r['p99_ms']:.2f} ms", f"{r['core_share']:.2%}", share,
            ])  # fmt: skip
        head = "model | way, scene | voice gate | per hop, of a core | by the clock | p95 | p99 | share of a core | "
        head += f"{file['rows'][0]['system']} by this"
        lines += [_made_by(file), "", *_table(head, rows), "", f"![Latency]({name}.png)", ""]
    return lines


def memory(results: Results) -> list[str]:
    lines = []
    for name, file in _files(results, "memory"):
        rows = []
        for r in file["rows"]:
            what = {
                "listen": f"`serkit listen`, {r.get('audio_s', 0) / 60:g} min heard from a pipe",
                "microphone": "`serkit listen` at a microphone",
                "capture": "its capture process (sound libraries)",
                "stage": f"at its start: {r.get('stage')}",
            }[r["what"]]
            grown = f"{r['grown_kb'] / 1024:+.1f} MB" if "grown_kb" in r else ""
            sizes = [f"{r[k] / 1024:.1f} MB" for k in ("rss_kb", "pss_kb", "anonymous_kb")]
            rows.append([r["model"], what, *sizes, grown, str(r["threads"])])
        head = "model | process | resident | its share | its own data | grown by | threads"
        lines += [_made_by(file), "", *_table(head, rows), "", f"![Memory]({name}.png)", ""]
    return lines


def startup(results: Results) -> list[str]:
    lines = []
    for name, file in _files(results, "startup"):
        rows = []
        for r in file["rows"]:
            what = "to the first scored window, beyond its audio" if r["what"] == "listen" else f"stage: {r['stage']}"
            times = [f"{r[k]:.0f} ms" for k in ("median_ms", "p95_ms", "least_ms", "cpu_ms")]
            rows.append([r["model"], what, *times])
        head = "model | from the start | median | p95 | least | of a processor"
        lines += [_made_by(file), "", *_table(head, rows), "", f"![Start-up]({name}.png)", ""]
    return lines


def streaming(results: Results) -> list[str]:
    lines = []
    for name, file in _files(results, "streaming"):
        rows, flat = file["rows"], flatness(file["rows"])
        last = rows[-1]
        words = {"scored": "with the model", "silent": "of silence"}
        costs = "; ".join(
            f"a hop {words[kind]} {last['hops'][kind]['median_ms']:.2f} ms of a core in the last hour, "
            f"{flat[f'{kind}_ratio']:.2f} times that of the first ones, in yardsticks"
            for kind in words
            if f"{kind}_ratio" in flat
        )
        lines += [
            f"{_made_by(file)} {last['audio_s'] / 3600:g} h at {last['times_realtime']:.0f} times real time, "
            f"{last['windows']} windows, {missed(rows)} missed; {costs}; memory {flat['rss_growth_kb']:+d} kB, "
            f"threads {rows[0]['threads']} to {last['threads']}, open files {rows[0]['file_handles']} to "
            f"{last['file_handles']}.",
            "",
            f"![A day of listening]({name}.png)",
            "",
        ]
    return lines


def _told(value: float | None, text: str) -> str:
    return "not told" if value is None else text.format(value)


def boards(results: Results) -> list[str]:
    """One row per board and model."""
    rows = []
    for _, file in _files(results, "device"):
        m, energy, throttling = file["machine"], file["energy"], file["after"]["throttling"]
        slowed = None if throttling is None else ", ".join(throttling["now"]) or "no"
        for system in dict.fromkeys(r["system"] for r in file["rows"] if r["what"] == "latency"):
            found = {
                (r["what"], r.get("scene")): r
                for r in file["rows"]
                if r.get("race") != "pipeline" and system in (r.get("system"), r.get("model"))
            }
            talking, silent = found["latency", "talking"], found["latency", "silent"]
            rows.append([
                m["board"] or f"{m['cpu'] or m['architecture']}, {m['cores']} cores",
                m["governor"] or "not told",
                system,
                talking["engine"],
                " / ".join(f"{talking[k]:.1f}" for k in ("median_ms", "p95_ms", "p99_ms")) + " ms",
                f"{talking['core_share']:.2%}",
                f"{silent['core_share']:.2%}",
                f"{found['memory', None]['rss_kb'] / 1024:.0f} MB",
                f"{found['startup', None]['median_ms']:.0f} ms",
                _told(file["after"]["temperature_c"], "{:g} °C"),
                slowed or "not told",
                _told(energy and 1000 * energy["joule_per_hop"], "{:.1f} mJ"),
            ])  # fmt: skip
    head = (
        "board | governor | model | engine | hop, talking: median / p95 / p99 | of a core, talking | silent | memory | "
        "start-up | temperature | slowed down | energy per hop"
    )
    return _table(head, rows)


def arm(results: Results) -> list[str]:
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


def cost_tables(results: Results) -> list[str]:
    """All of them, as Markdown."""
    return [
        "## Front end",
        "",
        "Milliseconds per second of audio, and how many times serkit's that is. `stream`: 0.5 s of new audio per step,",
        "of which the model sees the last 2.56 s, which the others compute anew each time. The last column, the FFTs",
        "of the new frames by themselves, is what no front end in numpy can do without.",
        "",
        *frontend(results),
        "",
        "## Latency",
        "",
        "A hop is half a second, from its samples to the decision, on one thread; systems take turns hop by hop. Where",
        "the machine has other work, the clock counts it too; ratios are of time on the processor, in the same round.",
        "",
        *latency(results),
        "## Memory",
        "",
        "`its share` counts a page that n processes share as 1/n; `its own data` is what no file backs.",
        "",
        *memory(results),
        "## Start-up",
        "",
        "With all files in memory; a first start after the board's own reads them from its card.",
        "",
        *startup(results),
        "## A day of listening",
        "",
        "The yardstick is half a second of features, computed again and again in between: other work on the machine",
        "makes it cost more as well.",
        "",
        *streaming(results),
        "## Boards",
        "",
        "`serkit bench device` on a board writes the file; with `--check FILE` it looks at what others send.",
        "",
        *boards(results),
        "",
        *arm(results),
    ]

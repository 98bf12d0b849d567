"""Tables of latency, memory, start-up, a day of listening and boards, made from the results files."""

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


def cost_tables(results: Results) -> list[str]:
    """All of them, as Markdown."""
    return [
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
    ]

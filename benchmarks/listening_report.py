"""Tables of hours of listening, of voice detectors and of sound servers that die, made from the results files."""

from __future__ import annotations

from statistics import median
from typing import Any

Results = dict[str, dict[str, Any]]


def sessions(results: Results) -> list[str]:
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
        lines += ["", f"![A session, minute by minute]({name}.png)", "", *_right_after(file["rows"]), ""]
    return lines


def _right_after(rows: list[dict[str, Any]]) -> list[str]:
    of_all = [r for r in rows if r["sessions"] == "emotion" and r["bed"] is None and "right_after" in r]
    if not of_all:
        return []
    after = list(of_all[0]["right_after"])
    return [
        "Share of episodes with the right answer, so long after they began:",
        "",
        f"| decided by | {' | '.join(f'{a} s' for a in after)} |",
        f"|---|{'---|' * len(after)}",
        *(f"| {r['decision']} | {' | '.join(format(r['right_after'][a], '.0%') for a in after)} |" for r in of_all),
    ]


def vad(results: Results) -> list[str]:
    lines = []
    for name, file in results.items():
        if file["benchmark"] != "vad":
            continue
        lines += [
            "| detector | cost / model | missed clean | 20 dB | 10 dB | 5 dB | 0 dB | in no window, 10 dB | "
            "false in pauses, 10 dB | on noise alone | compute in silence | on noise alone |",
            f"|---|{'---|' * 11}",
        ]

        def mean(rows: list[dict[str, Any]], figure: str) -> str:
            return f"{sum(r[figure] for r in rows) / len(rows):.1%}"

        for detector in dict.fromkeys(r["detector"] for r in file["rows"]):
            mine = [r for r in file["rows"] if r["detector"] == detector]
            by = {c: [r for r in mine if r["condition"] == c] for c in ("clean", "noise", "alone", "silence")}
            at = {snr: [r for r in by["noise"] if r["level_db"] == snr] for snr in (20, 10, 5, 0)}
            cells = [
                detector, f"{mine[0]['cost_ratio']:.2f}", mean(by["clean"][1:2], "miss"),
                *(mean(rows, "miss") for rows in at.values()), mean(at[10], "unheard"), mean(at[10], "false_alarm"),
                mean(by["alone"], "false_alarm"), mean(by["silence"], "compute_ratio"),
                mean(by["alone"], "compute_ratio"),
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", f"![Voice detectors]({name}.png)", ""]
    return lines


def reconnect(results: Results) -> list[str]:
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

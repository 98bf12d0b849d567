"""What half of a person's neutral utterances, heard before, change in the answers to all their others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serkit.edge.bundle import read_bundle
from serkit.edge.errors import VoiceError
from serkit.train.enrolment import fit_enrolment, heard_by_run, score_enrolment
from serkit.train.evaluate import Scorer


def measure(run: Path | None, model: str | None, corpus: str, data: Path, protocol: str, engine: str) -> dict[str, Any]:
    """One row of figures.

    Args:
        run: A finished run folder: neutral point and strength are fitted on its validation speakers now.
        model: Or a bundle: they are what it carries.
        corpus, data, protocol, engine: As for `serkit.train.evaluate.evaluate`.

    Returns:
        What was fitted, and `serkit.train.enrolment.score_enrolment` on the test side.

    Raises:
        VoiceError: Too few validation speakers.
    """
    scorer = Scorer(run=run, model=model, corpus=corpus, data=data, protocol=protocol, engine=engine)
    fitted = read_bundle(str(model)).info.get("enrolment") if run is None else fit_enrolment(heard_by_run(run))
    if not fitted:
        raise VoiceError(f"{run or model}: too few validation speakers to fit anything on; choose another")
    return {**scorer.about(), "fitted": fitted, **score_enrolment(scorer.heard(), fitted)}


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    changes = row["per_voice_change"]
    worst = min(changes, key=changes.__getitem__)
    return (
        f"{row['model']:<20} {row['corpus']:<8} {row['protocol']:<20} fold {row['fold']}  strength "
        f"{row['fitted']['strength']:g}  UAR {row['uar_before']:.3f} -> {row['uar_after']:.3f}  neutral missed "
        f"{row['neutral_missed_before']:.3f} -> {row['neutral_missed_after']:.3f}  worst {worst} {changes[worst]:+.3f}"
    )

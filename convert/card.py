"""The model card: what a person should know before trusting the model."""

from __future__ import annotations

from typing import Any


def _enrolment(enrolment: dict[str, Any] | None) -> str:
    if enrolment is None:
        return "`serkit enroll` was not tried: too few validation speakers."
    if not enrolment["strength"]:
        gain = "brings nothing there and is off"
    else:
        gain = f"changes UAR from {enrolment['before']:.3f} to {enrolment['after']:.3f} there (on whom it was tuned)"
    return (
        f"`serkit enroll`, tried on {enrolment['voices']} validation speakers with half of their neutral utterances,\n"
        f"{gain}."
    )


def _unsure(info: dict[str, Any]) -> str:
    if "unsure" not in info:
        return "From which confidence an answer is sure was not measured: no strangers validated."
    unsure = info["unsure"]
    if unsure is None:
        return "No confidence makes three of four validation answers right: take every answer as unsure."
    return (
        f"Of the validation answers with a confidence of {unsure['below']:.2f} or more ({unsure['coverage']:.0%}), "
        f"{unsure['accuracy']:.0%} are\nright, each voice counting alike; `serkit predict` calls the others unsure."
    )


def _list(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in figures.items())


def model_card(info: dict[str, Any]) -> str:
    """Markdown, made from ``model.json`` alone."""
    rows = "\n".join(
        f"| {corpus} | {side} | {f['n_utterances']} | {f['uar']:.3f} | {f['accuracy']:.3f} | {f['macro_f1']:.3f} | "
        f"{f['ece']:.3f} | {f['worst_speaker_uar']:.3f} |"
        for side, corpora in info["scores_keras"].items()
        for corpus, f in corpora.items()
    )
    people = "\n".join(
        f"- {corpus}, {side}: {_list(f['per_speaker_uar'])}; by sex {_list(f['per_sex_uar'])}"
        for side, corpora in info["scores_keras"].items()
        for corpus, f in corpora.items()
    )
    heard = [*info["corpora"].values(), *info["started_with"].values(), *filter(None, [info["teacher"]])]
    corpora = "\n".join(f"- {c['title']}: {c['licence']}" for c in heard)
    p, w, f = info["parity"], info["window"], info["frontend"]
    return f"""# {info["name"]}

{info["system"]}, {info["n_parameters"]:,} parameters, {info["format"]}, {info["size_bytes"]:,} bytes.
Emotions: {", ".join(info["labels"])}.
It hears {w["n_frames"] * f["hop_length"] / f["sample_rate"]:.2f} s at a time, every
{w["hop_frames"] * f["hop_length"] / f["sample_rate"]:.2f} s, at {f["sample_rate"]} Hz.

## Figures

Protocol `{info["split"]["protocol"]}`, Keras weights before conversion; epoch, temperature and what is said of sure
answers and of enrolment were chosen on the validation side alone. UAR is the unweighted average recall over the
emotions the corpus has.

| corpus | side | utterances | UAR | accuracy | macro-F1 | ECE | worst speaker's UAR |
|---|---|---|---|---|---|---|---|
{rows}

UAR by speaker, over the emotions that each has:

{people}

{_unsure(info)}

Conversion, on {p["n_utterances"]} validation utterances: max |dp| {p["max_abs_dp"]}, label agreement
{p["utterance_label_agreement"]:.3f}, UAR {p["uar_keras"]:.3f} before and {p["uar"]:.3f} after.

{_enrolment(info["enrolment"])}

## Learned from, and on whose terms

{corpora}

The weights carry the terms of all of these; where one is non-commercial, so are they.

## Limits

All speakers are actors, few, adult, and speak the languages of these corpora. Everyday emotion is weaker and mixed;
expect lower figures than these. The answer says how a voice sounds, never what a person feels.

Not for: judging people at work or in education (EU AI Act, Article 5(1)(f), but for medical or safety reasons), hiring,
credit, policing, lie detection. Where it is used, people must be told (Article 50(3)).
"""

"""Write the one file: flatbuffer, zip with ``model.json`` and ``card.md``, and the detached signature."""

from __future__ import annotations

import errno
import io
import json
import os
import zipfile
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serkit.convert.card import model_card
from serkit.convert.export import FORMATS, export
from serkit.convert.parity import check_parity, parity
from serkit.edge.bundle import SCHEMA, parse_bundle
from serkit.edge.engine import Engine
from serkit.edge.errors import ModelError, SettingsError
from serkit.edge.probe import golden_logits
from serkit.edge.signature import sign, signing_key
from serkit.edge.stream import Recognizer
from serkit.edge.window import softmax
from serkit.train.corpora import CORPORA
from serkit.train.enrolment import Heard, fit_enrolment, heard_by_run
from serkit.train.environment import commit, versions
from serkit.train.metrics import fit_unsure
from serkit.train.recipe import Recipe
from serkit.train.runs import Reference, learned_from, load_run, load_trained
from serkit.train.scoring import keras_logits, pool_utterances, window_utterances
from serkit.train.teacher import LICENCE, TITLE

#: The oldest serkit whose edge runs what is written here.
MIN_SERKIT = "0.1.0"


def convert_run(
    run: Path,
    format: str,
    output: Path,
    name: str | None = None,
    lstm: str = "unrolled",
    version: int | None = None,
) -> dict[str, Any]:
    """Convert a run to one format; see `convert_formats`.

    Returns:
        The content of ``model.json``, parity included.
    """
    return convert_formats(run, {format: output}, name, lstm, version)[format]


def convert_formats(
    run: Path,
    outputs: dict[str, Path],
    name: str | None = None,
    lstm: str = "unrolled",
    version: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Convert a run, check the parity of each conversion, and write the signed bundles.

    Args:
        run: A finished run folder.
        outputs: Key of `FORMATS` to the ``.tflite`` file; ``<output>.minisig`` goes beside it.
        name: What the model is called; each file's name by default.
        lstm: Key of `serkit.convert.lstm.LSTM_FORMS`.
        version: Of the model, at least 1; a device takes a higher one as an update. The minute it is, as
            ``YYYYMMDDhhmm``, by default: what is converted later is newer.

    Returns:
        For each format the content of ``model.json``, parity included.

    Raises:
        SettingsError: Unknown format, an output is not a ``.tflite`` file, a name has line breaks, or the run is a
            control.
        ModelError: The converter failed, a conversion strays too far, or a file cannot be written.
    """
    for format, output in outputs.items():
        if format not in FORMATS:
            raise SettingsError(f"no format {format!r}; choose one of {', '.join(FORMATS)}")
        if output.suffix != ".tflite":
            raise SettingsError(f"{output}: a bundle's name ends in .tflite")
        if not output.parent.is_dir():
            raise SettingsError(f"{output}: no folder {output.parent}; make it first")
        if not (called := name or output.stem).isprintable():  # it stands in a line of the signature
            raise SettingsError(f"a model cannot be called {called!r}; leave out line breaks and control characters")
    if version is None:
        version = int(datetime.now(timezone.utc).strftime("%Y%m%d%H%M"))
    if version < 1:
        raise SettingsError(f"version {version}: a model's version is 1 or more")
    recipe, metrics, split = load_run(run)
    if recipe.control:
        raise SettingsError(f"{run} is a control ({recipe.control}), not a model for a device; train another recipe")
    key = signing_key()
    reference = Reference(run)
    calibration = window_utterances(reference.frames("calibration"), recipe.frontend, recipe.window).inputs
    graphs = export(run, list(outputs), calibration, lstm)
    training = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    windows = window_utterances(reference.frames("validation"), recipe.frontend, recipe.window)
    trained = keras_logits(load_trained(run))(windows.inputs)
    tuned = _tuned(heard_by_run(run))
    written = {}
    for format, output in outputs.items():
        info = _info(recipe, metrics, split, training, format, name or output.stem)
        info |= {"version": version, "min_serkit": MIN_SERKIT, "lstm": lstm, **tuned}
        info["calibration"] = reference.names("calibration") if format == "int8" else []
        engine = Engine(graphs[format], recipe.window.hop_frames)
        emotions, t = reference.emotions("validation"), metrics["temperature"]
        compared = parity(trained, engine.batch_logits(windows.inputs), windows, emotions, recipe.labels, t)
        info["parity"] = {"engine": engine.name, **compared}
        info["size_bytes"] = len(graphs[format])
        check_parity(info["parity"], format)
        info["golden"] = golden_of(graphs[format], info)
        write_bundle(output, graphs[format], info, model_card(info), key)
        written[format] = info
    return written


def _tuned(heard: Heard | None) -> dict[str, Any]:
    """What is decided on the speech of validation speakers; nothing where there were none."""
    if heard is None:
        return {"enrolment": None}
    truth = np.array([list(heard.labels).index(e) for e in heard.emotions])
    pooled = pool_utterances(softmax(heard.logits, heard.temperature), heard.windows, len(truth))
    return {"enrolment": fit_enrolment(heard), "unsure": fit_unsure(pooled, truth, heard.voices)}


def _info(
    recipe: Recipe, metrics: dict[str, Any], split: dict[str, Any], training: dict[str, Any], format: str, name: str
) -> dict[str, Any]:
    values = recipe.to_dict()
    heard = {key.partition("/")[0] for key in split.get("start", {"utterances": []})["utterances"]}

    def licences(corpora: Iterable[str]) -> dict[str, dict[str, str]]:
        return {c: {"title": CORPORA[c].title, "licence": CORPORA[c].licence} for c in corpora}

    scores = {
        side: {
            corpus: {
                k: f[k]
                for k in (
                    "n_utterances",
                    "uar",
                    "accuracy",
                    "macro_f1",
                    "ece",
                    "worst_speaker_uar",
                    "per_speaker_uar",
                    "per_sex_uar",
                )
            }
            for corpus, f in metrics[side].items()
        }
        for side in ("validation", "test")
        if side in metrics
    }
    return {
        "schema": SCHEMA,
        "name": name,
        "system": recipe.system,
        "recipe": recipe.name,
        "format": format,
        "labels": list(recipe.labels),
        "frontend": values["frontend"],
        "window": values["window"],
        "temperature": metrics["temperature"],
        "n_parameters": metrics["n_parameters"],
        "seed": metrics["seed"],
        "teacher": {"title": TITLE, "licence": LICENCE} if metrics["taught"] else None,
        "corpora": licences([*recipe.corpora, *recipe.scatter]),
        "started_with": licences(sorted(heard - {*recipe.corpora, *recipe.scatter})),
        "split": values["split"],
        "trained_under": recipe.augment.conditions,
        "learned_from": learned_from(recipe, split),
        "scores_keras": scores,
        "trained": training,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
    }


def golden_of(graph: bytes, info: dict[str, Any]) -> list[list[float]]:
    """What a graph answers to the golden windows, for ``model.json``."""
    buffer = _bundle(graph, info, "")
    logits = golden_logits(Recognizer(parse_bundle(buffer, Path("golden"), "")))
    return [[float(f"{x:.6g}") for x in row] for row in logits.tolist()]


def _bundle(graph: bytes, info: dict[str, Any], card: str) -> bytes:
    buffer = io.BytesIO(graph)
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        compact = json.dumps(info, separators=(",", ":"), ensure_ascii=False)
        for name, text in (("model.json", compact), ("card.md", card)):
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def write_bundle(path: Path, graph: bytes, info: dict[str, Any], card: str, key: Ed25519PrivateKey) -> None:
    """Write ``path`` and ``<path>.minisig``, each atomically; a failure leaves what was there before.

    Raises:
        ModelError: The disk is full or the folder cannot be written.
    """
    data = _bundle(graph, info, card)
    version = f"version {info['version']} " if "version" in info else ""
    signature = sign(data, key, f"serkit model {info['name']} {version}{info['created']}")
    _write_atomically({path: data, path.with_name(path.name + ".minisig"): signature.encode()})


def _write_atomically(files: dict[Path, bytes]) -> None:
    temporaries = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in files}
    try:
        for path, data in files.items():
            with temporaries[path].open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in temporaries.items():
            temporary.replace(path)
    except OSError as error:
        advice = "free some space" if error.errno == errno.ENOSPC else "choose another folder"
        raise ModelError(f"{next(iter(files))}: cannot be written ({error.strerror}); {advice}") from None
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)

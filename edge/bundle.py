"""One file is the model: a TFLite flatbuffer with ``model.json`` and ``card.md`` appended as a zip.

Engines ignore what follows the flatbuffer; `zipfile` finds the archive from the end. The detached signature
``<name>.tflite.minisig`` covers the whole file and is checked before anything in it is parsed.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serkit.edge.errors import ModelError, SettingsError
from serkit.edge.frontend import FrontendSettings
from serkit.edge.settings import build
from serkit.edge.signature import trusted_keys, verify
from serkit.edge.window import WindowSettings

SCHEMA = 1
MODELS = Path(__file__).parent / "models"
DEFAULT_MODEL = "serkit-dynamic"
_LARGEST_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified model file.

    Attributes:
        name: What the model is called.
        path: The file.
        data: The whole file, which engines open from memory: what was verified is what runs.
        labels: Emotions, in the order of the outputs.
        frontend: Samples to frames.
        window: Frames to model inputs.
        temperature: Divides the logits before the softmax.
        format: ``float32``, ``float16``, ``dynamic`` or ``int8``.
        info: All of ``model.json``.
        card: The model card, Markdown.
        signed_by: Id of the key that signed it.
    """

    name: str
    path: Path
    data: bytes
    labels: tuple[str, ...]
    frontend: FrontendSettings
    window: WindowSettings
    temperature: float
    format: str
    info: dict[str, Any]
    card: str
    signed_by: str


def bundled_models() -> dict[str, Path]:
    """The models that come with serkit, by name."""
    return {p.stem: p for p in sorted(MODELS.glob("*.tflite"))}


def find_model(model: str) -> Path:
    """The file of a model given by name, ``default`` or path.

    Raises:
        ModelError: There is none.
    """
    bundled = bundled_models()
    path = bundled.get(DEFAULT_MODEL if model == "default" else model, Path(model))
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise ModelError(f"{model}: cannot be read ({error.strerror}); check its name and permissions") from None
    if is_folder:
        raise ModelError(f"{model}: a folder; give a .tflite file or one of: default, {', '.join(bundled)}")
    if not is_file:
        raise ModelError(f"no model {model!r}; give a .tflite file or one of: default, {', '.join(bundled)}")
    return path


def read_bundle(model: str | Path) -> Bundle:
    """Find, verify and parse a model; nothing but the signature check looks into an unverified file.

    Args:
        model: A bundled model's name, ``default``, or the path of a ``.tflite`` file.

    Raises:
        ModelError: Missing, unsigned, not trusted, damaged, or made for another version of serkit.
    """
    path = find_model(str(model))
    sidecar = path.with_name(path.name + ".minisig")
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ModelError(f"{path.name}: {path.stat().st_size} bytes; a model has at most {_LARGEST_BYTES}")
        data = path.read_bytes()
        signature = sidecar.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise ModelError(
            f"{path.name}: no signature beside it; copy {sidecar.name} there too (`serkit convert` writes both)"
        ) from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    key, _ = verify(data, signature, trusted_keys(), path.name)
    return parse_bundle(data, path, key.name)


def parse_bundle(data: bytes, path: Path, signed_by: str) -> Bundle:
    """Parse the bytes of a model file whose signature holds.

    Raises:
        ModelError: Not a serkit bundle, or of another schema.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            info = json.loads(archive.read("model.json"))
            card = archive.read("card.md").decode()
        if info["schema"] != SCHEMA:
            raise ModelError(
                f"{path.name}: bundle schema {info['schema']}, this serkit reads schema {SCHEMA}; update serkit, or "
                "convert the model again"
            )
        bundle = Bundle(
            name=str(info["name"]),
            path=path,
            data=data,
            labels=tuple(info["labels"]),
            frontend=build(FrontendSettings, info["frontend"], "frontend"),
            window=build(WindowSettings, info["window"], "window"),
            temperature=float(info["temperature"]),
            format=str(info["format"]),
            info=info,
            card=card,
            signed_by=signed_by,
        )
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, SettingsError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path.name}: not a serkit model ({error}); make one with `serkit convert`") from None
    if data[4:8] != b"TFL3" or not bundle.labels or not bundle.temperature > 0:
        raise ModelError(f"{path.name}: not a serkit model (no TFLite graph, labels or temperature); convert it again")
    return bundle

"""One file is the model: a TFLite flatbuffer with ``model.json`` and ``card.md`` appended as a zip.

Engines ignore what follows the flatbuffer; `zipfile` finds the archive from the end. The detached signature
``<name>.tflite.minisig`` covers the whole file and is checked before anything in it is parsed.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serkit import __version__
from serkit.edge.disk import read_file
from serkit.edge.errors import ModelError, SettingsError
from serkit.edge.frontend import FrontendSettings
from serkit.edge.settings import build
from serkit.edge.signature import PublicKey, shipped_keys, trusted_keys, verify
from serkit.edge.window import WindowSettings

SCHEMA = 1
MODELS = Path(__file__).parent / "models"
DEFAULT_MODEL = "serkit-dynamic"
LARGEST_BYTES = 256 * 2**20
_LARGEST_SIGNATURE = 4096


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified model file.

    Attributes:
        name: What the model is called.
        version: Grows from one release of a model to the next; 0 where the file has none.
        path: The file.
        data: The whole file, which engines open from memory: what was verified is what runs.
        labels: Emotions, in the order of the outputs.
        frontend: Samples to frames.
        window: Frames to model inputs.
        temperature: Divides the logits before the softmax.
        format: ``float32``, ``float16``, ``dynamic`` or ``int8``.
        sure_from: Confidence from which an answer is sure, above 1 where none is; None where nobody measured it.
        neutral_logits: Everybody's neutral speech, one number per label, for `serkit enroll`; None: never measured.
        enrolment: How much of a voice's own point counts, 0 to 1; 0 where it helps nobody.
        info: All of ``model.json``.
        card: The model card, Markdown.
        signed_by: Id of the key that signed it.
    """

    name: str
    version: int
    path: Path
    data: bytes
    labels: tuple[str, ...]
    frontend: FrontendSettings
    window: WindowSettings
    temperature: float
    format: str
    sure_from: float | None
    neutral_logits: tuple[float, ...] | None
    enrolment: float
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


def read_bundle(model: str | Path, keys: list[PublicKey] | None = None) -> Bundle:
    """Find, verify and parse a model; nothing but the signature check looks into an unverified file.

    Args:
        model: A bundled model's name, ``default``, or the path of a ``.tflite`` file.
        keys: Those that may have signed it; what this machine trusts by default.

    Raises:
        ModelError: Missing, unsigned, not trusted, damaged, or made for another version of serkit.
    """
    path = find_model(str(model))
    data, signature = read_signed(path)
    if keys is None:
        keys = shipped_keys() if path.parent == MODELS else trusted_keys()  # what came with serkit stays usable
    key, _ = verify(data, signature, keys, path.name)
    return parse_bundle(data, path, key.name)


def read_signed(path: Path) -> tuple[bytes, str]:
    """The bytes of a file and the text of the signature beside it, neither of them checked.

    Raises:
        ModelError: One is missing or cannot be read, or the file is too large.
    """
    sidecar = Path(f"{path}.minisig")  # with_name() knows no name of "." or "/"
    try:
        data = read_file(path, LARGEST_BYTES + 1)
        signature = read_file(sidecar, _LARGEST_SIGNATURE).decode(errors="replace")
    except FileNotFoundError:
        if not path.exists():
            raise ModelError(f"{path}: no such file; check its name") from None
        maker = "model sign" if path.suffix == ".pub" else "convert"
        raise ModelError(
            f"{path.name}: no signature beside it; copy {sidecar.name} there too (`serkit {maker}` writes it)"
        ) from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > LARGEST_BYTES:
        raise ModelError(f"{path.name}: more than {LARGEST_BYTES} bytes, which no model has")
    return data, signature


#: What reading an archive and its JSON raises where a file was damaged before it was signed.
_DAMAGE = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, OSError, LookupError, TypeError, ValueError,
    AttributeError, OverflowError, MemoryError, RuntimeError, SettingsError,
)  # fmt: skip


def parse_bundle(data: bytes, path: Path, signed_by: str) -> Bundle:
    """Parse the bytes of a model file whose signature holds.

    Raises:
        ModelError: Not a serkit bundle, or of another schema.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            info = json.loads(archive.read("model.json"))
            card = archive.read("card.md").decode()
        if _release(info.get("min_serkit", "0")) > _release(__version__):
            raise ModelError(
                f"{path.name}: needs serkit {info['min_serkit']} or newer, this is {__version__}; update serkit first"
            )
        if info["schema"] != SCHEMA:
            raise ModelError(
                f"{path.name}: bundle schema {info['schema']}, this serkit reads schema {SCHEMA}; update serkit, or "
                "convert the model again"
            )
        bundle = Bundle(
            name=str(info["name"]),
            version=_whole(info.get("version", 0)),
            path=path,
            data=data,
            labels=tuple(info["labels"]),
            frontend=build(FrontendSettings, info["frontend"], "frontend"),
            window=build(WindowSettings, info["window"], "window"),
            temperature=float(info["temperature"]),
            format=str(info["format"]),
            sure_from=_sure_from(info),
            neutral_logits=_neutral_logits(info),
            enrolment=float((info.get("enrolment") or {"strength": 0.0})["strength"]),
            info=info,
            card=card,
            signed_by=signed_by,
        )
    except _DAMAGE as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path.name}: not a serkit model ({error}); make one with `serkit convert`") from None
    if data[4:8] != b"TFL3" or not bundle.labels or not bundle.temperature > 0:
        raise ModelError(f"{path.name}: not a serkit model (no TFLite graph, labels or temperature); convert it again")
    return bundle


def _sure_from(info: dict[str, Any]) -> float | None:
    if "unsure" not in info:
        return None
    return 2.0 if info["unsure"] is None else float(info["unsure"]["below"])


def _neutral_logits(info: dict[str, Any]) -> tuple[float, ...] | None:
    if info.get("enrolment") is None:
        return None
    logits = tuple(float(x) for x in info["enrolment"]["logits"])
    if len(logits) != len(info["labels"]) or not all(math.isfinite(x) for x in logits):
        raise ValueError("its neutral point is not one number per label")
    return logits


def _whole(version: Any) -> int:
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise ValueError(f"its version is {version!r}, not a whole number")
    return version


def _release(version: str) -> tuple[int, ...]:
    """The numbers a version begins with.

    >>> _release("0.10.1.dev3") > _release("0.9")
    True
    """
    return tuple(int(n) for n in re.findall(r"\d+", re.match(r"[\d.]*", version)[0]))  # type: ignore[index]

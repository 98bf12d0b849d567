"""One person's voice: what a model hears in their ordinary speech beyond what it hears in everybody's.

`enroll` listens to half a minute of somebody who speaks as always, and keeps one number per emotion: the mean logits
of that speech less those of everybody's (`Bundle.info` ``"enrolment"``, measured on validation speakers), times a
strength. `serkit.edge.stream.Recognizer` takes them from the logits of every window it scores. No audio is kept, and
nothing from which words could be told. How it was found and what it brings: `serkit.train.enrolment`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serkit.edge.bundle import Bundle
from serkit.edge.disk import locked, read_file, sync_folder, write_whole
from serkit.edge.errors import VoiceError
from serkit.edge.settings import build
from serkit.edge.signature import trust_folder
from serkit.edge.stream import Recognizer
from serkit.edge.vad import VoiceGate
from serkit.edge.window import log_probabilities

SCHEMA = 1
LEAST_S = 10.0  # of speech; less says more about the sentence than about the voice
_LARGEST_OFFSET = 100.0  # further moves no answer that a network gives
_PATIENCE = 10.0  # times the seconds that are asked for; who is silent for longer is not there
_LARGEST_BYTES = 65536
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Voice:
    """What is kept of a voice.

    Attributes:
        name: What it is called; its file has the same name.
        model: Name of the model that heard it.
        model_sha256: Of that model's file: another one's logits are others.
        speech_s: Speech it heard, s.
        offset: What is taken from the logits of every window, one number per label.
        created: ISO 8601.
        schema: Of this file.
    """

    name: str
    model: str
    model_sha256: str
    speech_s: float
    offset: tuple[float, ...]
    created: str
    schema: int = SCHEMA


def folder() -> Path:
    """Where this user's voices are, ``~/.config/serkit/voices``; root's are those of the service."""
    return trust_folder().parent / "voices"


def check_name(name: str) -> None:
    """Assert that a voice can be called so.

    Raises:
        VoiceError: It cannot be a file's name.
    """
    if not _NAME.fullmatch(name):
        raise VoiceError(f"{name!r} is no name for a voice; up to 64 of a to z, A to Z, digits, '-' and '_' are needed")


def _path(name: str) -> Path:
    if name.endswith(".json"):
        return Path(name)
    check_name(name)
    return folder() / f"{name}.json"


def strength(bundle: Bundle) -> float:
    """How much of a voice's own point a model takes into account, more than 0.

    Raises:
        VoiceError: Enrolment does not help this model, or it was never tried.
    """
    if bundle.neutral_logits is None:
        raise VoiceError(
            f"{bundle.name} takes no voice: it was converted before there was enrolment, or had too few validation "
            "speakers; use another model"
        )
    if not bundle.enrolment:
        raise VoiceError(
            f"{bundle.name} gains nothing from enrolment: on its validation speakers no strength was better than none; "
            "it listens as well without"
        )
    return bundle.enrolment


def enroll(
    recognizer: Recognizer,
    blocks: Iterable[npt.NDArray[np.float32]],
    name: str,
    created: str,
    *,
    seconds: float = 30.0,
    least_s: float = LEAST_S,
    gate: VoiceGate | None = None,
    heard: Callable[[float], None] = lambda seconds: None,
) -> Voice:
    """Hear a voice until ``seconds`` of speech, or the end of the stream.

    Args:
        recognizer: The model, without a voice.
        blocks: Ordinary, unexcited speech of this one person.
        name: What to call the voice.
        created: The time it is, ISO 8601.
        seconds: Of speech to hear.
        least_s: Of speech to be content with.
        gate: Judges what is speech; without it, levels do.
        heard: Called after every window with the seconds of speech so far.

    Raises:
        VoiceError: Too little speech, or the model gains nothing from it.
    """
    bundle = recognizer.bundle
    factor = strength(bundle)
    if recognizer.offset is not None:
        raise VoiceError("this recognizer hears an enrolled voice already; enroll with one that hears everybody alike")
    frame_s = bundle.frontend.hop_length / bundle.frontend.sample_rate
    hop_s, window_s = bundle.window.hop_frames * frame_s, bundle.window.n_frames * frame_s
    total, weight, speech_s, time_s = np.zeros(len(bundle.labels)), 0.0, 0.0, 0.0
    for window in recognizer.windows(blocks, gate):
        time_s = window.time_s
        if window.probabilities is not None:
            logits = bundle.temperature * log_probabilities(window.probabilities)  # but for a constant
            total += window.speech_ratio * logits
            weight += window.speech_ratio
            # windows overlap: each one counts for its hop, the first for all of it
            speech_s += window.speech_ratio * (hop_s if speech_s else window_s)
        heard(min(speech_s, seconds))
        if speech_s >= seconds or time_s > _PATIENCE * seconds:
            break
    if speech_s < least_s or not weight:
        raise VoiceError(
            f"{speech_s:.1f} s of speech were heard in the first {time_s:.0f} s; at least {least_s:g} s are needed: "
            "speak longer, louder or closer to the microphone. Nothing was kept"
        )
    point = total / weight
    offset = factor * (point - point.mean() - np.array(bundle.neutral_logits))
    return Voice(
        name=name,
        model=bundle.name,
        model_sha256=sha256(bundle.data).hexdigest(),
        speech_s=round(speech_s, 2),
        offset=tuple(round(float(x), 5) for x in offset),
        created=created,
    )


def write_voice(voice: Voice) -> Path:
    """Keep a voice, in place of what had its name; returns its file.

    Raises:
        VoiceError: It cannot be written.
    """
    check_name(voice.name)
    path = make_folder() / f"{voice.name}.json"
    try:
        with locked(path.parent, 10.0, "another serkit is writing there; try again"):
            write_whole(path, json.dumps(asdict(voice), indent=1).encode())
            sync_folder(path.parent)
    except OSError as error:
        raise VoiceError(f"{path}: cannot be written ({error.strerror}); check space and permissions") from None
    return path


def make_folder() -> Path:
    """`folder`, made where it is missing, and fit to be written to.

    Raises:
        VoiceError: It is not.
    """
    path = folder()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:  # the service reads what root wrote
            path.chmod(0o755)
    except OSError as error:
        raise VoiceError(f"{path}: cannot be made ({error.strerror}); check space and permissions") from None
    if not os.access(path, os.W_OK):
        raise VoiceError(f"{path}: cannot be written to; check permissions, and whether it is read-only")
    return path


def read_voice(name: str) -> Voice:
    """A voice by its name, or by the path of its ``.json`` file.

    Raises:
        VoiceError: There is none, or its file is damaged.
    """
    path = _path(name)
    try:
        voice = build(Voice, json.loads(read_file(path, _LARGEST_BYTES)), str(path))
    except FileNotFoundError:
        raise _unknown(name) from None
    except OSError as error:
        raise VoiceError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except (ValueError, RecursionError) as error:
        raise VoiceError(f"{path}: not a voice ({error}); `serkit enroll` makes one") from None
    whole = voice.schema == SCHEMA and voice.name == path.stem
    if not whole or not all(abs(x) <= _LARGEST_OFFSET for x in voice.offset):  # NaN is not either
        raise VoiceError(f"{path}: not a voice of this name and schema {SCHEMA}; `serkit enroll` makes one")
    return voice


def voice_offset(name: str | None, bundle: Bundle) -> npt.NDArray[np.float64] | None:
    """What a model takes from its logits for somebody enrolled, ``(n_labels,)``; None for nobody.

    Raises:
        VoiceError: There is no such voice, or it was enrolled with another model.
    """
    if name is None:
        return None
    voice = read_voice(name)
    if voice.model_sha256 != sha256(bundle.data).hexdigest():
        raise VoiceError(
            f"voice {voice.name} was enrolled with another model than the {bundle.name} that listens; "
            f"`serkit enroll {voice.name} --model {bundle.path}` hears it again"
        )
    if len(voice.offset) != len(bundle.labels):
        raise VoiceError(
            f"voice {voice.name}: {len(voice.offset)} numbers for {len(bundle.labels)} emotions; enroll again"
        )
    return np.array(voice.offset)


def voices() -> list[str]:
    """Names of all that are kept here, whether or not they can be read."""
    return sorted(p.stem for p in folder().glob("*.json") if _NAME.fullmatch(p.stem))


def remove_voice(name: str) -> None:
    """Forget a voice, be its file whole or not.

    Raises:
        VoiceError: There is none, or it cannot be removed.
    """
    check_name(name)
    try:
        _path(name).unlink()
    except FileNotFoundError:
        raise _unknown(name) from None
    except OSError as error:
        raise VoiceError(f"{_path(name)}: cannot be removed ({error.strerror}); check its permissions") from None


def _unknown(name: str) -> VoiceError:
    known = ", ".join(voices()) or "none yet"
    return VoiceError(f"no voice {name!r}; enrolled: {known} (`serkit enroll NAME` adds one)")

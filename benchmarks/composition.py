"""Sessions with a known timeline, composed by seed: what people say and feel, and what is heard beside it.

Three kinds: ``emotion`` (one person; episodes of several utterances with one emotion, short pauses within, longer
ones between), ``neutral`` (everyday and neutral speech, where every alarm is a false one) and ``noise`` (noise
recordings and near silence, no speech at all). A bed of noise can lie under the speech.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serkit.edge.audio import read_audio
from serkit.edge.bundle import Bundle
from serkit.edge.errors import CorpusError
from serkit.train import conditions
from serkit.train.corpora import Utterance, read_corpus, read_utterance, recordings
from serkit.train.enrolment import SUNG
from serkit.train.noises import N_TALKERS, TEST_NOISES
from serkit.train.splits import SHIP_TEST, Split, check_unseen, make_split, voices

Array = npt.NDArray[np.float32]

UTTERANCES = (4, 8)  # of an episode
PAUSE_S = (0.2, 1.0)  # between its utterances
GAP_S = (3.0, 10.0)  # between episodes
FLOOR_DBFS = -70.0  # of a quiet room
CROWD_S = 60.0  # of many voices, then they say the same again
TRIM_DB = 40.0  # what lies this far below an utterance's loudest 25 ms, at its ends, is cut off


@dataclass(frozen=True)
class Speech:
    """Somebody speaks from ``start_s`` to ``end_s``; ``emotion`` is None where nobody labelled it."""

    start_s: float
    end_s: float
    emotion: str | None


@dataclass(frozen=True)
class Bed:
    """Noise that lies below speech: what it is, samples to choose from, and the speech's ratio to it, dB."""

    kind: str
    noises: tuple[Array, ...]
    snr_db: float


@dataclass(frozen=True)
class Session:
    """A composed recording and its timeline.

    Attributes:
        kind: ``emotion``, ``neutral`` or ``noise``.
        voice: Who alone speaks; None for several or nobody.
        bed: The noise below the speech, such as ``car 20 dB``, or what a noise session consists of.
        samples: Mono float32.
        speech: In order, not overlapping.
    """

    kind: str
    voice: str | None
    bed: str
    samples: Array
    speech: tuple[Speech, ...]


def trimmed(samples: Array, sample_rate: int) -> Array:
    """An utterance without the silence at its ends."""
    size = sample_rate // 40
    n = len(samples) // size
    power = np.square(samples[: n * size]).reshape(n, size).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10 ** (-TRIM_DB / 10))
    return samples[loud[0] * size : (loud[-1] + 1) * size]


class _Tape:
    """Audio and speech put one after the other."""

    def __init__(self, rng: np.random.Generator, sample_rate: int) -> None:
        self.rng, self.sample_rate = rng, sample_rate
        self._pieces: list[Array] = []
        self._n = 0
        self.speech: list[Speech] = []

    @property
    def time_s(self) -> float:
        return self._n / self.sample_rate

    def add(self, samples: Array) -> None:
        self._pieces.append(samples)
        self._n += len(samples)

    def pause(self, between: tuple[float, float]) -> None:
        self.add(np.zeros(int(self.rng.uniform(*between) * self.sample_rate), np.float32))

    def speak(self, samples: Array, emotion: str | None) -> None:
        start = self.time_s
        self.add(samples)
        self.speech.append(Speech(start, self.time_s, emotion))

    def session(self, kind: str, voice: str | None, bed: Bed | None) -> Session:
        """Lay the room's own noise below everything, and a bed whose ratio counts against the speech alone."""
        dry = np.concatenate(self._pieces)
        samples = dry + np.float32(10 ** (FLOOR_DBFS / 20)) * self.rng.standard_normal(len(dry)).astype(np.float32)
        name = "quiet"
        if bed is not None:
            spoken = sum(s.end_s - s.start_s for s in self.speech) / self.time_s
            over_all = bed.snr_db + 10 * float(np.log10(spoken))  # a condition's ratio counts the pauses as well
            noise = conditions.noise(bed.kind, bed.noises, over_all)
            wet = noise.apply(dry, str(self.rng.integers(1 << 30)))
            samples = samples + (wet - dry)
            name = f"{bed.kind} {bed.snr_db:g} dB"
        return Session(kind, voice, name, np.clip(samples, -1, 1), tuple(self.speech))


def emotion_sessions(
    utterances: Sequence[Utterance],
    minutes: float,
    beds: Sequence[Bed | None],
    sample_rate: int,
    seed: int,
) -> Iterator[Session]:
    """Sessions of one person each, ``minutes`` in all, the voices and beds taking turns."""
    by_voice: dict[str, dict[str, list[Utterance]]] = defaultdict(lambda: defaultdict(list))
    for u in utterances:
        by_voice[u.voice][u.emotion].append(u)
    rng = np.random.default_rng([seed, 1])
    each_s = 60 * minutes / (len(by_voice) * len(beds))
    for voice, takes in by_voice.items():
        for bed in beds:
            tape = _Tape(rng, sample_rate)
            previous = None
            while tape.time_s < each_s:
                tape.pause(GAP_S)
                choices = [e for e in takes if e != previous]
                previous = emotion = choices[rng.integers(len(choices))]
                n = min(int(rng.integers(UTTERANCES[0], UTTERANCES[1] + 1)), len(takes[emotion]))
                for i in rng.permutation(len(takes[emotion]))[:n]:
                    tape.speak(trimmed(read_utterance(takes[emotion][i], sample_rate), sample_rate), emotion)
                    tape.pause(PAUSE_S)
            yield tape.session("emotion", voice, bed)


def neutral_sessions(
    utterances: Sequence[Utterance],
    files: Sequence[Path],
    minutes: float,
    beds: Sequence[Bed | None],
    sample_rate: int,
    rng: np.random.Generator,
) -> Iterator[Session]:
    """Everyday speech (every file once per bed) and neutral utterances, person after person."""
    by_voice: dict[str, list[Utterance]] = defaultdict(list)
    for u in utterances:
        by_voice[u.voice].append(u)
    for bed in beds:
        tape = _Tape(rng, sample_rate)
        for path in files:
            tape.pause(GAP_S)
            tape.speak(trimmed(read_audio(path, sample_rate), sample_rate), None)
        while tape.time_s < 60 * minutes / len(beds):
            takes = by_voice[sorted(by_voice)[rng.integers(len(by_voice))]]
            tape.pause(GAP_S)
            for i in rng.permutation(len(takes))[: rng.integers(UTTERANCES[0], UTTERANCES[1] + 1)]:
                tape.speak(trimmed(read_utterance(takes[i], sample_rate), sample_rate), takes[i].emotion)
                tape.pause(PAUSE_S)
        yield tape.session("neutral", None, bed)


def noise_sessions(kinds: Sequence[Path], minutes: float, sample_rate: int, seed: int) -> Iterator[Session]:
    """A session per kind of noise, its recordings at levels from soft to loud, and one of a quiet room."""
    rng = np.random.default_rng([seed, 3])
    each_s = 60 * minutes / (len(kinds) + 1)
    for kind in kinds:
        tape = _Tape(rng, sample_rate)
        files = list(recordings(kind))
        while tape.time_s < each_s:
            samples = read_audio(files[rng.integers(len(files))], sample_rate)
            samples = np.roll(samples, rng.integers(len(samples)))
            level = np.sqrt(np.mean(np.square(samples)))
            tape.add(np.clip(samples * np.float32(10 ** (rng.uniform(-45, -15) / 20) / max(level, 1e-6)), -1, 1))
        yield replace(tape.session("noise", None, None), bed=kind.name)
    tape = _Tape(rng, sample_rate)
    tape.pause((each_s, each_s))
    yield tape.session("noise", None, None)


def many_talkers(utterances: Sequence[Utterance], sample_rate: int) -> Array:
    """Many who talk at once, for ``CROWD_S``."""
    rng = np.random.default_rng(0)
    total = np.zeros(int(CROWD_S * sample_rate), np.float32)
    for _ in range(N_TALKERS):
        said: list[Array] = []
        while sum(map(len, said)) < len(total):
            samples = trimmed(read_utterance(utterances[rng.integers(len(utterances))], sample_rate), sample_rate)
            said.append(samples / max(float(np.sqrt(np.mean(np.square(samples)))), 1e-6))
        total += np.concatenate(said)[: len(total)]
    return total


@dataclass(frozen=True)
class Material:
    """What sessions are made of, of people and noises on one side of a split.

    Attributes:
        utterances: Of emotion sessions.
        neutral: Neutral utterances, also of a corpus that the model has never heard.
        files: Everyday speech.
        noises: Folders of noise, for noise sessions.
        beds: What lies below emotion and neutral sessions; None is a quiet room.
        enrolling: By voice, what it says neutrally before its sessions, and in none of them. Where there is any, every
            session with speech is of one voice; there is no everyday speech, for nobody enrolled for that.
    """

    utterances: tuple[Utterance, ...]
    neutral: tuple[Utterance, ...]
    files: tuple[Path, ...]
    noises: tuple[Path, ...]
    beds: tuple[Bed | None, ...]
    enrolling: Mapping[str, tuple[Utterance, ...]] = field(default_factory=dict)


def material(bundle: Bundle, data: Path, side: str) -> Material:
    """What a model may be tested on (``test``), or its settings tuned on (``tune``): other people, other noises.

    Tuning takes the validation speakers of the model's training, on whom no weight was trained, neutral speech of nEMO
    where no label of it was (of strangers to its encoder as well), the kinds of noise that recipes may train on, and
    the voices of those who trained, many at once; testing takes the protocol's test speakers, the voices of nEMO that
    ship-test keeps back, everyday speech and every noise. Nobody sings, but in the bed of voices.

    Raises:
        CorpusError: A corpus or the noise is missing, or the model learned from somebody it would be tested on.
    """
    if not (data / "noise").is_dir():
        raise CorpusError(
            f"no folder {data / 'noise'}; give the folder that holds the corpora and the noise with --data"
        )
    info = bundle.info
    known = [u for corpus in info["corpora"] for u in read_corpus(corpus, data) if u.emotion in bundle.labels]
    s = info["split"]

    def divided(utterances: Sequence[Utterance]) -> Split:
        return make_split(
            utterances, s["protocol"], fold=s["fold"], seed=s["seed"], validation_share=s["validation_share"]
        )

    split = divided(known)
    heard = set(info["learned_from"]["voices"])
    check_unseen(split, info["learned_from"]["utterances"], heard)
    chosen = tuple(u for u in (split.test if side == "test" else split.validation) if not u.key.startswith(SUNG))
    nemo = read_corpus("nemo", data)
    polish = [u for u in nemo if (u.speaker in SHIP_TEST["nemo"]) == (side == "test")]
    if side == "test":
        check_unseen(replace(split, test=tuple(polish)), info["learned_from"]["utterances"], heard)
    elif "nemo" in info["corpora"]:
        polish = []  # of those it knows with labels; its validation speakers are chosen already
    elif "nemo" in info.get("started_with", {}):  # whoever trained the encoder is no stranger, labels or not
        polish = list(divided(nemo).validation)
    neutral = {u.key: u for u in chosen if u.emotion in ("neutral", "calm")}
    neutral |= {u.key: u for u in polish if u.emotion == "neutral"}
    kinds = [d for d in sorted((data / "noise").iterdir()) if d.is_dir()]
    open_kinds = [d for d in kinds if d.name not in TEST_NOISES]
    noises = kinds if side == "test" else open_kinds
    # the voice detector was tuned on its maker's clips
    everyday = [p for p in recordings(data / "speech_neutral") if not p.stem.startswith("silero")]
    rate = bundle.frontend.sample_rate
    below = {
        kind: conditions.noises(data / "noise" / kind, rate)
        for kind in (("car", "babble") if side == "test" else ("household", "stationary"))
    }
    if side == "tune":  # in place of the babble that only tests hear
        below["voices"] = (many_talkers(split.train, rate),)
    return Material(
        utterances=chosen,
        neutral=tuple(neutral.values()),
        files=tuple(everyday) if side == "test" else (),
        noises=tuple(noises),
        beds=(None, *(Bed(kind, noises, 20.0) for kind, noises in below.items())),
    )


def compose(m: Material, minutes: float, sample_rate: int, seed: int) -> Iterator[Session]:
    """All sessions: ``minutes`` with emotions, two thirds of that neutral and two thirds noise."""
    yield from emotion_sessions(m.utterances, minutes, m.beds, sample_rate, seed)
    rng = np.random.default_rng([seed, 2])
    if not m.enrolling:
        yield from neutral_sessions(m.neutral, m.files, minutes * 2 / 3, m.beds, sample_rate, rng)
    for voice in m.enrolling:
        own = [u for u in m.neutral if u.voice == voice]
        for session in neutral_sessions(own, (), minutes * 2 / 3 / len(m.enrolling), m.beds, sample_rate, rng):
            yield replace(session, voice=voice)
    yield from noise_sessions(m.noises, minutes * 2 / 3, sample_rate, seed)


def n_sessions(m: Material) -> int:
    """How many `compose` makes."""
    return (len(voices(m.utterances)) + (len(m.enrolling) or 1)) * len(m.beds) + len(m.noises) + 1


def acquainted(m: Material) -> Material:
    """The same people, to be enrolled: half of what each says neutrally is for that, the rest is for sessions.

    As in `serkit.train.enrolment`, the first half in the order of their names enrolls. Who has fewer than two neutral
    utterances is left out.
    """
    neutral: dict[str, list[Utterance]] = defaultdict(list)
    for u in sorted(m.neutral, key=lambda u: u.key):
        if u.emotion == "neutral":
            neutral[u.voice].append(u)
    enrolling = {voice: tuple(takes[: len(takes) // 2]) for voice, takes in neutral.items() if len(takes) > 1}
    taken = {u.key for takes in enrolling.values() for u in takes}

    def left(utterances: Sequence[Utterance]) -> tuple[Utterance, ...]:
        return tuple(u for u in utterances if u.voice in enrolling and u.key not in taken)

    return replace(m, utterances=left(m.utterances), neutral=left(m.neutral), enrolling=enrolling)

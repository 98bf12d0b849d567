"""One vocabulary of emotions for all corpora, and how each corpus's own codes map onto it."""

from __future__ import annotations

from types import MappingProxyType

from serkit.edge.errors import SettingsError

#: Every emotion a corpus here knows. RAVDESS's eight come first, in RAVDESS's order.
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised", "boredom")

#: The eight classes of RAVDESS speech, the labels of R1.
RAVDESS_EMOTIONS = EMOTIONS[:8]

#: Corpus code to emotion. The codes are those in file names (RAVDESS, EMO-DB, TESS) or in ``data.tsv`` (nEMO).
#: TESS's "pleasant surprise" counts as surprised; the three names for joy are one emotion.
CODES = MappingProxyType(
    {
        "ravdess": dict(zip(("01", "02", "03", "04", "05", "06", "07", "08"), RAVDESS_EMOTIONS, strict=True)),
        "emodb": {
            "W": "angry",
            "L": "boredom",
            "E": "disgust",
            "A": "fearful",
            "F": "happy",
            "T": "sad",
            "N": "neutral",
        },
        "tess": {
            "angry": "angry",
            "disgust": "disgust",
            "fear": "fearful",
            "happy": "happy",
            "neutral": "neutral",
            "ps": "surprised",
            "sad": "sad",
        },
        "nemo": {
            "anger": "angry",
            "fear": "fearful",
            "happiness": "happy",
            "neutral": "neutral",
            "sadness": "sad",
            "surprised": "surprised",
        },
    }
)


def labels_of(corpus: str) -> tuple[str, ...]:
    """The emotions of one corpus, in the order of `EMOTIONS`.

    Raises:
        SettingsError: There is no such corpus.

    >>> labels_of("emodb")
    ('neutral', 'happy', 'sad', 'angry', 'fearful', 'disgust', 'boredom')
    """
    if corpus == "ravdess-song":  # sung: no disgust, no surprise
        return EMOTIONS[:6]
    if corpus not in CODES:
        raise SettingsError(f"no corpus {corpus!r}; choose from ravdess, ravdess-song, {', '.join([*CODES][1:])}")
    return tuple(e for e in EMOTIONS if e in CODES[corpus].values())

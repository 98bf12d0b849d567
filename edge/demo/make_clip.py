"""Make clip.flac, the recording `serkit demo` listens to: four sentences by espeak-ng, spoken in four manners.

Needs espeak-ng; run from anywhere: ``python edge/demo/make_clip.py``.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16000

#: What is said: text, pitch (0-99), words per minute, amplitude (0-200), voice.
SENTENCES = (
    ("Good morning. I am the serkit demonstration, and this is how I usually talk.", 45, 165, 80, "en-us"),
    ("No! Stop that right now! I have told you three times already!", 75, 230, 190, "en-us+m3"),
    ("I waited all evening, but in the end nobody came.", 20, 110, 40, "en-us+f2"),
    ("Look, look! It works, it really works! This is wonderful!", 95, 210, 150, "en-us+f3"),
)


def main() -> None:
    parts = [np.zeros(SAMPLE_RATE // 2, np.float32)]
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "sentence.wav"
        for text, pitch, speed, amplitude, voice in SENTENCES:
            options = ["-v", voice, "-p", str(pitch), "-s", str(speed), "-a", str(amplitude)]
            subprocess.run(["espeak-ng", *options, "-w", str(wav), text], check=True)
            samples, rate = soundfile.read(wav, dtype="float32")
            parts += [soxr.resample(samples, rate, SAMPLE_RATE), np.zeros(SAMPLE_RATE, np.float32)]
    clip = np.concatenate([*parts, np.zeros(2 * SAMPLE_RATE, np.float32)])
    soundfile.write(Path(__file__).with_name("clip.flac"), clip, SAMPLE_RATE, subtype="PCM_16")


if __name__ == "__main__":
    main()

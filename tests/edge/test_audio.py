from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from serkit.edge.audio import FakeSource, FileSource, Resampler, describe_audio, read_audio
from serkit.edge.errors import AudioError
from serkit.edge.pipe import PipeSource

RATE = 16000


def tone(rate: int, seconds: float = 1.0, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def joined(source: object) -> np.ndarray:
    return np.concatenate(list(source))  # type: ignore[call-overload]


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 24414, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_every_rate_and_channel_count_gives_the_same_tone(tmp_path: Path, rate: int, channels: int) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, np.repeat(tone(rate)[:, None], channels, axis=1), rate)
    samples = read_audio(path, RATE)
    assert len(samples) == pytest.approx(RATE, abs=2)
    assert samples.dtype == np.float32
    middle = samples[2000:14000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=1e-2)
    assert np.argmax(np.abs(np.fft.rfft(samples[:RATE], RATE))) == pytest.approx(440, abs=1)


@pytest.mark.parametrize(
    ("suffix", "subtype"), [("wav", "PCM_U8"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", None), ("ogg", None),
                            ("mp3", None), ("aiff", "PCM_16"), ("opus", None)],
)  # fmt: skip
def test_every_format_libsndfile_writes(tmp_path: Path, suffix: str, subtype: str | None) -> None:
    path = tmp_path / f"tone.{suffix}"
    kind = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {"subtype": subtype}
    soundfile.write(path, tone(48000), 48000, **kind)
    samples = read_audio(path, RATE)
    assert np.argmax(np.abs(np.fft.rfft(samples[:RATE], RATE))) == pytest.approx(440, abs=1)


@given(cuts=st.lists(st.integers(0, 44100), max_size=8), rate=st.sampled_from([8000, 24414, 44100, 48000]))
@settings(max_examples=40)
def test_resampling_does_not_depend_on_the_cut(cuts: list[int], rate: int) -> None:
    x = np.random.default_rng(0).standard_normal(44100).astype(np.float32)
    whole = Resampler(rate, RATE).push(x, last=True)
    stream = Resampler(rate, RATE)
    parts = [stream.push(p) for p in np.split(x, np.sort(cuts))]
    assert np.array_equal(np.concatenate([*parts, stream.push(x[:0], last=True)]), whole)


@pytest.mark.parametrize("block_size", [1, 80, 512, 5000, None])
def test_blocks_have_the_size_asked_for(block_size: int | None) -> None:
    x = np.random.default_rng(0).standard_normal(6001).astype(np.float32)
    blocks = list(FakeSource(x, RATE, block_size))
    assert np.array_equal(np.concatenate(blocks), x)
    if block_size:
        assert {len(b) for b in blocks[:-1]} <= {block_size}
        assert 0 < len(blocks[-1]) <= block_size


@contextmanager
def piped(data: bytes, **options: object) -> Iterator[PipeSource]:
    """A PipeSource over a real pipe that is fed from a thread, as a shell feeds it."""
    reader, writer = os.pipe()

    def feed() -> None:
        with os.fdopen(writer, "wb") as out:
            for i in range(0, len(data), 1000):
                out.write(data[i : i + 1000])

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    with os.fdopen(reader, "rb") as stream, PipeSource(RATE, 512, stream=stream, **options) as source:  # type: ignore
        yield source  # type: ignore[misc]
        feeder.join(10)


def test_a_wav_through_a_pipe_equals_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, np.stack([tone(44100), 0.2 * tone(44100)], axis=1), 44100)
    with piped(path.read_bytes()) as source:
        assert np.array_equal(joined(source), read_audio(path, RATE))


@pytest.mark.parametrize("unknown", [b"\xff\xff\xff\xff", bytes(4)])  # by ffmpeg, by others
def test_a_wav_whose_length_was_unknown_when_it_began(tmp_path: Path, unknown: bytes) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(RATE), RATE)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = unknown
    with piped(bytes(data)) as source:
        assert np.array_equal(joined(source), read_audio(path, RATE))


def test_an_au_through_a_pipe_is_no_noise(tmp_path: Path) -> None:
    path = tmp_path / "tone.au"
    soundfile.write(path, tone(44100), 44100)
    data = bytearray(path.read_bytes())
    data[8:12] = b"\xff\xff\xff\xff"  # a length that was unknown when it began
    with piped(bytes(data)) as source:
        assert np.array_equal(joined(source), read_audio(path, RATE))


def test_raw_samples_through_a_pipe() -> None:
    x = (tone(8000) * 32767).astype("<i2")
    with piped(x.tobytes(), raw_rate=8000) as source:
        samples = joined(source)
    assert len(samples) == pytest.approx(RATE, abs=2)
    assert np.max(np.abs(samples)) == pytest.approx(0.5, abs=0.01)


def test_a_pipe_that_does_not_block_has_not_ended() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)

    def feed() -> None:
        with os.fdopen(writer, "wb") as out:
            out.write(b"\1\0" * RATE)

    feeder = threading.Timer(0.2, feed)
    with os.fdopen(reader, "rb") as stream, PipeSource(RATE, 512, stream=stream) as source:
        feeder.start()
        assert len(joined(source)) == RATE
        feeder.join()


def test_a_pipe_that_ends_at_once_says_so() -> None:
    with pytest.raises(AudioError, match="standard input: ended before any audio"), piped(b"") as source:
        list(source)


def test_a_pipe_that_only_starts_like_a_wav_says_so() -> None:
    with (
        pytest.raises(AudioError, match="starts like a WAV or AU but is none"),
        piped(b"RIFF" + b"nonsense" * 50) as s,
    ):
        list(s)


def test_what_is_no_recording_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("not audio\n" * 100)
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "cut.wav", tone(RATE), RATE)
    whole = (tmp_path / "cut.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[:20000])
    bad = tone(RATE)
    bad[77] = np.nan
    soundfile.write(tmp_path / "nan.wav", bad, RATE, subtype="FLOAT")
    for name, message in {
        "missing.wav": "no such file",
        ".": "a folder; give an audio file",
        "empty.wav": r"an empty file \(0 bytes\)",
        "text.wav": "not an audio file that libsndfile can read",
        "nothing.wav": "holds no samples",
        "cut.wav": "truncated: its header promises 32000 bytes of samples, the file holds 19956",
        "nan.wav": "samples that are no numbers",
    }.items():
        with pytest.raises(AudioError, match=message):
            read_audio(tmp_path / name, RATE)


def test_a_flac_that_does_not_know_its_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "piped.flac"
    soundfile.write(path, tone(RATE), RATE)
    whole = read_audio(path, RATE)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the 36 bits of STREAMINFO that count samples: as written to a pipe, or by who was killed
    data[22:26] = bytes(4)
    path.write_bytes(data)
    source = FileSource(path, RATE)
    assert np.array_equal(joined(source), whole)
    assert source.duration_s == 1.0


@pytest.mark.parametrize("suffix", ["mp3", "flac"])
def test_a_compressed_file_that_was_cut_is_not_taken_for_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    rng = np.random.default_rng(0)
    soundfile.write(path, 0.1 * rng.standard_normal(8 * RATE), RATE)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    with pytest.raises(AudioError, match=r"truncated: its header promises 8\.\d s, the file holds 2|breaks off while"):
        read_audio(path, RATE)


def test_what_is_no_regular_file_is_told_apart_from_an_empty_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match="a pipe or a device; `serkit listen --input -` hears"):
        describe_audio(tmp_path / "pipe.wav")
    (tmp_path / "x.raw").write_bytes(bytes(3200))
    with pytest.raises(AudioError, match="raw samples, of no known rate; pipe them into `serkit listen --input -"):
        describe_audio(tmp_path / "x.raw")


def test_raw_samples_that_begin_like_an_mp3() -> None:
    x = np.full(RATE, -1025, "<i2")
    with piped(x.tobytes(), raw_rate=RATE) as source:
        assert len(joined(source)) == RATE


def test_closing_twice_is_fine(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(RATE), RATE)
    source = FileSource(tmp_path / "a.wav", RATE)
    list(source)
    source.close()
    source.close()
    assert source.duration_s == 1.0
    pipe = PipeSource(RATE, stream=io.BytesIO(b""))
    pipe.close()
    pipe.close()


@pytest.mark.data
def test_every_oddity_is_read_rightly_or_refused(data: Path) -> None:
    refused = {
        "empty.wav": "empty file",
        "random_bytes.wav": "not an audio file",
        "truncated_header_says_more.wav": "truncated",
    }
    for path in sorted((data / "oddities").iterdir()):
        if path.name in refused:
            with pytest.raises(AudioError, match=refused[path.name]):
                read_audio(path, RATE)
        else:
            info = describe_audio(path)
            assert len(read_audio(path, RATE)) == pytest.approx(info.frames * RATE / info.samplerate, abs=2)

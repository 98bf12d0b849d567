"""The newest frames of a stream, computed when somebody asks for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from serkit.edge.frontend import Frontend
from serkit.edge.vad import frame_levels

Array = npt.NDArray[np.float32]


class FrameBuffer:
    """Audio goes in, stretches of frames come out, each frame computed once and none that nobody asks for.

    They are the frames that the front end would give for the whole stream, to the bit. Memory is the audio between what
    was asked for, or let go, and the stream's end.

    Args:
        frontend: What computes them; it begins a new stream.
        n_frames: How many are asked for at once, at most.
        spare: How many more there is room for, so that not every stretch moves the ones it shares with the one before.
        silent: Frames of silence before the stream, which have the numbers ``-silent ... -1``.
        fill: Value of a silent frame.
    """

    def __init__(self, frontend: Frontend, n_frames: int, spare: int, silent: int, fill: float) -> None:
        frontend.reset()
        self._frontend = frontend
        self._rows = np.full((n_frames + max(spare, 8), frontend.settings.n_features), fill, np.float32)
        self._levels = np.empty(len(self._rows), np.float32)
        self._first, self._filled = -silent, silent  # number of the first row's frame, rows that hold one
        self._n_levels = 0  # rows whose level is known
        self._audio: deque[Array] = deque()  # that the front end has not seen
        self._n_seen = self._n_heard = 0  # samples it has, samples of the stream
        self._late = frontend.settings.deltas * frontend.settings.delta_width  # frames that deltas hold back

    def push(self, samples: Array) -> None:
        """Hear the stream's next samples, mono float32 ``(n,)``."""
        self._audio.append(samples)
        self._n_heard += len(samples)

    @property
    def n_frames(self) -> int:
        """How many of the stream's frames can be asked for by now."""
        s = self._frontend.settings
        return max(0, (self._n_heard - s.win_length) // s.hop_length + 1 - self._late)

    def frames(self, start: int, end: int) -> Array:
        """Frames ``start ... end - 1``, float32 ``(end - start, n_features)``, good until the next call.

        No frame before ``start`` may be asked for later.
        """
        self.forget(start)
        unseen = list(self._unseen(self._frontend.settings.n_samples(end + self._late)))
        if unseen:  # at once: a call of the front end costs as much as 15 frames
            self._keep(self._frontend.push(np.concatenate(unseen)), start)
        return self._rows[start - self._first : end - self._first]

    def levels(self, start: int, end: int) -> Array:
        """Levels of the same `frames`, dB of full scale, ``(end - start,)``, good until the next call.

        Raises:
            SettingsError: The frames are MFCC.
        """
        self.frames(start, end)
        new = slice(self._n_levels, self._filled)
        self._levels[new] = frame_levels(self._rows[new], self._frontend.settings)
        self._n_levels = self._filled
        return self._levels[start - self._first : end - self._first]

    def forget(self, start: int) -> None:
        """Let go of what is needed for frames before ``start`` alone."""
        s = self._frontend.settings
        if start <= self._first + self._filled or self._late:  # deltas look at frames before their own
            return
        passed = sum(self._frontend.skip(samples) for samples in self._unseen((start - 1) * s.hop_length))
        if passed:
            self._restart(self._first + self._filled + passed)

    def finish(self, start: int) -> int:
        """End the stream: how many frames it has, of which those from ``start`` on can still be asked for."""
        self.forget(start)
        for samples in self._unseen(None):
            self._keep(self._frontend.push(samples), start)
        self._keep(self._frontend.flush(), start)
        return self._first + self._filled

    def _unseen(self, end: int | None) -> Iterator[Array]:
        """The audio that the front end has not seen, up to sample ``end`` of the stream."""
        while self._audio and (end is None or self._n_seen < end):
            samples = self._audio.popleft()
            if end is not None and self._n_seen + len(samples) > end:
                self._audio.appendleft(samples[end - self._n_seen :])
                samples = samples[: end - self._n_seen]
            self._n_seen += len(samples)
            yield samples

    def _keep(self, frames: Array, start: int) -> None:
        """Append what follows the last row, without what lies before ``start``."""
        before = max(0, start - self._first - self._filled)
        if before:  # so no row is needed either
            self._restart(self._first + self._filled + min(before, len(frames)))
            frames = frames[before:]
        if self._filled + len(frames) > len(self._rows):
            moved, n = start - self._first, self._filled - (start - self._first)
            self._rows[:n], self._levels[:n] = self._rows[moved:][:n].copy(), self._levels[moved:][:n].copy()
            self._first, self._filled, self._n_levels = start, n, max(0, self._n_levels - moved)
        self._rows[self._filled : self._filled + len(frames)] = frames
        self._filled += len(frames)

    def _restart(self, first: int) -> None:
        """No row is needed any more; the next one is that of frame ``first``."""
        self._first, self._filled, self._n_levels = first, 0, 0

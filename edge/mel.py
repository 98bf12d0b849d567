"""The mel scale and its triangular filters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from serkit.edge.frontend import FrontendSettings

Array = npt.NDArray[np.float32]


def hz_to_mel(hz: npt.ArrayLike, scale: str = "htk") -> npt.NDArray[np.float64]:
    """Frequencies in Hz to mel: HTK's formula (O'Shaughnessy 1987), Slaney's (Auditory Toolbox 1998), or Hz itself.

    >>> float(hz_to_mel(1000.0, "slaney"))
    15.0
    """
    f = np.asarray(hz, np.float64)
    if scale == "linear":
        return f
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + f / 700.0)
    return np.where(f < 1000.0, f * 3 / 200, 15.0 + np.log(np.maximum(f, 1e-9) / 1000.0) * 27 / np.log(6.4))


def mel_to_hz(mel: npt.ArrayLike, scale: str = "htk") -> npt.NDArray[np.float64]:
    """The inverse of `hz_to_mel`."""
    m = np.asarray(mel, np.float64)
    if scale == "linear":
        return m
    if scale == "htk":
        return 700.0 * (10.0 ** (m / 2595.0) - 1.0)
    return np.where(m < 15.0, m * 200 / 3, 1000.0 * np.exp((m - 15.0) * np.log(6.4) / 27))


def mel_edges(settings: FrontendSettings) -> npt.NDArray[np.float64]:
    """The ``n_mels + 2`` corner frequencies of the triangles, in FFT bins (fractional where ``exact``)."""
    s = settings
    low, high = hz_to_mel([s.fmin, s.fmax], s.mel_scale)
    hz = mel_to_hz(np.linspace(low, high, s.n_mels + 2), s.mel_scale)
    if s.mel_edges == "binned":
        return np.floor((s.n_fft + 1) * hz / s.sample_rate)
    return hz * (s.n_fft / s.sample_rate)


def mel_filterbank(settings: FrontendSettings) -> npt.NDArray[np.float64]:
    """Triangular mel filters as a dense matrix, ``(n_mels, n_fft // 2 + 1)``, float64.

    Every band is a triangle that rises from edge ``m`` to ``m + 1`` and falls to ``m + 2``; bands so narrow that no FFT
    bin lies inside (low bands at a high ``n_mels``) are all zero and come out at the log floor.
    """
    s = settings
    edges = mel_edges(s)
    bins = np.arange(s.n_fft // 2 + 1, dtype=np.float64)
    width = np.diff(edges)
    with np.errstate(divide="ignore", invalid="ignore"):
        rising = (bins - edges[:-2, None]) / width[:-1, None]
        falling = (edges[2:, None] - bins) / width[1:, None]
        triangles = np.maximum(0.0, np.fmin(rising, falling))
    if s.mel_edges == "binned":  # a triangle whose rising side has no width is its falling side alone
        inside = (bins >= edges[:-2, None]) & (bins < edges[2:, None])
        rises = bins < edges[1:-1, None]
        triangles = np.where(inside, np.where(rises, rising, falling), 0.0)
    if s.mel_norm == "slaney":
        triangles *= (2.0 * s.n_fft / s.sample_rate / (edges[2:] - edges[:-2]))[:, None]
    return np.nan_to_num(triangles, nan=0.0, posinf=0.0)


# Frames and bands of one matrix product: below OpenBLAS's threshold for threads (2^18 multiplications) up to 1024 bins.
_ROWS, _BANDS = 16, 16


class BandedMel:
    """Mel energies by small matrix products: a few neighbouring bands at a time, over no more bins than they cover.

    How BLAS rounds a row depends on the shape of the product and, on some processors, on where the row stands in it,
    though never on the other rows. So shapes are fixed, and frame ``k`` of a stream always stands in row ``k % 16``:
    its energies are the same bits however many frames come with it.
    """

    def __init__(self, settings: FrontendSettings, max_frames: int) -> None:
        dense = mel_filterbank(settings)
        n_mels, n_bins = dense.shape
        blocks = max_frames // _ROWS + 1
        self._power = np.zeros((blocks, _ROWS, n_bins), np.float32)
        self._mel = np.zeros((blocks, _ROWS, n_mels), np.float32)
        self._products = []
        for first in range(0, n_mels, _BANDS):
            bands = slice(first, first + _BANDS)
            covered = np.flatnonzero(dense[bands].any(axis=0))
            bins = slice(covered[0], covered[-1] + 1) if len(covered) else slice(0)
            weights = np.ascontiguousarray(dense[bands, bins].T, np.float32)
            self._products.append((self._power[:, :, bins], weights, self._mel[:, :, bands]))

    def power(self, k: int, n: int) -> Array:
        """Where to write the power spectra ``(n, n_bins)`` of frames ``k ... k + n - 1``, at most ``max_frames``."""
        return self._rows(self._power, k, n)

    def __call__(self, k: int, n: int) -> Array:
        """Mel energies ``(n, n_mels)`` of the spectra in ``power(k, n)``; good until the next call."""
        blocks = -(-(k % _ROWS + n) // _ROWS)
        for power, weights, mel in self._products:
            np.matmul(power[:blocks], weights, out=mel[:blocks])
        return self._rows(self._mel, k, n)

    @staticmethod
    def _rows(blocks: Array, k: int, n: int) -> Array:
        return blocks.reshape(-1, blocks.shape[2])[k % _ROWS : k % _ROWS + n]

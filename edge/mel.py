"""The mel scale and its triangular filters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

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


class BandedMel:
    """Mel energies as sums over the stretches between neighbouring mel edges.

    Within one stretch a bin lies on the rising side of one band and on the falling side of the band before, and on no
    other: two weights per bin describe the whole matrix, and each band is two short sums. Both are summed in one pass,
    as the real and the imaginary part of one number.
    """

    def __init__(self, settings: FrontendSettings, max_frames: int) -> None:
        dense = mel_filterbank(settings)
        n_mels, n_bins = dense.shape
        side: Literal["left", "right"] = "right" if settings.mel_edges == "binned" else "left"
        stretch = np.searchsorted(mel_edges(settings), np.arange(n_bins), side=side) - 1  # -1: below the first edge
        starts = np.searchsorted(stretch, np.arange(n_mels + 2), side="left")
        self._bins = slice(int(starts[0]), int(starts[-1]))
        bins = np.arange(n_bins)[self._bins]
        band = stretch[self._bins]
        self._rising = np.where(band < n_mels, dense[np.minimum(band, n_mels - 1), bins], 0.0)
        self._falling = np.where(band > 0, dense[np.maximum(band - 1, 0), bins], 0.0)
        # reduceat answers an empty stretch with the element at its start; those answers are zeroed afterwards.
        self._starts = np.minimum(starts[:-1] - starts[0], len(bins) - 1)
        self._empty = np.flatnonzero(np.diff(starts) == 0)
        self._weighted = np.empty((max_frames, len(bins)), np.complex128)
        self._sums = np.empty((max_frames, n_mels + 1), np.complex128)

    def __call__(self, power: npt.NDArray[np.float64], out: Array) -> None:
        """``power`` (n_frames, n_bins) to mel energies ``out`` (n_frames, n_mels), at most ``max_frames``."""
        weighted, sums = self._weighted[: len(power)], self._sums[: len(power)]
        np.multiply(power[:, self._bins], self._rising, out=weighted.real)
        np.multiply(power[:, self._bins], self._falling, out=weighted.imag)
        np.add.reduceat(weighted, self._starts, axis=1, out=sums)
        sums[:, self._empty] = 0.0
        np.add(sums.real[:, :-1], sums.imag[:, 1:], out=out, casting="same_kind")

"""The peaks of D_n's histogram, for what document 001 §4.4 says of them."""

import numpy as np
import scipy.ndimage
import scipy.signal

SMOOTHED = 2.0
"""Bins: the standard deviation of the Gaussian that takes the noise of counts away."""


def peaks(histograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far the fourth of four peaks stands out, and how the inner two compare with the outer two.

    Args:
      histograms: counts ``[trial, bin]``.

    Returns:
      A trial each: the prominence of its fourth most prominent peak in per cent of its highest count, 0
      where there is none; the lower of the middle two of these four over the higher of the outer two, NaN
      where there are not four.
    """
    found = [_peaks(counts) for counts in np.asarray(histograms, dtype=np.float64)]
    return np.array([one[0] for one in found]), np.array([one[1] for one in found])


def _peaks(counts: np.ndarray) -> tuple[float, float]:
    smooth = scipy.ndimage.gaussian_filter1d(counts, SMOOTHED)
    places, about = scipy.signal.find_peaks(smooth, prominence=0.0)
    if len(places) < 4:
        return 0.0, np.nan
    largest = np.argsort(about["prominences"])[-4:]
    four = np.sort(places[largest])
    first, *inner, last = smooth[four]
    fourth = about["prominences"][largest[0]] / smooth.max() * 100
    return float(fourth), float(min(inner) / max(first, last))

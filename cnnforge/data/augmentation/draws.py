"""Draw the random numbers of augmentations. They depend on the seed, the epoch and the sample."""

from __future__ import annotations

import numpy as np

_STEP = np.uint64(0x9E3779B97F4A7C15)


class Draws:
    """Draws random numbers for each of some samples.

    The numbers for a sample depend only on a key and on the index of the sample. They are therefore
    the same for all batch sizes, and after an interruption of training. Key and index are combined
    and hashed with the mixing function of SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast Splittable
    Pseudorandom Number Generators", 2014).

    Args:
        key: One number for all samples, such as a hash of the seed and the epoch.
        indices: (N,) indices of the samples in the dataset.
    """

    def __init__(self, key: int, indices: np.ndarray) -> None:
        self._words = _mix(np.asarray(indices).astype(np.uint64) * _STEP ^ np.uint64(key))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """Draw a real number for every sample; each call gives new numbers.

        Args:
            low: Lower bound, inclusive.
            high: Upper bound, exclusive.

        Returns:
            (N,) float64.
        """
        self._words = self._words + _STEP
        return low + (high - low) * (_mix(self._words) >> np.uint64(11)) * 2.0**-53

    def integers(self, low: int, high: int) -> np.ndarray:
        """Draw a whole number for every sample; each call gives new numbers.

        Args:
            low: Lower bound, inclusive.
            high: Upper bound, exclusive.

        Returns:
            (N,) int64.
        """
        return low + np.floor(self.uniform(0.0, high - low)).astype(np.int64)

    def beta(self, alpha: float, beta: float) -> np.ndarray:
        """Draw a number from a beta distribution for every sample; each call gives new numbers.

        Args:
            alpha: First parameter of the distribution, more than 0.
            beta: Second parameter of the distribution, more than 0.

        Returns:
            (N,) float64, from 0 to 1.
        """
        first, second = self._log_gamma(alpha), self._log_gamma(beta)
        return 1.0 / (1.0 + np.exp(np.clip(second - first, -700.0, 700.0)))

    def _log_gamma(self, shape: float) -> np.ndarray:
        """Draw the logarithm of a number from a gamma distribution with scale 1, (N,) float64.

        The method is that of G. Marsaglia and W. Tsang, "A Simple Method for Generating Gamma
        Variables", 2000.
        """
        self._words = self._words + _STEP
        # The method draws until a number is accepted. A sample that is accepted early must not draw
        # as often as the others of its batch, so each call draws from a stream of its own.
        own = Draws.__new__(Draws)
        own._words = _mix(self._words)
        small = shape < 1.0
        d = shape + small - 1.0 / 3.0
        c = 1.0 / np.sqrt(9.0 * d)
        # For shape < 1, a number for shape + 1 is multiplied by U ** (1 / shape).
        boost = np.log(1.0 - own.uniform()) / shape if small else 0.0
        result = np.full(len(own._words), np.nan)
        while (left := np.isnan(result)).any():
            radius = np.sqrt(-2.0 * np.log(1.0 - own.uniform()))
            normal = radius * np.cos(2.0 * np.pi * own.uniform())
            root = np.maximum(1.0 + c * normal, 1e-100)
            v, log_v = root**3, 3.0 * np.log(root)
            bound = 0.5 * normal**2 + d * (1.0 - v + log_v)
            accepted = left & (np.log(1.0 - own.uniform()) < bound)
            result[accepted] = (np.log(d) + log_v)[accepted]
        return result + boost


def _mix(words: np.ndarray) -> np.ndarray:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))

"""The statistics of the thesis' research code, for comparison with published numbers.

They differ from `fgg.statistics.paired` as follows: positive differences are better, intervals are based on
Student's t, percentages keep the sign of the baseline's mean (a negative mean turns an improvement into a
loss), nothing is adjusted for the number of experiments, and equal scores give p = 1 and d = 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fgg.statistics.bootstrap import LEVEL
from fgg.statistics.power import ALPHA


def thesis_paired(treatment: Mapping[str, float], vanilla: Mapping[str, float], sign: int) -> dict[str, float | int]:
    """Paired t statistics of scores by image name, over the names in both.

    The percentage is relative to the vanilla mean over all of its images, paired or not.
    """
    from scipy import stats

    names = [name for name in vanilla if name in treatment]
    differences = sign * np.array([treatment[name] - vanilla[name] for name in names])
    mean, sd, n = differences.mean(), differences.std(ddof=1), len(names)
    se = sd / np.sqrt(n)
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * se
    p_value = 2 * stats.t.sf(abs(mean) / se, n - 1) if sd > 0 else 1.0
    percent = 100 * mean / np.mean(list(vanilla.values()))
    return _row(mean, percent, mean / sd if sd > 0 else 0.0, p_value, half) | {"n_pairs": n}


def thesis_welch(
    treatment: tuple[float, float, int], vanilla: tuple[float, float, int], sign: int
) -> dict[str, float | int]:
    """Welch's t statistics of (mean, sd, n), for when only these are known; d uses the root mean square of the sds."""
    from scipy import stats

    (mean_1, sd_1, n_1), (mean_0, sd_0, n_0) = treatment, vanilla
    mean, v_1, v_0 = sign * (mean_1 - mean_0), sd_1**2 / n_1, sd_0**2 / n_0
    se = np.sqrt(v_1 + v_0)
    freedom = (v_1 + v_0) ** 2 / (v_1**2 / (n_1 - 1) + v_0**2 / (n_0 - 1))
    half = stats.t.ppf((1 + LEVEL) / 2, freedom) * se
    p_value = 2 * stats.t.sf(abs(mean) / se, freedom)
    return _row(mean, 100 * mean / mean_0, mean / np.sqrt((sd_1**2 + sd_0**2) / 2), p_value, half)


def thesis_composite(percents: Sequence[float]) -> float:
    """The composite of an experiment: the mean of its metrics' percentages."""
    return float(np.mean(percents))


def _row(mean: float, percent: float, d: float, p_value: float, half: float) -> dict[str, float | int]:
    return {
        "difference": float(mean),
        "percent_improvement": float(percent),
        "cohens_d": float(d),
        "p_value": float(p_value),
        "ci_lower": float(mean - half),
        "ci_upper": float(mean + half),
        "significant": bool(p_value < ALPHA),
    }

"""Random effects: one estimate from several runs, such as those of several seeds."""

from __future__ import annotations

import warnings

import numpy as np

from fgg.statistics.bootstrap import LEVEL
from fgg.statistics.paired import Row

FEWEST_FOR_PREDICTION = 3


def pool(estimates: np.ndarray, variances: np.ndarray) -> Row:
    """Pool estimates (k,) with the variances of their errors (k,).

    The variance between runs, tau², is estimated by the method of Paule and Mandel (1982). The interval and the p-value
    of the mean are those of Hartung and Knapp (2001), with k - 1 degrees of freedom. The prediction interval, for the
    true value of a further run, is that of Higgins et al. (2009), with k - 2 degrees of freedom. ``share_between`` is
    the share of the variance of the estimates that lies between runs: tau² / (tau² + the typical variance within), the
    I² of Higgins and Thompson (2002).

    Returns:
        ``n_runs``, ``mean``, ``ci_low``, ``ci_high``, ``p_value``, ``prediction_low``, ``prediction_high``, ``tau``,
        ``share_between``, ``smallest``, ``largest``. NaN where there are too few runs (an interval needs 2, a
        prediction 3), or a variance is 0.
    """
    from scipy import stats
    from statsmodels.stats.meta_analysis import combine_effects
    from statsmodels.tools.sm_exceptions import InvalidTestWarning

    known = ~(np.isnan(estimates) | np.isnan(variances))
    estimates, variances = estimates[known], variances[known]
    k = len(estimates)
    names = ("mean", "ci_low", "ci_high", "p_value", "prediction_low", "prediction_high", "tau", "share_between")
    found: Row = dict.fromkeys((*names, "smallest", "largest"), float("nan")) | {"n_runs": k}
    if not k:
        return found
    found |= {"mean": float(estimates.mean()), "smallest": float(estimates.min()), "largest": float(estimates.max())}
    if k < 2 or (variances <= 0).any():
        return found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InvalidTestWarning)  # about the intervals of single runs, which are not used
        result = combine_effects(estimates, variances, method_re="iterated", use_t=True)
    mean, tau2 = float(result.mean_effect_re), max(0.0, float(result.tau2))
    error = float(result.sd_eff_w_re_hksj)
    half = float(stats.t.ppf((1 + LEVEL) / 2, k - 1)) * error
    weights = 1 / variances
    typical = (k - 1) * weights.sum() / (weights.sum() ** 2 - (weights**2).sum())
    found |= {
        "mean": mean,
        "ci_low": mean - half,
        "ci_high": mean + half,
        "p_value": float(2 * stats.t.sf(abs(mean) / error, k - 1)) if error > 0 else float("nan"),
        "tau": tau2**0.5,
        "share_between": tau2 / (tau2 + float(typical)),
    }
    if k >= FEWEST_FOR_PREDICTION:
        reach = float(stats.t.ppf((1 + LEVEL) / 2, k - 2)) * (tau2 + error**2) ** 0.5
        found |= {"prediction_low": mean - reach, "prediction_high": mean + reach}
    return found

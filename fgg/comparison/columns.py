"""The columns of the comparison's tables."""

from __future__ import annotations

import pyarrow as pa

_TEXT, _NUMBER, _COUNT, _FLAG = pa.string(), pa.float64(), pa.int64(), pa.bool_()
_SETTINGS = {
    "method": _TEXT,
    "layers": _TEXT,  # such as 1+2
    "construction": _TEXT,
    "clamp_max": _NUMBER,
    "alpha": _NUMBER,
    "shuffle_decoder": _FLAG,
    "control": _TEXT,
}
_MEASURE = {
    "metric": _TEXT,
    "fill": _TEXT,  # empty for a metric that perturbs nothing
    "higher_is_better": _FLAG,
    "stratum": _TEXT,  # measurable, all, correct, incorrect, or class NAME
    "n_images": _COUNT,
    "n_measurable": _COUNT,  # number of these images that are measurable
}
STATISTICS = {
    "difference": _NUMBER,  # treatment - baseline, in the metric's unit
    "difference_se": _NUMBER,  # its standard error
    "ci_low": _NUMBER,  # 95 % BCa interval of the difference
    "ci_high": _NUMBER,
    "improvement": _NUMBER,  # from here on, positive is better
    "improvement_pct": _NUMBER,  # of |baseline mean|
    "effect_size": _NUMBER,  # d_z
    "p_value": _NUMBER,  # paired t
    "p_adjusted": _NUMBER,  # Holm
    "significant": _FLAG,  # p_adjusted < 0.05
    "wilcoxon_p": _NUMBER,
    "wilcoxon_p_adjusted": _NUMBER,
    "smallest_detectable": _NUMBER,  # d_z that this many images detect with a power of 80 %, without adjustment
    "equivalence_p": _NUMBER,  # TOST of |d_z| below the margin
    "equivalence_p_adjusted": _NUMBER,
    "order_difference": _NUMBER,  # gain of the order alone: the baseline's values in the map's order
    "order_se": _NUMBER,
    "order_p_value": _NUMBER,
    "order_p_adjusted": _NUMBER,
    "share_improved": _NUMBER,
    "n_tied": _COUNT,
    "verdict": _TEXT,
    "reason": _TEXT,  # why a statistic is missing
    "n_experiments_tried": _COUNT,  # number of experiments of the dataset, without the baseline
    "protocol": _TEXT,
    "precision": _TEXT,
    "note": _TEXT,
}
NUMBERS = tuple(name for name, kind in STATISTICS.items() if kind == _NUMBER)
_COST = {
    "role": _TEXT,  # method, ceiling, floor or reference
    "forward_passes": _COUNT,  # per image; null where unknown
    "backward_passes": _COUNT,
    "completeness_residual": _NUMBER,  # mean absolute value, for methods that report it
}
COMPARISON = pa.schema(
    {
        "dataset": _TEXT,
        "seed": _TEXT,
        "experiment": _TEXT,
        **_SETTINGS,
        **_MEASURE,
        "n": _COUNT,  # number of images used for the row
        "n_undefined": _COUNT,
        "n_left_out": _COUNT,
        "n_skipped": _COUNT,  # files of the dataset that could not be read, in any split
        "mean": _NUMBER,
        "sd": _NUMBER,
        "sem": _NUMBER,
        "median": _NUMBER,
        "minimum": _NUMBER,
        "maximum": _NUMBER,
        **_COST,
        "monte_carlo_se": _NUMBER,  # Faithfulness Correlation: standard error of the mean due to random subsets
        "n_with_ties": _COUNT,  # images in which some patches have equal relevance
        "baseline": _TEXT,
        "baseline_mean": _NUMBER,
        **STATISTICS,
    }
)
HYPOTHESES = pa.schema(
    {
        "dataset": _TEXT,
        "seed": _TEXT,
        **_MEASURE,
        "experiment": _TEXT,
        "against": _TEXT,
        "partner": _TEXT,
        **{name: _SETTINGS[name] for name in ("method", "layers", "clamp_max", "alpha")},
        "n": _COUNT,
        "n_left_out": _COUNT,
        "mean": _NUMBER,
        "partner_mean": _NUMBER,
        **STATISTICS,
    }
)
DECOMPOSITION = pa.schema(
    {
        "dataset": _TEXT,
        "seed": _TEXT,
        "experiment": _TEXT,
        **_MEASURE,
        "n": _COUNT,
        "baseline_mean": _NUMBER,  # TransMM's order and values
        "gated_mean": _NUMBER,  # the gate's order and values
        "order_mean": _NUMBER,  # the gate's order, TransMM's values
        "values_mean": _NUMBER,  # TransMM's order, the gate's values
        "gain": _NUMBER,  # from here on, positive is better
        "order_first": _NUMBER,  # gain of the order with TransMM's values
        "order_last": _NUMBER,  # and with the gate's values
        "order": _NUMBER,  # their mean, the Shapley value
        "order_low": _NUMBER,
        "order_high": _NUMBER,
        "order_p": _NUMBER,
        "values_first": _NUMBER,  # gain of the values in TransMM's order
        "values_last": _NUMBER,  # and in the gate's order
        "values": _NUMBER,
        "values_low": _NUMBER,
        "values_high": _NUMBER,
        "values_p": _NUMBER,
        "interaction": _NUMBER,  # gain - order_first - values_first
    }
)
AGREEMENT = pa.schema(
    {
        "dataset": _TEXT,
        "seed": _TEXT,
        "stratum": _TEXT,
        "first": _TEXT,
        "first_fill": _TEXT,
        "second": _TEXT,
        "second_fill": _TEXT,
        "over_methods": _NUMBER,  # rank correlation of the experiments' means
        "n_methods": _COUNT,
        "over_images": _NUMBER,  # rank correlation of the images' gains over the baseline, mean over experiments
        "n_images": _COUNT,
        "n_undefined": _COUNT,  # experiments without a correlation over images
    }
)
JUDGED = pa.schema(
    {
        "dataset": _TEXT,
        "seed": _TEXT,
        "metric": _TEXT,
        "fill": _TEXT,
        "stratum": _TEXT,
        "n": _COUNT,  # images on which the model uses the cue and both scores are defined
        "n_undefined": _COUNT,
        "n_tied": _COUNT,
        "share_right": _NUMBER,  # of them, the share with a better score for the map of the cue; ties count half
        "ci_low": _NUMBER,  # 95 % Wilson interval
        "ci_high": _NUMBER,
    }
)

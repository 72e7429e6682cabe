"""Faithfulness Correlation as its authors define it: by values instead of ranks."""

from __future__ import annotations

from torch import Tensor

from fgg.faithfulness.faithfulness_correlation import Responses, correlate, over_trials, pearson
from fgg.faithfulness.registry import metric


@metric(
    name="faithfulness_correlation_pearson",
    title="Faithfulness Correlation (Pearson)",
    short="Faithf. Corr. (r)",
    citation="Bhatt et al. 2020, Evaluating and Aggregating Feature-based Model Explanations",
    higher_is_better=True,
    lowest=-1.0,
    highest=1.0,
    quantity="Pearson correlation (−1 to 1)",
    definition="is the drop of the logit proportional to the summed relevance of random patch subsets?",
    assumes="relevance adds up over patches, in the logit's unit; a few large values decide",
    passes="none beside those of Faithfulness Correlation",
    needs=("responses",),
    columns={
        "faithfulness_correlation_pearson_sd": "standard deviation over trials",
        "faithfulness_correlation_pearson_se": "standard error of the mean over trials",
        "faithfulness_correlation_pearson_undefined": "trials without a value",
    },
    place=21,
)
def faithfulness_correlation_pearson_scores(
    relevance: Tensor, responses: Responses, protocol: str
) -> dict[str, Tensor]:
    """The mean over trials, the trials' spread, the standard error of the mean, and the number of undefined trials."""
    found = correlate(relevance, responses.subsets, responses.drops, protocol, pearson)
    return over_trials("faithfulness_correlation_pearson", found)

"""The contents of a report: its figures and its pages. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping

from fgg.faithfulness.registry import Metric

CURVED = ("srg", "insertion", "deletion")  # metrics that are computed from the curves


def figures(
    metrics: Mapping[str, Metric], powers: bool = False, deletion: bool = False, sweep: bool = False
) -> dict[str, str]:
    """The figures of a dataset with these metrics, in the order of the report: file name -> title.

    Args:
        powers: whether the grid has TransMM raised to powers.
        deletion: whether SAE features were deleted.
        sweep: whether several SAEs were trained per layer, of which one is used.
    """
    found = {"overview": "Overview of the maps", "forest": "Effect sizes", "methods": "Faithfulness against cost"}
    found |= {name: metric.title for name, metric in metrics.items()}
    found |= {
        "hypotheses": "Hypotheses",
        "paired_differences": "Paired differences",
        "heat_map": "Layers and constructions",
    }
    if powers:
        found["powers"] = "Order and values"
    if any(name in metrics for name in CURVED):
        found["order_curves"] = "Most and least relevant first"
    if "pixel_flipping" in metrics:
        found["pixel_flipping_curves"] = "Pixel Flipping curves"
    found |= {"gates": "Gates", "sae_quality": "Quality of the SAEs", "sae_pareto": "What the SAEs trade"}
    found["sae_training"] = "Training of the SAEs"
    if sweep:
        found["sae_sweep"] = "Sweep of SAEs"
    if "faithfulness_correlation" in metrics:
        found["sampling_error"] = "Error of Faithfulness Correlation"
    if deletion:
        found["feature_deletion"] = "Feature deletion"
    return found


def pages() -> dict[str, tuple[str, str]]:
    """The pages: file name -> category and title. Some exist only if they are switched on."""
    return {
        "README": ("Headline", "Results in words"),
        "summary": ("Tables", "Summary"),
        "hypotheses": ("Tables", "Hypotheses"),
        "methods": ("Tables", "Methods and their cost"),
        "judged": ("Tables", "Metrics judged by planted cues"),
        "decomposition": ("Tables", "Order and values"),
        "agreement": ("Tables", "Agreement of the metrics"),
        "feature_deletion": ("Tables", "Feature deletion"),
        "sae_quality": ("Tables", "Quality of the SAEs"),
        "pooled": ("Tables", "Pooled over seeds and datasets"),
        "comparison": ("Tables", "All statistics"),
        "selection": ("Tables", "Selection"),
        "selection_ranking": ("Tables", "Selection, all candidates"),
        "sanity": ("Tables", "Sanity checks"),
        "cases": ("Tables", "Case studies, patch by patch"),
        "features": ("Tables", "Features"),
        "configuration": ("Run", "Configuration"),
        "versions": ("Run", "Versions and machine"),
    }

"""What there is to choose from: methods, gate constructions, controls, metrics. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """An attribution method."""

    name: str
    title: str
    citation: str


@dataclass(frozen=True)
class Construction:
    """How a patch's gate score is made of SAE activations and gradients."""

    name: str
    title: str
    needs_sae: bool
    needs_gradient: bool


@dataclass(frozen=True)
class Metric:
    """A faithfulness metric; ``sign`` is +1 where higher is better, else -1."""

    name: str
    title: str
    citation: str
    higher_is_better: bool

    @property
    def sign(self) -> int:
        return 1 if self.higher_is_better else -1


def _by_name(*entries):
    table = {entry.name: entry for entry in entries}
    if len(table) != len(entries):
        raise ValueError("two entries of the catalogue share a name")
    return table


METHODS: dict[str, Method] = _by_name(
    Method("random", "Random", "uniform relevance, the floor every method must beat"),
    Method("rollout", "Rollout", "Abnar & Zuidema 2020, Quantifying Attention Flow in Transformers"),
    Method("gradcam", "Grad-CAM", "Selvaraju et al. 2017, Grad-CAM (on the tokens of the last block but one)"),
    Method("tokentm", "TokenTM", "Wu et al. 2024, Token Transformation Matters"),
    Method("transmm", "TransMM", "Chefer et al. 2021, Generic Attention-model Explainability"),
)

CONSTRUCTIONS: dict[str, Construction] = _by_name(
    Construction("combined", "activation x gradient", needs_sae=True, needs_gradient=True),
    Construction("activation_only", "activation", needs_sae=True, needs_gradient=False),
    Construction("gradient_only", "gradient", needs_sae=True, needs_gradient=True),
    Construction("no_sae", "residual x gradient, no SAE", needs_sae=False, needs_gradient=True),
)

CONTROLS: dict[str, str] = {
    "permuted_gate": "permuted",  # the same gate values on shuffled patches
    "sharpened": "sharpened",  # TransMM raised to the power that gives it the gated map's spread
}

# Sanity checks (Adebayo et al. 2018): a map that survives the loss of what was learnt explains nothing learnt.
SANITY: dict[str, str] = {
    "randomized_model": "randomized-model",  # relevance from the same architecture with fresh weights
    "randomized_sae": "randomized-sae",  # the gate of an SAE whose weights are shuffled
}

METRICS: dict[str, Metric] = _by_name(
    Metric("saco", "SaCo", "Wu et al. 2024, On the Faithfulness of Vision Transformer Explanations", True),
    Metric(
        "faithfulness_correlation",
        "Faithfulness Correlation",
        "Bhatt et al. 2020, Evaluating and Aggregating Feature-based Model Explanations",
        True,
    ),
    Metric(
        "pixel_flipping",
        "Pixel Flipping",
        "Bach et al. 2015, On Pixel-Wise Explanations for Non-Linear Classifier Decisions",
        False,
    ),
)

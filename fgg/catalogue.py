"""What a gate may be made of, its controls, and the sanity checks. Imports no torch.

Attribution methods and metrics state what they are in files of their own: see `fgg.attribution.registry` and
`fgg.faithfulness.registry`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Construction:
    """How a patch's gate score is made of SAE activations and gradients."""

    name: str
    title: str
    needs_sae: bool
    needs_gradient: bool


CONSTRUCTIONS: dict[str, Construction] = {
    entry.name: entry
    for entry in (
        Construction("combined", "activation x gradient", needs_sae=True, needs_gradient=True),
        Construction("activation_only", "activation", needs_sae=True, needs_gradient=False),
        Construction("gradient_only", "gradient", needs_sae=True, needs_gradient=True),
        Construction("no_sae", "residual x gradient, no SAE", needs_sae=False, needs_gradient=True),
    )
}

EXTERNAL = "external"  # the method of maps that are given

CONTROLS: dict[str, str] = {
    "permuted_gate": "permuted",  # the same gate values on shuffled patches
    "sharpened": "sharpened",  # TransMM raised to the power that gives it the gated map's spread
    "gate_values": "values",  # the gated map's sorted values, laid in TransMM's order
    "gate_order": "order",  # TransMM's sorted values, laid in the gated map's order
}
# Controls of the dictionary: the same gate, made of features that were not learnt. Name -> end of the id, and `sae.kind`.
DICTIONARIES: dict[str, tuple[str, str]] = {
    "frozen_sae": ("frozen", "frozen_decoder"),
    "untrained_sae": ("untrained", "untrained"),
    "pca_sae": ("pca", "pca"),
    "identity_sae": ("identity", "identity"),
}
POWERS = "powers"  # the control that is no single experiment: TransMM to each of `experiments.powers`

# Sanity checks (Adebayo et al. 2018): a map that survives the loss of what was learnt explains nothing learnt.
SANITY: dict[str, str] = {
    "randomized_model": "randomized-model",  # relevance from the same architecture with fresh weights
    "randomized_sae": "randomized-sae",  # the gate of an SAE whose weights are shuffled
}

# What may replace a patch, beside a number in the units of the model's input.
FILLS: dict[str, str] = {
    "mean": "the image's mean over all channels and pixels",
    "zero": "zero in every channel before standardisation",
    "zero_normalised": "zero after standardisation",
    "training_mean": "the mean of the training images, per channel",
    "black": "what a black picture becomes",
    "white": "what a white picture becomes",
    "blur": "the image without detail",
    "noise": "random values with the image's mean and spread per channel",
    "road": "noisy linear imputation from the surroundings",
    "removal": "nothing: the patch's token is left out",
}

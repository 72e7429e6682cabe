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
}

# Sanity checks (Adebayo et al. 2018): a map that survives the loss of what was learnt explains nothing learnt.
SANITY: dict[str, str] = {
    "randomized_model": "randomized-model",  # relevance from the same architecture with fresh weights
    "randomized_sae": "randomized-sae",  # the gate of an SAE whose weights are shuffled
}

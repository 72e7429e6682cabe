"""Faults in the settings of SAEs that can be found before any job runs. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fgg.saes.sweep import COEFFICIENTS, HAS, NORMALISED_OUTSIDE, SWEPT, combinations, is_sweep

BASES = ("pca", "identity")


def sae_faults(own: Mapping[str, Any], several_seeds: bool) -> Iterator[tuple[str, str]]:
    """Faults of a dataset's ``sae`` block: key below ``sae.`` and the reason.

    Args:
        own: the dataset's settings.
        several_seeds: whether the run repeats the SAEs with other seeds.
    """
    sae, train = own["sae"], own["sae"]["train"]
    lists = [key for key in SWEPT if isinstance(train[key], list)]
    if several_seeds and train["seed"] is not None:
        yield (
            "train.seed",
            "it would give every seed of the run the same SAE; leave it out, or the seeds (seeds.sae, sae.seeds)",
        )
    if sae["weights"] != "train":
        for key in lists:
            yield f"train.{key}", "a list is a sweep, but sae.weights names SAEs that exist; set sae.weights: train"
        return
    if sae["kind"] in BASES and is_sweep(train):
        yield "train", f"the kind {sae['kind']} is not trained, so there is nothing to sweep; give single values"
        return
    architectures = train["architecture"] if isinstance(train["architecture"], list) else [train["architecture"]]
    for key in set(COEFFICIENTS) & set(lists):
        if not any(key in HAS[each] for each in architectures):
            those = ", ".join(each for each, names in HAS.items() if key in names)
            yield f"train.{key}", f"only {those} has this coefficient; give one value, or one of these architectures"
    every = combinations(train).values()
    if all(each["normalize"] == "layer_norm" and each["architecture"] in NORMALISED_OUTSIDE for each in every):
        yield (
            "train.normalize",
            "sae-lens cannot train topk, batchtopk and matryoshka with layer_norm; choose another normalisation, or the "
            "architecture jumprelu or standard",
        )
    width = own["model"]["kwargs"].get("embed_dim")
    if isinstance(width, int) and width > 0:
        for each in every:
            if "k" in HAS[each["architecture"]] and each["k"] > width * each["expansion"]:
                features = width * each["expansion"]
                yield "train.k", f"{each['k']} is more than the {features} features of expansion {each['expansion']}"
                break

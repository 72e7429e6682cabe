"""Text about deleted SAE features: whether the gate's scores rank what matters to the model."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

LARGER, SMALLER, UNTESTED = "larger effect", "smaller effect", "not testable"  # verdicts of the table
SHOWN = 10  # the k whose numbers are told is the largest up to this one


def deletion_words(table: pd.DataFrame) -> Iterator[str]:
    """A paragraph per dataset, seed and layer, from results/feature_deletion.csv with its seeds as texts."""
    if table.empty:
        return
    yield from ("## Do the gate's scores rank the features that matter?", "")
    yield (
        "SAE features were deleted from the residual stream of the explained images, and the rest of the model was run again. "
        "The k features with the largest |activation × gradient| are compared with as many random active features of similar "
        "activation, by the change of the explained class's logit (mean over the images; *p* of the paired Wilcoxon test below "
        "0.05 after Holm, and a 95 % interval of the difference without 0):"
    )
    yield ""
    for (dataset, seed, layer), rows in table.groupby(["dataset", "seed", "layer"], sort=False):
        yield f"- `{dataset}`, seed {seed}, layer {layer}: {_layer(rows)}"
    yield ""


def _layer(rows: pd.DataFrame) -> str:
    """The sentences about one layer."""
    tested = _compared(rows, "score", "random")
    if tested.empty:
        return "no image has enough active features for a comparison."
    known = tested[tested["verdict"] != UNTESTED]
    if known.empty:
        return f"the scores were not tested ({tested['reason'].iloc[0]})."
    larger, smaller = (int((known["verdict"] == verdict).sum()) for verdict in (LARGER, SMALLER))
    if larger == len(known):
        found = f"**the scores rank better than random**, for every k ({_numbers(known)})"
    elif larger:
        which = _numbers(known[known["verdict"] == LARGER])
        found = f"**the scores rank better than random for some k only** (k = {which} of {_numbers(known)})"
    elif smaller:
        which = _numbers(known[known["verdict"] == SMALLER])
        found = f"**the scores rank worse than random** (k = {which} of {_numbers(known)})"
    else:
        images = int(known["n_pairs"].max())
        found = f"**no better than random**: no difference is shown at any k ({_numbers(known)}), with {images} images"
    k = max((k for k in known["k"] if k <= SHOWN), default=known["k"].min())
    sizes = _mean(rows, "score", k, "absolute_change"), _mean(rows, "random", k, "absolute_change")
    parts = [f"{found}. With k = {k}, |change| is {sizes[0]:.3f}, for random features {sizes[1]:.3f}"]
    active = _compared(rows, "score", "most_active")
    if len(active):
        counts = [int((active["verdict"] == verdict).sum()) for verdict in (LARGER, SMALLER)]
        parts[0] += (
            f"; against the most active features the scores do better for {counts[0]} and worse for {counts[1]} of "
            f"{len(active)} k"
        )
    parts += [text for text in (_signed(rows, k), _alone(rows)) if text]
    return ". ".join(parts) + "."


def _signed(rows: pd.DataFrame, k: int) -> str:
    """What deleting features of one sign does to the logit."""
    parts = []
    for group, word in (("positive", "lower"), ("negative", "raise")):
        tested = _compared(rows, group, f"random_{group}")
        if len(tested) and (tested["k"] == k).any():
            mean = _mean(rows, group, k, "logit_change")
            right = int((tested["verdict"] == LARGER).sum())
            parts.append(
                f"deleting the {k} most {group} ones changes it by {mean:+.3f} (random: "
                f"{_mean(rows, f'random_{group}', k, 'logit_change'):+.3f}); they {word} the logit more than random for {right} of "
                f"{len(tested)} k"
            )
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]


def _alone(rows: pd.DataFrame) -> str:
    """How well the scores of single features predict the effects of deleting them alone."""
    own = rows[(rows["group"] == "alone") & rows["rank_correlation"].notna()]
    if own.empty:
        return ""
    row = own.iloc[0]
    interval = "" if pd.isna(row["rank_low"]) else f" ({row['rank_low']:.2f} to {row['rank_high']:.2f})"
    return (
        f"One by one, the rank correlation of a feature's expected and real change is {row['rank_correlation']:.2f}{interval}, "
        f"mean over {row['n']} images"
    )


def _compared(rows: pd.DataFrame, group: str, against: str) -> pd.DataFrame:
    return rows[(rows["group"] == group) & (rows["against"] == against)]


def _mean(rows: pd.DataFrame, group: str, k: int, quantity: str) -> float:
    return float(rows.loc[(rows["group"] == group) & (rows["k"] == k), quantity].iloc[0])


def _numbers(rows: pd.DataFrame) -> str:
    return ", ".join(str(k) for k in sorted(rows["k"]))

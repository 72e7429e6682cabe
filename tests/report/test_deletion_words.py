"""What the report says of deleted features follows the table, also where it says nothing good."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fgg.report.deletion_words import deletion_words
from fgg.report.figures.feature_deletion import deletion_figure

COUNTS = (1, 5, 50)
AGAINST = {
    "score": ("random", "most_active"), "random": (None,), "positive": ("random_positive",), "random_positive": (None,),
    "negative": ("random_negative",), "random_negative": (None,), "most_active": (None,), "least_active": (None,),
}  # fmt: skip


def table(verdicts, k_names=COUNTS, seed="0", reason=np.nan):
    """A table whose comparisons of score and random have these verdicts, one per k."""
    rows = []
    for k, verdict in zip(k_names, verdicts, strict=True):
        for group, others in AGAINST.items():
            change = -0.1 * k if "positive" in group else 0.1 * k
            for against in others:
                rows.append({
                    "group": group, "k": k, "n": 12, "n_pairs": 12, "against": against, "reason": reason,
                    "verdict": verdict if against == "random" else "larger effect",
                    "absolute_change": 0.1 * k, "absolute_change_low": 0.08 * k, "absolute_change_high": 0.12 * k,
                    "logit_change": change, "logit_change_low": change - 0.02, "logit_change_high": change + 0.02,
                })  # fmt: skip
    rows.append({"group": "alone", "k": 1, "n": 11, "rank_correlation": 0.875, "rank_low": 0.8, "rank_high": 0.9})
    return pd.DataFrame(rows).assign(dataset="toy", seed=seed, layer=2)


def said(frame):
    return "\n".join(deletion_words(frame))


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        (["larger effect"] * 3, "**the scores rank better than random**, for every k (1, 5, 50)"),
        (
            ["larger effect", "no difference shown", "smaller effect"],
            "**the scores rank better than random for some k only** (k = 1 of 1, 5, 50)",
        ),
        (
            ["no difference shown"] * 3,
            "**no better than random**: no difference is shown at any k (1, 5, 50), with 12 images",
        ),
        (
            ["no difference shown", "smaller effect", "smaller effect"],
            "**the scores rank worse than random** (k = 5, 50 of 1, 5, 50)",
        ),
        (["larger effect", "larger effect", "not testable"], "better than random**, for every k (1, 5)"),
    ],
)
def test_the_verdict_follows_the_table(verdicts, words):
    text = said(table(verdicts))
    assert f"- `toy`, seed 0, layer 2: {words}" in text or words in text
    assert text.count("**") == 2


def test_the_numbers_are_those_of_the_largest_k_up_to_ten():
    text = said(table(["larger effect"] * 3))
    assert "With k = 5, |change| is 0.500, for random features 0.500" in text
    assert "the scores do better for 3 and worse for 0 of 3 k" in text
    assert "Deleting the 5 most positive ones changes it by -0.500 (random: -0.500)" in text
    assert "raise the logit more than random for 3 of 3 k" in text
    assert "expected and real change is 0.88 (0.80 to 0.90), mean over 11 images" in text
    assert "With k = 20," in said(table(["larger effect"], k_names=(20,)))


def test_what_was_not_tested_is_said():
    text = said(table(["not testable"] * 3, reason="identical scores"))
    assert "the scores were not tested (identical scores)" in text and "better" not in text.split("layer 2")[1]
    none = table(["larger effect"] * 3)
    assert "no image has enough active features" in said(none[none["group"] == "alone"])
    assert said(table([], k_names=()).iloc[:0]) == ""


def test_every_seed_has_its_line():
    frame = pd.concat([table(["larger effect"] * 3), table(["no difference shown"] * 3, seed="1")])
    text = said(frame)
    assert "seed 0, layer 2: **the scores rank better" in text and "seed 1, layer 2: **no better than random**" in text


def test_the_figure_draws_the_seed_of_the_dataset(tmp_path):
    frame = pd.concat([table(["larger effect"] * 3), table(["larger effect"] * 3).assign(layer=4)])
    deletion_figure(frame, "toy", "0", tmp_path)
    first = (tmp_path / "toy_feature_deletion.svg").read_bytes()
    assert (tmp_path / "toy_feature_deletion.png").stat().st_size > 10_000
    text = first.decode()
    for words in ("layer 2: size of the change", "layer 4: size of the change", "random, matched activation"):
        assert f"<!-- {words}" in text, words
    deletion_figure(frame, "toy", "0", tmp_path)
    assert first == (tmp_path / "toy_feature_deletion.svg").read_bytes()
    deletion_figure(frame, "toy", "7", tmp_path)
    assert b"toy: no features deleted" in (tmp_path / "toy_feature_deletion.svg").read_bytes()

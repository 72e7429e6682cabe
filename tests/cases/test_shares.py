"""Shares of a patch's score, against loops over its features."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fgg.attribution.gate import Gate
from fgg.cases.pictures import share_of_score
from fgg.cases.shares import sizes_of_terms, with_shares
from fgg.gating import shuffle
from fgg.models.capture import capture


@pytest.mark.parametrize("construction", ["combined", "activation_only", "gradient_only"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_sizes_of_all_terms(construction, shuffled, plain, pictures, saes):
    if shuffled and construction != "combined":
        pytest.skip("only this gate has a shuffled decoder")
    gate = Gate(layers=(0, 1), construction=construction, shuffle_decoder=shuffled)
    found = sizes_of_terms(plain, pictures, gate, saes)
    seen = capture(plain, pictures, layers=(0, 1))
    for layer, sae in saes.items():
        codes = sae.encode(seen.residuals[layer][:, 1:]).detach()
        order = shuffle(codes.shape[2], gate.shuffle_seed).tolist() if shuffled else range(codes.shape[2])
        for i, patch in ((0, 0), (1, 7), (3, 15)):
            whole = 0.0
            for feature, row in enumerate(order):
                slope = float(seen.gradients[layer][i, 1 + patch] @ sae.W_dec[row].detach())
                activation = float(codes[i, patch, feature])
                whole += abs({"combined": activation * slope, "activation_only": activation}.get(construction, slope))
            assert float(found[layer][i, patch]) == pytest.approx(whole, rel=1e-4)


def test_the_shares_of_a_table():
    cases = pd.DataFrame({
        "layer": [1, 1, 2], "image_id": ["a", "b", "a"], "patch": [0, 2, 1], "contribution": [-2.0, np.nan, 1.5],
        "direction": ["SUPPRESS", "", "BOOST"],
    })  # fmt: skip
    sizes = {(1, "a"): np.array([6.0, 1.0]), (1, "b"): np.array([1.0, 1.0, 1.0]), (2, "a"): np.array([1.0, 0.0])}
    found = with_shares(cases, sizes)
    assert list(found.columns) == ["layer", "image_id", "patch", "contribution", "share", "direction"]
    np.testing.assert_allclose(found["share"], [1 / 3, np.nan, np.nan])
    assert "share" not in cases


def test_shares_in_words():
    assert share_of_score(0.328) == "33 % of the patch's score"
    assert share_of_score(1.0) == "100 % of the patch's score"
    assert share_of_score(0.004) == "less than 1 % of the patch's score"

"""Seen relevance, contributions and dominant features against loops and against the method."""

import numpy as np
import pytest
import torch

from fgg import gating
from fgg.attribution.attribute import attribute
from fgg.attribution.gate import Gate
from fgg.cases import features
from fgg.models.capture import capture


def enlarge(grid_values, height, width):
    """Bilinear enlargement of (rows, columns) by its definition, centres aligned with centres."""
    rows, columns = grid_values.shape
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            u = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = int(v), int(u)
            down, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            a, b = v - top, u - left
            out[y, x] = (1 - a) * ((1 - b) * grid_values[top, left] + b * grid_values[top, right]) + a * (
                (1 - b) * grid_values[down, left] + b * grid_values[down, right]
            )
    return out


def test_seen_relevance_is_the_mean_of_the_drawn_map():
    relevance = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    found = features.seen_relevance(relevance, (2, 3), (8, 18))
    for row, values in zip(found, relevance, strict=True):
        drawn = enlarge(values.numpy().reshape(2, 3), 8, 18)
        drawn = (drawn - drawn.min()) / (drawn.max() - drawn.min() + 1e-8)
        means = [drawn[y : y + 4, x : x + 6].mean() for y in (0, 4) for x in (0, 6, 12)]
        assert row.numpy() == pytest.approx(means, abs=1e-6)


def test_a_flat_map_is_nowhere_relevant():
    assert (features.seen_relevance(torch.full((1, 4), 3.0), (2, 2), (4, 4)) == 0).all()


def test_the_most_changed_patches():
    change = torch.tensor([[0.1, -0.5, 0.5, 0.0, 0.3]])
    assert features.most_changed(change, 3).tolist() == [[1, 2, 4]]
    assert features.most_changed(change, 9).tolist() == [[1, 2, 4, 0, 3]]


@pytest.mark.parametrize("construction", ["combined", "activation_only", "gradient_only"])
def test_contributions_add_up_to_the_gate_score(construction, plain, pictures, saes):
    seen = capture(plain, pictures, layers=[0])
    sae, first = saes[0], plain.num_prefix_tokens
    residual, gradient = seen.residuals[0][:, first:], seen.gradients[0][:, first:]
    with torch.no_grad():
        codes = sae.encode(residual)
    terms = features.contributions(construction, codes, gradient @ sae.W_dec.T)
    score = gating.score(construction, residual, gradient, codes, sae.W_dec)
    torch.testing.assert_close(terms.sum(-1), score, atol=1e-5, rtol=1e-4)


def test_no_features_without_an_sae():
    with pytest.raises(ValueError, match="no_sae"):
        features.contributions("no_sae", torch.zeros(1), torch.zeros(1))


@pytest.mark.parametrize("construction", ["combined", "activation_only", "gradient_only"])
def test_the_dominant_feature_by_loops(construction):
    draw = torch.Generator().manual_seed(1)
    codes = torch.randn(3, 5, 7, generator=draw).relu()
    gradients = torch.randn(3, 5, 7, generator=draw)
    codes[0, 0] = 0  # nothing is active
    change = torch.randn(3, 5, generator=draw)
    change[1, 1] = 0
    found = features.dominant(construction, codes, gradients, change)
    for i in range(3):
        for patch in range(5):
            terms = {}
            for k in range(7):
                f, h = codes[i, patch, k].item(), gradients[i, patch, k].item()
                terms[k] = {"combined": f * h, "activation_only": f, "gradient_only": h}[construction]
            signed = {k: term * np.sign(change[i, patch].item()) for k, term in terms.items()}
            best = max(signed, key=lambda k: signed[k])
            if signed[best] <= 0:
                assert found.feature[i, patch] == -1
                assert found.contribution[i, patch].isnan() and found.activation[i, patch].isnan()
                continue
            assert found.feature[i, patch] == best
            assert found.contribution[i, patch].item() == pytest.approx(terms[best])
            assert found.activation[i, patch] == codes[i, patch, best]
            assert found.gradient[i, patch] == gradients[i, patch, best]
    assert (found.feature == -1).any() and (found.feature >= 0).any()


@pytest.mark.parametrize("shuffle", [False, True])
def test_dominant_features_of_a_batch(shuffle, plain, pictures, saes, monkeypatch):
    """As one image at a time, as a few at a time, and as the shuffled gate reads its decoder."""
    gate = Gate((0, 1), shuffle_decoder=shuffle, shuffle_seed=5)
    change = attribute(plain, pictures, gate=gate, saes=saes).relevance - attribute(plain, pictures).relevance
    found = features.dominant_in_batch(plain, pictures, gate, saes, change)
    monkeypatch.setattr(features, "MOST_FLOATS", 1)
    in_pieces = features.dominant_in_batch(plain, pictures, gate, saes, change)
    seen, first = capture(plain, pictures, layers=[0, 1]), plain.num_prefix_tokens
    for layer, sae in saes.items():
        order = gating.shuffle(len(sae.W_dec), 5) if shuffle else torch.arange(len(sae.W_dec))
        with torch.no_grad():
            codes = sae.encode(seen.residuals[layer][:, first:])
        expected = features.dominant("combined", codes, seen.gradients[layer][:, first:] @ sae.W_dec[order].T, change)
        for own in (found[layer], in_pieces[layer]):
            assert torch.equal(own.feature, expected.feature)
            torch.testing.assert_close(own.contribution, expected.contribution, equal_nan=True)
        assert (expected.feature >= 0).any()


def test_another_class_has_other_gradients(plain, pictures, saes):
    change = torch.ones(len(pictures), plain.patch_embed.num_patches)
    parts = [
        features.dominant_in_batch(plain, pictures, Gate((0,)), saes, change, torch.full((len(pictures),), target))[0]
        for target in (0, 1)
    ]
    both = (parts[0].feature >= 0) & (parts[1].feature >= 0)
    assert not torch.equal(parts[0].contribution[both], parts[1].contribution[both])

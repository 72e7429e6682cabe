"""The method's pure functions against their slow definitions, on random tensors."""

import definitions as slow
import numpy as np
import pytest
import torch

from fgg import gating
from fgg.catalogue import CONSTRUCTIONS

IMAGES, PATCHES, WIDTH, FEATURES = 3, 7, 5, 11


@pytest.fixture(scope="module")
def tensors():
    draw = torch.Generator().manual_seed(5)

    def normal(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    return {
        "residual": normal(IMAGES, PATCHES, WIDTH),
        "gradient": normal(IMAGES, PATCHES, WIDTH),
        "codes": normal(IMAGES, PATCHES, FEATURES).clamp(min=0),
        "decoder": normal(FEATURES, WIDTH),
    }


def by_hand(construction, residual, gradient, codes, decoder):
    out = np.zeros((IMAGES, PATCHES))
    for b in range(IMAGES):
        for n in range(PATCHES):
            h = [sum(gradient[b, n, d] * decoder[k, d] for d in range(WIDTH)) for k in range(FEATURES)]
            out[b, n] = {
                "combined": sum(codes[b, n, k] * h[k] for k in range(FEATURES)),
                "activation_only": sum(codes[b, n, k] for k in range(FEATURES)),
                "gradient_only": sum(h),
                "no_sae": sum(residual[b, n, d] * gradient[b, n, d] for d in range(WIDTH)),
            }[construction]
    return out


@pytest.mark.parametrize("construction", CONSTRUCTIONS)
def test_score(construction, tensors):
    expected = by_hand(construction, **{name: tensor.numpy() for name, tensor in tensors.items()})
    measured = gating.score(construction, **tensors)
    np.testing.assert_allclose(measured, expected, rtol=1e-12, atol=1e-12)
    assert measured.dtype == torch.float64


@pytest.mark.parametrize("missing", ["codes", "decoder"])
def test_score_says_what_it_lacks(missing, tensors):
    with pytest.raises(ValueError, match=r"combined.*lacks"):
        gating.score("combined", **tensors | {missing: None})
    with pytest.raises(ValueError, match="nonsense"):
        gating.score("nonsense", **tensors)


@pytest.mark.parametrize("patches", [1, 2, 3, 4, 9, 16])
@pytest.mark.parametrize(("clamp_max", "alpha"), [(10.0, 1.0), (5.0, 0.5), (1.5, 3.0)])
def test_gate(patches, clamp_max, alpha):
    scores = torch.randn(5, patches, generator=torch.Generator().manual_seed(patches), dtype=torch.float64)
    if patches > 2:
        scores[0, 1] = scores[0, 0]  # a tie
        scores[1] = torch.arange(patches) - 1000.0  # far from zero
    for row, expected, gates in zip(
        scores.tolist(), gating.standardise(scores), gating.gate(scores, clamp_max, alpha), strict=True
    ):
        if max(map(abs, slow.standardise(row))) < 1e4:  # the MAD is far above its floor
            np.testing.assert_allclose(expected, slow.standardise(row), rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(gates, slow.gate(row, clamp_max, alpha), rtol=1e-6)
        assert 1 / clamp_max * (1 - 1e-12) <= gates.min() <= gates.max() <= clamp_max * (1 + 1e-12)


def test_the_floor_is_added_to_the_mad():
    scores = 1e-8 * torch.tensor([[0.0, 1.0, 2.0, 4.0], [1.0, 1.0, 1.0, 3.0]], dtype=torch.float64)
    for row, measured in zip(scores.tolist(), gating.standardise(scores), strict=True):
        np.testing.assert_allclose(measured, slow.standardise(row), rtol=1e-6, atol=1e-12)


def test_even_patches_take_the_lower_middle():
    """Of 1, 2, 4, 8 the median is 2, the MAD of 1, 0, 2, 6 is 1."""
    measured = gating.standardise(torch.tensor([[4.0, 1.0, 8.0, 2.0]], dtype=torch.float64))
    np.testing.assert_allclose(measured, [[2 / 1.4826, -1 / 1.4826, 6 / 1.4826, 0.0]], rtol=1e-7, atol=0)


@pytest.mark.parametrize("value", [0.0, -3.5, 1e20])
def test_equal_scores_gate_nothing(value):
    assert (gating.gate(torch.full((2, 6), value)) == 1).all()


def test_the_gate_does_not_depend_on_the_scores_scale_or_shift():
    scores = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_allclose(gating.gate(scores), gating.gate(1e3 * scores + 7), rtol=1e-6)
    odd = scores[:, :7]  # with one middle score, turning the signs turns the gate
    np.testing.assert_allclose(gating.gate(odd), 1 / gating.gate(-odd), rtol=1e-6)


def test_shuffle_is_torchs_order_and_leaves_the_global_state():
    state = torch.get_rng_state()
    order = gating.shuffle(30, 12345)
    assert order.tolist() == torch.randperm(30, generator=torch.Generator().manual_seed(12345)).tolist()
    assert order.tolist() != gating.shuffle(30, 12346).tolist()
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("prefix", [0, 1, 4])
@pytest.mark.parametrize("gated", [(), (0,), (2,), (0, 1, 2)])
def test_relevance_is_the_row_of_the_full_matrix(prefix, gated):
    """R = I; R <- R + C_l R, written as matrices; the gate multiplies the patch columns of C_l in every row."""
    draw = torch.Generator().manual_seed(prefix)
    tokens = prefix + PATCHES
    cams = [torch.rand(IMAGES, tokens, tokens, generator=draw, dtype=torch.float64) for _ in range(3)]
    gates = {layer: 2 * torch.rand(IMAGES, PATCHES, generator=draw, dtype=torch.float64) for layer in gated}
    readout = torch.rand(IMAGES, tokens, generator=draw, dtype=torch.float64)
    copies = [cam.clone() for cam in cams]
    measured = gating.relevance(cams, readout, gates)
    for b in range(IMAGES):
        matrix = np.eye(tokens).tolist()
        for layer, cam in enumerate(cams):
            c = cam[b].tolist()
            for i in range(tokens):
                for p in range(PATCHES):
                    c[i][prefix + p] *= float(gates[layer][b, p]) if layer in gates else 1.0
            step = slow.product(c, matrix)
            matrix = [[matrix[i][j] + step[i][j] for j in range(tokens)] for i in range(tokens)]
        expected = slow.product([readout[b].tolist()], matrix)[0]
        np.testing.assert_allclose(measured[b], expected, rtol=1e-12)
    assert all(torch.equal(cam, copy) for cam, copy in zip(cams, copies, strict=True))


def test_a_gate_of_one_changes_nothing():
    draw = torch.Generator().manual_seed(1)
    cams = [torch.rand(2, 8, 8, generator=draw) for _ in range(3)]
    readout = torch.rand(2, 8, generator=draw)
    ones = {layer: torch.ones(2, 7) for layer in range(3)}
    assert torch.equal(gating.relevance(cams, readout, ones), gating.relevance(cams, readout))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_kept(dtype, tensors):
    some = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    score = gating.score("combined", **some)
    assert score.dtype == gating.standardise(score).dtype == gating.gate(score).dtype == dtype

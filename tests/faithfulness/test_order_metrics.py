"""SRG, insertion, deletion and their curves; SaCo's three definitions and what it must not depend on; Pearson's correlation."""

from __future__ import annotations

import math
from itertools import pairwise

import definitions as slow
import numpy as np
import pytest
import torch
from scipy import stats

import fgg
from fgg.errors import FggError
from fgg.faithfulness import faithfulness_correlation, saco
from fgg.faithfulness.order_curves import OrderCurves
from fgg.perturbation.engine import Perturber

CLOSE = 5e-6


def curve(model, image, order, patch, chosen, step, back=False):
    """Probability of the class while patches are filled with the image's mean in an order, or taken back."""
    value, points = float(np.mean(image, dtype=np.float64)), []
    for count in [*range(0, len(order), step), len(order)]:
        filled = order[count:] if back else order[:count]
        points.append(slow.probabilities(model, slow.fill(image, filled, patch, value))[chosen])
    return points


def area(points):
    return sum((a + b) / 2 for a, b in pairwise(points)) / (len(points) - 1)


@pytest.mark.parametrize("step", [1, 4, 5])
def test_against_the_slow_definitions(step, model, exact, images, relevance, patch):
    out = {
        name: getattr(fgg, name)(model, images, relevance, patches_per_step=step)
        for name in ("srg", "insertion", "deletion")
    }
    curves = fgg.order_curves(model, images, relevance)
    for index in (0, 3):
        image, order = images[index].numpy(), slow.ranking(relevance[index].tolist())
        before = slow.probabilities(exact, image)
        chosen = before.index(max(before))
        mif = curve(exact, image, order, patch, chosen, step)
        lif = curve(exact, image, order[::-1], patch, chosen, step)
        back = curve(exact, image, order, patch, chosen, step, back=True)
        np.testing.assert_allclose(curves.mif(step)[index], mif, atol=CLOSE)
        np.testing.assert_allclose(curves.lif(step)[index], lif, atol=CLOSE)
        np.testing.assert_allclose(curves.insertion(step)[index], back, atol=CLOSE)
        assert out["srg"][index].item() == pytest.approx(area(lif) - area(mif), abs=CLOSE)
        assert out["insertion"][index].item() == pytest.approx(area(back), abs=CLOSE)
        assert out["deletion"][index].item() == pytest.approx(area(mif), abs=CLOSE)
        assert np.std(mif) > 1e-3, "filling changes nothing, which proves nothing"


def test_deletion_is_pixel_flipping(plain, pictures):
    rows = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    for fill in ("mean", "removal", 0.0):
        one = fgg.deletion(plain, pictures, rows, patches_per_step=3, fill=fill)
        assert torch.equal(one, fgg.pixel_flipping(plain, pictures, rows, patches_per_step=3, fill=fill).auc)


def test_the_reverse_of_a_map_has_the_opposite_srg(plain, pictures):
    rows = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fgg.srg(plain, pictures, -rows), -fgg.srg(plain, pictures, rows), atol=1e-9, rtol=0)


def test_random_maps_have_no_srg(plain, pictures):
    """In expectation; the mean over many lies within its interval, and that of the model's own drops does not."""
    draw = torch.Generator().manual_seed(0)
    scores = torch.cat([fgg.srg(plain, pictures, torch.rand(4, 16, generator=draw)) for _ in range(100)])
    assert abs(float(scores.mean())) < 3.29 * float(scores.std()) / len(scores) ** 0.5
    engine = Perturber(plain, pictures)
    alone = torch.eye(16, dtype=torch.bool).expand(4, -1, -1)
    chosen = engine.clean.argmax(-1)
    drops = (
        engine.clean.gather(1, chosen[:, None])
        - engine.logits(alone).gather(2, chosen[:, None, None].expand(-1, 16, 1))[..., 0]
    )
    assert float(fgg.srg(plain, pictures, drops).min()) > float(scores.mean()) + 2 * float(scores.std()) / 20


def test_a_curve_is_computed_once(plain, pictures, monkeypatch):
    engine, asked = Perturber(plain, pictures), []
    monkeypatch.setattr(
        Perturber, "logits", lambda self, masks, fill=None: asked.append(masks) or torch.zeros(4, masks.shape[1], 5)
    )
    curves = OrderCurves(engine, torch.rand(4, 16))
    for _ in range(2):
        curves.mif(4), curves.lif(4), curves.insertion(4), curves.insertion(5)
    assert len(asked) == 3  # insertion by steps that divide the patches is LIF read backwards


def test_undefined_relevance(plain, pictures):
    rows = torch.rand(4, 16)
    rows[1, 3] = torch.nan
    for metric in (fgg.srg, fgg.insertion, fgg.deletion):
        assert metric(plain, pictures, rows).isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize("metric", [fgg.srg, fgg.insertion, fgg.deletion])
def test_wrong_options(metric, plain, pictures):
    with pytest.raises(FggError, match="patches_per_step: 0"):
        metric(plain, pictures, torch.rand(4, 16), patches_per_step=0)
    with pytest.raises(FggError, match="'grey' is unknown"):
        metric(plain, pictures, torch.rand(4, 16), fill="grey")


# ---------------------------------------------------------------- SaCo


@pytest.mark.parametrize(("add", "times"), [(0.0, 3.0), (5.0, 1.0), (-2.0, 0.5)])
def test_saco_depends_neither_on_scale_nor_on_a_constant(add, times, model, images, relevance):
    """With bins of equal size, which are the default, and with the mean of bins of any size."""
    moved = relevance.double() * times + add
    for options in ({}, {"weigh": "mean", "bins": 4}, {"ranks": True}):
        before, after = (fgg.saco(model, images, rows, **options) for rows in (relevance.double(), moved))
        torch.testing.assert_close(before, after, atol=1e-9, rtol=0)


def test_totals_of_unequal_bins_depend_on_a_constant(plain, pictures):
    rows = torch.rand(4, 16, generator=torch.Generator().manual_seed(2)).double()
    before, after = (fgg.saco(plain, pictures, each, bins=5) for each in (rows, rows + 10))
    assert (before - after).abs().max() > 1e-3


def test_saco_of_ranks_ignores_values(plain, pictures):
    rows = torch.rand(4, 16, generator=torch.Generator().manual_seed(2))
    for power in (2, 4):
        assert torch.equal(
            fgg.saco(plain, pictures, rows, ranks=True), fgg.saco(plain, pictures, rows**power, ranks=True)
        )
        assert not torch.allclose(fgg.saco(plain, pictures, rows), fgg.saco(plain, pictures, rows**power))


def test_saco_of_ranks_is_saco_of_the_ranks(model, images, relevance):
    tied = (relevance * 1.5).round() / 4
    for rows in (relevance, tied):
        ranks = torch.from_numpy(stats.rankdata(rows.numpy(), axis=1))
        expected = saco.score_bins(
            Perturber(model, images),
            ranks,
            saco.membership(rows.argsort(dim=-1, descending=True, stable=True), 3),
            3,
            None,
            "corrected",
        )
        torch.testing.assert_close(fgg.saco(model, images, rows, bins=3, ranks=True), expected.score, equal_nan=True)


def test_the_paper_counts_ties_as_agreeing_and_follows_the_prediction(plain, pictures):
    weights, drops = torch.tensor([[4.0, 2.0, 1.0]]), torch.tensor([[0.3, 0.3, 0.5]])
    # 4-2 agrees (equal drops), 4-1 and 2-1 do not
    assert saco.coefficient(weights, drops, "paper")[0].item() == pytest.approx((2 - 3 - 1) / 6)
    assert saco.coefficient(weights, drops, "corrected")[0].item() == pytest.approx((0 - 3 - 1) / 6)
    assert math.isnan(saco.coefficient(torch.ones(1, 3), drops, "paper")[0].item())
    rows, other = torch.rand(4, 16), (plain(pictures).argmax(-1) + 1) % 5
    mine, theirs = (fgg.saco(plain, pictures, rows, target, protocol="paper") for target in (None, other))
    assert torch.equal(mine, theirs)
    assert torch.equal(mine, fgg.saco(plain, pictures, rows, bins=10, protocol="paper"))
    assert not torch.equal(fgg.saco(plain, pictures, rows, other), fgg.saco(plain, pictures, rows))


def test_an_unknown_weight(plain, pictures):
    with pytest.raises(FggError, match="weigh 'median'"):
        fgg.saco(plain, pictures, torch.rand(4, 16), weigh="median")


# ---------------------------------------------------------------- Faithfulness Correlation by values


@pytest.mark.parametrize("seed", range(4))
def test_pearson(seed):
    draw = torch.Generator().manual_seed(seed)
    x, y = torch.rand(3, 20, generator=draw), torch.rand(3, 20, generator=draw)
    expected = [stats.pearsonr(a, b).statistic for a, b in zip(x.double().numpy(), y.double().numpy(), strict=True)]
    np.testing.assert_allclose(faithfulness_correlation.pearson(x, y), expected, atol=1e-12)


def test_pearson_of_a_constant_series():
    constant, other = torch.full((1, 5), 0.1), torch.arange(5.0)[None]
    assert faithfulness_correlation.pearson(constant, other).isnan().all()
    assert faithfulness_correlation.pearson(other, constant).isnan().all()


def test_correlation_of_values_and_of_ranks(plain, pictures):
    rows = torch.rand(4, 16, generator=torch.Generator().manual_seed(6))
    subsets = fgg.draw_subsets(list("abcd"), 16, 1, 12, 4, 0)[:, 0]
    by_value, by_rank = (
        fgg.faithfulness_correlation(plain, pictures, rows, subsets=subsets, correlation=kind)
        for kind in ("pearson", "spearman")
    )
    drops = faithfulness_correlation.responses(Perturber(plain, pictures), torch.from_numpy(subsets))
    for index in range(4):
        sums = rows[index].double().numpy()[subsets[index]].sum(-1)
        assert by_value[index].item() == pytest.approx(stats.pearsonr(sums, drops[index]).statistic, abs=1e-6)
        assert by_rank[index].item() == pytest.approx(stats.spearmanr(sums, drops[index]).statistic, abs=1e-6)
    with pytest.raises(FggError, match="'kendall' is unknown"):
        fgg.faithfulness_correlation(plain, pictures, rows, correlation="kendall")

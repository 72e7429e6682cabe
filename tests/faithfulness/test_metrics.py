"""SaCo, Faithfulness Correlation and Pixel Flipping on every kind of model, against the slow definitions."""

from itertools import pairwise

import definitions as slow
import numpy as np
import pytest
import torch

import fgg
from fgg.errors import FggError
from fgg.faithfulness import faithfulness_correlation, pixel_flipping, saco
from fgg.faithfulness.checks import tied_patches
from fgg.perturbation.engine import Perturber

PROTOCOLS = ("corrected", "thesis", "paper")
LONG, SHORT = 2e-5, 5e-6  # error of a logit, and of a probability, in float32


@pytest.fixture(scope="module")
def targets(model, images):
    """None, and a class that is not the predicted one."""
    with torch.no_grad():
        predicted = model(images).argmax(-1)
    return {"predicted": None, "other": (predicted + 2) % 5}


def tied(relevance):
    """Relevance with many ties, and negative values."""
    return (relevance * 1.5).round() / 4


def default_bins(patches, protocol):
    """The thesis rounds up, the paper takes 10; else bins are equal, as near to four patches as the patches allow."""
    if protocol == "thesis":
        return -(-patches // 4)
    return min(10, patches) if protocol == "paper" else {9: 3, 10: 2, 15: 3, 16: 4}[patches]


def far_apart(drops, least):
    """Whether no two drops are so near that float32 may swap them."""
    ordered = sorted(drops)
    return all(b - a > least for a, b in pairwise(ordered))


# ---------------------------------------------------------------- SaCo


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("which", ["predicted", "other"])
@pytest.mark.parametrize(("bins", "ties"), [(None, False), (2, True), (5, True), ("all", False)])
def test_saco(bins, ties, which, protocol, model, exact, images, relevance, targets, patch):
    rows, target = tied(relevance) if ties else relevance, targets[which]
    patches = rows.shape[1]
    count = patches if bins == "all" else default_bins(patches, protocol) if bins is None else bins
    out = saco.evaluate(Perturber(model, images), rows, target, None if bins is None else count, protocol)
    compared = 0
    for index in range(len(images)):
        chosen = None if target is None else int(target[index])
        score, drops = slow.saco(exact, images[index].numpy(), rows[index].tolist(), count, patch, chosen, protocol)
        np.testing.assert_allclose(out.drops[index], drops, atol=SHORT)
        if far_apart(drops, 3 * SHORT):
            assert out.score[index].item() == pytest.approx(score, abs=1e-6)
            assert out.equal_drops[index] == 0
            compared += 1
    assert compared >= 3
    assert torch.equal(fgg.saco(model, images, rows, target, count, protocol), out.score)


def test_totals_belong_to_the_drops(model, images, relevance):
    out = saco.evaluate(Perturber(model, images), relevance, bins=3)
    for row, totals in zip(relevance.double(), out.totals, strict=True):
        groups = slow.bins_of(row.tolist(), 3)
        np.testing.assert_allclose(totals, [sum(row[p].item() for p in group) for group in groups], atol=1e-12)


def random_case(seed, negative):
    draw = np.random.default_rng(seed)
    totals = draw.integers(-3 if negative else 0, 4, 6) / 2
    return (totals if negative else -np.sort(-totals)), draw.integers(-2, 3, 6) / 4


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(20))
def test_coefficient_with_ties_and_negative_totals(seed, protocol):
    """Equal drops, equal totals, negative totals; corrected also where the totals are out of order."""
    totals, drops = random_case(seed, negative=protocol == "corrected")
    score, equal = saco.coefficient(torch.from_numpy(totals)[None], torch.from_numpy(drops)[None], protocol)
    assert score.item() == pytest.approx(slow.saco_score(totals, drops, protocol), nan_ok=True)
    assert equal.item() == sum(a == b for i, a in enumerate(drops) for b in drops[i + 1 :])


def test_equal_drops_weigh_nothing_in_the_numerator():
    """Weights 1, 2, 1 of which the first pair is equal: (0 + 2 + 1) / 4; the thesis counts it as agreeing."""
    totals, drops = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0.4, 0.4, 0.1]])
    assert saco.coefficient(totals, drops)[0].item() == 0.75
    assert saco.coefficient(totals, drops, "thesis")[0].item() == 1.0


def test_negative_relevance_in_bins_of_unequal_size(plain, pictures, exact_plain):
    """A larger first bin of negative patches has the smaller total; agreement follows the totals."""
    rows = -1 - 0.01 * torch.rand(4, 16, generator=torch.Generator().manual_seed(1))
    out = saco.evaluate(Perturber(plain, pictures), rows, bins=5)
    assert (out.totals[:, 0] < out.totals[:, 1]).all()
    for index, row in enumerate(rows.tolist()):
        expected, drops = slow.saco(exact_plain, pictures[index].numpy(), row, 5, (8, 8))
        assert far_apart(drops, 3 * SHORT)
        assert out.score[index].item() == pytest.approx(expected, abs=1e-6)


def test_ties_go_by_patch_index(make_model, make_images):
    """With 256 patches an unstable sort shows; the order of ties is the same on every machine."""
    model = make_model(patch_size=2, depth=2)
    images = make_images(model, count=1)
    rows = torch.arange(256).remainder(3)[None].float()
    exact, row = slow.precise(model), rows[0].tolist()
    _, drops = slow.saco(exact, images[0].numpy(), row, 8, (2, 2))
    np.testing.assert_allclose(saco.evaluate(Perturber(model, images), rows, bins=8).drops[0], drops, atol=SHORT)
    _, curve = slow.pixel_flipping(exact, images[0].numpy(), row, (2, 2), step=16)
    np.testing.assert_allclose(fgg.pixel_flipping(model, images, rows, None, 16).curve[0], curve, atol=SHORT)
    assert far_apart(drops, SHORT)


@pytest.mark.parametrize("value", [0.0, 0.1, -2.0])
def test_constant_relevance_has_no_saco(value, model, images, relevance):
    bins = next(k for k in (2, 3) if relevance.shape[1] % k == 0)
    constant = torch.full_like(relevance, value)
    assert fgg.saco(model, images, constant, bins=bins).isnan().all()
    assert (fgg.saco(model, images, constant, bins=bins, protocol="thesis") == 0).all()


def test_a_patch_that_changes_nothing(make_model):
    """Images of one colour per image: every filled version is the clean image, all drops are equal."""
    model = make_model()
    images = torch.linspace(-1, 1, 4)[:, None, None, None].expand(4, 3, 32, 32).contiguous()
    rows = torch.rand(4, 16, generator=torch.Generator().manual_seed(0))
    out = saco.evaluate(Perturber(model, images), rows, bins=4)
    np.testing.assert_allclose(out.drops, 0, atol=SHORT)
    subsets = torch.from_numpy(fgg.draw_subsets(list("abcd"), 16, 1, 5, 4, 0)[:, 0])
    np.testing.assert_allclose(faithfulness_correlation.responses(Perturber(model, images), subsets), 0, atol=LONG)


@pytest.mark.parametrize(("bins", "names"), [(17, "17 bins for 16 patches"), (1, "1 bins"), (0, "0 bins")])
def test_saco_bins_out_of_range(bins, names, plain, pictures):
    with pytest.raises(FggError, match=f"metrics.saco: {names}"):
        fgg.saco(plain, pictures, torch.rand(4, 16), bins=bins)


@pytest.mark.parametrize("bins", [0, -1])
def test_saco_bins_out_of_range_in_the_thesis(bins, plain, pictures):
    with pytest.raises(FggError, match=r"metrics\.saco"):
        fgg.saco(plain, pictures, torch.rand(4, 16), bins=bins, protocol="thesis")


# ---------------------------------------------------------------- Pixel Flipping


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("step", "filling", "which"), [(1, "mean", "predicted"), (2, "black", "other"), (4, "mean", "other")]
)
def test_pixel_flipping(which, step, filling, protocol, model, exact, images, relevance, targets, patch):
    rows, target = relevance.clone(), targets[which]
    rows[-1] = tied(relevance)[-1]
    out = fgg.pixel_flipping(model, images, rows, target, step, filling, protocol)
    assert out.curve.shape == (len(images), -(-rows.shape[1] // step) + 1)
    for index in (0, len(images) - 1):
        chosen = None if target is None else int(target[index])
        area, curve = slow.pixel_flipping(
            exact, images[index].numpy(), rows[index].tolist(), patch, chosen, step, filling, protocol
        )
        np.testing.assert_allclose(out.curve[index], curve, atol=SHORT)
        assert out.auc[index].item() == pytest.approx(area, abs=SHORT * (len(curve) if protocol == "thesis" else 1))
        assert np.std(curve) > 1e-3, "filling changes nothing, which proves nothing"


def test_the_protocols_fills_differ(plain, pictures):
    """The mean of the picture as it is being filled moves away from the clean picture's."""
    rows = torch.rand(4, 16, generator=torch.Generator().manual_seed(2))
    corrected, thesis, paper = (fgg.pixel_flipping(plain, pictures, rows, protocol=p).curve for p in PROTOCOLS)
    assert torch.equal(corrected, paper)
    torch.testing.assert_close(corrected[:, :2], thesis[:, :2], atol=SHORT, rtol=0)
    assert ((corrected[:, 2:] - thesis[:, 2:]).abs().amax(1) > 1e-4).all()


# ---------------------------------------------------------------- Faithfulness Correlation


@pytest.fixture(scope="module")
def subsets(relevance):
    drawn = fgg.draw_subsets(list("abcd"), relevance.shape[1], 2, 7, 4, 11)
    assert drawn.shape == (4, 2, 7, 4)
    return torch.from_numpy(drawn)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("which", ["predicted", "other"])
def test_faithfulness_correlation(which, protocol, model, exact, images, relevance, targets, subsets, patch):
    target = targets[which]
    drops = faithfulness_correlation.responses(Perturber(model, images), subsets.flatten(1, 2), target).view(4, 2, 7)
    scores = faithfulness_correlation.correlate(relevance, subsets, drops, protocol)
    compared = 0
    for index in range(len(images)):
        chosen = None if target is None else int(target[index])
        for trial in range(2):
            lists = subsets[index, trial].tolist()
            expected = slow.faithfulness_drops(exact, images[index].numpy(), lists, patch, chosen)
            np.testing.assert_allclose(drops[index, trial], expected, atol=2 * LONG)
            if far_apart(expected, 6 * LONG):
                row = relevance[index].tolist()
                score = slow.faithfulness_correlation(row, lists, expected, protocol)
                assert scores[index, trial].item() == pytest.approx(score, abs=1e-9)
                compared += 1
    assert compared >= 4  # few patches draw the same subset twice
    single = fgg.faithfulness_correlation(model, images, relevance, target, subsets[:, 1], protocol)
    torch.testing.assert_close(single, scores[:, 1], atol=1e-9, rtol=0)


@pytest.mark.parametrize("seed", range(10))
def test_spearman_with_ties(seed):
    draw = torch.Generator().manual_seed(seed)
    x, y = torch.randint(-2, 3, (3, 12), generator=draw) / 2, torch.randint(0, 4, (3, 12), generator=draw).double()
    for a, b, measured in zip(x, y, faithfulness_correlation.spearman(x, y), strict=True):
        assert measured.item() == pytest.approx(slow.spearmanr(a.numpy(), b.numpy()).statistic, abs=1e-12)


def test_spearman_of_a_constant_or_undefined_series():
    series = torch.tensor([[1.0, 2.0, 3.0]])
    for other in (torch.full((1, 3), 0.1), torch.tensor([[1.0, float("nan"), 2.0]])):
        assert faithfulness_correlation.spearman(series, other).isnan().all()
        assert faithfulness_correlation.spearman(other, series).isnan().all()
    assert faithfulness_correlation.spearman(series, -series.exp()).item() == -1.0


def test_constant_series(subsets, relevance):
    """Relevance or drops that do not vary have no correlation: NaN, and 0 in the thesis."""
    drops = torch.rand(4, 2, 7, generator=torch.Generator().manual_seed(0))
    constant = torch.full_like(relevance, 0.1)
    for rows, answers in ((constant, drops), (relevance, torch.zeros_like(drops))):
        assert faithfulness_correlation.correlate(rows, subsets, answers).isnan().all()
        assert (faithfulness_correlation.correlate(rows, subsets, answers, "thesis") == 0).all()


def test_equal_sums_tie():
    """The same patches named in another order, or others of the same relevance, sum to the same."""
    rows = torch.rand(1, 40, generator=torch.Generator().manual_seed(0))
    rows[:, 20:] = rows[:, :20]
    draw = np.random.default_rng(0)
    subset = draw.permutation(20)[:9]
    other = draw.permutation(20)[:9]
    subsets = [draw.permutation(chosen) + 20 * (number % 2) for number, chosen in enumerate([subset] * 12 + [other])]
    drops = draw.random(13)
    expected = slow.faithfulness_correlation(rows[0].tolist(), np.array(subsets).tolist(), drops)
    measured = faithfulness_correlation.correlate(
        rows, torch.tensor(np.array(subsets))[None], torch.tensor(drops)[None]
    )
    assert measured.item() == pytest.approx(expected, abs=1e-12)


def test_subsets_are_keyed_and_have_no_repetition():
    drawn = fgg.draw_subsets(list("abc"), 30, 3, 8, 11, seed=2)
    assert drawn.dtype == np.int64
    assert drawn.shape == (3, 3, 8, 11)
    assert drawn.min() >= 0
    assert drawn.max() < 30
    assert all(len(set(subset)) == 11 for subset in drawn.reshape(-1, 11).tolist())
    assert (fgg.draw_subsets(["c", "a"], 30, 2, 8, 11, seed=2) == drawn[[2, 0], :2]).all()
    assert len({tuple(subset) for subset in drawn.reshape(-1, 11).tolist()}) == 3 * 3 * 8
    assert (fgg.draw_subsets(["a"], 30, 1, 8, 11, seed=3) != drawn[0, 0]).any()


def test_subsets_are_uniform():
    """Each patch is in k / N of the subsets, at every place of a subset."""
    drawn = fgg.draw_subsets([str(i) for i in range(50)], 10, 2, 40, 3, seed=0)
    counts = np.bincount(drawn.reshape(-1), minlength=10)
    assert abs(counts - counts.mean()).max() < 5 * counts.mean() ** 0.5
    first = np.bincount(drawn[..., 0].reshape(-1), minlength=10)
    assert abs(first - first.mean()).max() < 5 * first.mean() ** 0.5


@pytest.mark.parametrize("size", [0, 16, 20])
def test_subsets_must_be_smaller_than_the_image(size):
    with pytest.raises(FggError, match=f"subset_size: {size} must be from 1 to 15"):
        fgg.draw_subsets(["a"], 16, 1, 2, size, 0)


# ---------------------------------------------------------------- what they share


def everything(model, images, relevance, subsets, target=None):
    out = {}
    for protocol in PROTOCOLS:
        out[f"saco {protocol}"] = fgg.saco(model, images, relevance, target, 3, protocol)
        flipped = fgg.pixel_flipping(model, images, relevance, target, 2, "mean", protocol)
        out[f"area {protocol}"], out[f"curve {protocol}"] = flipped.auc, flipped.curve
        out[f"correlation {protocol}"] = fgg.faithfulness_correlation(
            model, images, relevance, target, subsets, protocol
        )
    return out


@pytest.mark.parametrize("which", ["predicted", "other"])
def test_batch_and_order_do_not_matter(which, model, images, relevance, targets, subsets):
    target, subsets = targets[which], subsets[:, 0]
    together = everything(model, images, relevance, subsets, target)
    order = [3, 1, 0, 2]
    moved = everything(
        model, images[order], relevance[order], subsets[order], None if target is None else target[order]
    )
    for name, values in moved.items():
        torch.testing.assert_close(values, together[name][order], atol=1e-5, rtol=0, msg=name)
    for index in range(len(images)):
        one = slice(index, index + 1)
        alone = everything(model, images[one], relevance[one], subsets[one], None if target is None else target[one])
        for name, values in alone.items():
            torch.testing.assert_close(values, together[name][one], atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("rows", [1, 3, 50])
def test_rows_per_pass_do_not_matter(rows, plain, pictures):
    relevance = torch.rand(4, 16, generator=torch.Generator().manual_seed(5))
    few, many = Perturber(plain, pictures, rows=rows), Perturber(plain, pictures)
    for protocol in PROTOCOLS:
        a, b = (saco.evaluate(engine, relevance, protocol=protocol) for engine in (few, many))
        torch.testing.assert_close(a.score, b.score, atol=1e-6, rtol=0)
        a, b = (pixel_flipping.evaluate(engine, relevance, protocol=protocol) for engine in (few, many))
        torch.testing.assert_close(a.curve, b.curve, atol=SHORT, rtol=0)


def test_pixels_give_what_tokens_give(model, images, relevance, subsets):
    engines = [Perturber(model, images, path=path) for path in ("tokens", "pixels")]
    for protocol in PROTOCOLS:
        a, b = (saco.evaluate(engine, relevance, bins=3, protocol=protocol) for engine in engines)
        torch.testing.assert_close(a.drops, b.drops, atol=1e-5, rtol=0)
        a, b = (pixel_flipping.evaluate(engine, relevance, protocol=protocol) for engine in engines)
        torch.testing.assert_close(a.curve, b.curve, atol=1e-5, rtol=0)
    a, b = (faithfulness_correlation.responses(engine, subsets[:, 0]) for engine in engines)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_one_target_for_all(plain, pictures):
    rows = torch.rand(4, 16, generator=torch.Generator().manual_seed(5))
    each = torch.full((4,), 2)
    assert torch.equal(fgg.saco(plain, pictures, rows, 2), fgg.saco(plain, pictures, rows, each))
    assert not torch.equal(fgg.saco(plain, pictures, rows, 2), fgg.saco(plain, pictures, rows, 3))


def test_undefined_relevance_is_undefined_everywhere(plain, pictures):
    rows = torch.rand(4, 16, generator=torch.Generator().manual_seed(5))
    rows[1, 3] = torch.nan
    subsets = torch.arange(16).view(1, 4, 4).expand(4, 4, 4)  # every patch is in one of them
    for scores in (
        fgg.saco(plain, pictures, rows),
        fgg.pixel_flipping(plain, pictures, rows).auc,
        fgg.faithfulness_correlation(plain, pictures, rows, subsets=subsets),
    ):
        assert scores.isnan().tolist() == [False, True, False, False]


def test_tied_patches_are_counted():
    rows = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 1.0, 3.0], [0.0, 0.0, 5.0, 5.0], [7.0] * 4])
    assert tied_patches(rows).tolist() == [0, 2, 4, 4]


METRICS = {
    "saco": lambda *args, **options: fgg.saco(*args, **options),
    "pixel_flipping": lambda *args, **options: fgg.pixel_flipping(*args, **options),
    "faithfulness_correlation": lambda *args, **options: fgg.faithfulness_correlation(
        *args, subsets=torch.arange(16).view(1, 4, 4).expand(4, 4, 4), **options
    ),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(4, 15), (3, 16), (4, 4, 4)])
def test_relevance_of_the_wrong_shape(shape, metric, plain, pictures):
    with pytest.raises(FggError, match=r"relevance is \(.*expected \(4, 16\)"):
        METRICS[metric](plain, pictures, torch.rand(shape))


@pytest.mark.parametrize("metric", METRICS)
def test_an_unknown_protocol(metric, plain, pictures):
    with pytest.raises(FggError, match=r"'thesys'.*corrected, thesis, paper"):
        METRICS[metric](plain, pictures, torch.rand(4, 16), protocol="thesys")


@pytest.mark.parametrize("metric", METRICS)
def test_weights_that_are_not_finite(metric, make_model, pictures):
    model = make_model()
    with torch.no_grad():
        model.norm.weight[0] = torch.nan
    with pytest.raises(FggError, match="not finite"):
        METRICS[metric](model, pictures, torch.rand(4, 16))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("target", [5, -1, torch.tensor([0, 1]), torch.tensor([0, 1, 2, 9])])
def test_a_target_out_of_range(target, metric, plain, pictures):
    with pytest.raises(FggError, match="target"):
        METRICS[metric](plain, pictures, torch.rand(4, 16), target=target)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"fill": "grey"}, "'grey'.*mean.*black"),
        ({"fill": "white"}, "'white' needs to know.*preprocess"),
        ({"fill": float("nan")}, "nan is unknown"),
        ({"patches_per_step": 0}, "patches_per_step: 0"),
    ],
)
def test_wrong_options_of_pixel_flipping(options, names, plain, pictures):
    with pytest.raises(FggError, match=names):
        fgg.pixel_flipping(plain, pictures, torch.rand(4, 16), **options)


@pytest.mark.parametrize(
    "subsets",
    [
        torch.zeros(4, 4, dtype=torch.long),
        torch.zeros(3, 2, 4, dtype=torch.long),
        torch.rand(4, 2, 4),
        "all of them",
    ],
)
def test_wrong_subsets(subsets, plain, pictures):
    with pytest.raises(FggError, match="subsets must be"):
        fgg.faithfulness_correlation(plain, pictures, torch.rand(4, 16), subsets=subsets)


def test_a_patch_twice_in_a_subset(plain, pictures):
    with pytest.raises(FggError, match="a patch twice"):
        fgg.faithfulness_correlation(plain, pictures, torch.rand(4, 16), subsets=torch.ones(4, 3, 2, dtype=torch.long))


def test_subsets_are_drawn_with_a_seed(plain, pictures):
    """Those that `draw_subsets` draws for the same keys; lists of numbers are as good as tensors."""
    rows = torch.rand(4, 16, generator=torch.Generator().manual_seed(5))
    ids = list("abcd")
    drawn = fgg.draw_subsets(ids, 16, 1, 20, 5, 3)[:, 0]
    first, again, other = (
        fgg.faithfulness_correlation(plain, pictures, rows, image_ids=ids, seed=seed) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.testing.assert_close(first, fgg.faithfulness_correlation(plain, pictures, rows, subsets=drawn))
    torch.testing.assert_close(first, fgg.faithfulness_correlation(plain, pictures, rows, subsets=drawn.tolist()))


@pytest.mark.parametrize("patch", [16, -1])
def test_subsets_beyond_the_image(patch, plain, pictures):
    with pytest.raises(FggError, match="subsets"):
        fgg.faithfulness_correlation(plain, pictures, torch.rand(4, 16), subsets=torch.full((4, 2, 3), patch))


def test_no_images_give_no_scores(plain, pictures):
    assert fgg.pixel_flipping(plain, pictures[:0], torch.rand(0, 16)).auc.shape == (0,)
    assert fgg.saco(plain, pictures[:0], torch.rand(0, 16)).shape == (0,)

"""Curves with a tolerance: which steps are measured, and how far the area may be off."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import fgg
from fgg.errors import FggError
from fgg.faithfulness import pixel_flipping, settings_checks
from fgg.faithfulness.adaptive_curves import FIRST_INTERVALS, adaptive, check_tolerance
from fgg.faithfulness.deletion import deletion_scores
from fgg.faithfulness.insertion import insertion_scores
from fgg.faithfulness.order_curves import OrderCurves, engine_of
from fgg.faithfulness.srg import srg_scores

TOLERANCES = (0.2, 0.05, 0.01, 0.001)


def follow(curves: np.ndarray, tolerance: float):
    """The adaptive curves of given probabilities (B, S + 1), and how often each step of each image was asked for."""
    asked = torch.zeros(curves.shape, dtype=torch.int64)

    def measure(wanted):
        asked.add_(wanted)
        return torch.where(wanted, torch.from_numpy(curves), 7.0)  # what was not asked for must not be read

    return adaptive(measure, len(curves), curves.shape[1] - 1, tolerance), asked


def area(curve) -> float:
    return sum((a + b) / 2 for a, b in pairwise(curve)) / (len(curve) - 1)


def slow_steps(curve: list[float], tolerance: float) -> list[int]:
    """The steps that one image needs, from the definition."""
    steps = len(curve) - 1
    known = sorted({steps * number // FIRST_INTERVALS for number in range(FIRST_INTERVALS + 1)})
    while True:
        errors = []
        for number, (a, b) in enumerate(pairwise(known)):
            near = [curve[step] for step in known[max(number - 1, 0) : number + 3]]
            middle = (curve[a] + curve[b]) / 2
            reach = max(max(near) - middle, middle - min(near))
            errors.append(((b - a - 1) * reach / steps, ((b - a + 1) // 2 - 1) * reach / steps, (a + b) // 2))
        total = sum(error for error, _, _ in errors)
        if total < tolerance:
            return known
        errors.sort(key=lambda own: -own[0])
        for error, halved, middle in errors:
            if total < tolerance or 2 * error < errors[0][0]:
                break
            known, total = sorted([*known, middle]), total - error + halved


def monotone(images: int, steps: int, seed: int) -> np.ndarray:
    """Falling and rising curves with jumps of all sizes."""
    draw = np.random.default_rng(seed)
    drops = draw.dirichlet(np.full(steps, 0.1), images)
    falling = np.clip(1 - np.cumsum(drops, axis=1) * draw.uniform(0.2, 1, (images, 1)), 0, 1)
    falling = np.concatenate([np.ones((images, 1)), falling], axis=1)
    falling[::2] = 1 - falling[::2]
    return falling


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 49, 196])
@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_the_area_of_a_monotone_curve_is_within_the_tolerance(steps, tolerance):
    curves = monotone(40, steps, seed=steps)
    found, asked = follow(curves, tolerance)
    for curve, own in zip(curves, found.probability.tolist(), strict=True):
        assert abs(area(own) - area(curve)) < tolerance
    assert asked.max() == 1, "no step is asked for twice"
    assert torch.equal(asked.bool(), found.measured)
    np.testing.assert_array_equal(found.probability[found.measured], curves[found.measured.numpy()])


@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_the_steps_are_those_of_the_definition(tolerance):
    draw = np.random.default_rng(3)
    walks = 1 / (1 + np.exp(-np.cumsum(draw.normal(0, 0.7, (12, 38)), axis=1)))
    for curves in (walks, monotone(12, 37, seed=5)):
        found, _ = follow(curves, tolerance)
        for curve, own in zip(curves.tolist(), found.measured.tolist(), strict=True):
            assert [step for step, known in enumerate(own) if known] == slow_steps(curve, tolerance)


def test_a_smaller_tolerance_measures_more_and_less_than_all():
    curves = monotone(20, 100, seed=0)
    counts = [int(follow(curves, tolerance)[0].measured.sum()) for tolerance in TOLERANCES]
    assert counts == sorted(counts) and counts[0] < counts[-2] < 20 * 101 / 2


def test_a_curve_that_is_flat_and_then_drops_is_measured_at_the_drop():
    curve = np.where(np.arange(101) < 63, 0.9, 0.1)[None]
    (found, _) = follow(curve, 0.004)
    steps = found.measured[0].nonzero()[:, 0].tolist()
    assert {62, 63} <= set(steps), "both sides of the drop"
    assert sum(step < 25 or step > 75 for step in steps) <= 4 < sum(50 <= step <= 75 for step in steps)


def test_a_hill_between_equal_steps_is_found_where_its_neighbours_tell():
    """The probabilities at 25 and 50 are equal; a bound from these two alone would leave the interval out."""
    curve = np.interp(np.arange(101), [0, 25, 37, 50, 75, 100], [0.2, 0.6, 0.9, 0.6, 0.3, 0.1])[None]
    (found, _) = follow(curve, 0.02)
    assert found.measured[0, 26:50].any()
    assert abs(area(found.probability[0].tolist()) - area(curve[0])) < 0.02


def test_an_image_does_not_depend_on_the_others():
    curves = monotone(9, 60, seed=2)
    together, _ = follow(curves, 0.01)
    for number in range(9):
        alone, _ = follow(curves[number : number + 1], 0.01)
        assert torch.equal(alone.measured[0], together.measured[number])
        assert torch.equal(alone.probability[0], together.probability[number])


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_an_end_without_tokens_is_left_out(steps, backwards):
    curves = monotone(6, steps, seed=4)
    curves[:, 0 if backwards else -1] = math.nan
    found, _ = follow(curves, 0.01)
    assert found.probability.isnan().sum() == 6
    own, kept = (each[:, 1:] if backwards else each[:, :-1] for each in (found.probability.numpy(), curves))
    assert not np.isnan(own).any()
    if steps > 1:
        assert max(abs(area(a) - area(b)) for a, b in zip(own, kept, strict=True)) < 0.01


def test_no_images():
    found, _ = follow(np.zeros((0, 11)), 0.01)
    assert found.probability.shape == found.measured.shape == (0, 11)


# ---------------------------------------------------------------- with a model


@pytest.fixture(scope="module")
def maps():
    return torch.randn(4, 16, generator=torch.Generator().manual_seed(8))


def compare(model, images, relevance, fill, kind, step):
    """A curve with a small tolerance against the whole one, and what both cost."""
    whole = OrderCurves(engine_of(model, images, fill), relevance)
    some = OrderCurves(engine_of(model, images, fill), relevance)
    expected, found = getattr(whole, kind)(step), getattr(some, kind)(step, 1e-3)
    backwards = kind == "insertion" and some.engine.patches % step == 0
    measured = some.measured("lif" if backwards else kind, step, 1e-3)
    measured = measured.flip(1) if backwards else measured
    torch.testing.assert_close(found[measured], expected[measured], atol=2e-6, rtol=0, equal_nan=True)
    assert torch.equal(found.isnan(), expected.isnan())
    steps = expected.shape[1] - 1
    assert some.engine.passes.asked == steps * len(images) == whole.engine.passes.computed
    assert some.engine.passes.computed == int(measured.sum()) - len(images)
    assert some.engine.passes.skipped == int((~measured).sum())


@pytest.mark.parametrize("fill", ["mean", "removal"])
def test_what_is_measured_is_what_a_whole_curve_has(fill, model, images, relevance):
    """Also where images of a batch need different numbers of steps, and no token is left."""
    compare(model, images, relevance, fill, "mif", 1)


@pytest.mark.parametrize("fill", ["mean", "removal", "blur", "noise", "road", 0.5])
@pytest.mark.parametrize(("kind", "step"), [("lif", 1), ("insertion", 1), ("insertion", 3), ("mif", 3)])
def test_every_fill_and_kind_of_curve(kind, step, fill, plain, pictures, maps):
    compare(plain, pictures, maps, fill, kind, step)


def test_a_large_tolerance_costs_few_passes(plain, pictures, maps):
    curves = OrderCurves(engine_of(plain, pictures, "mean"), maps)
    curves.mif(1, 0.9)
    assert curves.engine.passes.computed == FIRST_INTERVALS * len(maps)


@pytest.mark.parametrize("tolerance", [0, 0.0, None])
def test_no_tolerance_is_the_whole_curve(tolerance, plain, pictures, maps):
    whole = OrderCurves(engine_of(plain, pictures, "mean"), maps)
    some = OrderCurves(engine_of(plain, pictures, "mean"), maps)
    for kind in ("mif", "lif", "insertion"):
        assert torch.equal(getattr(some, kind)(3, tolerance), getattr(whole, kind)(3))
    assert some.measured("mif", 3, tolerance).all()
    assert torch.equal(srg_scores(some, 3, tolerance), fgg.srg(plain, pictures, maps, patches_per_step=3))


def test_curves_with_steps_in_common_share_them(plain, pictures, maps):
    curves = OrderCurves(engine_of(plain, pictures, "mean"), maps)
    curves.mif(1)
    assert curves.engine.passes.computed == 16 * 4
    curves.mif(2, 1e-9), curves.mif(1, 0.01)
    assert curves.engine.passes.computed == 16 * 4, "all steps are known"
    curves.lif(1, 1e-9)
    assert curves.engine.passes.computed == (16 + 15) * 4, "with all patches filled, no order is left"
    before = curves.engine.passes.computed
    curves.insertion(3, 1e-9)
    assert curves.engine.passes.computed == before, "insertion is LIF backwards"
    assert curves.engine.passes.asked == (16 + 8 + 16 + 6) * 4, "whichever tolerances a curve is asked for with"


def test_the_table_says_which_steps_are_measured(plain, pictures, maps):
    curves = OrderCurves(engine_of(plain, pictures, "mean"), maps)
    coarse = curves.measured("mif", 1, 0.1)
    fine = curves.measured("mif", 1, 0.01)
    curves.lif(4)
    assert curves.engine.passes.asked == (16 + 4) * 4
    for number in range(4):
        mif, lif = curves.rows(number)
        assert (mif["curve"], mif["patches_per_step"]) == ("mif", 1), "one row for both tolerances"
        assert mif["measured"] == (coarse | fine)[number].tolist()
        assert lif["measured"] == [True] * 5
        own = OrderCurves(engine_of(plain, pictures, "mean"), maps).mif(1)[number].numpy()
        steps = np.flatnonzero(mif["measured"])
        np.testing.assert_allclose(mif["probability"], np.interp(range(17), steps, own[steps]), atol=2e-6)


def test_each_metric_keeps_its_tolerance(plain, pictures, maps):
    """These curves are of a random model, so the tolerance is small enough that (almost) every step is measured."""
    whole = OrderCurves(engine_of(plain, pictures, "mean"), maps)
    for scores in (srg_scores, insertion_scores, deletion_scores):
        some = OrderCurves(engine_of(plain, pictures, "mean"), maps)
        error = (scores(some, 1, 1e-4) - scores(whole, 1)).abs()
        assert error.max() < 1e-4, scores.__name__
        coarse = OrderCurves(engine_of(plain, pictures, "mean"), maps)
        assert (scores(coarse, 1, 0.2) - scores(whole, 1)).abs().max() > 1e-4, "steps were skipped"
    found = pixel_flipping.from_curves(OrderCurves(engine_of(plain, pictures, "mean"), maps), 1, "corrected", 1e-4)
    assert (found.auc - pixel_flipping.from_curves(whole, 1, "corrected").auc).abs().max() < 1e-4


def test_srg_gives_half_to_each_curve(plain, pictures, maps):
    some = OrderCurves(engine_of(plain, pictures, "mean"), maps)
    srg_scores(some, 1, 0.1)
    before = some.engine.passes.computed
    some.mif(1, 0.05), some.lif(1, 0.05)
    assert some.engine.passes.computed == before


def test_undefined_relevance_has_no_area(plain, pictures, maps):
    rows = maps.clone()
    rows[1, 3] = math.nan
    for scores in (srg_scores, insertion_scores, deletion_scores):
        curves = OrderCurves(engine_of(plain, pictures, "mean"), rows)
        assert scores(curves, 1, 0.05).isnan().tolist() == [False, True, False, False]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("value", [-0.01, 1, 1.5, math.nan, math.inf, True, "0.1", [0.1]], ids=str)
def test_wrong_tolerances(value, plain, pictures, maps):
    with pytest.raises(FggError, match=r"area_tolerance: .* must be a number from 0 to below 1"):
        check_tolerance(value)
    for scores in (srg_scores, insertion_scores, deletion_scores):
        with pytest.raises(FggError, match="area_tolerance"):
            scores(OrderCurves(engine_of(plain, pictures, "mean"), maps), 1, value)


def test_the_thesis_needs_every_step(plain, pictures, maps):
    curves = OrderCurves(engine_of(plain, pictures, "mean"), maps)
    with pytest.raises(FggError, match="protocol thesis fills each step"):
        pixel_flipping.pixel_flipping_scores(curves, "thesis", 1, 0.1)
    metrics = {"pixel_flipping": {"patches_per_step": 1, "area_tolerance": 0.1}, "srg": {"area_tolerance": 0.1}}
    assert [key for key, _ in settings_checks.faults(metrics, 16, "thesis")] == ["pixel_flipping.area_tolerance"]
    assert not list(settings_checks.faults(metrics, 16, "corrected"))

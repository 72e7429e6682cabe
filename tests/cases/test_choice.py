"""Composites against loops; who is chosen."""

import math
import statistics

import numpy as np
import pandas as pd
import pytest

from fgg.cases import choice
from fgg.errors import FggError
from fgg.faithfulness.registry import chosen, defaults

METRICS = chosen(defaults())

NAN = math.nan


def table(n=12, seed=0):
    draw = np.random.default_rng(seed)
    return pd.DataFrame({name: draw.normal(size=n) for name in METRICS}, index=[f"i{k:02}" for k in range(n)])


def slow_composite(gains):
    rows = {}
    for image in gains.index:
        own = []
        for name in gains:
            defined = [value for value in gains[name] if not math.isnan(value)]
            if len(defined) > 1 and not math.isnan(gains.loc[image, name]):
                spread = statistics.stdev(defined) + 1e-9
                own.append((gains.loc[image, name] - statistics.fmean(defined)) / spread)
        rows[image] = statistics.fmean(own) if own else NAN
    return rows


def test_a_gain_is_positive_where_the_gate_is_better():
    scores, baseline = table(seed=1), table(seed=2)
    gains = choice.gains(scores, baseline.iloc[::-1], METRICS)
    for name, metric in METRICS.items():
        better = scores[name] > baseline[name] if metric.higher_is_better else scores[name] < baseline[name]
        assert ((gains[name] > 0) == better).all()
        assert np.allclose(gains[name].abs(), (scores[name] - baseline[name]).abs(), atol=0)


def test_other_images_are_refused():
    with pytest.raises(FggError, match="other images"):
        choice.gains(table(4), table(5), METRICS)


def test_composites_are_means_of_the_defined_z_scores():
    gains = table()
    gains.loc["i03"] = NAN
    gains.loc["i04", "saco"] = NAN
    gains.loc["i05", ["saco", "pixel_flipping"]] = NAN
    composites = choice.composite(gains)
    expected = slow_composite(gains)
    assert math.isnan(composites["i03"]) and math.isnan(expected["i03"])
    assert composites.drop("i03").to_dict() == pytest.approx({k: v for k, v in expected.items() if k != "i03"})


def test_a_metric_defined_once_takes_no_part():
    gains = table(3)
    gains["saco"] = [NAN, NAN, 5.0]
    without = choice.composite(gains.drop(columns="saco"))
    assert choice.composite(gains).to_dict() == pytest.approx(without.to_dict())


def test_the_extremes_and_a_seeded_draw():
    composites = pd.Series([0.5, -2.0, 3.0, NAN, 0.0, 1.0, -1.0, 2.0], index=list("hgfedcba"))
    found = choice.select(composites, 2, seed=0)
    assert found.chosen["improved"] == ["f", "a"]
    assert found.chosen["degraded"] == ["g", "b"]
    assert found.unranked == ["e"]
    others = {"h", "e", "d", "c"}
    assert set(found.chosen["random"]) < others
    assert found == choice.select(composites.sample(frac=1, random_state=1), 2, seed=0)
    draws = {tuple(choice.select(composites, 2, seed).chosen["random"]) for seed in range(40)}
    assert len(draws) == 12  # every ordered pair of the four others comes up
    assert set().union(*draws) == others


def test_equal_composites_go_by_image_id():
    found = choice.select(pd.Series(0.0, index=list("dbca")), 1, seed=0)
    assert (found.chosen["improved"], found.chosen["degraded"]) == (["a"], ["d"])


@pytest.mark.parametrize("images", range(6))
def test_no_image_is_in_two_categories_however_few_there_are(images):
    composites = pd.Series(np.arange(images, dtype=float), index=[str(k) for k in range(images)])
    chosen = choice.select(composites, 2, seed=0).chosen
    together = [image for own in chosen.values() for image in own]
    assert len(together) == len(set(together)) == min(images, 6)
    assert len(chosen["improved"]) == len(chosen["degraded"]) == min(2, images // 2)


def test_what_standardised_the_gains():
    gains = table(3)
    gains["saco"] = [1.0, NAN, 4.0]
    gains["pixel_flipping"] = [NAN, NAN, NAN]
    found = choice.spread(gains)
    assert found["saco"] == {"defined": 2, "mean": 2.5, "sd": pytest.approx(math.sqrt(4.5))}
    assert found["pixel_flipping"] == {"defined": 0, "mean": None, "sd": None}

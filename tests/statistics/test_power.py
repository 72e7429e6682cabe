"""The smallest detectable effect against statsmodels, and the equivalence test against its definition and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from fgg.statistics.paired import paired
from fgg.statistics.power import equivalence_p, smallest_detectable


@pytest.mark.parametrize("n", [3, 4, 10, 103, 150, 5000])
def test_the_smallest_detectable_effect_is_statsmodels(n):
    expected = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert smallest_detectable(n) == pytest.approx(expected, rel=1e-4)


def test_it_is_defined_for_every_number_of_pairs():
    found = [smallest_detectable(n) for n in range(3, 400)]
    assert np.isfinite(found).all()
    assert (np.diff(found) < 0).all()
    assert np.isnan(smallest_detectable(2))


def test_equivalence_is_statsmodels_tost():
    differences = np.random.default_rng(0).normal(0.02, 0.3, 200)
    margin = 0.2 * differences.std(ddof=1)
    assert equivalence_p(differences, 0.2) == pytest.approx(DescrStatsW(differences).ttost_mean(-margin, margin)[0])


def test_few_images_are_told_from_no_difference():
    """The same distribution without a difference: many images show that it is small, few do not."""
    rng = np.random.default_rng(1)
    few, many = (paired(rng.normal(0, 1, n), rng.normal(0, 1, n), 1, 0) for n in (20, 2000))
    assert many["equivalence_p"] < 0.05 < few["equivalence_p"]
    assert few["p_value"] > 0.05 < many["p_value"]
    assert few["smallest_detectable"] > 0.2 > many["smallest_detectable"]


def test_a_difference_at_the_margin_is_called_equivalent_in_a_twentieth_of_cases():
    rng = np.random.default_rng(2)
    draws = rng.normal(0.2, 1, (400, 400))
    assert np.mean([equivalence_p(row, 0.2) < 0.05 for row in draws]) == pytest.approx(0.05, abs=0.03)

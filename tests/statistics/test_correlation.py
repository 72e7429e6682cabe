"""The rank correlation against scipy's."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from fgg.statistics.correlation import rank_correlation


def test_the_rank_correlation_is_spearmans_row_by_row():
    random = np.random.default_rng(0)
    before, after = random.random((5, 12)), random.random((5, 12))
    after[1] = before[1] ** 3  # same ranks
    after[2, :6] = 0.5  # ties
    after[3] = 0.0  # constant
    found = rank_correlation(before, after)
    assert np.isnan(found[3])
    for row in (0, 1, 2, 4):
        assert found[row] == pytest.approx(spearmanr(before[row], after[row]).statistic, abs=1e-12)
    assert found[1] == pytest.approx(1)

"""The signed-rank test against scipy and against all choices of signs."""

import itertools

import numpy as np
import pytest
from scipy import stats

from fgg.statistics.signed_rank import MOST_PAIRS, signed_rank_p


def draws(n):
    """Differences of a few sizes, with ties and zeros; without zeros; and without either."""
    random = np.random.default_rng(n)
    tied = random.choice([-2.0, -1, -0.5, 0, 0.5, 1, 2, 3], n)
    tied[0] = 0.25
    return tied, np.where(tied == 0, 0.5, tied), random.normal(0.3, 1, n)


@pytest.mark.parametrize("n", [3, 4, 6, 9, MOST_PAIRS + 1, 30])
def test_it_gives_the_number_of_scipy(n):
    for differences in draws(n):
        assert signed_rank_p(differences) == stats.wilcoxon(differences, zero_method="wilcox").pvalue


@pytest.mark.parametrize("n", [4, 7, 10])
def test_it_counts_all_choices_of_signs(n):
    for differences in draws(n):
        known = differences[differences != 0]
        ranks = stats.rankdata(np.abs(known))
        sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product((0, 1), repeat=len(known))]
        found = ranks[known > 0].sum()
        expected = 2 * min(np.mean(np.array(sums) <= found), np.mean(np.array(sums) >= found))
        assert signed_rank_p(differences) == pytest.approx(min(1, expected), rel=1e-12)


def test_nothing_but_zeros():
    with pytest.raises(ValueError, match="all differences are zero"):
        signed_rank_p(np.zeros(5))

"""The comparison in blocks: the numbers do not depend on how much is in memory at once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fgg.bench.synthetic_tables import BASELINE, DATASET, write
from fgg.comparison import order_only, tables
from fgg.comparison.compared import compared
from fgg.statistics import bootstrap

IMAGES, EXPERIMENTS, CLASSES = 40, 12, 2


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    settings = write(folder, IMAGES, EXPERIMENTS, CLASSES, undefined=0.1)
    return folder, settings | {"experiments": {name: dict(grid) for name, grid in settings["experiments"].items()}}


def test_blocks_of_any_size_give_the_same_tables(synthetic, monkeypatch):
    whole = tables.comparison(synthetic[0], [DATASET], synthetic[1])
    monkeypatch.setattr(order_only, "TOGETHER", 7)
    monkeypatch.setattr(order_only, "KEPT", 1)
    monkeypatch.setattr(tables, "Intervals", lambda seed: bootstrap.Intervals(seed, most_pending=100))
    parts = tables.comparison(synthetic[0], [DATASET], synthetic[1])
    for name, table in whole._asdict().items():
        assert table.to_pandas().to_csv() == getattr(parts, name).to_pandas().to_csv(), name
    assert len(whole.comparison) == EXPERIMENTS * 4 * (4 + CLASSES), "experiments x metrics x strata"
    assert whole.comparison["ci_low"].null_count == whole.comparison["ci_high"].null_count


def test_agreement_over_images_is_spearmans_where_both_scores_are_defined(synthetic):
    own = compared(synthetic[0], DATASET, synthetic[1])
    found = tables.comparison(synthetic[0], [DATASET], synthetic[1]).agreement.to_pandas()
    row = found[(found["stratum"] == "all") & (found["first"] == "saco")].set_index("second").iloc[0]
    first, second = (
        {name: own.scores[name][metric] - own.scores[BASELINE][metric] for name in own.experiments}
        for metric in ("saco", row.name)
    )
    assert any(values.isna().any() for values in second.values()), "the case with undefined scores is among them"
    expected = [
        stats.spearmanr(first[name], second[name], nan_policy="omit").statistic
        for name in own.experiments
        if name != BASELINE
    ]
    assert row["over_images"] == pytest.approx(np.mean(expected), abs=1e-12)

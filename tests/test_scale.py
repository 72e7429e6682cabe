"""`python -m fgg.bench.scale` on a small scale, and jobs of Slurm that hold several of Snakemake's."""

from __future__ import annotations

import pytest

from fgg.bench import scale


def test_the_comparison_is_measured(capsys):
    assert scale.main(["comparison", "--images", "12", "--experiments", "5"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("12 images, 5 experiments, 2 classes: ")


@pytest.mark.dag
def test_the_plan_is_measured_and_shards_add_jobs():
    (few, one, cost), (many, three, _) = scale.plan(images=4, shards=[1, 3])
    assert (few, many) == (1, 3)
    # 12 attribution and 12 scoring jobs and one of responses become three; 12 + 12 + 12 + 1 tables are merged, of which
    # 7 gated ones with their gates.
    assert three - one == 2 * 25 + 12 + 12 + 12 + 1
    assert cost.seconds > 0 and cost.mib > 0


def test_a_failure_shows_the_last_words(capsys):
    assert scale.main(["comparison", "--images", "12", "--experiments", "0"]) == 1
    assert "the baseline" in capsys.readouterr().err

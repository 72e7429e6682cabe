"""The answer of a run: its word, its sentences, and its effects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fgg.comparison.pooled import EVERY, pooled
from fgg.report.answer import MIXED, NO, UNASKED, UNSHOWN, YES, answers, signed, unasked

METRICS = {"saco": True, "pixel_flipping": False}


def row(experiment, against, verdict, metric="saco", change=0.02, seed="0", dataset="toy", **other):
    """A row of `results/hypotheses.csv` on the measurable images; `change` is positive if the experiment is better."""
    sign = 1.0 if METRICS[metric] else -1.0
    untested = "identical" in verdict or "not testable" in verdict
    return {
        "dataset": dataset, "seed": seed, "metric": metric, "fill": "mean", "stratum": "measurable", "experiment": experiment,
        "against": against, "partner": against, "verdict": verdict, "layers": experiment, "clamp_max": 10.0, "alpha": 1.0,
        "method": "transmm", "n": 40, "n_images": 50, "n_measurable": 40, "note": "", "higher_is_better": METRICS[metric],
        "smallest_detectable": 0.3, "improvement": change, "difference": sign * change, "difference_se": 0.002,
        "ci_low": sign * change - 0.01, "ci_high": sign * change + 0.03, "partner_mean": 0.5, "mean": 0.5 + sign * change,
        "improvement_pct": 100 * change / 0.5, "p_adjusted": np.nan if untested else 0.01, "order_difference": np.nan, "order_se": np.nan,
        **other,
    }  # fmt: skip


def table(*rows):
    every = [{**one, "stratum": "all", "n": 50} for one in rows]
    return pd.DataFrame([*rows, *every])


def only(frame, **other):
    found = list(answers(frame, **other))
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [
        (["better", "better"], YES),  # the gate, and the gate against its control
        (["better", "no difference shown"], MIXED),
        (["better", "identical scores"], MIXED),  # a control that cannot differ shows nothing
        (["better in values", "better"], UNSHOWN),
        (["no difference shown", "better"], UNSHOWN),
        (["equivalent", "better"], UNSHOWN),
        (["worse", "better"], NO),
        (["worse in values", "worse"], NO),
    ],
)
def test_the_word_follows_from_the_verdicts(verdicts, word):
    frame = table(row("1", "transmm", verdicts[0]), row("1", "permuted", verdicts[1]))
    assert only(frame).word == word


def test_a_gain_beside_a_loss_is_no_yes():
    rows = [row("1", "transmm", "better"), row("1", "permuted", "better"), row("2", "transmm", "worse", change=-0.02)]
    assert only(table(*rows)).word == MIXED


def test_the_sentences_count_and_name_the_extremes():
    rows = [
        row("1", "transmm", "better", change=0.02),
        row("1", "permuted", "better"),
        row("2", "transmm", "better in values", change=0.05),
        row("1", "transmm", "worse", "pixel_flipping", change=-0.1),
        row("2", "transmm", "not testable: too few images", "pixel_flipping", change=np.nan),
    ]
    first, second, third = only(table(*rows)).sentences
    assert "2 gates against TransMM, 2 metrics, 1 fill: better in 1 of 4 comparisons" in first
    assert "better in values only in 1" in first and "worse in 1" in first and "not testable in 1" in first
    assert "Every control is beaten too there." in first and "no difference" not in first
    assert "gain is +10.0 % (SaCo, mean, layers 2: better in values)" in second
    assert "loss is −20.0 % (Pixel Flipping, mean, layers 1: worse)" in second
    assert "40 of 50 images (fill mean)" in third and "one seed" in third and "0.30 standard deviations" in third


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("change", [0.02, -0.02])
def test_the_interval_of_an_effect_points_where_better_is(metric, change):
    frame = table(row("1", "transmm", "no difference shown", metric, change))
    effect = only(frame).effects[0]
    own = frame.iloc[0]
    ends = [own["ci_low"] / 0.5 * 100, own["ci_high"] / 0.5 * 100]
    low, high = ends if METRICS[metric] else [-ends[1], -ends[0]]  # a fall of Pixel Flipping is a gain
    assert (effect.low, effect.high) == pytest.approx((low, high))
    assert effect.change == pytest.approx(100 * change / 0.5) and effect.low < effect.change < effect.high
    assert only(frame).reach >= max(abs(low), abs(high))


def test_controls_that_cannot_differ_are_not_counted():
    rows = [row("1", "transmm", "better"), row("1", "permuted", "better"), row("1", "shuffled", "no difference shown")]
    rows += [row("1", "order", "identical scores"), row("1", "sharpened", "not testable: too few images")]
    assert only(table(*rows)).effects[0].controls == (1, 2)


def test_several_seeds_are_pooled_and_their_runs_shown():
    rows = [row("1", "transmm", "worse", "pixel_flipping", -0.02 - 0.001 * seed, str(seed)) for seed in range(4)]
    frame = table(*rows)
    comparison = frame.assign(baseline="transmm", baseline_mean=0.5)
    found = only(frame, pooled=pooled(comparison, frame))
    effect = found.effects[0]
    assert found.word == NO and effect.verdict == "worse"
    assert effect.runs == pytest.approx([-4.0, -4.2, -4.4, -4.6])
    assert effect.change == pytest.approx(-4.3) and effect.low < effect.change < effect.high < 0
    assert "in 4 runs" in found.sentences[-1] and effect.n == 160


def test_several_datasets_get_an_answer_each_and_one_together():
    rows = [row("1", "transmm", "worse", change=-0.02, dataset=name) for name in ("toy", "other")]
    frame = table(*rows)
    comparison = frame.assign(baseline="transmm", baseline_mean=0.5)
    found = list(answers(frame, pooled=pooled(comparison, frame)))
    assert [own.dataset for own in found] == ["toy", "other", EVERY]
    assert all(own.effects for own in found)


def test_warnings_of_the_model_reach_the_answer():
    frame = table(row("1", "transmm", "better", note="weak model: accuracy 0.3 on test"))
    assert only(frame).warnings == ["weak model: accuracy 0.3 on test"]


def test_no_gate_no_answer():
    assert unasked("toy", table(row("1", "transmm", "better"))).word == UNASKED
    assert only(table(row("1", "permuted", "better"))).word == UNASKED  # TransMM is not in the grid


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.04, "+0.0"), (-0.04, "+0.0"), (-1.25, "−1.2"), (3, "+3.0")]
)
def test_numbers_are_written_with_their_sign(value, text):
    assert signed(value) == text


def test_warnings_stand_there_without_a_gate_too():
    assert unasked("toy", table(row("1", "transmm", "better", note="weak model: accuracy 0.5"))).warnings == [
        "weak model: accuracy 0.5"
    ]

"""The statistics of the thesis' research code, against its reference vectors."""

import json

import pytest

from fgg.statistics.thesis import thesis_composite, thesis_paired, thesis_welch

NAMES = {
    "saco": ("SaCo", 1),
    "faithfulness_correlation": ("FaithfulnessCorrelation", 1),
    "pixelflipping": ("PixelFlipping", -1),
}


def per_image(folder, metric):
    """Image name -> score; None where the sweep holds no scores per image."""
    files = sorted((folder / "val").glob("faithfulness_stats_*.json"))
    if not files:
        return None
    record = json.loads(files[-1].read_text())
    names = [image["filename"] for image in record["images"]]
    return dict(zip(names, record["metrics"][metric]["mean_scores"], strict=True))


def moments(folder, metric):
    record = json.loads((folder / "results.json").read_text())["metrics"][metric]
    return record["mean"], record["std"], record["n_samples"]


def test_expected_statistics(reference):
    rows = json.loads((reference / "comparison" / "expected.json").read_text())
    assert rows
    for row in rows:
        folder = reference / "comparison" / "sweep" / row["experiment_path"]
        vanilla = folder.parent / "vanilla"
        percents = []
        for name, (metric, sign) in NAMES.items():
            treatment, baseline = per_image(folder, metric), per_image(vanilla, metric)
            if treatment and baseline:
                found = thesis_paired(treatment, baseline, sign)
                assert row[f"{name}_stat_test"] == "paired_t"
            else:
                found = thesis_welch(moments(folder, metric), moments(vanilla, metric), sign)
                assert row[f"{name}_stat_test"] == "welch_approx"
            for statistic, value in found.items():
                assert value == pytest.approx(row[f"{name}_{statistic}"], abs=1e-10), (row["experiment_path"], name)
            percents.append(found["percent_improvement"])
        assert thesis_composite(percents) == pytest.approx(row["composite_improvement"], abs=1e-10)


def test_equal_scores_give_p_one():
    scores = {"a": 0.1, "b": 0.2, "c": 0.4}
    found = thesis_paired(scores, scores, 1)
    assert (found["p_value"], found["cohens_d"], found["ci_lower"], found["n_pairs"]) == (1.0, 0.0, 0.0, 3)

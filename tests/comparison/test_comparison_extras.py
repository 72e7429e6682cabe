"""Sanity checks, the selection, and the headline in words."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from fgg.comparison import sanity, selection
from fgg.errors import FggError
from fgg.report import headline
from fgg.tables import write_table


def attributions(path, rows, ids=None):
    ids = ids or [f"image{i}" for i in range(len(rows))]
    write_table(path, {"image_id": ids, "relevance": np.asarray(rows, dtype=np.float32)}, {})


def test_the_table_of_sanity_checks(tmp_path):
    random = np.random.default_rng(0)
    folder = tmp_path / "toy" / "attributions"
    original = random.random((6, 9))
    broken = random.random((6, 9))
    broken[0] = 1.0
    attributions(folder / "transmm.parquet", original)
    attributions(folder / "transmm-randomized-model.parquet", broken)
    grid = {
        "toy": [
            ["transmm", {"method": "transmm"}],
            ["transmm-randomized-model", {"method": "transmm", "control": "randomized_model"}],
        ]
    }
    arguments = ["--experiments", json.dumps(grid), "--results", str(tmp_path), "--output", str(tmp_path / "s.csv")]
    assert sanity.main(arguments) == 0
    table = pd.read_csv(tmp_path / "s.csv")
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["original"], row["n"], row["n_undefined"]) == ("transmm", 5, 1)
    expected = [spearmanr(original[i], broken[i]).statistic for i in range(1, 6)]
    assert row["spearman"] == pytest.approx(np.mean(expected))
    assert row["sem"] == pytest.approx(np.std(expected, ddof=1) / 5**0.5)

    attributions(folder / "transmm.parquet", original, ids=list("abcdef"))
    with pytest.raises(FggError, match="different images"):
        sanity.similarities(folder, "toy", dict(grid["toy"]))


def scores(path, random, shift):
    ids = [f"image{i:02d}" for i in range(30)]
    base = np.random.default_rng(1).random(30)
    write_table(
        path,
        {
            "image_id": ids,
            "label": np.zeros(30, dtype=np.int64),
            "predicted": np.zeros(30, dtype=np.int64),
            "confidence": np.ones(30),
            "saco": base + shift + 0.1 * random.standard_normal(30),
            "faithfulness_correlation": base + shift + 0.1 * random.standard_normal(30),
            "faithfulness_correlation_sd": np.zeros(30),
            "faithfulness_correlation_se": np.zeros(30),
            "pixel_flipping": base - shift + 0.1 * random.standard_normal(30),
            "relevance_ties": np.zeros(30, dtype=np.int64),
            "saco_equal_drops": np.zeros(30, dtype=np.int64),
            "faithfulness_correlation_undefined": np.zeros(30, dtype=np.int64),
        },
        {},
    )


def gate(layer, construction="combined", **other):
    settings = {"layers": [layer], "construction": construction, "clamp_max": 10, "alpha": 1, "shuffle_decoder": False}
    return {"method": "transmm", "gate": settings | other, "control": None}


def test_the_selection_chooses_on_validation_and_reports_on_test(tmp_path):
    """On the validation split B is best, on the test split A: B is reported, with the test split's numbers."""
    random = np.random.default_rng(0)
    grid = {
        "transmm": {"method": "transmm"},
        "A": gate(1),
        "B": gate(2),
        "no_sae": gate(2, "no_sae"),
        "shuffled": gate(2, shuffle_decoder=True),
    }
    validation = {"transmm": 0, "A": 0.05, "B": 0.3, "no_sae": 5, "shuffled": 5}
    test = {"transmm": 0, "A": 0.5, "B": 0.1, "no_sae": 5, "shuffled": 5}
    for folder, shifts in (("toy/validation", validation), ("toy", test)):
        for name, shift in shifts.items():
            scores(tmp_path / folder / "faithfulness" / f"{name}.parquet", random, shift)
    arguments = [
        "--experiments", json.dumps({"toy": list(grid.items())}),
        "--settings", json.dumps({"baseline": "transmm", "seed": 0}),
        "--results", str(tmp_path), "--output", str(tmp_path / "s.csv"), "--ranking", str(tmp_path / "r.csv"),
    ]  # fmt: skip
    assert selection.main(arguments) == 0
    ranking = pd.read_csv(tmp_path / "r.csv")
    assert list(ranking["experiment"]) == ["B", "A"], "neither no_sae nor a control is a candidate"
    assert ranking["mean_effect_size"].is_monotonic_decreasing
    chosen = pd.read_csv(tmp_path / "s.csv")
    assert set(chosen["experiment"]) == {"B"}
    assert list(chosen["metric"]) == ["saco", "faithfulness_correlation", "pixel_flipping"]
    assert chosen["difference"].tolist() == pytest.approx([0.1, 0.1, -0.1], abs=0.07)
    assert (chosen["effect_size"] > 0).all()
    assert (chosen["p_adjusted"] >= chosen["p_value"]).all()


def hypotheses(verdicts):
    rows = []
    for experiment, against, verdict in verdicts:
        rows += [
            {
                "dataset": "toy", "metric": metric, "experiment": experiment, "against": against, "verdict": verdict,
                "layers": experiment, "clamp_max": 10.0, "alpha": 1.0, "n": 50, "n_experiments_tried": 7,
                "protocol": "corrected", "improvement_pct": 1.5, "p_adjusted": np.nan if "identical" in verdict else 0.01,
            }
            for metric in ("saco", "faithfulness_correlation", "pixel_flipping")
        ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_words_count_what_beats_transmm_and_every_control():
    frame = hypotheses(
        [
            ("1", "transmm", "better"),
            ("1", "sharpened", "better"),
            ("1", "permuted", "better"),
            ("2", "transmm", "better"),
            ("2", "sharpened", "identical scores"),
            ("2", "permuted", "better"),
            ("1+2", "transmm", "worse"),
            ("1+2", "sharpened", "worse"),
            ("1+2", "permuted", "no difference shown"),
        ]
    )
    text = "\n".join(headline.words(frame))
    assert (
        "On `toy` (50 images, corrected protocol, 7 experiments beside the baseline, 3 of them combined gates)" in text
    )
    assert (
        "- SaCo: 2 of 3 combined gates are better than TransMM, 1 worse; "
        "1 of the better ones also beat every control (permuted gate, sharpened TransMM)." in text
    )
    assert "| 1 | TransMM | **better (+1.5 %, *p* = 0.010)** |" in text
    assert "| 2 | sharpened TransMM | identical scores |" in text


def test_the_words_tell_what_few_images_can_show():
    frame = hypotheses([("1", "transmm", "no difference shown")])
    assert "hardly anything" not in "\n".join(headline.words(frame))
    text = "\n".join(headline.words(frame.assign(n=6)))
    assert "With 6 images hardly anything can be shown" in text and "from 1.05 standard deviations" in text


def test_the_words_do_not_call_an_untested_gate_no_better():
    few = "not testable: only 2 pairs"
    text = "\n".join(headline.words(hypotheses([("1", "transmm", few), ("2", "transmm", few)])))
    assert "- SaCo: no combined gate could be tested against TransMM (only 2 pairs)." in text
    text = "\n".join(headline.words(hypotheses([("1", "transmm", few), ("2", "transmm", "worse")])))
    assert "0 of 2 combined gates are better than TransMM, 1 worse, 1 not testable." in text


def test_the_words_go_between_the_markers(tmp_path):
    hypotheses([("1", "transmm", "no difference shown")]).to_csv(tmp_path / "h.csv", index=False)
    page = tmp_path / "README.md"
    page.write_text(f"before\n{headline.BEGIN}\nold\n{headline.END}\nafter\n")
    arguments = ["--hypotheses", str(tmp_path / "h.csv"), "--insert", str(page)]
    assert headline.main(arguments) == 0
    first = page.read_text()
    assert first.startswith("before\n") and first.endswith("\nafter\n")
    assert "old" not in first and "0 of 1 combined gates are better than TransMM" in first
    assert headline.main(arguments) == 0
    assert page.read_text() == first
    page.write_text("no markers")
    assert headline.main(arguments) == 1

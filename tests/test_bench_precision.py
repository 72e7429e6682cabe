"""The benchmark of precision: its comparison of scores, and a run on a tiny model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pictures import draw
from tiny_dataset import untrained

from fgg.bench import precision


def test_bias_is_in_standard_errors():
    exact = np.array([1.0, 2.0, 3.0, np.nan])
    row = precision.compared(exact, np.array([1.5, 2.5, 3.5, 4.0]))
    assert row == {
        "images": 3, "undefined": 1, "fp32": 2.0, "other": 2.5, "standard_error": pytest.approx(3**-0.5),
        "bias_over_se": pytest.approx(0.5 * 3**0.5), "largest": 0.5,
    }  # fmt: skip
    same = precision.compared(exact, exact)
    assert same["bias_over_se"] == 0.0 and same["largest"] == 0.0


def test_a_run_scores_in_both_precisions(tmp_path, capsys):
    folder = untrained(tmp_path, draw(tmp_path / "pictures", 6))
    model, images = folder / "model", folder / "data" / "test.parquet"
    output = tmp_path / "precision.json"
    options = [
        "--model",
        str(model),
        "--images",
        str(images),
        "--count",
        "4",
        "--device",
        "cpu",
        "--output",
        str(output),
    ]
    assert precision.main(options) == 0
    found = json.loads(output.read_text())
    assert set(found["metrics"]) == {
        f"{metric}, {fill}"
        for metric in ("saco", "faithfulness_correlation", "pixel_flipping", "srg")
        for fill in ("mean", "removal")
    }
    changed = [row["largest"] for row in found["metrics"].values()]
    assert max(changed) > 0, "bfloat16 rounds"
    assert max(row["largest"] for name, row in found["metrics"].items() if "pixel" in name) < 0.05
    assert "times as many images as fp32" in capsys.readouterr().out

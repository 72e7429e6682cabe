"""The statistics of the research code as a table of the workflow."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from fgg.comparison.thesis import main
from fgg.statistics.thesis import thesis_composite, thesis_paired
from fgg.tables import read_table


def test_the_table_holds_the_statistics_of_every_experiment(results):
    folder, settings = results
    settings = settings | {"experiments": {"toy": list(settings["experiments"]["toy"].items())}}
    arguments = ["--settings", json.dumps(settings), "--results", str(folder), "--output", str(folder / "thesis.csv")]
    assert main(arguments) == 0
    table = pd.read_csv(folder / "thesis.csv", dtype={"seed": str})
    assert len(table) == 23 * 3
    frames = {
        name: read_table(folder / f"toy/faithfulness/{name}.parquet").to_pandas().set_index("image_id").sort_index()
        for name in ("transmm", "gated-l2-combined-c10-a1", "gradcam")
    }
    signs = {"saco": 1, "faithfulness_correlation": 1, "pixel_flipping": -1}
    for name in ("gated-l2-combined-c10-a1", "gradcam"):
        percents = []
        for metric, sign in signs.items():
            row = table[(table["experiment"] == name) & (table["metric"] == metric)].iloc[0]
            scores = [frames[each][metric].dropna().to_dict() for each in (name, "transmm")]
            expected = thesis_paired(*scores, sign)
            assert row[list(expected)].tolist() == pytest.approx(list(expected.values()))
            percents.append(expected["percent_improvement"])
        assert row["composite_percent"] == pytest.approx(thesis_composite(percents))

"""The tables of Markdown about methods, gates and judged metrics."""

import numpy as np
import pandas as pd
import pytest

from fgg.errors import FggError
from fgg.report.insertion import insert
from fgg.report.methods_words import agreement_table, gates_table, judged_table, methods_table

METHODS = pd.DataFrame(
    {
        "experiment": ["kernel_shap", "transmm", "occlusion", "gated-l2-combined-c10-a1"],
        "method": ["kernel_shap", "transmm", "occlusion", "transmm"],
        "title": ["KernelSHAP", "TransMM", "Occlusion", "TransMM"],
        "role": ["method", "method", "ceiling", "method"],
        "forward_passes": [1027, 1, 102, 1],
        "backward_passes": [0, 1, 0, 1],
        "saco": [0.7, 0.5, 0.988, 0.6],
        "pixel_flipping": [0.4, 0.45, 0.3, 0.5],
    }
)
COMPARISON = pd.DataFrame(
    [
        {"experiment": name, "metric": metric, "fill": "mean", "construction": built, "control": None}
        for name, built in [
            ("kernel_shap", None),
            ("transmm", None),
            ("occlusion", None),
            ("gated-l2-combined-c10-a1", "combined"),
        ]
        for metric in ("saco", "pixel_flipping")
    ]
).assign(higher_is_better=lambda frame: frame["metric"] == "saco")


def test_methods_by_cost_with_bounds_last():
    lines = list(
        methods_table(
            METHODS,
            COMPARISON,
            {
                "transmm": {"ms_per_image": 7.26, "stated": [1, 1]},
                "kernel_shap": {"ms_per_image": 50, "stated": [2054, 0]},
            },
        )
    )
    assert lines[0] == "| method | passes | ms | SaCo ↑ | PF ↓ |" or lines[0].startswith(
        "| method | passes | ms | SaCo ↑ |"
    )
    assert lines[2] == "| `transmm` | 1 + 1 | 7.3 | .500 | .450 |"
    assert lines[3] == "| `kernel_shap` | 1027 + 0 | 25.0 | **.700** | **.400** |"
    assert lines[4] == "| `occlusion` (ceiling) | 102 + 0 |  | .988 | .300 |"
    assert len(lines) == 5


def hypothesis(method, improvement, verdict, seed, against="ungated"):
    about = {"metric": "saco", "fill": "mean", "higher_is_better": True, "stratum": "measurable", "layers": "1+2"}
    numbers = {"improvement": improvement, "partner_mean": -0.5, "verdict": verdict, "seed": seed}
    return about | numbers | {"method": method, "against": against, "clamp_max": 10, "alpha": 1}


def test_numbers_of_ten_and_more_stay_whole():
    table = METHODS.assign(saco=[10.5, -0.25, 20.25, 0.0])
    cells = [line.split("|")[4].strip(" *") for line in list(methods_table(table, COMPARISON, {}))[2:]]
    assert cells == ["−.250", "10.500", "20.250"]


def test_gates_over_seeds():
    rows = [
        hypothesis("libragrad", 0.05, "better", "0"),
        hypothesis("libragrad", 0.15, "better", "1"),
        hypothesis("transmm", 0.05, "better in values", "0", "transmm"),
        hypothesis("transmm", -0.05, "no difference shown", "1", "transmm"),
        hypothesis("transmm", 9.0, "better", "1", "permuted"),
    ]
    lines = list(gates_table(pd.DataFrame(rows)))
    assert lines[2:] == ["| LibraGrad | 1+2 | **+.100 (2, 0 of 2)** |", "| TransMM | 1+2 | +.000 (1, 0 of 2) |"]


def test_judged_over_seeds():
    about = {"metric": "saco", "fill": "mean", "stratum": "measurable", "higher_is_better": True}
    rows = [
        about | {"dataset": "a", "seed": str(i), "n": n, "share_right": share}
        for i, n, share in [(0, 10, 1.0), (1, 30, 0.5)]
    ]
    rows += [about | {"dataset": "b", "seed": "0", "n": 0, "share_right": np.nan}]
    lines = list(judged_table(pd.DataFrame(rows)))
    assert lines[0] == "| metric, fill | `a` | `b` | all |"
    assert lines[2] == "| SaCo, mean | 62 % of 40 |  | 62 % of 40 |"


def test_insertion(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<a>\nold\n<b>\nbetween\n<a>", encoding="utf-8")
    insert("new", page, "<a>", "<b>")
    assert page.read_text(encoding="utf-8") == "before\n<a>\nnew\n<b>\nbetween\n<a>"
    with pytest.raises(FggError, match="lacks the markers <c> and <b>"):
        insert("new", page, "<c>", "<b>")


def test_agreement_with_the_truth():
    """Whichever of the two metrics comes first in the table."""
    about = {"stratum": "measurable", "dataset": "a", "seed": "0", "first_fill": "", "second_fill": ""}
    rows = [
        about | {"first": "saco", "first_fill": "mean", "second": "average_precision", "over_methods": 0.5},
        about | {"first": "average_precision", "second": "pointing_game", "over_methods": -0.25, "seed": "0"},
        about | {"first": "average_precision", "second": "pointing_game", "over_methods": 1.0, "seed": "1"},
        about | {"first": "saco", "first_fill": "mean", "second": "pointing_game", "over_methods": 0.1},
        about
        | {"first": "saco", "first_fill": "mean", "second": "average_precision", "over_methods": 0.9, "stratum": "all"},
    ]
    lines = list(agreement_table(pd.DataFrame(rows)))
    assert lines[0] == "| metric, fill | `a` |"
    assert sorted(lines[2:]) == ["| Pointing game | −0.25 / +1.00 |", "| SaCo, mean | +0.50 |"]

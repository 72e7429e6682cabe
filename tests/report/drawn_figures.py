"""Rows of a small comparison made by hand, and what a figure holds when it is saved."""

from __future__ import annotations

import pandas as pd
import pytest

from fgg.faithfulness.measures import measures
from fgg.report.figures import style

MEASURES = measures({"saco": ["mean", "removal"], "pixel_flipping": ["mean", "removal"]})
GATES = ("gated-l2-combined-c10-a1", "gated-l2-activation_only-c10-a1")
METHODS = {  # method, construction, control, forward and backward passes, mean of SaCo
    "random": ("random", None, None, 1, 0, 0.0),
    "rollout": ("rollout", None, None, 1, 0, 0.2),
    "transmm": ("transmm", None, None, 1, 1, 0.5),
    "transmm-p2": ("transmm", None, "power", 1, 1, 0.53),
    "transmm-p0.5": ("transmm", None, "power", 1, 1, 0.49),
    GATES[0]: ("transmm", "combined", None, 1, 1, 0.52),
    GATES[1]: ("transmm", "activation_only", None, 1, 1, 0.4),
    f"{GATES[0]}-permuted": ("transmm", "combined", "permuted_gate", 1, 1, 0.45),
}


def comparison(seeds=("0",), changes=None, fills=("mean", "removal"), width=0.015):
    """Rows as in the comparison: the improvement over transmm is the same by both metrics, plus 0.01 per seed.

    Args:
        changes: experiment -> cells that replace those of all its rows.
    """
    rows = []
    for number, seed in enumerate(seeds):
        for name, (method, construction, control, forward, backward, saco) in METHODS.items():
            for metric, higher in (("saco", True), ("pixel_flipping", False)):
                gain = float("nan") if name == "transmm" else saco - 0.5 + 0.01 * number
                sign = 1 if higher else -1
                for fill in fills:
                    row = {
                        "dataset": "toy", "seed": seed, "experiment": name, "method": method, "layers": construction and "2",
                        "construction": construction, "control": control, "shuffle_decoder": None,
                        "clamp_max": 10.0 if construction else None, "alpha": 1.0 if construction else None,
                        "weak_sae": False, "metric": metric, "fill": fill, "higher_is_better": higher, "n_images": 50,
                        "n": 50, "mean": saco if higher else 1 - saco, "sem": 0.01, "role": "method", "baseline": "transmm",
                        "improvement": gain, "ci_low": sign * gain - width, "ci_high": sign * gain + width,
                        "verdict": "no difference shown", "significant": False, "protocol": "corrected",
                        "forward_passes": forward, "backward_passes": backward,
                    }  # fmt: skip
                    rows.append({**row, **(changes or {}).get(name, {})})
    frame = pd.DataFrame(rows)
    for name in ("layers", "construction", "control", "shuffle_decoder"):
        frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
    return frame


@pytest.fixture
def drawn(monkeypatch):
    """A function that calls another one and returns name -> the figures that it saves, laid out and still open."""

    def call(function, *args, **kwargs):
        found = {}

        def keep(fig, _, name):
            fig.canvas.draw()
            found[name] = fig

        monkeypatch.setattr(style, "save", keep)
        function(*args, **kwargs)
        (fig,) = found.values()
        return fig

    return call


def title(fig):
    """The title of a figure in one line."""
    return fig.get_suptitle().replace("\n", " ")


def marks(axis, marker):
    """(x, y) of the single marks of a kind."""
    return [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in axis.lines
        if line.get_marker() == marker and len(line.get_xdata()) == 1
    ]

"""Names of classes, images and features are drawn letter by letter: no formula, no hidden character, no traceback."""

from __future__ import annotations

import matplotlib
import pytest
from matplotlib.figure import Figure

from fgg.cases import layout
from fgg.report.figures import style

# Name -> what is drawn.
NAMES = {
    "cash$flow$": "cash$flow$",
    r"$\frac{1}": r"$\frac{1}",
    "a_b^{c": "a_b^{c",
    "<b>x</b>&amp;": "<b>x</b>&amp;",
    "Größe": "Größe",
    "=1+2": "=1+2",
    "{dataset}": "{dataset}",
    "%s%d": "%s%d",
    "x" * 60: "x" * 60,
    "-n": "-n",
    "a\u202eb": r"a\u202eb",
    "a\tb": r"a\tb",
    "a\x1b[31mb": r"a\x1b[31mb",
    "a\u2028b": r"a\u2028b",
}


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name)[1:20] for name in NAMES])
def test_a_name_is_drawn_literally_in_every_place_of_a_figure(name, tmp_path):
    with style.figure(1.5) as (fig, axis):
        fig.suptitle(name)
        axis.set(title=name, xlabel=name, xticks=[0], xticklabels=[name])
        axis.plot([0, 1], [0, 1], label=name)
        axis.legend()
        axis.annotate(name, (0, 0))
        style.save(fig, tmp_path, "figure")
        texts = {text.get_text() for text in fig.findobj(matplotlib.text.Text)}
    assert NAMES[name] in texts and (name == NAMES[name] or name not in texts)
    assert (tmp_path / "figure.svg").stat().st_size and (tmp_path / "figure.png").stat().st_size


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name)[1:20] for name in NAMES])
def test_a_name_is_drawn_literally_in_a_case_study(name, tmp_path):
    with layout.figure(1.0) as (fig, place):
        layout.head(fig, name, name, warning=name)
        place(0.1, 0.5, 0.3, 0.3).set_xlabel(name)
        assert isinstance(fig, Figure)
        layout.save(fig, tmp_path / "case.png")
        texts = [text.get_text() for text in fig.findobj(matplotlib.text.Text)]
    assert NAMES[name] in texts and (name == NAMES[name] or name not in texts)

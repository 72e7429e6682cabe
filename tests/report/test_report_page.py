"""The report in one page: what it holds, that it stands alone, and how it looks in a browser."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from browser import opened
from PIL import Image

from fgg.report import pages, report_page
from fgg.tables import read_table, write_csv

HOSTILE = '"><script>alert(1)</script>'
NAMES = ("summary", "hypotheses", "agreement", "comparison")
CONTRAST = """() => {
  const light = text => { const parts = text.match(/[\\d.]+/g).map(Number);
    const [r, g, b] = parts.slice(0, 3).map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return [0.2126 * r + 0.7152 * g + 0.0722 * b, parts.length > 3 ? parts[3] : 1]; };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()) || !element.offsetParent) continue;
    let back = 1;
    for (let up = element; up; up = up.parentElement) {
      const [shade, opaque] = light(getComputedStyle(up).backgroundColor);
      if (opaque > 0.99) { back = shade; break; }
    }
    const [ink] = light(getComputedStyle(element).color);
    const ratio = (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
    if (ratio < 4.5) found.push(`${element.tagName} ${element.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def report(run):
    """A report with a hostile class and image, beside its pages."""
    figures = run / "figures"
    figures.mkdir()
    (figures / "toy_saco.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30"/>')
    folder = run / "toy/cases/gated-l2-combined-c10-a1"
    (folder / "layer_2/improved").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (900, 1300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "layer_2/improved/1 #?%.png")
    rows = [
        {
            "dataset": "toy", "experiment": folder.name, "layer": 2, "category": "improved", "rank": 1, "image_id": HOSTILE,
            "true_class": "cat", "predicted_class": "<b>dog</b>", "feature": feature, "direction": "BOOST", "picture": "layer_2/improved/1 #?%.png",
        }
        for feature in (3.0, 3.0, 7.0, np.nan)
    ]  # fmt: skip
    write_csv(folder / "cases.csv", pd.DataFrame(rows))
    page = run / "toy/features/layer_2/feature_3.html"
    page.parent.mkdir(parents=True)
    page.write_text("<title>feature 3</title>")
    (run / "toy/features/index.html").write_text("<title>features</title>")
    settings = json.dumps({"run": ["toy"], "datasets": {"toy": {"path": HOSTILE}}})
    arguments = ["--results", str(run), "--configuration", settings, "--pages", *NAMES]
    own = [
        "--datasets",
        "toy",
        "--figures",
        "overview",
        "saco",
        "--cases",
        str(folder),
        "--output",
        str(run / "report.html"),
    ]
    assert report_page.main([*arguments, *own]) == 0
    assert pages.main([*arguments, "cases", "--cases", str(folder), "--output", str(run)]) == 0
    (run / "manifest.json").write_text("{}")
    return run / "report.html"


class Seen(HTMLParser):
    """Headings in order, pictures, ids and links of a page."""

    def __init__(self, text):
        super().__init__()
        self.headings, self.pictures, self.ids, self.targets, self.tags = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        own = dict(attrs)
        self.tags.append(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "img":
            self.pictures.append(own)
        self.ids += [own["id"]] if "id" in own else []
        self.targets += [own[name] for name in ("href", "data-to") if name in own]


def test_the_report_stands_alone_and_runs_nothing_of_a_name(report):
    text = report.read_text(encoding="utf-8")
    seen = Seen(text)
    assert seen.tags.count("script") == 1 and "<b>dog</b>" not in text
    assert all(own["src"].startswith("data:image/") and own["alt"] for own in seen.pictures) and len(seen.pictures) == 2
    assert len(seen.ids) == len(set(seen.ids))
    for target in seen.targets:
        if target.startswith("#"):
            assert target[1:] in seen.ids, target
        elif not target.startswith("data:"):
            assert (report.parent / unquote(target)).is_file(), target
    assert "toy/features/layer_2/feature_3.html" in seen.targets
    assert not any("feature_7" in target for target in seen.targets), "a feature without a page has no link"


def test_rows_of_the_case_studies_lead_to_their_pictures(report):
    targets = Seen((report.parent / "cases.html").read_text(encoding="utf-8")).targets
    pictures = [unquote(target) for target in targets if target.endswith(".png")]
    assert len(pictures) == 4 and all((report.parent / picture).is_file() for picture in pictures)


def test_headings_do_not_skip_a_level(report):
    levels = Seen(report.read_text(encoding="utf-8")).headings
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_methods_table_marks_the_best_method_and_no_control(report):
    text = report.read_text(encoding="utf-8")
    own = text[text.index('id="methods"') : text.index('id="agreement"')]
    frame = read_table(report.parent / "comparison.parquet").to_pandas()
    frame = frame[(frame["stratum"] == "measurable") & (frame["metric"] == "pixel_flipping") & frame["control"].isna()]
    frame = frame[frame["role"] == "method"]
    assert f"<b>{frame['mean'].min():.3f}</b>" in own, "lower is better"
    assert "sharpened" not in own and own.count("<tr>") == 1 + 3


def test_the_same_run_gives_the_same_bytes(report):
    before = report.read_bytes()
    folder = report.parent / "toy/cases/gated-l2-combined-c10-a1"
    settings = json.dumps({"run": ["toy"], "datasets": {"toy": {"path": HOSTILE}}})
    arguments = ["--results", str(report.parent), "--configuration", settings, "--pages", *NAMES, "--datasets", "toy"]
    own = ["--figures", "overview", "saco", "--cases", str(folder), "--output", str(report)]
    assert report_page.main([*arguments, *own]) == 0
    assert report.read_bytes() == before


@pytest.mark.parametrize("name", ["report", "summary", "hypotheses"])
def test_pages_fit_a_phone_and_are_readable(report, name):
    with opened(report.parent / f"{name}.html") as (tab, faults):
        for width in (390, 1280):
            tab.set_viewport_size({"width": width, "height": 800})
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
            assert tab.evaluate(CONTRAST) == [], width
        assert tab.get_by_role("heading", level=1).count() == 1
        assert tab.get_by_role("main").count() == 1
        assert faults == []


def test_links_are_there_in_a_folder_and_gone_where_they_lead_nowhere(report, tmp_path):
    with opened(report) as (tab, _):
        link = tab.locator("#tables a").first
        assert link.is_visible() and link.get_attribute("href") == "summary.html"
        link.click()
        tab.get_by_text("← Report").click()
        assert tab.url.endswith("report.html")
    raw = tmp_path / "data/raw"
    raw.mkdir(parents=True)
    shutil.copy(report, raw / "report.html")  # as in a zipped report of Snakemake
    with opened(raw / "report.html") as (tab, _):
        assert tab.locator("#tables a").first.is_hidden()
        assert tab.locator("#tables .instead").first.is_visible()


def test_the_table_shows_the_verdict_first_and_filters(report):
    with opened(report.parent / "hypotheses.html") as (tab, faults):
        tab.set_viewport_size({"width": 1280, "height": 800})
        box = tab.get_by_role("button", name="verdict", exact=True).bounding_box()
        assert box is not None and box["x"] + box["width"] < 1280
        rows = tab.locator("tbody tr:visible")
        every = rows.count()
        tab.locator("select[data-column=metric]").select_option("saco")
        shown = rows.count()
        assert 0 < shown < every and tab.get_by_role("status").inner_text() == f"{shown} of {every} rows"
        cells = tab.locator("tbody tr:visible td:nth-child(3)").all_inner_texts()
        assert set(cells) == {"saco"}
        hidden = tab.get_by_role("button", name="note", exact=True)
        assert hidden.is_hidden()
        tab.get_by_label(re.compile("all .* columns")).check()
        assert hidden.is_visible()
        assert faults == []


def test_sorting_by_keyboard(report):
    with opened(report.parent / "summary.html") as (tab, _):
        tab.get_by_role("button", name="effect size").press("Enter")
        values = tab.locator("tbody tr").evaluate_all(
            "rows => rows.map(row => row.cells[[...document.querySelector('thead tr').cells]"
            ".findIndex(cell => cell.dataset.name === 'effect_size')].dataset.v).filter(Boolean).map(Number)"
        )
        assert values == sorted(values) and len(values) > 3

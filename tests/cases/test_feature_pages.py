"""The pages of features: what they show, that they stand alone, and what the user's names change."""

from __future__ import annotations

import base64
import html
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
import tiny_dataset as tiny
from browser import opened
from PIL import Image

from fgg.cases import feature_lists, feature_pages, feature_statistics, prototypes
from fgg.cases.feature_pictures import NEAR, WHOLE, bars, outlined
from fgg.data.load import load_split
from fgg.tables import read_made_from, read_table

SETTINGS = {**tiny.SETTINGS, "prototypes": 10, "prototype_images": None, "pages": 5}
NASTY = '<script>alert(1)</script> "quoted" & =1+1'
HEAD = "dataset,layer,feature,name\n"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """The tiny dataset with prototypes, a case study of one patch, and the features' statistics."""
    folder = tiny.make(tmp_path_factory.mktemp("features"))
    results = folder / "results/tiny"
    prepared = folder / "data/prepared/tiny"
    common = ["--model", folder / "data/models/tiny", "--settings", json.dumps(SETTINGS)]
    first = load_split(prepared / "test.parquet", 6, 0).image_ids[0]
    cases = pd.DataFrame({
        "experiment": tiny.GATED, "layer": [0, 0], "category": "improved", "rank": 1, "image_id": first, "patch": [5, 6],
        "feature": pd.array([7, None], dtype="Int64"), "direction": ["BOOST", None], "change": [0.25, -0.1],
        "explained_class": "disc", "picture": "layer_0/improved/1_x.png",
    })  # fmt: skip
    study = results / "cases" / tiny.GATED
    study.mkdir(parents=True)
    cases.to_csv(study / "cases.csv", index=False)
    for layer in tiny.LAYERS:
        own = [*common, "--sae", folder / f"data/saes/tiny/layer_{layer}", "--layer", layer]
        own += ["--images", prepared / "train.parquet"]
        table = results / f"prototypes/layer_{layer}.parquet"
        assert prototypes.main([*map(str, own), "--output", str(table)]) == 0
        own += ["--explained-images", prepared / "test.parquet", "--maps", results / "attributions/transmm.parquet"]
        own += ["--prototypes", table, "--cases", study]
        output = results / f"feature_statistics/layer_{layer}.parquet"
        assert feature_statistics.main([*map(str, own), "--output", str(output)]) == 0
    return folder


def draw(dataset, output, names=""):
    """Write the pages; the exit code."""
    table = output.parent / "feature_names.csv"
    if names:
        table.write_text(names, encoding="utf-8")
    results, prepared = dataset / "results/tiny", dataset / "data/prepared/tiny"
    arguments = ["--model", dataset / "data/models/tiny", "--images", prepared / "test.parquet"]
    arguments += ["--prototype-images", prepared / "train.parquet", "--statistics", results / "feature_statistics"]
    arguments += [
        "--prototypes",
        results / "prototypes",
        "--layers",
        *tiny.LAYERS,
        "--cases",
        results / "cases" / tiny.GATED,
    ]
    arguments += ["--dataset", "tiny", "--settings", json.dumps(SETTINGS), "--names", table, "--output", output]
    return feature_pages.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def pages(dataset, tmp_path_factory):
    """The folder of the pages, without names."""
    output = tmp_path_factory.mktemp("pages") / "features"
    assert draw(dataset, output) == 0
    return output


@pytest.fixture(scope="module")
def named(dataset, tmp_path_factory):
    """The folder of the pages with a nasty name, and names without a page."""
    output = tmp_path_factory.mktemp("named") / "features"
    quoted = NASTY.replace('"', '""')
    assert draw(dataset, output, f'{HEAD}tiny,0,7,"{quoted}"\ntiny,0,5000,x\ntiny,1,{unpaged(dataset)},y\n') == 0
    return output


def statistics(dataset, layer):
    return read_table(dataset / f"results/tiny/feature_statistics/layer_{layer}.parquet").to_pandas()


def unpaged(dataset):
    """A feature of layer 1 without a page."""
    table = statistics(dataset, 1)
    return int(table.loc[~table["page"], "feature"].iloc[0])


def test_the_statistics_agree_with_the_prototypes_and_the_images(dataset):
    for layer in tiny.LAYERS:
        path = dataset / f"results/tiny/feature_statistics/layer_{layer}.parquet"
        table, about = statistics(dataset, layer), read_made_from(path)
        strongest = read_table(dataset / f"results/tiny/prototypes/layer_{layer}.parquet").to_pandas()
        split = load_split(dataset / "data/prepared/tiny/train.parquet")
        assert about["grid"] == [4, 4] and about["tokens"] == [16 * n for n in np.bincount(split.labels, minlength=3)]
        first = strongest[strongest["rank"] == 1].set_index("feature")["activation"]
        assert table["max_activation"][table["max_activation"] > 0].tolist() == pytest.approx(first.tolist())
        assert set(first.index) == set(table.loc[table["active"] > 0, "feature"])
        assert table["score_share"].sum() == pytest.approx(1)
        chosen = set(table.sort_values("score_share", ascending=False, kind="stable").head(5)["feature"])
        assert set(table.loc[table["page"], "feature"]) == chosen | ({7} if layer == 0 else set())
        for row in table[table["page"]].to_dict("records"):
            assert row["histogram"].sum() == row["active"]
            if row["active"]:
                assert row["class_share"].sum() == pytest.approx(1)
                mean = (row["class_mean"] * about["tokens"]).sum() / row["active"]
                assert mean == pytest.approx(row["mean_activation"], rel=1e-5)
        assert table.loc[~table["page"], "histogram"].isna().all()


def test_a_page_per_feature_and_a_list_per_layer(dataset, pages):
    expected = {"index.html"}
    for layer in tiny.LAYERS:
        table = statistics(dataset, layer)
        own = table.loc[table["page"], "feature"]
        expected |= {f"layer_{layer}/index.html", *(f"layer_{layer}/feature_{n}.html" for n in own)}
    assert {path.relative_to(pages).as_posix() for path in pages.rglob("*") if path.is_file()} == expected


def test_a_page_shows_what_the_tables_hold(dataset, pages):
    """Every prototype in its order, with its picture; the case with its picture; the co-active features."""
    strongest = read_table(dataset / "results/tiny/prototypes/layer_0.parquet").to_pandas()
    own = strongest[strongest["feature"] == 7].sort_values("rank")
    text = (pages / "layer_0/feature_7.html").read_text(encoding="utf-8")
    shown = re.findall(r'alt="Image (\S+) of class (\w+); the patch in row (\d+), column (\d+) is outlined"', text)
    assert len(shown) == SETTINGS["prototypes"] >= 10
    assert [entry[0] for entry in shown] == own["image_id"].tolist()
    assert [int(row) * 4 + int(column) for _, _, row, column in shown] == own["patch"].tolist()
    assert re.findall(r"<b>([\d.e+-]+)</b>", text) == [f"{value:.3g}" for value in own["activation"]]
    assert "BOOST +0.25" in text and f'href="../../cases/{tiny.GATED}/layer_0/improved/1_x.png"' in text
    row = statistics(dataset, 0).iloc[7]
    partners = re.findall(r"<td>(?:<a [^>]*>)?feature (\d+)", text)
    assert [int(other) for other in partners] == row["partner"].tolist()
    assert text.count("<rect ") == len(row["histogram"])
    assert "tiny,0,7,YOUR NAME" in text


def test_pictures_have_an_alternative_and_links_a_target(pages):
    for path in pages.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://|@import|url\(", re.sub(r'"data:[^"]*"', '""', text).replace("http:", "")), path
        for image in re.findall(r"<img [^>]*>", text):
            assert "alt=" in image and 'src="data:image/webp;base64,' in image
        for target in re.findall(r'href="([^"]*)"', text):
            known = target == "data:," or "/cases/" in target or (path.parent / target).is_file()
            assert known, (path, target)


def test_every_page_is_reachable_from_the_first(pages):
    found, queue = set(), [pages / "index.html"]
    while queue:
        path = queue.pop().resolve()
        if path not in found and path.is_file():
            found.add(path)
            text = path.read_text(encoding="utf-8")
            queue += [path.parent / target for target in re.findall(r'href="([^"]*\.html)"', text)]
    assert found == {path.resolve() for path in pages.rglob("*.html")}


def test_the_same_again_gives_the_same_bytes(dataset, pages, tmp_path):
    assert draw(dataset, tmp_path / "features") == 0
    for path in pages.rglob("*.html"):
        assert path.read_bytes() == (tmp_path / "features" / path.relative_to(pages)).read_bytes()


def test_a_name_is_shown_escaped_wherever_the_feature_is(named, pages):
    shown = [
        path.relative_to(named).as_posix()
        for path in named.rglob("*.html")
        if NASTY in html.unescape(path.read_text(encoding="utf-8"))
    ]
    assert {"layer_0/feature_7.html", "layer_0/index.html", "index.html"} <= set(shown)
    for path in named.rglob("*.html"):
        assert "<script>alert" not in path.read_text(encoding="utf-8")
    partners = [
        path.relative_to(pages).as_posix()
        for path in pages.glob("layer_0/feature_*.html")
        if re.search(r"<td><a [^>]*>feature 7<", path.read_text(encoding="utf-8"))
    ]
    assert set(partners) <= set(shown)


def test_names_without_a_page_are_told_and_not_fatal(dataset, named, tmp_path, capsys):
    text = html.unescape((named / "index.html").read_text(encoding="utf-8"))
    assert "feature 5000 of layer 0 of 'tiny': the SAE has 40 features, from 0" in text
    assert f"feature {unpaged(dataset)} of layer 1 of 'tiny': it has no page in this run" in text
    names = HEAD + "tiny,x,1,a\n"
    assert draw(dataset, tmp_path / "features", names) == 0
    assert "note: feature_names.csv: line 2 is left out" in capsys.readouterr().out
    assert (tmp_path / "feature_names.csv").read_text() == names


def test_a_missing_image_is_named(dataset, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    path = copy / f"results/tiny/cases/{tiny.GATED}/cases.csv"
    pd.read_csv(path).assign(image_id="gone").to_csv(path, index=False)
    assert draw(copy, tmp_path / "features") == 1
    assert "test.parquet lacks the image gone; run the workflow again" in capsys.readouterr().err
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize("patch", [0, 5, 11])
def test_the_outline_is_around_the_patch(patch):
    """On a picture in which one patch is white, all within the frame is white, and all beyond is dark."""
    rows, columns = 3, 4
    values = np.zeros((rows * 10, columns * 10))
    row, column = divmod(patch, columns)
    values[row * 10 : row * 10 + 10, column * 10 : column * 10 + 10] = 1
    seen = outlined(values, patch, (rows, columns))
    assert (seen.width, seen.height) == (WHOLE, 150)
    for uri, size, across in ((seen.whole, (WHOLE, 150), columns), (seen.near, (NEAR, NEAR), 3)):
        picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
        assert picture.size == size
        pixels = np.asarray(picture.convert("RGB")).astype(int)
        yellow = (pixels[..., 0] > 150) & (pixels[..., 1] > 150) & (pixels[..., 2] < 140)
        bright = pixels.min(-1) > 200
        down, right = (np.nonzero(bright.any(axis))[0] for axis in (1, 0))
        frame_down, frame_right = (np.nonzero(yellow.any(axis))[0] for axis in (1, 0))
        assert frame_down.min() <= down.min() + 1 and frame_down.max() >= down.max() - 1
        assert frame_right.min() <= right.min() + 1 and frame_right.max() >= right.max() - 1
        assert right.max() - right.min() <= size[0] / across + 4


def test_shares_in_words():
    shown = [feature_lists.percent(share) for share in (0.0, 0.00002, 0.004567, 0.0457, 0.4567, float("nan"))]
    assert shown == ["0.0 %", "below 0.01 %", "0.46 %", "4.57 %", "45.7 %", "–"]


def test_bars_fill_the_range():
    found = bars([1, 0, 4], 6.0)
    assert [bar.height for bar in found] == [0.25, 0.0, 1.0]
    assert found[-1].left + found[-1].width == pytest.approx(1)
    assert found[2].words == "4 patches from 4 to 6"


def test_the_pages_work_in_a_browser(named, tmp_path):
    """No request, no error, no sideways scrolling at either width; links lead on; the list sorts and saves itself safely."""
    with opened(named / "layer_0/index.html") as (tab, faults):
        shares = "[...document.querySelectorAll('tbody tr')].map(row => +row.cells[3].dataset.v)"
        found = tab.evaluate(shares)
        assert len(found) >= 5 and found == sorted(found, reverse=True)
        tab.locator("th[data-name=frequency]").click()
        frequency = tab.evaluate(shares.replace("[3]", "[4]"))
        assert frequency == sorted(frequency)
        with tab.expect_download() as download:
            tab.locator("#save").click()
        saved = pd.read_csv(download.value.path(), keep_default_na=False)
        assert NASTY in saved["name"].tolist()
        formula = "[...document.querySelectorAll('tbody tr')].forEach(row => row.cells[2].dataset.v = '=1+1')"
        tab.evaluate(formula)
        with tab.expect_download() as download:
            tab.locator("#save").click()
        assert set(pd.read_csv(download.value.path())["name"]) == {"'=1+1"}
        tab.locator("tbody a").first.click()
        tab.get_by_role("heading", name="Active together with").wait_for()
        for width in (390, 1280):
            tab.set_viewport_size({"width": width, "height": 900})
            for page in ("index.html", "layer_0/index.html", "layer_0/feature_7.html"):
                tab.goto((named / page).resolve().as_uri())
                assert tab.evaluate("document.documentElement.scrollWidth") <= width, (page, width)
        assert tab.locator("nav a").count() >= 3
        # As Snakemake's report embeds it: alone, where links lead nowhere.
        alone = tmp_path / "data" / "raw" / "feature_7.html"
        alone.parent.mkdir(parents=True)
        alone.write_bytes((named / "layer_0/feature_7.html").read_bytes())
        tab.goto(alone.resolve().as_uri())
        assert tab.locator("a").count() == 0
        assert "layer 0" in tab.locator("nav").inner_text()
        assert not faults


def test_the_facts_in_the_head_of_a_page(dataset, pages):
    text = (pages / "layer_0/feature_7.html").read_text(encoding="utf-8")
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert facts["place"] == "blocks.0.hook_resid_post" and facts["model"] == tiny.ARCHITECTURE
    row = statistics(dataset, 0).iloc[7]
    assert facts["share of the gate&#39;s score"] == feature_lists.percent(row["score_share"])
    better = (statistics(dataset, 0)["score_share"] > row["score_share"]).sum()
    assert facts["rank by this share"] == f"{better + 1} of 40"

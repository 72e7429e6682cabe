"""Results are read back as frames; what is not there is named; a damaged table is refused."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image
from zoo import make_images, make_model, make_sae

import fgg
from fgg.tables import write_csv, write_json, write_table

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A results folder with two datasets, one of them with a seed, as a run in its folder writes it."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "results"
    rows = [
        {"dataset": "a", "experiment": name, "metric": "saco", "stratum": stratum, "mean": 0.5, "verdict": "=better"}
        for name in ("transmm", "<b>random")
        for stratum in ("measurable", "all")
    ]
    write_csv(place / "summary.csv", pd.DataFrame(rows))
    write_csv(place / "hypotheses.csv", pd.DataFrame({"dataset": ["a"], "verdict": ["no difference shown"]}))
    for dataset in ("a", "b/seed-1"):
        for kind in ("faithfulness", "attributions"):
            write_table(place / dataset / kind / "transmm.parquet", {"image_id": ["x"], "v": np.ones((1, 4))}, {})
        write_table(place / dataset / "images.parquet", {"image_id": ["x"]}, {})
    write_json(place / "manifest.json", {"configuration": {"seed": 0}}, {})
    return place


def test_tables_and_experiments_are_found(folder):
    results = fgg.read_results(folder)
    assert results.tables == ("summary", "hypotheses")
    assert results.experiments == {"a": ("transmm",), "b/seed-1": ("transmm",)}
    assert list(results.to_dataframe()["verdict"]) == ["=better"] * 4, "as they were, not as a spreadsheet gets them"
    assert results.table("hypotheses")["verdict"][0] == "no difference shown"
    assert results.per_image("attributions", "b/seed-1", "transmm")["v"][0].shape == (4,)
    assert list(results.per_image("images", "a")["image_id"]) == ["x"]
    assert results.manifest["configuration"] == {"seed": 0}
    assert fgg.read_results(str(folder.parent)).folder == folder, "the folder of the run will do"


def test_it_is_shown_in_short(folder):
    results = fgg.read_results(folder)
    assert repr(results).splitlines() == [
        f"Results in {str(folder)!r}",
        "  dataset a: 1 experiments: transmm",
        "  dataset b/seed-1: 1 experiments: transmm",
        "  tables: summary, hypotheses",
        "  read them with: .table(NAME), .per_image(KIND, DATASET, EXPERIMENT)",
    ]
    html = results._repr_html_()
    assert html.count("<tr") == 3 + 3 and "&lt;b&gt;random" in html and "<b>random" not in html
    (folder / "manifest.json").unlink()
    assert "  state: the run is not finished" in repr(fgg.read_results(folder)).splitlines()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# Results\n\n## Headline\n\n**No.** Better in 0 of 4.\n\nMore.\n", "No. Better in 0 of 4."),
        ("# Results\n\nOn `a` (3 images):\n\nNote.\n\n- SaCo: worse.\n- SRG: no.\n\n| x |\n", "On `a` (3 images): SaCo: worse. SRG: no."),
        ("# Results\n\n" + 200 * "word " + "\n", 80 * "word " + "…"),
        ("# Results\n", ""),
    ],
    ids=["sentence", "list", "long", "empty"],
)  # fmt: skip
def test_the_headline(folder, text, said):
    (folder / "README.md").write_text(text)
    results = fgg.read_results(folder)
    assert results.headline == said
    assert (f"  in words: {said}" in repr(results).splitlines()) == bool(said)
    (folder / "README.md").write_text("No <script>alert(1)</script> & more.")
    assert "No &lt;script&gt;" in results._repr_html_() and "<script>" not in results._repr_html_()


def test_a_long_summary_is_cut(folder):
    rows = [{"dataset": "a", "experiment": f"x{number}", "stratum": "measurable"} for number in range(70)]
    write_csv(folder / "summary.csv", pd.DataFrame(rows))
    html = fgg.read_results(folder)._repr_html_()
    assert "the first 60 of 70 rows" in html and "x59<" in html and "x60<" not in html


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda results: results.table("sumary"), "no table 'sumary'; it has summary, hypotheses"),
        (lambda results: results.per_image("faithfulness", "c", "transmm"), "no dataset 'c'; it has a, b/seed-1"),
        (lambda results: results.per_image("faithfulness", "a", "rise"), "no experiment 'rise'; it has transmm"),
        (
            lambda results: results.per_image("faithfulness", "a"),
            "choose attributions, gates, faithfulness, curves of an",
        ),
        (lambda results: results.per_image("maps", "a", "transmm"), "'maps' with experiment 'transmm'"),
        (lambda results: results.per_image("gates", "a", "transmm"), "does not exist; this experiment makes none"),
    ],
    ids=range(6),
)
def test_what_is_not_there_is_named(folder, ask, message):
    with pytest.raises(fgg.FggError, match=message):
        ask(fgg.read_results(folder))


@pytest.mark.parametrize("given", ["nothing", "folder", 3, None], ids=str)
def test_a_folder_without_results(tmp_path, given):
    (tmp_path / "folder").mkdir()
    with pytest.raises(fgg.FggError, match=r"holds no summary\.csv|must be the path"):
        fgg.read_results(tmp_path / given if isinstance(given, str) else given)


@pytest.mark.parametrize("name", ["summary.csv", "a/faithfulness/transmm.parquet"])
def test_a_damaged_table_is_refused(folder, name):
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    results = fgg.read_results(folder)
    with pytest.raises(fgg.FggError, match=f"{Path(name).name}.*damaged"):
        results.to_dataframe() if name == "summary.csv" else results.per_image("faithfulness", "a", "transmm")


@pytest.fixture(scope="module")
def explained():
    """A model of 3 x 5 patches, images, and their gated attribution."""
    model = make_model(img_size=(24, 40))
    images = make_images(model, 3)
    return model, images, fgg.attribute(model, images, gate=fgg.Gate((1,)), saes={1: make_sae(3)})


def test_an_attribution_is_shown_in_short_and_as_a_frame():
    maps = torch.arange(6.0).view(2, 3)
    found = fgg.Attribution(
        maps, torch.tensor([1, 0]), torch.rand(2), torch.rand(2, 2), torch.tensor([1, 0]), {2: maps + 1}, {2: maps}
    )
    assert repr(found) == "Attribution(2 images, 3 patches, target [1, 0], gates at layers 2)"
    frame = found.to_dataframe(["x", "y"])
    assert list(frame.columns) == ["image_id", "patch", "relevance", "gate_2", "score_2"]
    assert frame[frame["image_id"] == "y"]["relevance"].tolist() == [3.0, 4.0, 5.0]
    assert found.to_dataframe()["image_id"].tolist() == ["0"] * 3 + ["1"] * 3
    with pytest.raises(fgg.FggError, match="1 image_ids for 2 images"):
        found.to_dataframe(["x"])
    assert found._repr_html_().count("3 patches in an unknown grid") == 4


def small_pictures(html):
    """The pictures in a page, as arrays."""
    found = re.findall(r'data:image/png;base64,([^"]+)" width="(\d+)" height="(\d+)"', html)
    return [(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), int(w), int(h)) for data, w, h in found]


def test_an_attribution_in_a_notebook(explained):
    _, _, found = explained
    assert found.grid == (3, 5)
    html = found._repr_html_()
    pictures = small_pictures(html)
    assert html.count("<tr>") == 1 + 3 and len(pictures) == 3 * 2, "a map and the gates of each image"
    for place, (drawn, width, height) in enumerate(pictures[::2]):
        assert drawn.shape == (3, 5, 3) and (width, height) == (140, 84)
        values = found.relevance[place].numpy()
        brightness = (drawn @ np.array([0.2126, 0.7152, 0.0722])).ravel()[values.argsort()]
        assert (np.diff(brightness) > -2).all() and brightness[-1] > brightness[0] + 100
    for place, (drawn, *_) in enumerate(pictures[1::2]):
        red = drawn[..., 0].astype(int) - drawn[..., 2]
        gates = found.gates[1][place].view(3, 5).numpy()
        assert (red[gates > 1.2] > 0).all() and (red[gates < 0.8] < 0).all()
    cells = re.findall(r"<td[^>]*>(\d+)</td>", html)
    expected = [(n, int(found.predicted[n]), int(found.target[n]), int(found.relevance[n].argmax())) for n in range(3)]
    assert [int(cell) for cell in cells] == [each for row in expected for each in row]


def test_an_undefined_map_in_a_notebook(explained):
    found = replace(explained[2], relevance=explained[2].relevance.clone())
    found.relevance[1, :4] = torch.nan
    html = found._repr_html_()
    assert "4 values are NaN or infinite" in html and "undefined" in html and len(small_pictures(html)) == 5


def test_many_maps_in_a_notebook():
    model = make_model()
    found = fgg.attribute(model, make_images(model, 10))
    assert "10 images" in found._repr_html_() and found._repr_html_().count("<tr>") == 1 + 8
    assert "the first 8 are shown" in found._repr_html_()


def test_maps_are_shown_beside_their_images(explained):
    _, images, found = explained
    axes = found.show(images, names=["x", "$y", "z"], most=2)
    assert axes.shape == (2, 2)
    for place, (left, right) in enumerate(axes):
        assert len(left.images) == 1 and len(right.images) == 2
        drawn = np.asarray(right.images[-1].get_array())
        assert drawn.shape == (3, 5) and np.allclose(drawn.ravel(), found.relevance[place])
        assert right.images[-1].get_clim() == (0, pytest.approx(float(found.relevance[place].max())))
    assert axes[1, 0].get_ylabel() == "$y"
    axes[0, 0].figure.canvas.draw()  # a $ in a name is no formula
    assert found.show(images).shape == (3, 2)


def test_maps_are_shown_alone(explained):
    axes = explained[2].show(most=2)
    assert axes.shape == (1, 2)
    assert np.allclose(axes[0, 1].images[0].get_array(), explained[2].relevance[1].view(3, 5))


def test_other_images_than_those_of_the_maps(explained):
    _, images, found = explained
    with pytest.raises(fgg.FggError, match="2 images for 3 maps"):
        found.show(images[:2])
    with pytest.raises(fgg.FggError, match="1 names for 3 maps"):
        found.show(images, names=["x"])


def test_pixel_flipping_as_a_frame(explained):
    model, images, found = explained
    flipped = fgg.pixel_flipping(model, images, found.relevance, patches_per_step=4)
    assert (
        repr(flipped) == f"PixelFlipping(3 images, 4 steps, mean area {float(flipped.auc.mean()):.4g}; lower is better)"
    )
    frame = flipped.to_dataframe(["x", "y", "z"])
    own = frame[frame["image_id"] == "y"]
    assert own["step"].tolist() == [0, 1, 2, 3, 4] and own["probability"].tolist() == flipped.curve[1].tolist()
    assert set(own["auc"]) == {float(flipped.auc[1])}
    line = flipped.show().lines[0]
    assert np.allclose(line.get_ydata(), flipped.curve.mean(0))
    with pytest.raises(fgg.FggError, match="1 image_ids for 3 images"):
        flipped.to_dataframe(["x"])


def test_order_curves_as_a_frame(explained):
    model, images, found = explained
    curves = fgg.order_curves(model, images, found.relevance)
    assert repr(curves) == "OrderCurves(3 images, 15 patches; computed so far: none)"
    frame = curves.to_dataframe(4)
    assert repr(curves).endswith("computed so far: mif in steps of 4, lif in steps of 4)")
    assert frame["filled"].unique().tolist() == [0, 4, 8, 12, 15]
    for kind in ("mif", "lif"):
        own = frame[(frame["image_id"] == "2") & (frame["curve"] == kind)]
        assert own["probability"].tolist() == getattr(curves, kind)(4)[2].tolist()
    lines = curves.show(4).lines
    assert np.allclose(lines[1].get_ydata(), curves.lif(4).mean(0))
    with pytest.raises(fgg.FggError, match="4 image_ids for 3 images"):
        curves.to_dataframe(image_ids=["x"] * 4)


def test_localisation_as_a_frame(explained):
    masks = torch.zeros(3, 15)
    masks[:2, :5] = 1
    scores = fgg.localisation(explained[2].relevance, masks)
    frame = scores.to_dataframe(["x", "y", "z"])
    assert list(frame.columns) == ["image_id", *scores] and frame["relevance_mass"].isna().tolist() == [
        False,
        False,
        True,
    ]
    assert frame["pr_area"][1] == float(scores["pr_area"][1])
    mean = float(scores["relevance_mass"][:2].mean())
    assert repr(scores).startswith(f"Localisation(3 images; means: relevance_mass {mean:.3g}, ")


def test_methods_and_metrics_as_frames():
    methods, metrics = fgg.methods(), fgg.metrics()
    frame = methods.to_dataframe().set_index("name")
    assert list(frame.index) == list(methods) and frame.loc["transmm", "cost"] == methods["transmm"].cost
    assert "direction" not in frame and "passes" not in frame
    shown = metrics.to_dataframe().set_index("name")
    assert shown.loc["pixel_flipping", "direction"] == "lower is better" and list(shown.index) == list(metrics)
    assert repr(metrics).splitlines()[0] == f"saco: {metrics['saco'].title} ({metrics['saco'].citation})"
    assert metrics._repr_html_().count("<tr") == 1 + len(metrics)


def test_importing_fgg_imports_nothing_heavy():
    heavy = ("torch", "pandas", "matplotlib", "numpy", "pyarrow")
    code = f"import sys, fgg, fgg.html_tables; sys.exit(', '.join(set({heavy}) & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, fgg; fgg.attribute; sys.exit(', '.join({'pandas', 'matplotlib'} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)

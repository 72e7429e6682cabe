"""The files of ``fgg explain``: records, maps, features, panels, pictures; and folders of images."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fgg.explain import drawing
from fgg.explain.records import text

NAMES = ["transmm", "gated"]


@pytest.fixture
def photos(loaded, tmp_path):
    """A folder with three images in two folders, one that is damaged, and two other files."""
    place = tmp_path / "photos"
    (place / "more").mkdir(parents=True)
    for number, name in enumerate(("b.png", "a.jpg", "more/c.png")):
        loaded[2].picture(number).convert("RGB").save(place / name)
    (place / "damaged.PNG").write_bytes(b"\x89PNG no more")
    (place / "notes.txt").write_text("none")
    (place / ".hidden.png").write_text("none")
    return place


def enlarged(relevance):
    """(16,) to (32, 32), pixel by pixel."""
    return np.array([[relevance[4 * (row // 8) + column // 8] for column in range(32)] for row in range(32)])


def test_the_record_is_what_is_printed(explain, tiny, tmp_path):
    ids = tiny.split.image_ids[2:4]
    status, printed, _ = explain(*ids, "--json", "all.json", "--no-picture")
    assert status == 0
    whole = json.loads((tmp_path / "all.json").read_text())
    assert printed.startswith("\n".join(text(each) for each in whole["images"]))
    rest = printed.removeprefix("\n".join(text(each) for each in whole["images"]))
    assert rest == f"\npreprocessing: {whole['preprocessing']}\njson: all.json\n"
    assert [each["image"] for each in whole["images"]] == ids and not whole["unreadable"]
    assert sum(each["probability"] for each in whole["images"][0]["probabilities"]) == pytest.approx(1)
    status, shown, _ = explain(*ids, "--no-picture", "--json")
    assert status == 0 and json.loads(shown)["images"] == whole["images"]
    assert whole["fgg"]["settings"]["gate"]["layers"] == [0, 1]


def test_json_does_not_take_an_image_for_its_file(explain, capsys):
    with pytest.raises(SystemExit):
        explain("--json", "photo.png")
    assert "'photo.png' does not end in .json" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["maps.npy", "maps.npz", "maps.tif"])
def test_maps_in_pixels(name, explain, tiny, tmp_path):
    ids = tiny.split.image_ids[2:4]
    assert explain(*ids, "--maps", name, "--no-picture", "--remove", 0)[0] == 0
    if name.endswith(".npz"):
        with np.load(tmp_path / name) as parts:
            assert (parts["image_id"].tolist(), parts["map"].tolist()) == (ids, NAMES)
            maps = parts["maps"]
    elif name.endswith(".npy"):
        maps = np.load(tmp_path / name)
    else:
        with Image.open(tmp_path / name) as pages:
            assert pages.n_frames == 4 and pages.mode == "F"
            said = json.loads(pages.tag_v2[270])
            found = []
            for page in range(4):
                pages.seek(page)
                found.append(np.asarray(pages))
        assert said == [f"{image_id}: {method}" for image_id in ids for method in NAMES]
        maps = np.array(found).reshape(2, 2, 32, 32)
    assert maps.shape == (2, 2, 32, 32) and maps.dtype == np.float32
    for row, each in enumerate((tiny.plain, tiny.gated)):
        assert maps[0, row] == pytest.approx(enlarged(each.relevance[0].numpy()), rel=1e-5)


def test_too_many_maps_for_tiff(monkeypatch, explain, tiny):
    monkeypatch.setattr("fgg.explain.exports.LARGEST_TIFF", 4 * 2 * 32 * 32 - 1)
    status, _, err = explain(tiny.split.image_ids[2], "--maps", "maps.tif", "--no-picture", "--remove", 0)
    assert status == 1 and "1 images are too many for a TIFF file; end the name in .npy" in err


def test_features_of_every_patch(explain, tiny, tmp_path):
    ids = tiny.split.image_ids[2:4]
    assert explain(*ids, "--patch-features", "all.parquet", "--no-picture", "--remove", 0)[0] == 0
    table = pq.read_table(tmp_path / "all.parquet").to_pandas()
    columns = ["image_id", "layer", "patch", "feature", "activation", "gradient", "contribution"]
    assert list(table) == columns and set(table["image_id"]) == set(ids)
    assert (table["activation"] != 0).all()
    assert (table["activation"] * table["gradient"]).to_numpy() == pytest.approx(table["contribution"], rel=1e-5)
    own = table[table["image_id"] == ids[0]]
    for layer, scores in tiny.gated.scores.items():
        for patch in range(16):
            rows = own[(own["layer"] == layer) & (own["patch"] == patch)]
            assert rows["contribution"].sum() == pytest.approx(float(scores[0, patch]), rel=1e-3, abs=1e-5)
            assert rows["feature"].is_unique and rows["feature"].is_monotonic_increasing


def test_panels(explain, tiny, tmp_path):
    ids = tiny.split.image_ids[2:4]
    assert explain(*ids, "--panels", "panels", "--no-picture", "--method", "gated,rollout")[0] == 0
    whole = json.loads((tmp_path / "panels" / "metadata.json").read_text())
    assert [each["image"] for each in whole["images"]] == ids
    listed = {panel["file"] for each in whole["images"] for panel in each["panels"]}
    there = {path.relative_to(tmp_path / "panels").as_posix() for path in (tmp_path / "panels").rglob("*.png")}
    assert listed == there and len(listed) == 2 * 7
    panels = {panel.get("map", panel["shows"]): panel for panel in whole["images"][0]["panels"]}
    values = {name: each.relevance[0].double() for name, each in (("transmm", tiny.plain), ("gated", tiny.gated))}
    parts = {name: 100 * own / own.abs().sum() for name, own in values.items()}
    assert panels["transmm"]["high"] == panels["gated"]["high"] == panels["rollout"]["high"], "one scale"
    assert panels["gated"]["high"] >= max(float(own.max()) for own in parts.values()) * (1 - 1e-6)
    most = float((parts["gated"] - parts["transmm"]).abs().max())
    assert panels["gated − TransMM"]["high"] == pytest.approx(most, rel=1e-4)
    colours = np.asarray(Image.open(tmp_path / "panels" / panels["image"]["file"]).convert("RGB"), dtype=float)
    seen = np.asarray(tiny.split.picture(2).convert("RGB"), dtype=float)
    assert colours.std() > 20 or seen.std() < 20
    for own in panels.values():
        with Image.open(tmp_path / "panels" / own["file"]) as picture:
            assert picture.width in (800, 680)


def test_colours_stay_under_the_maps_and_grey_is_asked_for(explain, tmp_path):
    Image.new("RGB", (40, 48), "red").save(tmp_path / "red.png")
    arguments = ["red.png", "--method", "rollout", "--remove", 0, "--no-picture", "--panels"]
    means = {}
    for name, extra in (("colour", []), ("grey", ["--grey"])):
        explain(*arguments, name, *extra)
        picture = Image.open(tmp_path / name / "red.png" / "map_0.png").convert("RGB")
        means[name] = np.asarray(picture, dtype=float).mean((0, 1))
    assert means["colour"][0] > means["grey"][0] + 20 and means["colour"][2] < means["grey"][2] + 1


@pytest.mark.parametrize("own_scale", [False, True])
def test_scales(own_scale, explain, tiny, monkeypatch):
    """The ends of the colours are those of all maps of the image, or of each; the picture says which."""
    drawn, overlay = [], drawing.plot.overlay

    def noted(image, relevance, ax, **options):
        drawn.append((np.asarray(relevance), options["vmin"], options["vmax"], options["colorbar"]))
        return overlay(image, relevance, ax, **options)

    monkeypatch.setattr(drawing.plot, "overlay", noted)
    option = ["--own-scale"] if own_scale else []
    status, _, _ = explain(tiny.split.image_ids[2], "--output", "a.svg", "--method", "gated,rollout", *option)
    assert status == 0 and len(drawn) == 3
    for values, low, high, bar in drawn:
        assert np.abs(values).sum() == pytest.approx(100) and low == 0
        assert high == (values.max() if own_scale else max(each[0].max() for each in drawn))
        assert bar == (own_scale or values is drawn[-1][0])
    with open("a.svg", encoding="utf-8") as file:  # noqa: PTH123 - in the current folder
        said = file.read()
    assert ("each map on a scale of its own" in said) == own_scale
    assert ("one scale for the maps of an image" in said) != own_scale


def test_compare_draws_shares():
    from matplotlib.figure import Figure

    before, after = np.array([1.0, 3.0, 0.0, 4.0]), np.array([30.0, 10.0, 10.0, 0.0])
    axes = Figure().subplots(1, 4)
    drawing.plot.compare(np.full((8, 8), 0.5), before, after, axes, shares=True)
    maps = [ax.images[-1] for ax in axes[1:]]
    shown = [100 * before / 8, 100 * after / 50, 100 * after / 50 - 100 * before / 8]
    for own, expected in zip(maps, shown, strict=True):
        assert np.asarray(own.get_array()).reshape(-1) == pytest.approx(expected)
    assert [own.get_clim() for own in maps] == [(0, 60), (0, 60), pytest.approx((-50, 50))]
    assert axes[1].images[-1].colorbar.ax.get_ylabel() == "share of relevance (%)"


def test_a_folder(explain, photos, tmp_path):
    status, out, err = explain("photos", "--output", "pictures", "--json=all.json", "--draws", 2)
    assert status == 1
    names = ["a.jpg", "b.png", "more/c.png"]
    assert [line for line in out.splitlines() if line in names] == names, "sorted, with the folders in it"
    assert err.count("damaged.PNG") == 2 and "1 of 4 images could not be read: image photos/damaged.PNG" in err
    assert err.splitlines()[-1].startswith("error: ") and "explain: 4 images in" in err
    assert "left out: 2 other files, such as photos/.hidden.png" in out
    whole = json.loads((tmp_path / "all.json").read_text())
    assert [each["image"] for each in whole["images"]] == names and len(whole["unreadable"]) == 1
    made = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert made == ["a.jpg.png", "b.png.png", "more_c.png.png"]
    (photos / "damaged.PNG").unlink()
    assert explain("photos", "--no-picture", "--remove", 0)[0] == 0


def test_a_folder_in_which_nothing_can_be_read(explain, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"")
    status, out, err = explain("bad", "--json=all.json")
    assert status == 1 and not out and "1 of 1 images could not be read" in err
    assert [path.name for path in tmp_path.iterdir()] == ["bad"], "no empty file is left"


def test_the_same_bytes_again(explain, photos, tmp_path):
    kept = []
    for run in ("one", "two"):
        place = tmp_path / run
        explain(
            "photos", "--output", place / "a.svg", "--maps", place / "m.npz", "--patch-features", place / "f.parquet",
            "--panels", place / "panels", "--draws", 3, "--fill", "mean,noise,road",
        )  # fmt: skip
        files = sorted(path for path in place.rglob("*") if path.is_file())
        kept.append({path.relative_to(place): path.read_bytes() for path in files})
    assert kept[0] == kept[1] and len(kept[0]) == 3 + 1 + 3 * 6


def test_wrong_options_end_before_anything_is_computed(explain, monkeypatch, tmp_path):
    monkeypatch.setattr("fgg.explain.explained_model.from_dataset", lambda *_: pytest.fail("loaded"))
    for wrong in (["--maps", "m.txt"], ["--method", "x"], ["--output", "a.txt"], ["--remove", "-1"], ["--fill", "x"]):
        status, out, err = explain("x.png", *wrong)
        assert status == 1 and not out and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())

"""Bad inputs by the dozen: each ends with a status other than 0 and one message that names the thing and the remedy.

A case is a command of the small workflow, what is done to its folder or arguments, and what must be said.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from small_workflow import run

from fgg.data.load import load_split
from fgg.data.preprocess import Preprocess

PICTURE = "pictures/disc/00.png"
TEST, TRAIN, DATASET = (
    "data/prepared/tiny/test.parquet",
    "data/prepared/tiny/train.parquet",
    "data/prepared/tiny/dataset.json",
)
WEIGHTS, MODEL = "data/models/tiny/model.safetensors", "data/models/tiny/model.json"
SAE, CODES = "data/saes/tiny/layer_0/cfg.json", "data/saes/tiny/layer_0/sae_weights.safetensors"
MAPS, ANSWERS = "results/tiny/attributions/transmm.parquet", "results/tiny/responses.parquet"
SCORES = "results/tiny/faithfulness/transmm.parquet"
GATED = "gated-l0-combined-c10-a1"

PREPARE, TRAINING, SAE_TRAINING = "prepare/tiny", "model/tiny", "sae/tiny/layer_0"
EXPLAIN, EXPLAIN_GATED, ANSWER = "attribution/tiny/transmm", f"attribution/tiny/{GATED}", "responses/tiny"
SCORE, COMPARE, DRAW, SUMMARY = "faithfulness/tiny/transmm", "comparison", "figures/tiny", "summary"

AGAIN = "run the workflow again"
MEND = "fix or remove them, or raise `max_skipped`"


@dataclass
class Case:
    """``change`` is done to the folder, ``options`` replace arguments (None takes the option away)."""

    command: str
    change: Callable[[Path], object] | None
    says: list[str]
    options: dict[str, str | None] = field(default_factory=dict)


# ---- how things are spoilt


def cut(place: str, share: float = 0.5) -> Callable[[Path], object]:
    return lambda folder: os.truncate(folder / place, int((folder / place).stat().st_size * share))


def written(place: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / place).write_bytes(data)


def removed(place: str) -> Callable[[Path], object]:
    return lambda folder: shutil.rmtree(folder / place) if (folder / place).is_dir() else (folder / place).unlink()


def a_folder(place: str) -> Callable[[Path], object]:
    return lambda folder: ((folder / place).unlink(), (folder / place).mkdir())


def saved(image: Image.Image, kind: str) -> Callable[[Path], object]:
    """Another kind of image under the name of a PNG."""
    return lambda folder: image.save(folder / PICTURE, kind)


def changed_json(place: str, change: Callable[[dict], object]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        record = json.loads((folder / place).read_text())
        change(record)
        (folder / place).write_text(json.dumps(record))

    return spoil


def changed_table(place: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], object]:
    return lambda folder: pq.write_table(change(pq.read_table(folder / place, partitioning=None)), folder / place)


def changed_tensors(place: str, change: Callable[[dict], object]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / place)
        change(tensors)
        save_file(tensors, folder / place)

    return spoil


def first_is(value: float, name: str) -> Callable[[dict], object]:
    return lambda tensors: tensors[name].reshape(-1).__setitem__(0, value)


def bomb(folder: Path) -> None:
    """A PNG of 2.5 giga-pixels in 60 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 50000, 50000, 8, 2, 0, 0, 0)
    (folder / PICTURE).write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )


def spoilt_inside(folder: Path) -> None:
    """A prepared table in which the bytes of one image are cut."""
    table = pq.read_table(folder / TEST)
    rows = table.column("image").to_pylist()
    rows[0]["bytes"] = rows[0]["bytes"][:40]
    column = pa.array(rows, type=table.schema.field("image").type)
    pq.write_table(table.set_column(table.column_names.index("image"), "image", column), folder / TEST)


def column_set(name: str, values: Callable[[list], list]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        column = pa.array(values(table.column(name).to_pylist()), type=table.schema.field(name).type)
        return table.set_column(table.column_names.index(name), name, column)

    return change


def foreign(folder: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2]}), folder / TEST)


def zero_shot_of_nothing(tensors: dict) -> None:
    tensors["cls_token"][:] = 3e38  # finite, but its square is not


def only(names: set[str]) -> Callable[[Path], object]:
    def keep(folder: Path) -> None:
        for place in (folder / "pictures").iterdir():
            if place.name not in names:
                shutil.rmtree(place)

    return keep


def moved_into_splits(*splits: str) -> Callable[[Path], object]:
    def move(folder: Path) -> None:
        (folder / "pictures").rename(folder / "whole")
        for split in splits:
            shutil.copytree(folder / "whole", folder / "pictures" / split)

    return move


def lacking(key: str) -> Callable[[dict], object]:
    return lambda record: record.pop(key)


NOISE = np.random.default_rng(0).bytes(500)
FLOATS = np.full((4, 4), 0.5, np.float32)
JPEG = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))

CASES = {
    # images that cannot be used
    "image of zero bytes": Case(PREPARE, written(PICTURE, b""), ["disc/00.png: the file is empty", MEND]),
    "truncated PNG": Case(PREPARE, cut(PICTURE), ["disc/00.png: ", "truncated", MEND]),
    "truncated JPEG": Case(
        PREPARE,
        lambda folder: (saved(JPEG, "JPEG")(folder), cut(PICTURE)(folder)),
        ["disc/00.png: ", "truncated", MEND],
    ),
    "text named .png": Case(PREPARE, written(PICTURE, b"no picture"), ["disc/00.png: not an image", MEND]),
    "web page named .png": Case(
        PREPARE, written(PICTURE, b"<!DOCTYPE html><html>"), ["disc/00.png: not an image", MEND]
    ),
    "PostScript named .png": Case(
        PREPARE, written(PICTURE, b"%!PS-Adobe-3.0 EPSF-3.0\n"), ["disc/00.png: not an image"]
    ),
    "noise named .png": Case(PREPARE, written(PICTURE, NOISE), ["disc/00.png: not an image", MEND]),
    "PNG with a damaged middle": Case(
        PREPARE, lambda f: (f / PICTURE).write_bytes((f / PICTURE).read_bytes()[:60] + NOISE), ["disc/00.png: ", MEND]
    ),
    "huge picture": Case(PREPARE, bomb, ["disc/00.png: ", "2500000000 pixels", MEND]),
    "floats beyond 1": Case(
        PREPARE, saved(Image.fromarray(FLOATS * 4), "TIFF"), ["disc/00.png: ", "floats from 0 to 1"]
    ),
    "floats with NaN": Case(PREPARE, saved(Image.fromarray(FLOATS * np.nan), "TIFF"), ["floats from 0 to 1", MEND]),
    "integers beyond 16 bits": Case(
        PREPARE, saved(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"), ["integers from 0 to 65535", MEND]
    ),
    "dangling link": Case(
        PREPARE,
        lambda f: ((f / PICTURE).unlink(), (f / PICTURE).symlink_to("gone")),
        ["disc/00.png: cannot be read", MEND],
    ),
    # folders of images that cannot be used
    "no folder of images": Case(PREPARE, removed("pictures"), ["pictures does not exist", "set `path`"]),
    "a file as folder of images": Case(
        PREPARE, lambda f: (shutil.rmtree(f / "pictures"), (f / "pictures").touch()), ["pictures is not a folder"]
    ),
    "empty folder of images": Case(PREPARE, only(set()), ["no class folders", "lay it out as"]),
    "class folders without images": Case(
        PREPARE, lambda f: (only(set())(f), (f / "pictures/a").mkdir(), (f / "pictures/b").mkdir()), ["has no images"]
    ),
    "one class": Case(PREPARE, only({"disc"}), ["one class only (disc)", "add a second one"]),
    "a split is missing": Case(PREPARE, moved_into_splits("train", "test"), ["lacks val", "add what is missing"]),
    "a class is missing in a split": Case(
        PREPARE,
        lambda f: (moved_into_splits("train", "val", "test")(f), shutil.rmtree(f / "pictures/val/disc")),
        ["val has no images of disc", "every split needs"],
    ),
    "too few images of a class": Case(
        PREPARE, lambda f: [path.unlink() for path in (f / "pictures/bar").glob("0[1-9].png")], ["bar", "add images"]
    ),
    "output folder that is a file": Case(
        PREPARE,
        lambda f: (shutil.rmtree(f / "data"), (f / "data").touch()),
        ["data/prepared/tiny goes through a file", "move that file away"],
    ),
    # prepared tables
    "missing table of images": Case(EXPLAIN, removed(TEST), ["test.parquet does not exist", "run the workflow"]),
    "truncated table of images": Case(EXPLAIN, cut(TEST), ["test.parquet cannot be read", AGAIN]),
    "empty table of images": Case(EXPLAIN, written(TEST, b""), ["test.parquet cannot be read", AGAIN]),
    "text for a table of images": Case(
        EXPLAIN, written(TEST, b"image_id,label\n"), ["test.parquet cannot be read", AGAIN]
    ),
    "folder for a table of images": Case(EXPLAIN, a_folder(TEST), ["test.parquet", AGAIN]),
    "foreign table": Case(EXPLAIN, foreign, ["test.parquet lacks the column image_id, image", AGAIN]),
    "table with a damaged image": Case(
        EXPLAIN, spoilt_inside, ["test.parquet cannot be used", "fix, replace or remove"]
    ),
    "table without images": Case(EXPLAIN, changed_table(TEST, lambda t: t.slice(0, 0)), ["has no images", "prepare"]),
    "table with a repeated image": Case(
        EXPLAIN, changed_table(TEST, column_set("image_id", lambda ids: [ids[0], *ids[:-1]])), ["repeats the image_id"]
    ),
    "labels with a gap": Case(
        EXPLAIN,
        changed_table(TEST, column_set("label", lambda labels: [9 * x for x in labels])),
        ["labels must be 0 to K-1"],
    ),
    "damaged dataset.json": Case(TRAINING, cut(DATASET), ["dataset.json is damaged", AGAIN]),
    "dataset.json without classes": Case(
        TRAINING, changed_json(DATASET, lacking("classes")), ["dataset.json lacks 'classes'", AGAIN]
    ),
    "a list for dataset.json": Case(TRAINING, written(DATASET, b"[]"), ["dataset.json is damaged", AGAIN]),
    # models
    "missing weights": Case(EXPLAIN, removed(WEIGHTS), ["model.safetensors does not exist"]),
    "truncated weights": Case(EXPLAIN, cut(WEIGHTS), ["model.safetensors cannot be read"]),
    "weights of zero bytes": Case(EXPLAIN, written(WEIGHTS, b""), ["model.safetensors"]),
    "NaN weights": Case(
        EXPLAIN,
        changed_tensors(WEIGHTS, first_is(np.nan, "blocks.1.mlp.fc1.weight")),
        ["NaN", "blocks.1.mlp.fc1.weight"],
    ),
    "a tensor is missing": Case(
        EXPLAIN, changed_tensors(WEIGHTS, lacking("norm.bias")), ["does not fit", "missing: norm.bias", "Check model"]
    ),
    "a tensor of another shape": Case(
        EXPLAIN,
        changed_tensors(WEIGHTS, lambda t: t.__setitem__("head.bias", np.zeros(7, np.float32))),
        ["wrong shape: head.bias is (7,), not (3,)"],
    ),
    "a model that gives NaN": Case(
        EXPLAIN,
        changed_tensors(WEIGHTS, lambda t: t["blocks.1.mlp.fc2.bias"].__setitem__(slice(None), 3e38)),
        ["not finite", "6 of 6 images", "first after blocks.2", "check its weights"],
    ),
    "a model that gives NaN to subsets": Case(
        ANSWER,
        changed_tensors(WEIGHTS, lambda t: t["blocks.1.mlp.fc2.bias"].__setitem__(slice(None), 3e38)),
        ["not finite", "images", "check its weights"],
    ),
    "damaged model.json": Case(EXPLAIN, cut(MODEL), ["model.json is damaged", AGAIN]),
    "model.json without preprocessing": Case(
        EXPLAIN, changed_json(MODEL, lacking("preprocess")), ["model.json lacks 'preprocess'", AGAIN]
    ),
    "model.json with an unknown architecture": Case(
        EXPLAIN, changed_json(MODEL, lambda r: r.__setitem__("architecture", "vit_x")), ["timm has no model 'vit_x'"]
    ),
    # SAEs
    "missing SAE": Case(
        EXPLAIN_GATED,
        removed("data/saes/tiny/layer_0"),
        ["layer_0/sae_weights.safetensors does not exist", "check the path"],
    ),
    "damaged cfg.json": Case(EXPLAIN_GATED, cut(SAE), ["layer_0 cannot be read as a sae-lens SAE"]),
    "truncated SAE": Case(EXPLAIN_GATED, cut(CODES), ["layer_0 cannot be read as a sae-lens SAE"]),
    "NaN in an SAE": Case(
        EXPLAIN_GATED, changed_tensors(CODES, first_is(np.nan, "W_dec")), ["layer_0 holds NaN", "W_dec"]
    ),
    "SAE training that diverges": Case(
        SAE_TRAINING,
        None,
        ["diverged", "sae.train.learning_rate"],
        {"--settings": '{"learning_rate": 1e12}'},
    ),
    "training that diverges": Case(
        TRAINING, None, ["diverged", "model.train.learning_rate"], {"--settings": '{"learning_rate": 1e12}'}
    ),
    # attributions, answers, scores
    "attributions of other images": Case(
        SCORE, changed_table(MAPS, lambda t: t.slice(1)), ["transmm.parquet holds other images", AGAIN]
    ),
    "attributions of another model": Case(
        SCORE,
        changed_table(ANSWERS, column_set("predicted", lambda p: [(x + 1) % 3 for x in p])),
        ["was made with another model", AGAIN],
    ),
    "attributions without relevance": Case(
        SCORE, changed_table(MAPS, lambda t: t.drop_columns("relevance")), ["transmm.parquet", "relevance", AGAIN]
    ),
    "truncated answers": Case(SCORE, cut(ANSWERS), ["responses.parquet cannot be read", AGAIN]),
    "missing scores": Case(COMPARE, removed(SCORES), ["transmm.parquet does not exist", "run the workflow"]),
    "truncated scores": Case(COMPARE, cut(SCORES), ["transmm.parquet cannot be read", AGAIN]),
    "scores without a metric": Case(
        COMPARE, changed_table(SCORES, lambda t: t.drop_columns("saco")), ["transmm.parquet", "saco", AGAIN]
    ),
    "scores of other images": Case(
        COMPARE, changed_table(SCORES, lambda t: t.slice(2)), ["has not the images", "delete"]
    ),
    "damaged comparison": Case(
        SUMMARY, cut("results/comparison.parquet"), ["comparison.parquet cannot be read", AGAIN]
    ),
    "damaged hypotheses": Case(DRAW, written("results/hypotheses.csv", b""), ["hypotheses.csv", AGAIN]),
    # arguments
    "unknown option": Case(PREPARE, None, ["unrecognized arguments: --outpt"], {"--outpt": "x"}),
    "missing option": Case(PREPARE, None, ["the following arguments are required: --output"], {"--output": None}),
    "settings that are not JSON": Case(EXPLAIN, None, ["--settings", "not a JSON object"], {"--settings": "seed=0"}),
    "settings that are a list": Case(EXPLAIN, None, ["--settings", "not a JSON object"], {"--settings": "[1]"}),
    "settings that lack a key": Case(EXPLAIN, None, ["the settings lack", "given: "], {"--settings": '{"x": 1}'}),
    "SAE without a layer": Case(EXPLAIN_GATED, None, ["--sae", "LAYER=FOLDER"], {"--sae": "data/saes/tiny"}),
    "SAE of a layer that is no number": Case(EXPLAIN_GATED, None, ["--sae", "LAYER=FOLDER"], {"--sae": "one=x"}),
    "a layer that is no number": Case(
        SAE_TRAINING, None, ["--layer", "invalid int value: 'first'"], {"--layer": "first"}
    ),
    "a layer beyond the depth": Case(SAE_TRAINING, None, ["layer 9 is beyond", "layers are 0 to 2"], {"--layer": "9"}),
    "no GPU": Case(ANSWER, None, ["device: cuda", "set `device: auto`"], {"--settings": '{"device": "cuda"}'}),
    "gates of a baseline": Case(EXPLAIN, None, ["--gates", "no gate"], {"--gates": "results/g.parquet"}),
    "a folder where a table goes": Case(EXPLAIN, a_folder(MAPS), ["transmm.parquet is a folder", "move it away"]),
    "a name that is too long": Case(
        EXPLAIN, None, ["a name that is too long", "shorten"], {"--relevance": "results/" + "x" * 300 + ".parquet"}
    ),
}


def with_options(arguments: list[str], options: dict[str, str | None]) -> list[str]:
    """Arguments with options replaced, added or taken away; settings in JSON are merged into the given ones."""
    arguments = list(arguments)
    for name, value in options.items():
        if name not in arguments:
            arguments += [name, str(value)]
            continue
        place = arguments.index(name)
        if value is None:
            del arguments[place : place + 2]
        elif "learning_rate" in value or "device" in value:
            arguments[place + 1] = json.dumps(merged(json.loads(arguments[place + 1]), json.loads(value)))
        else:
            arguments[place + 1] = value
    return arguments


def merged(settings: dict, changes: dict) -> dict:
    """The settings with keys changed wherever they occur."""
    return {
        key: changes.get(key, merged(value, changes) if isinstance(value, dict) else value)
        for key, value in settings.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_a_bad_input_ends_with_a_message_that_helps(name, copy, capsys):
    folder, commands = copy
    case = CASES[name]
    if case.change is not None:
        case.change(folder)
    module, *arguments = commands[case.command]
    capsys.readouterr()
    status = run(module, *with_options(arguments, case.options))
    said = capsys.readouterr().err
    assert status not in (0, None)
    assert "Traceback" not in said and "error: " in said
    missing = [words for words in case.says if words not in said]
    assert not missing, said[-1500:]


def test_unusual_images_are_used(copy, capsys):
    """Each under the name of a PNG, whatever it is; all at once, so that none is skipped."""
    folder, commands = copy
    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    frames = [Image.new("L", (8, 8), value) for value in (200, 0)]
    turned = Image.Exif()
    turned[0x0112] = 6
    tall = Image.fromarray(np.repeat(np.uint8([[255, 0]]), 4, 0))  # 4 high, 2 wide, light on the left
    unusual = {
        "CMYK JPEG": (JPEG.convert("CMYK"), "JPEG", {}),
        "16 bits": (Image.fromarray(grey), "PNG", {}),
        "palette": (JPEG.convert("P"), "PNG", {}),
        "palette with transparency": (JPEG.convert("P"), "PNG", {"transparency": 0}),
        "alpha": (Image.new("RGBA", (8, 8), (255, 0, 0, 128)), "PNG", {}),
        "grey with alpha": (Image.new("LA", (8, 8), (200, 0)), "PNG", {}),
        "one bit": (JPEG.convert("1"), "PNG", {}),
        "one pixel": (Image.new("RGB", (1, 1), (1, 2, 3)), "PNG", {}),
        "one row": (Image.new("L", (500, 1)), "PNG", {}),
        "floats": (Image.fromarray(FLOATS), "TIFF", {}),
        "animation": (frames[0], "GIF", {"save_all": True, "append_images": frames[1:]}),
        "turned": (tall, "TIFF", {"exif": turned}),
        "WebP": (JPEG, "WEBP", {}),
    }
    for number, (image, kind, options) in enumerate(unusual.values()):
        image.save(folder / f"pictures/disc/unusual{number:02d}.png", kind, **options)
    module, *arguments = commands[PREPARE]
    assert run(module, *arguments) == 0
    record = json.loads((folder / DATASET).read_text())
    assert record["n_skipped"] == 0 and record["n_read"] == 24 + len(unusual)
    preprocess = Preprocess(size=2, mean=(0,) * 3, std=(1,) * 3, interpolation="nearest")
    found = {}
    for split in ("train", "val", "test"):
        images = load_split(folder / f"data/prepared/tiny/{split}.parquet")
        found |= dict(zip(images.image_ids, images.tensors(preprocess), strict=True))
    names = list(unusual)
    seen = {names[int(name[-2:])]: tensor for name, tensor in found.items() if "unusual" in name}
    assert list(seen["animation"].unique()) == [pytest.approx(200 / 255, abs=0.01)], "the first frame"
    assert seen["turned"][0].tolist() == [[1, 1], [0, 0]], "EXIF 6: the left side is up"
    assert seen["alpha"][:, 0, 0].tolist() == pytest.approx([128 / 255, 0, 0], abs=0.01), "laid on black"
    assert (
        seen["16 bits"].min() < 0.4 and seen["16 bits"].max() > 0.6 and all(t.isfinite().all() for t in seen.values())
    )


def test_there_are_many():
    assert len(CASES) >= 60

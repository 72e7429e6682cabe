"""``fgg explain``: what it says and draws is what the package computes, and faults are named."""

import json
import re
import runpy
import subprocess
import sys

import numpy as np
import pytest
import tiny_dataset
import torch
from PIL import Image

import fgg
from fgg.cli import main


def test_an_image_of_the_dataset(explain, loaded, folder, tmp_path):
    model, preprocess, split = loaded
    status, out, err = explain(split.image_ids[2], "--features", 5)
    assert (status, err) == (0, "")
    saes = {layer: fgg.load_sae(folder / "data" / "saes" / "tiny" / f"layer_{layer}") for layer in (0, 1)}
    expected = fgg.attribute(model, split.tensors(preprocess, [2]), gate=fgg.Gate((0, 1)), saes=saes)
    name = tiny_dataset.CLASSES[int(expected.predicted)]
    assert f"prediction  {name} ({float(expected.confidence):.1%})" in out
    assert f"label       {split.label_names[2]}" in out
    assert all(other in re.search("then.*", out)[0] for other in set(tiny_dataset.CLASSES) - {name})
    assert "amplified" not in out, "half of the patches always are"
    picture = np.asarray(Image.open(tmp_path / "explained.png").convert("RGB"), dtype=float)
    assert picture.shape[1] > 3 * picture.shape[0] and picture.std() > 20
    assert len(re.findall("(?:BOOST|SUPPRESS)", out)) == 5


def test_a_file_is_prepared_as_the_dataset_was(explain, loaded, tmp_path):
    split = loaded[2]
    split.picture(1).save(tmp_path / "own.png")
    _, known, _ = explain(split.image_ids[1])
    _, own, _ = explain("own.png")
    without_label = [line for line in known.splitlines() if "label" not in line]
    assert own.splitlines()[1:] == without_label[1:] and own.startswith("own.png")


def test_a_model_of_ones_own_says_the_same(explain, loaded, folder, tmp_path):
    model, _, split = loaded
    split.picture(1).save(tmp_path / "own.png")
    (tmp_path / "names.txt").write_text("bar\ndisc\nnoise\n")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    saes = [f"--sae={layer}={folder}/data/saes/tiny/layer_{layer}" for layer in (0, 1)]
    _, known, _ = explain("own.png", "--output", "known.svg")
    own = explain(
        "own.png", "--model", "weights.pth", "--architecture", tiny_dataset.ARCHITECTURE, "--kwargs",
        '{"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2, "mlp_ratio": 2}', "--preprocess",
        '{"size": [40, 48], "crop": 32, "mean": [0.36, 0.3, 0.4], "std": [0.15, 0.2, 0.1], "interpolation": "bilinear"}',
        "--classes", "names.txt", *saes, "--output", "known.svg", directory=False,
    )  # fmt: skip
    told = "preprocessing: resized to 40 x 48{}, the 32 x 32 in the middle{}, channels rgb{}, bilinear{}, "
    told += "mean 0.36/0.3/0.4 and standard deviation 0.15/0.2/0.1{}"
    given = [" (given)", " (given)", " (the model takes 3)", " (given)", " (given)"]
    assert told.format(*[""] * 5) in known, "the model's folder is older than these records"
    assert own == (0, known.replace(told.format(*[""] * 5), told.format(*given)), "")
    home = folder / "data" / "models" / "tiny"
    assert explain("own.png", "--model", home, *saes, "--output", "known.svg", directory=False) == (0, known, "")
    assert (tmp_path / "known.svg").read_text().startswith("<?xml")


def test_several_images_and_another_method(explain, loaded, tmp_path):
    ids = loaded[2].image_ids
    assert explain(ids[0], "--method", "rollout", "--output", "one.png")[0] == 0
    status, out, _ = explain(*ids[:3], "--method", "rollout", "--output", "three.png")
    assert status == 0 and [line for line in out.splitlines() if line in ids] == ids[:3]
    one, three = (Image.open(tmp_path / name).size for name in ("one.png", "three.png"))
    assert one[0] == three[0] and 2.5 * one[1] < three[1] < 3 * one[1]
    assert "features" not in out and "strongest patch" in out


def test_a_name_cannot_control_the_terminal(explain, loaded, tmp_path):
    loaded[2].picture(1).save(tmp_path / "a\x1b[2J.png")
    status, out, _ = explain("a\x1b[2J.png", "--remove", 0)
    assert status == 0 and out.startswith("a\\x1b[2J.png\n")


def test_a_gate_without_saes(explain, loaded):
    status, out, _ = explain(loaded[2].image_ids[0], "--construction", "no_sae", "--layers", "1")
    assert status == 0 and "at layer 1" in out and "features" not in out


def test_a_layer_that_means_nothing_is_told(explain, loaded, folder):
    sae = f"--sae=2={folder}/data/saes/tiny/layer_1"
    status, _, err = explain(loaded[2].image_ids[0], "--layers", 2, sae)
    assert status == 0 and err.startswith("warning: layer 2: residual x gradient is analytically zero")
    home = folder / "data" / "models" / "tiny" / "model.safetensors"
    kwargs = '{"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2, "mlp_ratio": 2}'
    own = ("--model", home, "--architecture", tiny_dataset.ARCHITECTURE, "--kwargs", kwargs)
    Image.new("RGB", (40, 40), "teal").save("plain.png")
    _, out, err = explain("plain.png", *own, "--layers", "3", "--construction", "no_sae", directory=False)
    assert "layer 3: the gradient at the patches is zero, so the gate is 1" in err, "measured, where no record tells"
    assert re.search(r"prediction  class [012] \(", out), "classes are counted in the weights"


def test_the_preprocessing_is_that_of_the_weights(explain, loaded, folder, tmp_path):
    home = folder / "data" / "models" / "tiny"
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "model.safetensors").write_bytes((home / "model.safetensors").read_bytes())
    config = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 0.8, "interpolation": "bicubic"}
    told = {"architecture": tiny_dataset.ARCHITECTURE, "num_classes": 3, "label_names": ["x", "y", "z"]}
    loaded[2].picture(1).save(tmp_path / "own.png")
    kwargs = '{"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2, "mlp_ratio": 2}'
    own = [
        "own.png",
        "--method",
        "rollout",
        "--model",
        "own",
        "--architecture",
        tiny_dataset.ARCHITECTURE,
        "--kwargs",
        kwargs,
    ]
    _, out, _ = explain(*own, directory=False)
    assert "mean 0.5/0.5/0.5 and standard deviation 0.5/0.5/0.5 (assumed: timm's for the architecture" in out
    (tmp_path / "own" / "config.json").write_text(json.dumps(told | {"pretrained_cfg": config}))
    _, out, _ = explain(*own, directory=False)
    assert (
        "preprocessing: shorter side resized to 40 (own/config.json), the 32 x 32 in the middle (own/config.json)"
        in out
    )
    assert "bicubic (own/config.json), mean 0.1/0.2/0.3 and standard deviation 0.4/0.5/0.6 (own/config.json)" in out
    assert re.search(r"prediction  [xyz] \(", out), "the classes, too"
    _, out, _ = explain(*own, "--preprocess", '{"mean": [0, 0, 0]}', directory=False)
    assert "mean 0/0/0 (given), standard deviation 0.4/0.5/0.6 (own/config.json)" in out
    status, _, err = explain(*own, "--preprocess", '{"channels": "dark_lines"}', directory=False)
    assert status == 1 and "the channels 'dark_lines' need mean and std, which the weights do not name" in err
    status, _, err = explain(*own, "--preprocess", '{"resize": 32}', directory=False)
    assert status == 1 and "--preprocess: unknown resize; the keys are size, crop, channels" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.png"], "nowhere.png is no file and no image_id of the dataset"),
        (["text.png"], "text.png cannot be used: not an image"),
        (["empty"], r"the folder empty holds no image; images end in \.png"),
        (["ID", "--dataset", "other"], r"no trained dataset 'other' in .*models; there: tiny.*--directory"),
        (["ID", "--class", "dics"], "--class 'dics' is unknown; choose from disc, …, or an index from 0 to 2"),
        (["ID", "--class", "3"], "--class '3' is unknown; choose from bar, disc, noise, or an index from 0 to 2"),
        (["ID", "--layers", "2"], r"no SAE for layer 2 \(there are: 0, 1\).*--sae 2=PATH"),
        (["ID", "--layers", "9", "--construction", "no_sae"], "layer 9 is beyond the model's depth 4"),
        (["ID", "--sae", "0=wide"], "SAE for layer 0 has width 12, but the model's residual stream has 24"),
        (["ID", "--sae", "wide"], "--sae 'wide': write LAYER=PATH"),
        (["ID", "--sae", "0=nowhere"], "nowhere does not exist"),
        (["ID", "--method", "gradcam", "--layers", "1"], "--layers belongs to --method gated"),
        (["ID", "--output", "picture.txt"], "picture.txt: pictures are written as .png"),
        (["ID", "--output", "text.png/picture.png"], "text.png is a file, but a folder is needed"),
        (["ID", "--clamp-max", "1"], "clamp_max: 1.0 must be above 1"),
        (["ID", "--architecture", "x"], "--architecture describes a model of your own; give it with --model"),
        (["ID", "--model", "x", "--dataset", "tiny"], "--dataset and --model exclude each other"),
        (["ID", "--model", "text.png"], "text.png is no folder with a model.json.*--architecture"),
        (["ID", "--method", "rollout,rollout"], "--method names rollout twice"),
        (["ID", "--method", "rolout"], "method 'rolout' is unknown; choose from"),
        (["ID", "--method", "cue_map"], "--method cue_map reads the masks of a dataset"),
        (["ID", "--remove", "101"], "--remove 101: give a percentage"),
        (["ID", "--fill", "training_mean"], "--fill 'training_mean' is unknown; choose from mean"),
        (["ID", "--maps", "maps.txt"], r"--maps maps.txt: end the name in \.npy"),
        (["ID", "--panels", "text.png"], "--panels: text.png is a file, but a folder is needed"),
        (["ID", "--maps", "empty"], r"--maps empty: end the name in \.npy"),
        (["ID", "--output", "empty.png"], "--output empty.png is a folder, but a file is needed"),
        (
            ["ID", "--patch-features", "f.parquet", "--construction", "no_sae"],
            "--patch-features needs a gate made of SAE",
        ),
        (["ID", "--patch-features", "f.parquet", "--method", "rollout"], "--patch-features needs a gate made of SAE"),
        (["own.png", "--output", "own.png"], "--output own.png would replace the image own.png"),
        (["photos", "--output", "photos/own.png"], "--output photos/own.png would replace an image of the folder"),
        (["ID", "--json=a.json", "--output", "a.json"], "--json and --output name the same file"),
        (["ID", "--no-picture", "--output", "a.png"], "--no-picture and --output exclude each other"),
        (["own.png", "photos", "--maps", "m.npz"], r"--maps: own.png and photos/own.png would share a name"),
        (["ID"] * 41, "41 images are too many for one picture; give at most 40"),
    ],
)
def test_faults_are_named(arguments, says, explain, loaded, tmp_path, make_sae):
    from fgg.saes.build_sae import save_inference

    (tmp_path / "text.png").write_text("this is no picture")
    (tmp_path / "wide").mkdir()
    for name in ("empty", "empty.png", "photos"):
        (tmp_path / name).mkdir()
    for name in ("own.png", "photos/own.png"):
        Image.new("RGB", (40, 48), "teal").save(tmp_path / name)
    if "0=wide" in arguments:
        save_inference(make_sae(1, width=12), tmp_path / "wide")
    status, out, err = explain(*[loaded[2].image_ids[0] if each == "ID" else each for each in arguments])
    assert status == 1 and "picture:" not in out
    assert re.fullmatch(f"error: .*({says}).*\n", err), err


def test_nothing_trained_here(explain, tmp_path):
    status, _, err = explain("x.png", directory=False)
    assert status == 1 and str(tmp_path) in err and "make results" in err and "--directory" in err


def test_wrong_values_of_options(capsys):
    for option, says in (("--layers=a", "such as 1,2"), ("--kwargs={", "is not JSON"), ("--kwargs=3", "no JSON object"),
                         ("--features=0", "at least 1"), ("--construction=all", "combined")):  # fmt: skip
        with pytest.raises(SystemExit):
            main(["explain", "x.png", option])
        assert says in capsys.readouterr().err


def test_the_help_needs_no_torch_and_names_every_part():
    code = (
        "import sys; from fgg.cli import main; main([]); "
        "assert not {'torch', 'matplotlib'} & set(sys.modules); main(['explain', '--help'])"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "explain images: prediction, SAE features" in said
    for part in ("a dataset that the workflow has trained", "or a model of your own", "what is computed", "examples:"):
        assert part in said


def test_python_m_fgg(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fgg", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("fgg", run_name="__main__")
    assert end.value.code == 0 and capsys.readouterr().out == f"fgg {fgg.__version__}\n"

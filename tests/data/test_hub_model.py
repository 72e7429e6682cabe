"""A whole repository of a model on the hub, as ``hf://OWNER/REPOSITORY``."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from server import COMMIT, Server

from fgg.data import transfer
from fgg.data.download import download
from fgg.data.hub_files import wanted
from fgg.data.locations import hub_rows, local_settings
from fgg.errors import FggError
from fgg.models.hugging_face import described
from fgg.models.image_records import said_by_weights
from fgg.models.vit import load_model

SIZES = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 32,
    "patch_size": 8, "num_labels": 3,
}  # fmt: skip
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 32},
    "image_mean": [0.1, 0.2, 0.3],
}
BASE = "vit_base_patch16_224"


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    return transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES)).eval()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(transfer, "BACKOFF", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    with Server() as own:
        monkeypatch.setenv("HF_ENDPOINT", own.url)
        yield own


def repository(model, folder, shard="1GB", within="", **more):
    """The files of a repository, some of which nobody needs."""
    model.save_pretrained(folder, max_shard_size=shard)
    found = {f"{within}{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}
    processor = json.dumps(PROCESSOR | {"image_std": [0.4, 0.5, 0.6]}).encode()
    return (
        found | {f"{within}preprocessor_config.json": processor, "README.md": b"#", "tf_model.h5": b"not wanted"} | more
    )


def fetched(address):
    """The path of a setting, after its download."""
    settings = {
        "source": "elpv",
        "path": None,
        "sae": {"weights": "train", "layers": [1]},
        "model": {"weights": address},
    }
    own = local_settings(settings)
    for row in hub_rows([own]).values():
        download(row, Path("data/downloads"))
    return own["model"]["weights"]


@pytest.mark.parametrize("shard", ["1GB", "10KB"])
@pytest.mark.parametrize("within", ["", "v1.5/best/"])
def test_a_whole_repository(hub, tmp_path, theirs, shard, within):
    hub.hub["owner/vit"] = repository(theirs, tmp_path / "made", shard, within)
    path = fetched(f"hf://owner/vit/{within}".rstrip("/"))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    model = load_model(BASE, {}, path)
    with torch.no_grad():
        assert torch.allclose(model(images), theirs(images).logits, atol=1e-5)
    said = said_by_weights({"weights": path}, model, described(path))
    assert said.mean == (0.1, 0.2, 0.3) and said.std == (0.4, 0.5, 0.6) and said.resize == [32, 32]
    asked = {name.rsplit("/", 1)[-1] for _, name, _ in hub.requests if "/resolve/" in name}
    assert not {"README.md", "tf_model.h5"} & asked


@pytest.mark.parametrize("file", ["model.safetensors", "model.safetensors.index.json", "model-00002-of-*.safetensors"])
def test_one_file_brings_what_belongs_to_it(hub, tmp_path, theirs, file):
    hub.hub["owner/vit"] = repository(theirs, tmp_path / "made", "1GB" if file == "model.safetensors" else "10KB")
    path = fetched(f"hf://owner/vit/{file}")
    assert load_model(BASE, {}, path.replace("-00002-of-*", "-*")).pretrained_cfg["mean"] == (0.1, 0.2, 0.3)


def test_pickles_where_there_is_nothing_else(hub, tmp_path, theirs):
    files = repository(theirs, tmp_path / "made")
    del files["model.safetensors"]
    torch.save(theirs.state_dict(), tmp_path / "w.bin")
    hub.hub["owner/vit"] = files | {"pytorch_model.bin": (tmp_path / "w.bin").read_bytes(), "training_args.bin": b"x"}
    assert load_model(BASE, {}, fetched("hf://owner/vit")).num_classes == 3
    assert not any("training_args" in name for _, name, _ in hub.requests if "/resolve/" in name)


def test_a_damaged_part_is_refused(hub, tmp_path, theirs, monkeypatch):
    hub.hub["owner/vit"] = files = repository(theirs, tmp_path / "made", "10KB")
    part = next(name for name in files if name.startswith("model-00002"))
    hub.faults[f"/owner/vit/resolve/{COMMIT}/{part}"] = ["corrupt"] * 9
    with pytest.raises(FggError, match=f"{part} is not the expected file"):
        fetched("hf://owner/vit")
    assert not (tmp_path / "data/downloads/hub/owner/vit").exists()


def test_a_repository_without_weights(hub):
    hub.hub["owner/set"] = {"config.json": b"{}", "README.md": b"#"}
    with pytest.raises(FggError, match=r"has no file model\.safetensors or .*; it holds README\.md, config\.json"):
        fetched("hf://owner/set")
    with pytest.raises(FggError, match=r"model\.weights: 'hf://owner' is not an address .*write hf://OWNER/REPOSITORY"):
        fetched("hf://owner")


WHOLE = "model.safetensors|model-*-of-*.safetensors|pytorch_model.bin|pytorch_model-*-of-*.bin"
BESIDE = ["optional:config.json", "optional:preprocessor_config.json"]


@pytest.mark.parametrize(
    ("within", "weights"),
    [
        ("", [WHOLE]),
        ("a/v2.1", [f"a/v2.1/{WHOLE}"]),
        ("x.pth", ["x.pth"]),
        ("a/*.pth", ["a/*.pth"]),
        ("best*", ["best*"]),
        ("open_clip_*model.*", ["open_clip_*model.*"]),
        ("m.safetensors.index.json", ["m.safetensors.index.json", "m-*-of-*.safetensors"]),
        ("m-00001-of-00002.safetensors", ["m-*-of-*.safetensors"]),
    ],
)
def test_the_patterns(within, weights):
    found = wanted("model.weights", within)
    assert [each for each in found if not each.startswith("optional:")] == weights
    beside = [each.replace("a/v2.1/", "").replace("a/", "") for each in found if each.endswith("config.json")]
    assert beside == ([] if within.startswith("open_clip") else BESIDE)

"""``fgg share``: the folder, its card, what must not be in it, and what is sent where."""

from __future__ import annotations

import getpass
import json
import re
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
import tiny_dataset as tiny
import torch
import yaml
from hub_uploads import UploadHub
from PIL import Image
from safetensors import safe_open

from fgg import cli
from fgg.cases import prototypes
from fgg.errors import FggError
from fgg.saes.provenance import file_hash
from fgg.saes.sae import load_sae
from fgg.share import folder as shared_folder
from fgg.share.private import is_local, without_paths
from fgg.tables import read_json, write_json

FILES = {
    "README.md",
    *(
        f"layer_{layer}/{name}"
        for layer in tiny.LAYERS
        for name in ("cfg.json", "sae_weights.safetensors", "metrics.json")
    ),
    "layer_0/features.png",
}
METADATA = {
    "hook_name": "blocks.1.hook_resid_post", "layer": 1, "place": "checked", "kind": "trained", "dataset": "tiny",
    "split": "train", "seed": 3, "tokens_seen": 12345, "checkpoint_path": "/home/somebody/runs/7/final",
    "source": {"files": ["relative/ok", "C:\\Users\\somebody\\sae.pt"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A run with SAEs of two layers, one of which says where it comes from, and prototypes of the other."""
    folder = tiny.make(tmp_path_factory.mktemp("run"))
    for layer in tiny.LAYERS:
        place = folder / f"data/saes/tiny/layer_{layer}"
        measured = {"layer": layer, "explained_variance": 0.5 + layer / 8, "l0": 7.25, "brand_new_measure": 0.125}
        measured |= {"histogram": [1, 2], "warnings": ["look at this"] if layer else []}
        write_json(place / "metrics.json", measured, {"weights": "/home/somebody/secret.pt"})
    config = folder / "data/saes/tiny/layer_1/cfg.json"
    settings = json.loads(config.read_text())
    model = {"architecture": tiny.ARCHITECTURE, "sha256": file_hash(folder / "data/models/tiny/model.safetensors")}
    settings["metadata"] = {**settings["metadata"], **METADATA, "model": model}
    config.write_text(json.dumps(settings))
    own = ["--model", folder / "data/models/tiny", "--sae", folder / "data/saes/tiny/layer_0", "--layer", 0]
    own += ["--images", folder / "data/prepared/tiny/train.parquet", "--output"]
    own += [folder / "results/tiny/prototypes/layer_0.parquet", "--settings"]
    own += [json.dumps({**tiny.SETTINGS, "prototypes": 9, "prototype_images": None})]
    assert prototypes.main([str(argument) for argument in own]) == 0
    return folder


def share(directory, output, *more):
    """Run the command; its exit code."""
    return cli.main(["share", "--directory", str(directory), "--output", str(output), *more])


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def shared(directory, tmp_path_factory):
    output = tmp_path_factory.mktemp("shared") / "saes"
    assert share(directory, output, "--license", "cc-by-4.0") == 0
    return output


def front_matter(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    _, matter, body = re.split(r"^---\n", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(matter), body


def test_the_folder_is_complete(shared):
    assert set(contents(shared)) == FILES
    with Image.open(shared / "layer_0/features.png") as picture:
        assert picture.width > 800 and picture.height > 400


def test_sae_lens_reads_it_and_gives_what_the_source_gives(shared, directory):
    from sae_lens import SAE

    for layer in tiny.LAYERS:
        source = load_sae(directory / f"data/saes/tiny/layer_{layer}")
        copies = SAE.load_from_disk(shared / f"layer_{layer}"), load_sae(shared / f"layer_{layer}")
        rows = torch.randn(50, source.W_dec.shape[1], generator=torch.Generator().manual_seed(layer))
        for copy in copies:
            torch.testing.assert_close(copy.encode(rows), source.encode(rows), atol=1e-6, rtol=0)
            torch.testing.assert_close(
                copy.decode(copy.encode(rows)), source.decode(source.encode(rows)), atol=1e-6, rtol=0
            )
        with safe_open(shared / f"layer_{layer}/sae_weights.safetensors", "pt") as file:
            assert not file.metadata()
    assert copies[0].cfg.metadata.hook_name == METADATA["hook_name"]


def test_the_card_says_what_the_files_hold(shared, directory):
    matter, body = front_matter(shared)
    assert matter["license"] == "cc-by-4.0" and matter["library_name"] == "saelens"
    assert {"sparse-autoencoder", "fgg"} <= set(matter["tags"])
    for layer in tiny.LAYERS:
        assert file_hash(shared / f"layer_{layer}/sae_weights.safetensors") in body
    assert "blocks.0.hook_resid_post" in body and "blocks.1.hook_resid_post" in body
    assert file_hash(directory / "data/models/tiny/model.safetensors") in body and tiny.ARCHITECTURE in body
    assert "| `explained_variance` | explained variance of the residuals, 1 is best | 0.5 | 0.625 |" in body
    assert "| `brand_new_measure` | brand new measure | 0.125 | 0.125 |" in body
    assert "- layer 1: look at this" in body and "histogram" not in body
    assert "train 6, val 6, test 6" in body
    assert 'SAE.load_from_disk("layer_0")' in body and "hf://OWNER/REPO/layer_{layer}" in body
    assert "![Features of layer 0" in body and "(layer_0/features.png)" in body
    assert "layer_1/features.png" not in body


def test_nothing_names_a_folder_or_a_user_of_this_machine(shared, directory, capsys, tmp_path):
    for name, data in contents(shared).items():
        if name.endswith((".json", ".md")):
            text = data.decode()
            assert "somebody" not in text and str(directory) not in text and str(Path.home()) not in text, name
            assert not re.search(rf"[/\\]{re.escape(getpass.getuser())}\b", text), name
    settings = json.loads((shared / "layer_1/cfg.json").read_text())
    assert settings["metadata"]["source"] == {"files": ["relative/ok"]}
    assert settings["metadata"]["tokens_seen"] == METADATA["tokens_seen"] and settings["device"] == "cpu"
    assert share(directory, tmp_path / "out", "--layer", "1", "--no-images") == 0
    said = capsys.readouterr().out
    assert "left out, because it holds a path of this machine: cfg.json.metadata.checkpoint_path" in said
    assert "the card has no licence" in said
    assert front_matter(tmp_path / "out")[0]["license"] == "unknown"


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("/home/me/x", True),
        ("at ~/sae", True),
        ("C:\\Users\\x", True),
        ("D:/data", True),
        ("file:///x", True),
        ("\\\\server\\share", True),
        ("in '/mnt/x'", True),
        ("https://huggingface.co/a/b", False),
        ("hf://owner/repo/layer_2", False),
        ("data/saes/elpv", False),
        ("sum of a / b", False),
        ("blocks.2.hook_resid_post", False),
        ("1 ~ 2", False),
    ],
)
def test_what_is_a_path_of_a_machine(text, local):
    assert is_local(text) is local
    left_out: list[str] = []
    kept = without_paths({"a": {"b": [text, 1]}, text: 2}, "c", left_out)
    assert (kept == {"a": {"b": [1]}}) is local and (len(left_out) == 2) is local


def test_the_same_again_gives_the_same_bytes(shared, directory, tmp_path):
    assert share(directory, tmp_path / "again", "--license", "cc-by-4.0") == 0
    assert contents(tmp_path / "again") == contents(shared)


def test_a_folder_with_files_is_only_written_with_force(directory, tmp_path, capsys):
    output = tmp_path / "out"
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    assert share(directory, output, "--layer", "0") == 1
    assert "is not empty; choose another --output, or add --force" in capsys.readouterr().err
    assert set(contents(output)) == {"mine.txt"}
    assert share(directory, output, "--layer", "0", "--force") == 0
    assert contents(output)["mine.txt"] == b"mine" and "layer_0/cfg.json" in contents(output)


def test_a_copy_that_gives_other_values_is_refused(directory, tmp_path, monkeypatch):
    from safetensors import torch as files

    written = files.save_file

    def damaged(tensors, path, **more):
        tensors["W_dec"][3] *= 1 + 1e-4
        written(tensors, path, **more)

    monkeypatch.setattr(files, "save_file", damaged)
    with pytest.raises(FggError, match="decode of what was written differs from the source by"):
        shared_folder.write_sae(directory / "data/saes/tiny/layer_0", tmp_path, 0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--dataset", "elpv"], "no SAE of a dataset 'elpv'"),
        (["--layer", "7"], "has no SAE of layer 7; there: layer 0, 1"),
        (["--license", "My own!"], "is no identifier of a licence"),
        (["--license", "other"], "needs --license-link"),
        (["--upload", "me/x"], "an upload needs the SAEs' licence"),
        (["--upload", "me/x", "--license", "unknown"], "an upload needs the SAEs' licence"),
        (["--upload", "no-owner", "--license", "mit"], "write OWNER/REPO"),
        (["--public"], "--public belongs to --upload"),
    ],
)
def test_what_is_refused_before_anything_is_written(directory, tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert share(directory, tmp_path / "out", *more) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_saes_is_told(tmp_path, capsys):
    assert share(tmp_path, tmp_path / "out") == 1
    assert "SAEs of no datasets" in capsys.readouterr().err


# ---- uploads


@pytest.fixture
def hub(monkeypatch):
    """A local hub; huggingface_hub reads some settings at import."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    with UploadHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_an_upload_sends_exactly_the_files_with_the_token(hub, directory, tmp_path, capsys):
    output = tmp_path / "out"
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    assert share(directory, output, "--license", "mit", "--upload", "me/saes", "--force") == 0
    own = contents(output)
    del own["mine.txt"]
    assert set(own) == FILES and hub.files == {"me/saes": own}
    assert hub.created == {"me/saes": True}, "private"
    assert {token for method, _, token in hub.requests if method == "POST"} == {"Bearer hf_good"}
    assert "hf://me/saes/layer_{layer}" in own["README.md"].decode()
    said = capsys.readouterr()
    assert f"uploaded {len(FILES)} files: {hub.url}/me/saes" in said.out and "hf_good" not in said.out + said.err
    # Again, into the repository that now exists.
    assert share(directory, output, "--license", "mit", "--upload", "me/saes", "--force", "--layer", "0") == 0


def test_a_public_repository_only_when_told_to(hub, directory, tmp_path):
    more = ("--license", "mit", "--upload", "me/saes", "--public", "--layer", "0", "--no-images")
    assert share(directory, tmp_path / "out", *more) == 0
    assert hub.created == {"me/saes": False}


def test_nothing_is_sent_without_being_told_to(hub, directory, tmp_path, capsys):
    assert share(directory, tmp_path / "out", "--license", "mit", "--layer", "0") == 0
    assert not hub.requests
    assert "nothing was uploaded" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("token", "repository", "message"),
    [
        ("hf_bad", "me/saes", "does not accept your token"),
        ("hf_good", "others/saes", "your token has no right to write to others/saes"),
    ],
)
def test_a_token_without_the_right(hub, directory, tmp_path, capsys, monkeypatch, token, repository, message):
    monkeypatch.setenv("HF_TOKEN", token)
    more = ("--license", "mit", "--upload", repository, "--layer", "0", "--no-images")
    assert share(directory, tmp_path / "out", *more) == 1
    said = capsys.readouterr().err
    assert message in said and token not in said
    assert not hub.files


def test_no_token(hub, directory, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "absent"))
    assert share(directory, tmp_path / "out", "--license", "mit", "--upload", "me/saes") == 1
    assert "an upload needs your token" in capsys.readouterr().err
    assert not hub.requests and not (tmp_path / "out").exists()


def test_a_login_is_as_good_as_a_variable(hub, directory, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text("hf_good\n")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    more = ("--license", "mit", "--upload", "me/saes", "--layer", "0", "--no-images")
    assert share(directory, tmp_path / "out", *more) == 0
    assert hub.files["me/saes"] == contents(tmp_path / "out")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:9", "cannot be reached"),
        ("http://hub.example.com", "without encryption"),
    ],
)
def test_a_hub_that_is_not_there_and_one_that_is_not_encrypted(
    hub, directory, tmp_path, capsys, monkeypatch, address, message
):
    monkeypatch.setenv("HF_ENDPOINT", address)
    more = ("--license", "mit", "--upload", "me/saes", "--layer", "0", "--no-images")
    assert share(directory, tmp_path / "out", *more) == 1
    assert message in capsys.readouterr().err
    assert not hub.requests


def test_offline_is_told(hub, directory, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    more = ("--license", "mit", "--upload", "me/saes", "--layer", "0", "--no-images")
    assert share(directory, tmp_path / "out", *more) == 1
    assert "HF_HUB_OFFLINE is set; unset it" in capsys.readouterr().err


def test_metrics_are_shared_without_the_settings(shared):
    for layer in tiny.LAYERS:
        assert "fgg" not in read_json(shared / f"layer_{layer}/metrics.json")

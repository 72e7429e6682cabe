"""Training from a buffer of bounded size: every row once, the same bytes after a kill, and what a learning curve says."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fgg.data.load import load_split
from fgg.errors import FggError
from fgg.models import model_files
from fgg.saes import build_sae
from fgg.saes.activations import InMemory, Residuals, residual
from fgg.saes.checkpoint import Checkpoint
from fgg.saes.measures import measure
from fgg.saes.sae import load_sae
from fgg.saes.saving import save_inference
from fgg.saes.training import train

LAYER, WIDTH, PATCHES = 1, 24, 16
CPU = torch.device("cpu")
TRAIN = {"expansion": 4, "k": 6, "l1": 0.1, "l0": 1.0, "learning_rate": 1e-3, "batch_size": 64, "tokens": 6400}
ROOMS = [1, 3, 7]  # images in the buffer


@pytest.fixture(scope="module")
def model(model_folder):
    return model_files.load(model_folder, CPU)[:2]


@pytest.fixture(scope="module")
def whole(data, model):
    """All residuals of the training images, one image at a time."""
    network, preprocess = model
    rows = []
    hook = network.blocks[LAYER].register_forward_hook(lambda block, given, output: rows.append(output[0].detach()))
    for image in load_split(data / "train.parquet").tensors(preprocess):
        network(image[None])
    hook.remove()
    return torch.stack(rows)


def source(data, model, room=None, **options):
    found = Residuals(*model, data / "train.parquet", LAYER, CPU, 0, **options)
    if room is not None:  # smaller than a batch of the model, for the test
        found._room = room
    return found


def as_set(rows):
    return sorted(tuple(np.round(row.double().numpy(), 4)) for row in rows)


def rows_of(count=4000):
    draw = torch.Generator().manual_seed(0)
    mixed = torch.randn(count, 8, generator=draw) @ torch.randn(8, WIDTH, generator=draw)
    return mixed + 0.1 * torch.randn(count, WIDTH, generator=draw) + torch.randn(WIDTH, generator=draw)


@pytest.mark.parametrize("prefix", [False, True])
def test_the_stream_stops_after_its_layer_and_has_the_tokens_that_are_asked_for(data, model, whole, prefix):
    network, _ = model
    ran = []
    hook = network.blocks[LAYER + 1].register_forward_hook(lambda *_: ran.append(1))
    rows = source(data, model, prefix=prefix).first()
    hook.remove()
    assert not ran
    expected = whole if prefix else whole[:, 1:]
    assert torch.allclose(rows, expected.flatten(0, 1), atol=1e-5)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("room", ROOMS)
def test_an_epoch_shows_every_row_once_whatever_the_buffer(data, model, whole, room):
    own = source(data, model, room)
    assert not own.fits
    expected = as_set(whole[:, 1:].flatten(0, 1))
    assert as_set(torch.cat([part.clone() for part in own.parts()])) == expected
    per_epoch = len(own) // 16
    epochs = own.shuffled(16, seed=3)
    first, second = (torch.cat(list(itertools.islice(epochs, per_epoch))) for _ in range(2))
    assert as_set(first) == as_set(second) == expected
    assert not torch.equal(first, second)
    assert own._buffer.shape == (room * PATCHES, WIDTH), "the memory is bounded"


@pytest.mark.parametrize("room", [*ROOMS, None])
@pytest.mark.parametrize("augmented", [False, True])
def test_batch_n_depends_on_the_seed_and_n_alone(data, model, room, augmented):
    """So a killed training can go on at any batch."""
    options = {"augmentation": {"flips": True, "shift": 2, "contrast": 0.1}} if augmented else {}
    batch = 48 if room != 1 else 12
    whole = list(itertools.islice(source(data, model, room, **options).shuffled(batch, seed=5), 40))
    for start in (0, 1, 13, 39):
        rest = list(
            itertools.islice(source(data, model, room, **options).shuffled(batch, seed=5, start=start), 40 - start)
        )
        assert all(map(torch.equal, whole[start:], rest))
    other = next(source(data, model, room, **options).shuffled(batch, seed=6))
    assert not torch.equal(whole[0], other)


def test_augmentation_changes_the_rows_in_every_epoch(data, model, whole):
    own = source(data, model, augmentation={"flips": True, "shift": 2, "contrast": 0.1})
    epochs = own.shuffled(len(own), seed=0)
    first, second = next(epochs), next(epochs)
    assert first.sort(0)[0].sub(second.sort(0)[0]).abs().max() > 0.01
    assert torch.allclose(own.first(), whole[:, 1:].flatten(0, 1), atol=1e-5), (
        "statistics come from the images as they are"
    )


def test_a_batch_that_the_buffer_cannot_hold(data, model):
    with pytest.raises(FggError, match="batch_size: 33 tokens are more than the 32 that the buffer holds; make"):
        next(source(data, model, 2).shuffled(33, seed=0))


def test_no_images(data, model, tmp_path):
    import pyarrow.parquet as pq

    empty = tmp_path / "train.parquet"
    pq.write_table(pq.read_table(data / "train.parquet").slice(0, 0), empty)
    with pytest.raises(FggError, match="has no images"):
        Residuals(*model, empty, LAYER, CPU, 0)


def test_residuals_that_are_not_finite(model):
    broken = copy.deepcopy(model[0])
    with torch.no_grad():
        broken.blocks[0].mlp.fc1.weight[0, 0] = torch.nan
    images = torch.zeros(1, 1 if broken.patch_embed.proj.in_channels == 1 else 3, *broken.patch_embed.img_size)
    with pytest.raises(FggError, match="after layer 1 is not finite"):
        residual(broken, images, 1)


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka", "jumprelu", "standard"])
@pytest.mark.parametrize("normalize", ["covariance_whitening", "expected_average_only_in", "none"])
def test_every_architecture_learns_and_is_the_same_when_read_back(architecture, normalize, tmp_path):
    rows, seen = rows_of(), []
    settings = {**TRAIN, "architecture": architecture, "normalize": normalize, "tokens": 64_000}

    def watch(sae):
        seen.append(measure(sae, rows))
        return {}

    sae = train(rows, settings, 0, checkpoint=Checkpoint(tmp_path / "state", "key"), watch=watch)
    save_inference(sae, tmp_path / "sae")
    back = load_sae(tmp_path / "sae")
    found = measure(back, rows)
    assert found["explained_variance"] > seen[0]["explained_variance"] + 0.2
    # The last point of the curve is 100 steps before the end, with the normalisation outside the SAE.
    assert found["explained_variance"] == pytest.approx(seen[-1]["explained_variance"], abs=0.12)
    if architecture == "topk":
        assert found["l0"] == 6
    elif architecture in ("batchtopk", "matryoshka"):
        assert found["l0"] == pytest.approx(6, rel=0.6)
    expected = "TopKSAE" if architecture == "topk" else "StandardSAE" if architecture == "standard" else "JumpReLUSAE"
    assert type(back).__name__ == expected


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka"])
def test_what_sae_lens_cannot_train(architecture):
    with pytest.raises(
        FggError, match=rf"cannot train the architecture {architecture} with layer_norm; choose another"
    ):
        train(rows_of(500), {**TRAIN, "architecture": architecture, "normalize": "layer_norm"}, 0)


class Killed(Exception):
    pass


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "jumprelu", "standard"])
@pytest.mark.parametrize("kind", ["trained", "frozen_decoder"])
def test_a_killed_training_ends_in_the_same_numbers(architecture, kind, tmp_path, capsys):
    rows = rows_of()
    settings = {**TRAIN, "architecture": architecture, "normalize": "covariance_whitening"}

    def watch(sae):
        return {"explained_variance": measure(sae, rows)["explained_variance"]}

    class Dying(InMemory):
        last = 0

        def shuffled(self, batch, seed, start=0):
            for number, part in enumerate(super().shuffled(batch, seed, start), start):
                if number == self.last:
                    raise Killed
                yield part

    undisturbed = Checkpoint(tmp_path / "whole", "key", seconds=1e9)
    expected = train(rows, settings, 0, kind, undisturbed, watch).state_dict()
    for at in (60, 97, 133):  # the first 50 batches only give the normalisation
        dying = Dying(rows)
        dying.last = at
        with pytest.raises(Killed):
            train(dying, settings, 0, kind, Checkpoint(tmp_path / "state", "key", seconds=0.0), watch)
    last = Checkpoint(tmp_path / "state", "key")
    found = train(rows, settings, 0, kind, last, watch).state_dict()
    assert "goes on after" in capsys.readouterr().out
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert last.points == undisturbed.points and len(last.points) == 10


@pytest.mark.parametrize("damage", ["cut", "text", "one bit", "other key"])
def test_a_state_that_is_damaged_or_of_another_training_is_not_resumed(damage, tmp_path, capsys):
    rows, settings = rows_of(), {**TRAIN, "architecture": "topk", "normalize": "none"}
    state = Checkpoint(tmp_path / "state", "key", seconds=0.0)
    expected = train(rows, settings, 0, checkpoint=state).state_dict()
    assert state.path.is_file()
    if damage == "cut":
        state.path.write_bytes(state.path.read_bytes()[:-100])
    elif damage == "one bit":  # in the weights, which torch would load without a word
        data, weights = bytearray(state.path.read_bytes()), torch.load(state.path)["sae"]["W_enc"].numpy().tobytes()
        data[data.index(weights) + len(weights) // 2] ^= 16
        state.path.write_bytes(data)
    elif damage == "text":
        state.path.write_text("nothing")
    key = "another" if damage == "other key" else "key"
    capsys.readouterr()
    found = train(rows, settings, 0, checkpoint=Checkpoint(state.path, key)).state_dict()
    said = capsys.readouterr().out
    assert "goes on" not in said and ("is damaged; the training starts anew" in said) == (damage != "other key")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_a_job_that_is_killed_goes_on_and_leaves_the_same_files(data, model_folder, sae_settings, tmp_path):
    settings = {**sae_settings, "train": {**sae_settings["train"], "tokens": 60_000, "buffer_tokens": 64}}
    code = "import sys, fgg.saes.checkpoint as c; c.SECONDS = 0.2\nfrom fgg.saes.checkpoint import Checkpoint\n"
    code += "Checkpoint.__init__.__defaults__ = (0.2, *Checkpoint.__init__.__defaults__[1:])\n"
    code += "from fgg.saes.build_sae import main; sys.exit(main())"

    def start(output):
        command = [sys.executable, "-c", code, "--model", model_folder, "--data", data, "--layer", str(LAYER)]
        command += ["--settings", json.dumps(settings), "--output", output]
        return subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=Path(__file__).parents[2], env={**os.environ, "WANDB_MODE": "disabled"},
        )  # fmt: skip

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    job = start(whole)
    assert job.wait() == 0, job.stdout.read()
    job = start(killed)
    while not (killed / build_sae.STATE).is_file():
        assert job.poll() is None, job.stdout.read()
        time.sleep(0.02)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert not (killed / "cfg.json").exists()
    again = start(killed)
    assert again.wait() == 0
    assert "the training goes on after" in again.stdout.read()
    assert digests(killed) == digests(whole)


def test_the_learning_curve_is_of_validation_images(sae_folder, sae_settings):
    found = json.loads((sae_folder / "metrics.json").read_text())
    curve = found["learning_curve"]
    assert len(curve) == 11 and curve[0]["tokens"] == 0
    assert [point["tokens"] for point in curve] == sorted(point["tokens"] for point in curve)
    last = {key: value for key, value in curve[-1].items() if key != "tokens"}
    assert last == {key: found[key] for key in last}
    own = sae_settings["train"]
    assert curve[-1]["tokens"] == own["tokens"] // own["batch_size"] * own["batch_size"]
    assert curve[0]["explained_variance"] < curve[-1]["explained_variance"]


def test_residuals_are_those_of_pytorchs_own_passes(make_model, make_images):
    """Bit by bit, so that a faster pass of the metrics makes no other SAEs; training modes are given back."""
    model = make_model(img_size=64, patch_size=8).train()
    images = make_images(model)
    found = residual(model, images, 1)
    assert model.training
    kept = []
    handle = model.eval().blocks[1].register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    with torch.no_grad():
        model(images)
    handle.remove()
    assert torch.equal(found, kept[0])

"""sae-lens://RELEASE/SAE_ID: resolved by sae-lens' table before any job, then downloaded and checked like other files."""

import json
import subprocess
import sys

import pytest
import torch
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory, get_repo_id_and_folder_name
from server import Server

from fgg.data.download import download
from fgg.data.hub import Repository, select
from fgg.data.locations import hub_rows, local_settings, weights_faults
from fgg.data.pretrained_saes import FILES, hub_address
from fgg.errors import FggError
from fgg.saes.build_sae import save_inference
from fgg.saes.sae import build_sae, load_sae

RELEASE, SAE = "pythia-70m-deduped-res-sm", "blocks.1.hook_resid_post"
OTHER = "sae_bench_pythia70m_sweep_topk_ctx128_0730"
WIDTH, FEATURES = 24, 48


def settings(weights, layers=(1, 2)):
    own = {"source": "elpv", "path": None, "model": {"weights": "train"}}
    return own | {"sae": {"weights": weights, "layers": list(layers)}}


def tensors():
    draw = torch.Generator().manual_seed(1)
    shapes = {"W_enc": (WIDTH, FEATURES), "W_dec": (FEATURES, WIDTH), "b_enc": (FEATURES,), "b_dec": (WIDTH,)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def test_every_address_is_that_of_sae_lens():
    resolved = 0
    for release, own in get_pretrained_saes_directory().items():
        if own.conversion_func not in FILES:
            continue
        for sae_id in own.saes_map:
            repository, folder = get_repo_id_and_folder_name(release, sae_id)
            try:
                found = hub_address(f"sae-lens://{release}/{sae_id}")
            except FggError as error:
                assert "sae-lens changes normalize_activations while it loads this SAE" in str(error)
            else:
                assert found == f"hf://{repository}/{folder}/{FILES[own.conversion_func]}"
                resolved += 1
    assert resolved > 100


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "sae-lens://pythia-70m-deduped-ressm/x",
            r"no release 'pythia-70m-deduped-ressm'; did you mean 'pythia-70m-dedu",
        ),
        (
            f"sae-lens://{RELEASE}/blocks.7.hook_resid_post",
            r"no SAE 'blocks\.7\.hook_resid_post'; did you mean 'blocks\.",
        ),
        ("sae-lens://qqqqqqqq/x", r"no release 'qqqqqqqq'; it has \d+, such as '"),
        (f"sae-lens://{RELEASE}", "write sae-lens://RELEASE/SAE_ID"),
        ("sae-lens:///x", "write sae-lens://RELEASE/SAE_ID"),
        ("sae-lens://mistral-7b-res-wg/blocks.8.hook_resid_pre", "changes normalize_activations while it loads"),
    ],
)
def test_what_sae_lens_does_not_know_is_refused_before_any_job(address, message):
    with pytest.raises(FggError, match=message):
        hub_address(address)
    (fault,) = weights_faults(settings(address, [1]))
    assert fault.startswith("sae.weights: 'sae-lens://")


def test_files_in_forms_that_fgg_does_not_read_are_refused():
    forms = {own.conversion_func: (release, next(iter(own.saes_map)))
             for release, own in get_pretrained_saes_directory().items()}  # fmt: skip
    unread = {form: place for form, place in forms.items() if form not in FILES}
    assert {"gemma_2", "temporal", "gemma_2_transcoder"} <= set(unread)
    for form, (release, sae_id) in unread.items():
        with pytest.raises(FggError, match=f"its files have the form '{form}', which fgg does not read"):
            hub_address(f"sae-lens://{release}/{sae_id}")


def test_a_layer_in_the_address_is_resolved_for_each_layer():
    own = local_settings(settings(f"sae-lens://{RELEASE}/blocks.{{layer}}.hook_resid_post"))
    place = "data/downloads/hub/ctigges/pythia-70m-deduped__res-sm_processed"
    assert own["sae"]["weights"] == {f"{i}": f"{place}/{i}-res-sm/sae_weights.safetensors" for i in (1, 2)}
    (row,) = hub_rows([own]).values()
    assert row.files.split() == [
        f"{i}-res-sm/{name}" for i in (1, 2) for name in ("cfg.json", "sae_weights.safetensors")
    ]
    mixed = {"default": f"sae-lens://{RELEASE}/{SAE}", "2": "own/layer_2"}
    found = local_settings(settings(mixed))["sae"]["weights"]
    assert found["2"] == "own/layer_2" and found["1"].endswith("1-res-sm/sae_weights.safetensors")
    same = f"sae-lens://{RELEASE}/{SAE}"
    assert list(weights_faults(settings(same))) == [
        f"sae.weights: {same!r} needs the placeholder {{layer}} for several layers"
    ]


def test_the_table_is_read_without_torch_and_without_sae_lens():
    code = (
        "import sys; from fgg.data.pretrained_saes import hub_address;"
        f"print(hub_address('sae-lens://{RELEASE}/{SAE}'), 'torch' in sys.modules, 'sae_lens' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said[1:] == ["False", "False"] and said[0].startswith("hf://ctigges/")


@pytest.mark.parametrize("form", ["sae_lens", "dictionary_learning_1"])
def test_it_is_downloaded_checked_and_read(form, tmp_path, monkeypatch):
    import huggingface_hub.constants

    sae = build_sae(tensors(), activation="topk", k=4)
    if form == "sae_lens":
        weights = f"sae-lens://{RELEASE}/{SAE}"
        repository, folder = get_repo_id_and_folder_name(RELEASE, SAE)
        save_inference(sae, tmp_path / "made")
    else:
        sae_id = next(iter(get_pretrained_saes_directory()[OTHER].saes_map))
        weights = f"sae-lens://{OTHER}/{sae_id}"
        repository, folder = get_repo_id_and_folder_name(OTHER, sae_id)
        (tmp_path / "made").mkdir()
        t = tensors()
        state = {
            "encoder.weight": t["W_enc"].T,
            "decoder.weight": t["W_dec"].T,
            "encoder.bias": t["b_enc"],
            "b_dec": t["b_dec"],
        }
        torch.save(state, tmp_path / "made" / "ae.pt")
        (tmp_path / "made" / "config.json").write_text(
            json.dumps({"trainer": {"dict_class": "AutoEncoderTopK", "k": 4}})
        )
    with Server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        server.hub[repository] = {f"{folder}/{file.name}": file.read_bytes() for file in (tmp_path / "made").iterdir()}
        own = local_settings(settings(weights, [1]))
        (row,) = hub_rows([own]).values()
        monkeypatch.chdir(tmp_path)
        found = download(row, tmp_path / "data" / "downloads")
    assert len(found["fetched"]) == 2 and all(len(each["sha256"]) == 64 for each in found["fetched"].values())
    x = torch.randn(5, WIDTH)
    assert torch.allclose(load_sae(own["sae"]["weights"]["1"]).encode(x), sae.encode(x), atol=1e-6)


def test_optional_files_may_be_absent():
    repository = Repository("o/r", "model", "main")
    patterns = ["sae.pt", "optional:config.json", "optional:config.yaml"]
    assert select(["sae.pt", "README.md"], patterns, repository) == ["sae.pt"]
    assert select(["sae.pt", "config.yaml"], patterns, repository) == ["config.yaml", "sae.pt"]
    with pytest.raises(FggError, match=r"has no file sae\.pt; it holds config\.json"):
        select(["config.json"], patterns, repository)

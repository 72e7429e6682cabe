"""Further checkpoints as people bring them: each is read with certainty, or refused in one message."""

import json

import pytest
import torch
from brought import make, prefixed, refusal, same
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def state():
    return make().state_dict()


@pytest.fixture(scope="module")
def averaged():
    return make(2).state_dict()


def renamed(state, *pairs):
    found = {}
    for name, tensor in state.items():
        for old, new in pairs:
            name = name.replace(old, new)
        found[name] = tensor
    return found


def split(state, parts="{}_proj"):
    """Queries, keys and values as three matrices."""
    found = {}
    for name, tensor in state.items():
        if ".qkv." in name:
            for part, own in zip("qkv", tensor.chunk(3), strict=True):
                found[name.replace(".qkv.", f".{parts.format(part)}.")] = own.clone()
        else:
            found[name] = tensor
    return found


def fsdp(state):
    wrapped = {name.replace("blocks.", "_fsdp_wrapped_module.blocks."): tensor for name, tensor in state.items()}
    return renamed(
        wrapped, ("blocks.0.", "blocks.0._fsdp_wrapped_module."), ("blocks.1.", "blocks.1._fsdp_wrapped_module.")
    )


def of_parameters(state):
    return {name: torch.nn.Parameter(tensor.clone()) for name, tensor in state.items()}


def non_contiguous(state):
    return {name: tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor for name, tensor in state.items()}


def of_one_storage(state):
    """All tensors as views of one storage."""
    flat, found, start = torch.cat([tensor.flatten() for tensor in state.values()]), {}, 0
    for name, tensor in state.items():
        found[name] = flat[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    return found


READ = {
    "nested prefixes": lambda a, b: {"state_dict": prefixed("module.model.", a)},
    "twice parallel": lambda a, b: prefixed("module.module.", a),
    "parallel, with its average": lambda a, b: {"model": prefixed("module.", a), "ema": prefixed("module.", b)},
    "average with a counter": lambda a, b: {"model": a, "ema": {"module": b, "updates": 3, "decay": 0.99}},
    "FSDP": lambda a, b: {"model": fsdp(a)},
    "DeepSpeed": lambda a, b: {"module": a, "optimizer": None, "ds_config": {"fp16": {"enabled": True}}, "global_steps": 3},
    "DeepSpeed, parallel": lambda a, b: {"module": prefixed("module.", a), "lr_scheduler": {"last_epoch": 3}},
    "timm": lambda a, b: {"epoch": 1, "arch": "vit", "state_dict": a, "optimizer": {"state": {}}, "state_dict_ema": b},
    "three levels": lambda a, b: {"checkpoint": {"model": {"state_dict": a}}},
    "model_state": lambda a, b: {"model_state": a, "epoch": 3},
    "model_weights": lambda a, b: {"model_weights": prefixed("vit.", a)},
    "params, with their average": lambda a, b: {"params": a, "params_ema": b},
    "network beside a discriminator": lambda a, b: {"net": a, "disc": {"fc1.weight": torch.ones(3, 3)}},
    "Lightning": lambda a, b: {
        "state_dict": prefixed("model.", a), "pytorch-lightning_version": "2.0", "callbacks": {}, "loops": {}, "hyper_parameters": {"lr": 0.1},
    },
    "Lightning, compiled": lambda a, b: {"state_dict": prefixed("model._orig_mod.", a)},
    "accelerate": lambda a, b: prefixed("module._orig_mod.", a),
    "MMPretrain": lambda a, b: {"meta": {"epoch": 3}, "state_dict": renamed(prefixed("backbone.", a), ("backbone.head.", "head.fc."))},
    "a prefix with a dash": lambda a, b: prefixed("my-model.net_1.", a),
    "parameters": lambda a, b: of_parameters(a),
    "parameters of an ordered dictionary": lambda a, b: make().state_dict(),
    "not contiguous": lambda a, b: non_contiguous(a),
    "views of one storage": lambda a, b: of_one_storage(a),
    "float64": lambda a, b: {name: tensor.double() for name, tensor in a.items()},
    "split projections": lambda a, b: split(a),
    "split projections, prefixed": lambda a, b: {"model": prefixed("module.", split(a))},
    "split projections, short names": lambda a, b: split(a, "{}"),
    "gradients and moments beside": lambda a, b: {"model": a, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}},
    "random states beside": lambda a, b: {"model": a, "rng": {"torch": torch.get_rng_state()}},
}  # fmt: skip


@pytest.mark.parametrize("form", READ)
def test_these_are_read(tmp_path, state, averaged, form):
    torch.save(READ[form](state, averaged), tmp_path / "w.pth")
    assert same(tmp_path / "w.pth", state)


def test_tied_tensors(tmp_path, state):
    own = dict(state)
    own["blocks.1.norm1.weight"] = own["blocks.0.norm1.weight"]
    torch.save(own, tmp_path / "w.pth")
    assert same(tmp_path / "w.pth", own)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.bin", "w", "w.ckpt", "w.txt"])
@pytest.mark.parametrize("form", ["torch", "legacy", "safetensors"])
def test_the_content_decides_not_the_extension(tmp_path, state, name, form):
    if form == "safetensors":
        save_file(state, tmp_path / name)
    else:
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=form == "torch")
    assert same(tmp_path / name, state)


@pytest.mark.parametrize("total", [0, 1, 10**12, "many"])
def test_an_index_with_another_total(tmp_path, state, total):
    """Its writers count in different ways; where each tensor is, the map says."""
    parts = {f"model-0000{number + 1}-of-00002.safetensors": sorted(state)[number::2] for number in (0, 1)}
    for file, own in parts.items():
        save_file({name: state[name] for name in own}, tmp_path / file)
    placed = {name: file for file, own in parts.items() for name in own}
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(tmp_path, state)


def bare(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("head.")}


REFUSED = {
    "DINO": (
        lambda a, b: {
            "student": prefixed("module.backbone.", bare(a)) | {"module.head.mlp.0.weight": torch.ones(9, 24)},
            "teacher": prefixed("backbone.", bare(b)) | {"head.mlp.0.weight": torch.ones(9, 24)},
        },
        "choose one with model.weights_key",
    ),
    "MAE": (lambda a, b: {"model": bare(a) | {"decoder_embed.weight": torch.ones(9, 24)}}, "a file without a head has no classes"),
    "two models": (lambda a, b: {"generator": a, "classifier": b}, "choose one with model.weights_key"),
    "two prefixes": (lambda a, b: prefixed("q.", a) | prefixed("k.", b), "choose one with model.weights_key"),
    "with and without prefix": (lambda a, b: a | prefixed("module.", b), "choose one with model.weights_key"),
    "transposed head": (lambda a, b: {**a, "head.weight": a["head.weight"].T}, "wrong shape: head.weight is (24, 3), not (3, 24)"),
    "another number of classes": (lambda a, b: {**a, "head.weight": torch.ones(1000, 24), "head.bias": torch.ones(1000)}, "the number of classes is different"),
    "no bias of the head": (lambda a, b: {name: t for name, t in a.items() if name != "head.bias"}, "missing: head.bias"),
    "no biases of projections": (lambda a, b: {name: t for name, t in a.items() if "qkv.bias" not in name}, "set model.kwargs.qkv_bias to false"),
    "a projection short": (lambda a, b: {name: t for name, t in split(a).items() if name != "blocks.1.attn.k_proj.weight"}, "lacks blocks.1.attn.k_proj.weight"),
    "joined and split": (lambda a, b: a | {"blocks.0.attn.q_proj.weight": torch.ones(24, 24)}, "blocks.0.attn.q_proj.weight"),
    "empty tensor": (lambda a, b: {**a, "head.weight": torch.empty(0, 24)}, "head.weight is (0, 24), not (3, 24)"),
    "an empty tensor more": (lambda a, b: a | {"buffer": torch.empty(0)}, "unexpected: buffer"),
    "scalar": (lambda a, b: {**a, "norm.weight": torch.tensor(1.0)}, "norm.weight is (), not (24,)"),
    "NaN": (lambda a, b: {**a, "norm.weight": torch.full((24,), float("nan"))}, "holds NaN or infinite values in norm.weight"),
    "minus infinity in half": (lambda a, b: {**a, "norm.weight": torch.full((24,), -float("inf"), dtype=torch.float16)}, "holds NaN or infinite values in norm.weight"),
    "complex": (lambda a, b: {**a, "head.bias": a["head.bias"].to(torch.complex64)}, "holds sparse or complex tensors in head.bias"),
    "sparse": (lambda a, b: {**a, "head.weight": a["head.weight"].to_sparse()}, "holds sparse or complex tensors in head.weight"),
    "sparse rows": (lambda a, b: {**a, "head.weight": a["head.weight"].to_sparse_csr()}, "holds sparse or complex tensors in head.weight"),
    "float8, other kind": (lambda a, b: {**a, "head.weight": a["head.weight"].to(torch.float8_e5m2)}, "in place of weights"),
    "int16": (lambda a, b: {**a, "head.weight": a["head.weight"].to(torch.int16)}, "in place of weights"),
    "int64": (lambda a, b: {name: tensor.long() for name, tensor in a.items()}, "in place of weights"),
    "bitsandbytes": (
        lambda a, b: {**a, "head.weight": torch.ones(36, 1, dtype=torch.uint8), "head.weight.absmax": torch.ones(2), "head.weight.quant_map": torch.ones(16)},
        "in place of weights in head.weight",
    ),
    "GPTQ": (lambda a, b: renamed(a, ("blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc1.qweight")), "blocks.0.mlp.fc1.qweight"),
    "torch's quantised layers": (lambda a, b: a | {"head.scale": torch.ones(()), "head.zero_point": torch.zeros((), dtype=torch.long)}, "head.scale"),
    "weight norm": (lambda a, b: renamed(a, ("head.weight", "head.weight_v")) | {"head.weight_g": torch.ones(3, 1)}, "remove_parametrizations"),
    "weight norm, new": (lambda a, b: renamed(a, ("head.weight", "head.parametrizations.weight.original0")), "remove_parametrizations"),
    "pruned": (lambda a, b: renamed(a, ("head.weight", "head.weight_orig")) | {"head.weight_mask": torch.ones(3, 24)}, "remove_parametrizations"),
    "more blocks": (lambda a, b: a | renamed({n: t for n, t in a.items() if "blocks.1." in n}, ("blocks.1.", "blocks.2.")), "see model.kwargs.depth"),
    "fewer blocks": (lambda a, b: {name: t for name, t in a.items() if "blocks.1." not in name}, "missing: blocks.1."),
    "another width": (None, "see model.kwargs.patch_size, in_chans and embed_dim"),
    "an optimiser alone": (lambda a, b: {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}}, "holds no state dict of tensors"),
    "moments alone": (lambda a, b: {"exp_avg": a}, "holds no state dict of tensors"),
    "pairs": (lambda a, b: list(a.items()), "holds no state dict of tensors"),
    "values alone": (lambda a, b: list(a.values()), "holds no state dict of tensors"),
    "numbers as names": (lambda a, b: dict(enumerate(a.values())), "holds no state dict of tensors"),
    "one tensor": (lambda a, b: a["head.weight"], "holds no state dict of tensors"),
    "nothing": (lambda a, b: None, "holds no state dict of tensors"),
    "an empty model": (lambda a, b: {"model": {}}, "only an empty one"),
    "text in place of a tensor": (lambda a, b: {**a, "head.weight": "see head.pt"}, "missing: head.weight"),
    "lists in place of tensors": (lambda a, b: {name: tensor.tolist() for name, tensor in a.items()}, "does not fit the architecture; missing: cls_token"),
    "a convolutional net": (lambda a, b: {"conv1.weight": torch.ones(8, 3, 7, 7), "layer1.0.bn1.weight": torch.ones(8)}, "does not fit the architecture"),
}  # fmt: skip


@pytest.mark.parametrize("form", REFUSED)
def test_these_are_refused(tmp_path, state, averaged, form):
    content, part = REFUSED[form]
    if form == "another width":
        other = make(embed_dim=36, num_heads=2)
        torch.save(other.state_dict(), tmp_path / "w.pth")
    else:
        torch.save(content(state, averaged), tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth")
    assert part in message
    assert len(message) < 1200

"""The three studies as they are handed out, in miniature: archives, Parquet shards, checkpoints, SAEs, a CLIP model.

Every form is the real one: names of folders, columns, keys of checkpoints, pickled classes. Only sizes and numbers
are made up.
"""

from __future__ import annotations

import io
import json
import random
import sys
import tarfile
import types
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

SIDE, WIDTH, FEATURES = 32, 24, 96
VIT = {"img_size": SIDE, "patch_size": 8, "embed_dim": WIDTH, "depth": 4, "num_heads": 2, "mlp_ratio": 2}
LANDMARKS = {
    "lower-gi-tract": ("cecum", "ileum", "retroflex-rectum"),
    "upper-gi-tract": ("pylorus", "retroflex-stomach", "z-line"),
}
LUNGS = ("COVID-19", "Non-COVID", "Normal")
OBJECTS = ["tench, Tinca tinca", "goldfish, Carassius auratus", "umbrella", "African elephant, Loxodonta africana"]
CLIP = "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K"
PRISMA = "prisma-multimodal/sparse-autoencoder-clip-b-32-sae-vanilla-x64-layer-1-hook_resid_post-l1-1e-05"


def picture(kind: str, number: int, width: int = 40, height: int = 36, form: str = "PNG") -> bytes:
    """An image file of noise, whose brightness and stripe depend on its kind."""
    draw = np.random.default_rng([number, *kind.encode()])
    pixels = draw.normal(60 + 25 * (sum(kind.encode()) % 7), 12, (height, width, 3))
    pixels[:, 5 * (sum(kind.encode()) % 7) :][:, :4] += 80
    data = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(data, form)
    return data.getvalue()


def noise(side: int) -> bytes:
    """A large image that no packing makes smaller, so that a dropped connection leaves something to go on with."""
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(data, "PNG")
    return data.getvalue()


def hyperkvasir() -> tuple[bytes, list[tuple[str, str]]]:
    """The zip with its CSV; and the landmarks' rows (id, finding) in the CSV's order. One image is missing, one cut off."""
    packed, rows = io.BytesIO(), []
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        lines = ["Video file,Organ,Finding,Classification"]
        for number in range(10):
            for tract, findings in LANDMARKS.items():
                for finding in findings:
                    name = f"{number:08x}-{finding}"
                    lines.append(f"{name},{tract[:5].title()} GI,{finding},anatomical-landmarks")
                    rows.append((name, finding))
                    data = picture(finding, number, form="JPEG")
                    if (number, finding) == (3, "pylorus"):
                        continue
                    if (number, finding) == (4, "z-line"):
                        data = data[: len(data) // 2]
                    archive.writestr(f"labeled-images/{tract}/anatomical-landmarks/{finding}/{name}.jpg", data)
            lines.append(f"polyp-{number},Lower GI,polyps,pathological-findings")
        archive.writestr("labeled-images/lower-gi-tract/pathological-findings/polyps/polyp-0.jpg", noise(900))
        archive.writestr("labeled-images/image-labels.csv", "\r\n".join(lines) + "\r\n")
    return packed.getvalue(), rows


def covidquex() -> bytes:
    """The tar.gz, with masks beside the images."""
    members = {"Train/Normal/lung masks/large.png": noise(900)}
    for split, count in (("Train", 4), ("Val", 2), ("Test", 3)):
        for label in LUNGS:
            for number in range(count):
                name = f"{label.lower()}_{split.lower()}_{number}.png"
                members[f"{split}/{label}/images/{name}"] = picture(label, number + 10 * len(split))
                members[f"{split}/{label}/lung masks/{name}"] = picture("mask", number)
    return tar(members)


def imagenet() -> dict[str, bytes]:
    """The repository's files: two shards of validation and one of test without labels, as `datasets` writes them."""
    import datasets

    names = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=OBJECTS)})
    files = {"README.md": b"---\npretty_name: ImageNet\n---\n"}
    for shard, (split, first, count) in enumerate((("validation", 0, 20), ("validation", 20, 20), ("test", 40, 5))):
        rows = [
            {
                "image": {
                    "bytes": picture(OBJECTS[i % 4], i, form="JPEG"),
                    "path": f"ILSVRC2012_{split[:3]}_{i:08}.JPEG",
                },
                "label": i % 4 if split == "validation" else -1,
            }
            for i in range(first, first + count)
        ]
        table = datasets.Dataset.from_list(rows, features=names)
        data = io.BytesIO()
        table.to_parquet(data, batch_size=8)
        files[f"data/{split}-{shard % 2:05}-of-00002.parquet"] = data.getvalue()
    return files


def vit(classes: int, seed: int) -> dict[str, torch.Tensor]:
    """Weights of a small ViT whose attention is not flat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VisionTransformer(**VIT, num_classes=classes)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data = 1.3 * torch.randn_like(parameter) / parameter[0].numel() ** 0.5
    return model.state_dict()


def saved(content: object) -> bytes:
    data = io.BytesIO()
    torch.save(content, data)
    return data.getvalue()


def hyperkvasir_model() -> tuple[bytes, dict[str, torch.Tensor]]:
    """As SSL4GIE saves it: the head is lin_head, states of random generators and the optimiser lie beside; the weights."""
    state = vit(6, 1)
    renamed = {name.replace("head.", "lin_head."): tensor for name, tensor in state.items()}
    content = {
        "epoch": 49,
        "model_state_dict": renamed,
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "scaler_state_dict": {"scale": 65536.0, "_growth_tracker": 3},
        "loss": np.float64(0.1),
        "val_perf": 0.9,
        "test_perf": 0.9,
        "py_state": random.Random(0).getstate(),
        "np_state": np.random.RandomState(0).get_state(),
        "torch_state": torch.get_rng_state(),
    }
    return saved(content), state


def covidquex_model() -> tuple[bytes, dict[str, torch.Tensor]]:
    """A gzipped tar with results_model/model_best.pth.tar, whose names begin with module.; the weights."""
    state = vit(3, 2)
    content = {
        "epoch": 30,
        "arch": "vit_base_patch16_224",
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "best_acc1": torch.tensor(95.0),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
    }
    return tar({"results_model/checkpoint.txt": b"epoch 30", "results_model/model_best.pth.tar": saved(content)}), state


def sae(seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (WIDTH, FEATURES), "b_enc": (FEATURES,), "W_dec": (FEATURES, WIDTH), "b_dec": (WIDTH,)}
    return {name: 0.3 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def sae_config(normalize: str) -> dict[str, object]:
    return {
        "architecture": "standard",
        "activation_fn_str": "relu",
        "activation_fn_kwargs": {},
        "normalize_activations": normalize,
        "d_in": WIDTH,
        "expansion_factor": FEATURES // WIDTH,
        "hook_point_layer": 1,
        "layer_subtype": "hook_resid_post",
    }


def one_file_sae(seed: int) -> bytes:
    """A pickled object of a vit_prisma class, and the tensors; the class exists only while this is written."""
    module = types.ModuleType("vit_prisma.sae.config")
    module.VisionModelSAERunnerConfig = type("VisionModelSAERunnerConfig", (), {"__module__": module.__name__})
    config = module.VisionModelSAERunnerConfig()
    vars(config).update(sae_config("layer_norm"))
    modules = {name: types.ModuleType(name) for name in ("vit_prisma", "vit_prisma.sae")} | {module.__name__: module}
    with mock.patch.dict(sys.modules, modules):
        return saved({"cfg": config, "state_dict": sae(seed)})


def hyperkvasir_saes() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("sae_sweep/hyperkvasir/layer_1/x4_l1-1e-5/abc/n_images_3000.pt", one_file_sae(3))
        archive.writestr("sae_sweep/hyperkvasir/layer_1/x4_l1-1e-5/abc/config.txt", "notes")
        archive.writestr("sae_sweep/hyperkvasir/layer_2/x4/abc/n_images_3000.pt", b"of another layer")
    return packed.getvalue()


def covidquex_saes() -> bytes:
    return tar({"sae_sweep/covidquex/layer_1/n_images_2000.pt": one_file_sae(4)})


def prisma() -> dict[str, bytes]:
    """A repository of Prisma: weights and config.json."""
    return {"config.json": json.dumps(sae_config("none")).encode(), "weights.pt": saved(sae(5)), "README.md": b"SAE"}


def clip(folder: Path) -> dict[str, bytes]:
    """A repository of open_clip: config, and weights in both forms."""
    import open_clip

    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": SIDE,
            "patch_size": 8,
            "width": WIDTH,
            "layers": 4,
            "head_width": 8,
            "mlp_ratio": 2,
        },
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        model = open_clip.CLIP(**config)
    from safetensors.torch import save_file

    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "clip.safetensors")
    return {
        "open_clip_config.json": json.dumps({"model_cfg": config, "preprocess_cfg": {}}).encode(),
        "open_clip_model.safetensors": (folder / "clip.safetensors").read_bytes(),
        "open_clip_pytorch_model.bin": b"the same as a pickle",
        "config.json": b"{}",
    }


def tar(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()

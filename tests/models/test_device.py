"""Device, arithmetic and batch sizes: none of them follows the moment."""

from types import SimpleNamespace

import pytest
import torch

from fgg.errors import FggError
from fgg.models import cards, onednn_linear
from fgg.models.device import _bf16, arithmetic, fitting, halved, images_per_batch, resolve, rows_per_batch
from fgg.models.vit import load_model

CPU = torch.device("cpu")


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve("cpu") == CPU and resolve("auto") == CPU
    with pytest.raises(FggError, match="device: cuda is requested, but torch sees no GPU"):
        resolve("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setattr(cards, "choose", lambda: 0)
    assert resolve("auto") == resolve("cuda") == torch.device("cuda", 0) and resolve("cpu") == CPU


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_arithmetic_is_put_back(precision):
    def state():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, onednn_linear._rounded

    before = state()
    with pytest.raises(ZeroDivisionError), arithmetic(precision, CPU):
        assert state() == (precision == "tf32", precision == "tf32", {} if precision == "bf16" else None)
        raise ZeroDivisionError
    assert state() == before


def test_a_gpu_computes_bf16_under_autocast():
    assert isinstance(_bf16(torch.device("cuda")), torch.autocast)


def test_batches_follow_the_model_alone(model):
    assert images_per_batch(model, 7) == 7
    assert images_per_batch(model) == 64
    base = load_model("vit_base_patch16_224")
    assert 1 <= images_per_batch(base) < 64
    assert 8 <= rows_per_batch(base, CPU) < rows_per_batch(model, CPU) <= 2048


def test_batches_on_a_gpu_follow_its_whole_memory(model, monkeypatch):
    base, gpu = load_model("vit_base_patch16_224"), torch.device("cuda")

    def of(gigabytes):
        memory = SimpleNamespace(total_memory=gigabytes * 2**30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
        return rows_per_batch(base, gpu)

    assert 8 == of(0) < of(8) < of(16) <= 2048
    assert of(8) * 197 * 12 * 768 * 4 < 8 * 2**30, "a batch's activations must fit"


def test_a_batch_that_was_too_large_is_halved_and_remembered(capsys, make_model):
    model, other = make_model(), make_model()
    assert halved(7, "images", model) == 3
    assert "continuing with 3 images instead of 7" in capsys.readouterr().err
    assert [fitting(size, "images", model) for size in (7, 3, 2)] == [3, 3, 2]
    assert fitting(7, "rows", model) == 7 and fitting(7, "images", other) == 7
    with pytest.raises(FggError, match="out of GPU memory with one image at a time"):
        halved(1, "images", model)

"""Device, arithmetic and batch sizes: none of them follows the moment."""

import pytest
import torch

from fgg.errors import FggError
from fgg.models.device import arithmetic, images_per_batch, resolve, rows_per_batch
from fgg.models.vit import load_model

CPU = torch.device("cpu")


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve("cpu") == CPU and resolve("auto") == CPU
    with pytest.raises(FggError, match="device: cuda is asked for, but torch sees no GPU"):
        resolve("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve("auto") == resolve("cuda") == torch.device("cuda") and resolve("cpu") == CPU


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_arithmetic_is_put_back(precision):
    def state():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.is_autocast_enabled("cpu")

    before = state()
    with pytest.raises(ZeroDivisionError), arithmetic(precision, CPU):
        assert state() == (precision == "tf32", precision == "tf32", precision == "bf16")
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
        raise ZeroDivisionError
    assert state() == before


def test_batches_follow_the_model_alone(model):
    assert images_per_batch(model, 7) == 7
    assert images_per_batch(model) == 64
    base = load_model("vit_base_patch16_224")
    assert 1 <= images_per_batch(base) < 64
    assert 8 <= rows_per_batch(base, CPU) < rows_per_batch(model, CPU) <= 2048
    assert rows_per_batch(base, CPU) < rows_per_batch(base, torch.device("cuda"))

"""Passes through torch.compile give the same logits, have one shape, and tell when PyTorch cannot compile."""

from __future__ import annotations

import pytest
import torch

from fgg.errors import FggError
from fgg.perturbation import compiled
from fgg.perturbation.engine import Perturber
from fgg.perturbation.fills import Fill


@pytest.fixture(autouse=True)
def without_a_compiler(monkeypatch):
    """The model is traced as for a compiler, and its operators run as they are."""
    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    compiled._compiled.cache_clear()


def masks_of(engine: Perturber, versions: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(len(engine.images), versions, engine.patches, generator=generator) < 0.5


@pytest.mark.parametrize("path", ["tokens", "pixels"])
def test_logits_are_those_of_plain_passes(make_model, make_images, path):
    model = make_model(depth=3)
    images = make_images(model)
    engines = [Perturber(model, images, rows=4, path=path, compiled=wanted) for wanted in (True, False)]
    masks = masks_of(engines[0], 7)
    got, wanted = (engine.logits(masks) for engine in engines)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(engines[0].clean, engines[1].clean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["image", "removal"])
def test_other_fills_work_too(make_model, make_images, kind):
    model = make_model(depth=3)
    images = make_images(model)
    fill = Fill("own", kind, images.flip(0) if kind == "image" else None)
    engines = [Perturber(model, images, rows=4, compiled=wanted).using(fill) for wanted in (True, False)]
    masks = masks_of(engines[0], 5)
    got, wanted = (engine.logits(masks) for engine in engines)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5, equal_nan=True)


def test_all_passes_have_one_shape(make_model, make_images, monkeypatch):
    """Otherwise every number of versions would be compiled, and captured on a GPU, anew."""
    seen = []
    monkeypatch.setattr(compiled, "_compiled", lambda run, backend: lambda *given: seen.append(given[1]) or run(*given))
    model = make_model()
    engine = Perturber(model, make_images(model), rows=4, compiled=True)
    for versions in (1, 3, 9):
        engine.logits(masks_of(engine, versions))
    assert len({tuple(inputs.shape) for inputs in seen}) == 1 and len(seen[0]) == 4


def test_a_machine_that_cannot_compile_is_told_what_to_do(make_model, make_images, monkeypatch):
    def broken(*_given):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(compiled, "BACKEND", broken)
    model = make_model()
    with pytest.raises(FggError, match=r"no compiler here.*set `compile: false`"):
        Perturber(model, make_images(model), compiled=True)


def test_a_cache_that_cannot_be_written_is_named(make_model, make_images, monkeypatch):
    def full(*_given):
        raise OSError(30, "Read-only file system", "/cache/x")

    monkeypatch.setattr(compiled, "_compiled", lambda _run, _backend: full)
    model = make_model()
    with pytest.raises(FggError, match=r"Read-only file system: '/cache/x'\)\. Set TORCHINDUCTOR_CACHE_DIR"):
        Perturber(model, make_images(model), compiled=True)

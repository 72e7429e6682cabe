"""SAEs of any library: what their ``encode`` may take and give, and what is refused."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import fgg

GATE = fgg.Gate((1,))


class Plain(nn.Module):
    """An SAE of no library; ``give`` is what encode makes of the codes and what they were before the activation."""

    def __init__(self, source, give=lambda codes, before: codes, dimensions=(2, 3)):
        super().__init__()
        for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
            setattr(self, name, nn.Parameter(getattr(source, name).detach().clone()))
        self.give, self.dimensions = give, dimensions

    def encode(self, x):
        if x.ndim not in self.dimensions:
            raise RuntimeError(f"expected {self.dimensions} dimensions")
        before = (x - self.b_dec) @ self.W_enc + self.b_enc
        return self.give(before.relu(), before)


class Output(NamedTuple):
    top_acts: Tensor
    top_indices: Tensor
    pre_acts: Tensor


class Named:
    def __init__(self, latents, before):
        self.latents, self.before = latents, before


@pytest.fixture(scope="module")
def pictures(plain, make_images):
    return make_images(plain)


@pytest.fixture(scope="module")
def source(make_sae):
    return make_sae(10)


@pytest.fixture(scope="module")
def expected(plain, pictures, source):
    return fgg.attribute(plain, pictures, gate=GATE, saes={1: source})


def top(codes):
    return codes.topk(40, -1)


GIVES = {
    "the codes": lambda codes, before: codes,
    "a tuple with a loss": lambda codes, before: (codes, codes.sum()),
    "a tuple with None": lambda codes, before: (codes, None),
    "before and after": lambda codes, before: (before, codes),
    "after and before": lambda codes, before: [codes, before],
    "with a mask": lambda codes, before: (codes, codes > 0),
    "a mapping": lambda codes, before: {"pre": before, "codes": codes},
    "an object": Named,
    "sparse": lambda codes, before: codes.to_sparse(),
    "sparse rows": lambda codes, before: codes.flatten(0, -2).to_sparse_csr(),
    "a tuple with sparse": lambda codes, before: (codes.to_sparse(), None),
    "the largest": lambda codes, before: Output(*top(codes), before),
    "values and places": lambda codes, before: tuple(each[..., :39] for each in top(codes)),
    "values, places and before": lambda codes, before: (*(each[..., :39] for each in top(codes)), before),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("dimensions", [(2, 3), (2,), (3,)])
@pytest.mark.parametrize("give", GIVES)
def test_what_encode_may_give(plain, pictures, source, expected, give, dimensions):
    if give == "sparse rows" and dimensions == (3,):
        pytest.skip("rows only")
    out = fgg.attribute(plain, pictures, gate=GATE, saes={1: Plain(source, GIVES[give], dimensions)})
    assert torch.allclose(out.scores[1], expected.scores[1], atol=1e-5)
    assert torch.allclose(out.relevance, expected.relevance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("construction", ["combined", "activation_only", "gradient_only"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("library", [True, False])
def test_other_precisions(plain, pictures, source, make_sae, construction, dtype, library):
    gate = fgg.Gate((1,), construction)
    own = make_sae(10).to(dtype) if library else Plain(source).to(dtype)
    out = fgg.attribute(plain, pictures, gate=gate, saes={1: own})
    expected = fgg.attribute(plain, pictures, gate=gate, saes={1: source}).scores[1]
    assert out.scores[1].dtype == torch.float32
    assert torch.allclose(out.scores[1], expected, atol=0.1 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"give": lambda codes, before: (codes, before + 1)}, r"returns 2 tensors that may be the codes from encode"),
        ({"give": lambda codes, before: None}, r"returns a NoneType without codes"),
        ({"give": lambda codes, before: (codes.sum(), None)}, r"returns a tuple without codes"),
        ({"give": lambda codes, before: codes[..., :7]}, r"gives codes \(64, 7\) for a residual stream \(4, 16, 24\)"),
        ({"give": lambda codes, before: codes[:3]}, r"gives codes \(3, 40\)"),
        ({"give": lambda codes, before: codes * torch.nan}, r"gives codes that are not finite; in half precision"),
        ({"give": lambda codes, before: codes.to(torch.complex64)}, "gives complex codes"),
        (
            {"dimensions": (4,)},
            r"cannot encode a tensor \(4, 16, 24\) of torch.float32, nor its tokens as rows \(expected",
        ),
    ],
)
def test_what_is_refused(plain, pictures, source, change, message):
    with pytest.raises(fgg.FggError, match=rf"the SAE for layer 1 {message}"):
        fgg.attribute(plain, pictures, gate=GATE, saes={1: Plain(source, **change)})


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (lambda own: nn.Linear(4, 3), "Linear as W_dec"),
        (lambda own: "W", "str as W_dec"),
        (lambda own: own[0], r"torch.float32 \(24,\) as W_dec"),
        (lambda own: own.to(torch.complex64), r"torch.complex64 \(\d+, 24\) as W_dec"),
        (lambda own: own * torch.inf, "NaN or infinite values in W_dec"),
        (lambda own: (own * torch.nan).numpy(), "NaN or infinite values in W_dec"),
        (lambda own: own.T.contiguous(), "has width"),
    ],
    ids=["module", "text", "vector", "complex", "infinite", "nan", "transposed"],
)
def test_decoders_that_are_refused(plain, pictures, source, decoder, message):
    class Other:
        W_dec = decoder(source.W_dec.detach())
        encode = staticmethod(source.encode)

    with pytest.raises(fgg.FggError, match=f"the SAE for layer 1 has .*{message}|the SAE for layer 1 {message}"):
        fgg.attribute(plain, pictures, gate=GATE, saes={1: Other()})


def test_an_object_without_encode(plain, pictures, source):
    class Decoder:
        W_dec = source.W_dec

    with pytest.raises(fgg.FggError, match="without encode"):
        fgg.attribute(plain, pictures, gate=GATE, saes={1: Decoder()})
    out = fgg.attribute(plain, pictures, gate=fgg.Gate((1,), "gradient_only"), saes={1: Decoder()})
    assert out.relevance.isfinite().all(), "which needs only the decoder"

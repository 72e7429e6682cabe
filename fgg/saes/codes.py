"""The codes of a residual stream by any SAE: an object with ``encode`` and a decoder ``W_dec``, of whatever library.

Symbols: B images, N patches, D width, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fgg.errors import FggError
from fgg.models.checkpoint_files import first_line

# What `encode` of a foreign object may raise for input of three dimensions, or of the wrong type.
FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, NotImplementedError, AttributeError)
# Names that libraries give the codes in what `encode` returns.
CODES = ("codes", "feature_acts", "latents", "features", "acts", "z", "f")
TOP, PLACES = "top_acts", "top_indices"  # of EleutherAI's sparsify


def decoder_of(sae: Any, like: Tensor) -> Tensor:
    """The decoder W_dec (F, D) of an SAE, on the device and in the type of ``like``."""
    decoder = torch.as_tensor(sae.W_dec).detach()
    return (decoder if decoder.layout == torch.strided else decoder.to_dense()).to(like.device, like.dtype)


def codes_of(sae: Any, residual: Tensor, layer: int) -> Tensor:
    """The codes (B, N, F) of a residual stream (B, N, D), in its type and on its device.

    A sae-lens SAE is given all dimensions, any other object the tokens as rows (B N, D). It gets them in the type of its
    decoder. What it returns may be sparse, or a tuple or a mapping with one tensor of codes.

    Raises:
        FggError: ``encode`` is missing or fails, returns no codes or several, or codes that are not finite.
    """
    encode = getattr(sae, "encode", None)
    if not callable(encode):
        raise FggError(f"the SAE for layer {layer} is a {type(sae).__name__} without encode; load it with fgg.load_sae")
    decoder = torch.as_tensor(sae.W_dec)
    given = residual.to(decoder.device, decoder.dtype)
    features = len(decoder)
    shape = (*residual.shape[:-1], features)
    if any(kind.__module__.partition(".")[0] == "sae_lens" for kind in type(sae).__mro__):
        codes = _dense(encode(given))
    else:
        codes = _tensor(_tokens_as_rows(encode, given, layer), features, layer)
    if codes.numel() != residual[..., 0].numel() * features or codes.shape[-1] != features:
        raise FggError(
            f"the SAE for layer {layer} gives codes {tuple(codes.shape)} for a residual stream {tuple(residual.shape)}; "
            f"it must give {features} per token, as many as W_dec has rows"
        )
    if codes.is_complex():
        raise FggError(f"the SAE for layer {layer} gives complex codes; it must give real ones")
    codes = codes.detach().reshape(shape).to(residual.device, residual.dtype)
    if not codes.isfinite().all():
        raise FggError(
            f"the SAE for layer {layer} gives codes that are not finite; in half precision call sae.float(), else check "
            "its weights"
        )
    return codes


def _tokens_as_rows(encode: Any, given: Tensor, layer: int) -> Any:
    """What ``encode`` returns for the tokens as rows, or if it refuses them, for all dimensions."""
    try:
        return encode(given.flatten(0, 1))
    except FAILURES as error:
        first = error
    try:
        return encode(given)
    except FAILURES:
        raise FggError(
            f"the SAE for layer {layer} cannot encode a tensor {tuple(given.shape)} of {given.dtype}, nor its tokens as rows "
            f"({first_line(first)}); give an object whose encode maps (tokens, width) to (tokens, features)"
        ) from first


def _tensor(found: Any, features: int, layer: int) -> Tensor:
    """The codes in what an SAE's ``encode`` returned."""
    if isinstance(found, Tensor):
        return _dense(found)
    named: Mapping[str, Any] = {}
    if isinstance(found, Mapping):
        named = found
    elif hasattr(found, "_asdict"):
        named = found._asdict()
    elif not isinstance(found, Sequence) and hasattr(found, "__dict__"):
        named = vars(found)
    parts = list(named.values()) if named else list(found) if isinstance(found, Sequence) else []
    tensors = [_dense(part) for part in parts if isinstance(part, Tensor) and part.ndim]
    if isinstance(named.get(TOP), Tensor) and isinstance(named.get(PLACES), Tensor):
        return _spread(named[TOP], named[PLACES], features)
    if own := [named[name] for name in CODES if isinstance(named.get(name), Tensor)]:
        return _dense(own[0])
    numbered = len(tensors) >= 2 and tensors[0].shape == tensors[1].shape and tensors[0].shape[-1] < features
    if numbered and not tensors[1].is_floating_point() and tensors[1].dtype != torch.bool:
        return _spread(tensors[0], tensors[1], features)
    wide = [part for part in tensors if part.is_floating_point() and part.shape[-1] == features and part.ndim > 1]
    codes = [part for part in wide if all(_selected(part, other) for other in wide)]
    if not codes:
        what = f"{len(wide)} tensors that may be the codes" if wide else f"a {type(found).__name__} without codes"
        raise FggError(
            f"the SAE for layer {layer} returns {what} from encode; give an object whose encode returns the codes alone"
        )
    return codes[0]


def _selected(codes: Tensor, before: Tensor) -> bool:
    """Whether the codes are some of these values and 0 elsewhere, as codes are of what they were before an activation."""
    return codes.shape == before.shape and bool(((codes == before) | (codes == 0)).all())


def _spread(values: Tensor, places: Tensor, features: int) -> Tensor:
    """Dense codes (…, F) from the values (…, k) of the active features and their numbers."""
    dense = values.new_zeros(*values.shape[:-1], features)
    return dense.scatter_(-1, places.long(), values)


def _dense(found: Any) -> Any:
    return found.to_dense() if isinstance(found, Tensor) and found.layout != torch.strided else found

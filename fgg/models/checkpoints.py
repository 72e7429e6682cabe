"""Read model checkpoints as plain state dicts with timm's names, without running code from the files.

What the files are is found in `fgg.models.weight_files`, their formats are read in `fgg.models.checkpoint_files`, and
names are changed in `fgg.models.weight_names`. This module finds the weights among what else a checkpoint holds.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fgg.errors import FggError
from fgg.models.checkpoint_files import (
    MOST_BYTES,
    UNREADABLE,
    ZIP_START,
    content_of,
    damaged_part,
    first_line,
    names,
)
from fgg.models.weight_files import chosen, weight_files
from fgg.models.weight_names import LAYOUTS, Named, named, pick, timm_names

__all__ = [
    "MOST_BYTES",
    "UNREADABLE",
    "ZIP_START",
    "chosen",
    "damaged_part",
    "first_line",
    "names",
    "read",
    "read_named",
    "timm_names",
]

# Keys under which a checkpoint stores its weights, beside the epoch, the optimiser and so on.
WRAPPERS = ("model_state_dict", "state_dict", "model")
# Keys of tensors with a parameter's name and shape that are no weights.
OTHER_STATES = re.compile(r"(^|_)(optim\w*|scheduler\w*|scaler|exp_avg\w*|grads?|gradients?|momentum_buffer|master)")
MOST_DEPTH = 5
PLAIN = (str, bytes, int, float, bool, type(None), list, tuple, dict, set)


def read(path: str | Path, weights_key: str | None = None) -> dict[str, Tensor]:
    """The state dict of a checkpoint, with timm's names as far as they are known.

    Args:
        path: a file, a folder, the index or a part of a sharded checkpoint, or a pattern that matches one.
        weights_key: under which key or prefix the weights are, if the checkpoint holds several; None takes those that
            are not averaged.

    Raises:
        FggError: the file is missing, damaged or in another format; its pickle names something that does not belong to
            weights (the message says what); it holds no state dict, several models, adapters, or NaN.
    """
    return read_named(path, weights_key).state


def read_named(path: str | Path, weights_key: str | None = None) -> Named:
    """What `read` reads, with the layout of its names; what was stripped, left out or chosen is printed to the log."""
    if weights_key is not None and (not isinstance(weights_key, str) or not weights_key):
        raise FggError(f"model.weights_key: {weights_key!r} must be the key or prefix of weights, such as 'model_ema'")
    try:
        files, placed = weight_files(path)
    except FggError as error:
        text = str(error)
        raise FggError(text if text.startswith("model.weights") else f"model.weights: {text}") from None
    shown = files[0] if len(files) == 1 else path
    try:
        notes: list[str] = []
        if len(files) == 1:
            with files[0].open("rb") as file:
                state, left = _state_dict(content_of(file), weights_key, notes)
        else:
            state, left = _joined(files, placed, weights_key), weights_key
            notes.append(f"read {len(files)} files as one checkpoint")
        _check_kinds(state)
        found = named(state, left)
        _check_values(found.state)
    except FggError as error:
        raise FggError(f"model.weights: {shown} {error}") from None
    for note in notes + found.notes:
        print(f"note: model.weights: {shown}: {note}", file=sys.stderr)
    return found


def _joined(files: list[Path], placed: Mapping[str, str] | None, key: str | None) -> dict[str, Tensor]:
    """The tensors of a sharded checkpoint. Raises FggError: one is in two files, or not where the index says."""
    joined: dict[str, Tensor] = {}
    for path in files:
        try:
            with path.open("rb") as file:
                state, _ = _state_dict(content_of(file), None, [])
        except FggError as error:
            raise FggError(f"cannot be joined: {path.name} {error}") from None
        if twice := [name for name in state if name in joined]:
            raise FggError(f"holds {names(twice)} in two of its files; fetch them again")
        if lacking := [name for name, own in (placed or {}).items() if own == path.name and name not in state]:
            raise FggError(f"lacks {names(lacking)}, which the index places in {path.name}; fetch it again")
        joined |= state
    return joined


def _state_dict(content: Any, key: str | None, notes: list[str]) -> tuple[dict[str, Tensor], str | None]:
    """The state dict in a checkpoint's content, and the part of the key that names a prefix within it."""
    usual = _usual(content)
    found = {".".join(place): inner for place, inner in _candidates(content)}
    if usual is not None:
        found.setdefault(".".join(usual), _at(content, usual))
    if key is not None:
        return _by_key(content, found, usual, key, notes)
    if usual is not None:
        averaged = [name for name in found if name != ".".join(usual)]
        if averaged:
            notes.append(
                f"took the weights under {'.'.join(usual) or 'the top'!r}; there are others under {names(averaged)}, "
                "which model.weights_key can name"
            )
        return _tensors(_at(content, usual), notes), None
    if not found:
        within = f"; it has {names([str(own) for own in content])}" if isinstance(content, Mapping) and content else ""
        empty = any(isinstance(content, Mapping) and content.get(name) == {} for name in WRAPPERS) or content == {}
        more = ", only an empty one" if empty else f", neither directly nor under {', '.join(WRAPPERS)}"
        raise FggError(f"holds no state dict of tensors{more}{within}")
    place = pick(found, None, notes, "state dict")
    if len(found) == 1:
        notes.append(f"took the weights under {place!r}")
    return _tensors(found[place], notes), None


def _by_key(
    content: Any, found: Mapping[str, Any], usual: tuple[str, ...] | None, key: str, notes: list[str]
) -> tuple[dict[str, Tensor], str | None]:
    """The state dict that a key names, by its place in the checkpoint, a prefix of its names, or both."""
    own = [name for name in found if name and (f".{name}.".find(f".{key}.") >= 0)]
    if own:
        return _tensors(found[pick(own, key, notes, "state dict")], notes), None
    outer = sorted((name for name in found if name and key.startswith(f"{name}.")), key=len)
    if outer:
        return _tensors(found[outer[-1]], notes), key.removeprefix(f"{outer[-1]}.")
    if usual is None:
        known = names(list(found)) or "nothing that looks like them"
        raise FggError(f"has no weights under model.weights_key {key!r}; there are: {known}")
    try:
        return _tensors(_at(content, usual), []), _known_prefix(_at(content, usual), key)
    except FggError as error:
        known = names([name for name in found if name])
        raise FggError(f"{error}{f'; other keys of weights: {known}' if known else ''}") from None


def _known_prefix(state: Mapping[str, Any], key: str) -> str:
    """The key, if it is part of the names. Raises FggError otherwise."""
    if not any(f".{key}." in f".{name}" for name in state):
        tops = sorted({name.split(".")[0] for name in state})
        raise FggError(f"has no weights under model.weights_key {key!r}; its names begin with {names(tops)}")
    return key


def _usual(content: Any) -> tuple[str, ...] | None:
    """Where the weights usually are: at the top, or under the keys in ``WRAPPERS``; None if there are none."""
    place: list[str] = []
    while isinstance(content, Mapping):
        inner = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        place.append(inner)
        content = content[inner]
    return tuple(place) if _is_state(content) or _looks_like_weights(content) else None


def _candidates(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """All state dicts of a Vision Transformer within a checkpoint, with the keys that lead to them."""
    if not isinstance(content, Mapping) or len(place) > MOST_DEPTH:
        return
    if _looks_like_weights(content):
        yield place, content
        return
    for name, inner in content.items():
        if isinstance(name, str) and not OTHER_STATES.search(name.lower()):
            yield from _candidates(inner, (*place, name))


def _is_state(content: Any) -> bool:
    """Whether this is a state dict: names and tensors, and nothing else."""
    if not isinstance(content, Mapping) or not content:
        return False
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def _looks_like_weights(content: Any) -> bool:
    """Whether these are the weights of a Vision Transformer, perhaps with plain values beside them."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return False
    anchors = tuple(anchor for anchor, _ in LAYOUTS.values())
    ends = any(f".{name}".endswith(tuple(f".{own}" for own in anchors)) for name in map(_bare, content))
    return ends and all(isinstance(value, (Tensor, *PLAIN)) for value in content.values())


def _bare(name: str) -> str:
    return name.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")


def _at(content: Any, place: tuple[str, ...]) -> Any:
    for name in place:
        content = content[name]
    return content


def _tensors(state: Mapping[str, Any], notes: list[str]) -> dict[str, Tensor]:
    """The tensors among the values; what else there is, is noted."""
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        notes.append(f"left out what is no tensor: {names(others)}")
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _check_kinds(state: Mapping[str, Tensor]) -> None:
    """Raise FggError for tensors that hold no plain numbers."""
    if empty := [name for name, tensor in state.items() if tensor.is_meta]:
        raise FggError(f"holds tensors without values, on the device meta: {names(empty)}; save the loaded model")
    odd = [name for name, tensor in state.items() if tensor.layout != torch.strided or tensor.is_complex()]
    if odd:
        raise FggError(f"holds sparse or complex tensors in {names(odd)}")
    if small := _quantised(state):
        raise FggError(f"holds quantised numbers in place of weights in {names(small)}; save the model as float32")


def _quantised(state: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors whose numbers are not weights as they stand: of torch's quantisation, or floats of one byte."""
    return [
        name
        for name, tensor in state.items()
        if tensor.is_quantized or (tensor.is_floating_point() and torch.finfo(tensor.dtype).bits < 16)
    ]


def _check_values(state: Mapping[str, Tensor]) -> None:
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if not broken:
        limit = torch.finfo(torch.float32).max
        wide = {name: tensor for name, tensor in state.items() if tensor.dtype == torch.float64 and tensor.numel()}
        broken = [name for name, tensor in wide.items() if tensor.abs().max() > limit]
    if broken:
        raise FggError(f"holds NaN or infinite values in {names(broken)}")

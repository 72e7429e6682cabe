"""Fill a model with the weights of a file, and say what does not fit."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from fgg.errors import FggError, names
from fgg.models.projections import with_projections

# Hints for tensors that do not fit: the kind of fault, a pattern of the name, what to do.
MISSING, UNEXPECTED, SHAPE = "missing", "unexpected", "wrong shape"
HINTS = (
    (UNEXPECTED, r"fc_norm\.", "the file's model pools the patches: set model.kwargs.global_pool to avg"),
    (MISSING, r"fc_norm\.", "the file's model reads the class token: set model.kwargs.global_pool to token"),
    (UNEXPECTED, r"norm_pre\.", "the file's model has a norm before its blocks: set model.kwargs.pre_norm to true"),
    (UNEXPECTED, r"blocks\.\d+\.ls\d\.", "the file's model scales its layers: set model.kwargs.init_values to 1.0e-5"),
    (UNEXPECTED, r"blocks\.\d+\.attn\.[qk]_norm", "the file's model normalises queries and keys: set model.kwargs.qk_norm to true"),
    (UNEXPECTED, r"reg_token", "the file's model has registers: set model.kwargs.reg_tokens to their number, and no_embed_class if they have no position"),
    (UNEXPECTED, r"blocks\.\d+\.\w+\.", "the file has different or more blocks: see model.kwargs.depth"),
    (UNEXPECTED, r"(head_dist|dist_token)", "the file's model is distilled, and its logits are the mean of two heads: choose a distilled architecture, such as deit_base_distilled_patch16_224"),
    (UNEXPECTED, r"head\.(projection|text)", "these are the weights of a zero-shot model: read its folder with fgg.models.model_files.load"),
    (UNEXPECTED, r"vision_model\.", "these are the names of Hugging Face's transformers: use open_clip's file, or timm's"),
    (MISSING, r"head\.", "a file without a head has no classes: fine-tune it first, or set model.zero_shot for a CLIP tower"),
    (UNEXPECTED, r".*(relative_position_bias_table|[qv]_bias|gamma_[12])", "these are the weights of BEiT, EVA or a model with relative positions: choose that architecture, and model.kwargs as in training"),
    (MISSING, r"(rel_pos_bias|shared_rel_pos|rope)\.", "the positions of the architecture are others than the file's: see model.kwargs"),
    (MISSING, r"blocks\.\d+\.attn\.qkv\.bias", "the file's projections have no biases: set model.kwargs.qkv_bias to false"),
    (UNEXPECTED, r".*(parametrizations\.|\.weight_([gv]|orig|mask)$)", "the file's matrices are in parts: save the model after torch.nn.utils.parametrize.remove_parametrizations"),
    (SHAPE, r"patch_embed\.", "see model.kwargs.patch_size, in_chans and embed_dim"),
    (SHAPE, r"head\.", "the number of classes is different"),
)  # fmt: skip
POSITIONS = "pos_embed"
SIDES = "position embeddings are resampled only between square grids: set model.kwargs.img_size and patch_size as in training"
TWO_PARTS = "the head reads the class token and the mean of the patches, as DINOv2's: set model.kwargs.global_pool to token_and_avg"


def fill(model: torch.nn.Module, state: dict[str, Tensor], origin: str | Path) -> None:
    """Load a state dict.

    Position embeddings of another square grid are resampled by timm's own function, and the log says so. Registers
    without positions, as in DINOv2, get the positions that mean the same.

    Raises:
        FggError: tensors are missing, unexpected, of the wrong shape, or whole numbers in place of weights; the message
            names them, with hints.
    """
    own = model.state_dict()
    state = with_projections(own, _without_tables(model, own, state, origin), origin)
    whole = [
        name
        for name, tensor in state.items()
        if name in own and own[name].is_floating_point() and not tensor.is_floating_point()
    ]
    if whole:
        raise FggError(
            f"model.weights: {origin} holds whole numbers in place of weights in {names(whole)}; it is quantised: save "
            "the model as float32"
        )
    faults = _faults(own, state)
    if faults[SHAPE] == [POSITIONS] and not faults[MISSING] and not faults[UNEXPECTED]:
        state = _placed(model, state, origin)
        faults = _faults(own, state)
    if any(faults.values()):
        shapes = [f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}" for name in faults[SHAPE]]
        told = [f"{kind}: {names(shapes if kind == SHAPE else found)}" for kind, found in faults.items() if found]
        hints = [f" ({hint})" for kind, pattern, hint in HINTS if any(re.match(pattern, name) for name in faults[kind])]
        hints += [f" ({SIDES})"] if faults[SHAPE] == [POSITIONS] else []
        if "head.weight" in faults[SHAPE] and state["head.weight"].shape[-1] == 2 * own["head.weight"].shape[-1]:
            hints.append(f" ({TWO_PARTS})")
        raise FggError(
            f"model.weights: {origin} does not fit the architecture; {'; '.join(told)}. "
            f"Check model.architecture, model.kwargs and the number of classes{''.join(hints)}"
        )
    model.load_state_dict(state)


def _without_tables(
    model: torch.nn.Module, own: dict[str, Tensor], state: dict[str, Tensor], origin: str | Path
) -> dict[str, Tensor]:
    """The state dict without the fixed tables of positions that the model computes itself.

    Raises:
        FggError: a table is another than the model's.
    """
    tables = {name: tensor for name, tensor in model.named_buffers() if name not in own}
    found = [name for name in state if name in tables]
    if other := [
        name for name in found if not torch.equal(tables[name].cpu(), state[name].cpu().to(tables[name].dtype))
    ]:
        raise FggError(
            f"model.weights: {origin} has another order of positions than the architecture, in {names(other)}"
        )
    if hasattr(model, "rope"):  # BAAI's files hold the cosines and sines
        found += [name for name in state if name not in own and re.fullmatch(r"(.*\.)?rope\.freqs_(cos|sin)", name)]
    if found:
        print(f"note: model.weights: {origin}: left out tables that timm computes: {names(found)}", file=sys.stderr)
    return {name: tensor for name, tensor in state.items() if name not in found}


def _faults(own: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, list[str]]:
    return {
        MISSING: [name for name in own if name not in state],
        UNEXPECTED: [name for name in state if name not in own],
        SHAPE: [name for name in own if name in state and own[name].shape != state[name].shape],
    }


def _placed(model: Any, state: dict[str, Tensor], origin: str | Path) -> dict[str, Tensor]:
    """The state dict with position embeddings of the model's grid, where the file's can be understood in one way only."""
    found, own = state[POSITIONS], model.state_dict()[POSITIONS]
    if found.ndim != 3 or found.shape[-1] != own.shape[-1] or len(found) != 1:
        return state
    grid = tuple(int(side) for side in model.patch_embed.grid_size)
    patches = grid[0] * grid[1]
    prefix = own.shape[1] - patches
    # Tokens before the patches that have positions: as in the model, or the class token alone.
    ways = {prefix: found.shape[1] - prefix, **({1: found.shape[1] - 1} if "cls_token" in state else {})}
    fitting = [tokens for tokens, left in ways.items() if left == patches]
    fitting = fitting or [tokens for tokens, left in ways.items() if left > 0 and round(left**0.5) ** 2 == left]
    if len(fitting) != 1:
        return state
    state, before = dict(state), fitting[0]
    found = found.float()
    left = ways[before]
    if left != patches:
        side = round(left**0.5)
        found = resample_abs_pos_embed(found, list(grid), [side, side], num_prefix_tokens=before)
        print(
            f"note: model.weights: {origin}: position embeddings were resampled from a grid of {side} x {side} to "
            f"{grid[0]} x {grid[1]} patches",
            file=sys.stderr,
        )
    if before != prefix:
        first, rest = found[:, :1], found[:, 1:]
        if prefix == 0:
            state["cls_token"] = state["cls_token"] + first
            found = rest
        else:
            found = torch.cat([first, first.new_zeros(1, prefix - 1, first.shape[-1]), rest], dim=1)
    state[POSITIONS] = found
    return state

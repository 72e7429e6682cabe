"""Relevance rules once more, slowly, in float64 for one image: a forward pass by hand, and the rules from the papers.

Nothing of the package is imported. Tokens, heads and outputs are looped over, so each line can be held against a rule.
"""

from __future__ import annotations

import copy
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import GluMlp, SwiGLU
from torch import nn


def array(value) -> np.ndarray | None:
    return None if value is None else value.detach().double().numpy()


@dataclass
class Linear:
    """A linear layer's input, output and weights."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    y: np.ndarray


@dataclass
class Norm:
    """A norm's output, its divisor per row, and its weight; ``centred`` if it subtracts the mean."""

    y: np.ndarray
    divisor: np.ndarray
    weight: np.ndarray
    centred: bool
    bias: np.ndarray | None


@dataclass
class Trace:
    """One image's forward pass: per block a dict of its parts."""

    model: Any
    image: np.ndarray
    embedded: np.ndarray
    tokens: list[np.ndarray] = field(default_factory=list)  # what enters each block, then what leaves the last
    blocks: list[dict[str, Any]] = field(default_factory=list)
    norm: Norm | None = None
    fc_norm: Norm | None = None
    pooled: np.ndarray | None = None
    head: Linear | None = None


def run_linear(layer, x) -> Linear:
    weight, bias = array(layer.weight), array(layer.bias)
    return Linear(x, weight, bias, x @ weight.T + (0 if bias is None else bias))


def run_norm(norm, x) -> Norm | None:
    if isinstance(norm, nn.Identity):
        return None
    centred = isinstance(norm, nn.LayerNorm)
    y, divisor = np.zeros_like(x), np.zeros(x.shape[:-1])
    bias = array(norm.bias) if centred else None
    weight = np.ones(x.shape[-1]) if norm.weight is None else array(norm.weight)
    for place in np.ndindex(*x.shape[:-1]):
        row = x[place] - (x[place].mean() if centred else 0)
        divisor[place] = np.sqrt((row**2).mean() + norm.eps)
        y[place] = row / divisor[place] * weight + (0 if bias is None else bias)
    return Norm(y, divisor, weight, centred, bias)


def softmax(row) -> np.ndarray:
    weights = np.exp(row - row.max())
    return weights / weights.sum()


def scale_of(module) -> np.ndarray | float:
    return array(module.gamma) if hasattr(module, "gamma") else 1.0


def value_of(norm: Norm | None, x) -> np.ndarray:
    return x if norm is None else norm.y


def trace(model, image) -> Trace:
    """Run an image (C, H, W) by hand."""
    model = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        embedded = model._pos_embed(model.patch_embed(image[None].double()))[0]
        x = model.norm_pre(embedded).numpy() if embedded.ndim == 2 else None
    seen = Trace(model, image.double().numpy(), embedded.numpy(), [x])
    for block in model.blocks:
        own = run_block(block, x)
        seen.blocks.append(own)
        x = own["out"]
        seen.tokens.append(x)
    seen.norm = run_norm(model.norm, x)
    y = value_of(seen.norm, x)
    prefix = model.num_prefix_tokens
    seen.pooled = y[0] if model.global_pool == "token" else y[prefix:].mean(0)
    seen.fc_norm = run_norm(model.fc_norm, seen.pooled)
    seen.head = run_linear(model.head, value_of(seen.fc_norm, seen.pooled))
    with torch.no_grad():
        expected = model(image[None].double())[0].numpy()
    np.testing.assert_allclose(seen.head.y, expected, rtol=1e-9, atol=1e-11)
    return seen


def run_block(block, x, attention=None) -> dict[str, Any]:
    """The parts of a block for its input (T, D); ``attention`` (H, T, T) replaces its own."""
    attn, mlp = block.attn, block.mlp
    heads, size, tokens = attn.num_heads, attn.head_dim, len(x)
    norm1 = run_norm(block.norm1, x)
    qkv = run_linear(attn.qkv, norm1.y)
    parts = qkv.y.reshape(tokens, 3, heads, size)
    q, k, v = (parts[:, index].transpose(1, 0, 2) for index in range(3))  # (H, T, d)
    q_norm, k_norm = run_norm(attn.q_norm, q), run_norm(attn.k_norm, k)
    q, k = value_of(q_norm, q), value_of(k_norm, k)
    logits = np.zeros((heads, tokens, tokens))
    for h in range(heads):
        logits[h] = q[h] @ k[h].T / np.sqrt(size)
    if attention is None:
        attention = np.array([[softmax(row) for row in rows] for rows in logits])
    mixed = np.array([attention[h] @ v[h] for h in range(heads)])
    proj = run_linear(attn.proj, mixed.transpose(1, 0, 2).reshape(tokens, heads * size))
    attended = proj.y * scale_of(block.ls1)
    middle = x + attended
    norm2 = run_norm(block.norm2, middle)
    own = {"x": x, "norm1": norm1, "qkv": qkv, "q": q, "k": k, "v": v, "q_norm": q_norm, "k_norm": k_norm}
    own |= {"logits": logits, "attention": attention, "proj": proj, "attended": attended, "middle": middle}
    own |= {"ls1": scale_of(block.ls1), "ls2": scale_of(block.ls2), "norm2": norm2, "kind": type(mlp)}

    def act(value):
        return mlp.act(torch.from_numpy(np.ascontiguousarray(value))).numpy()

    if isinstance(mlp, GluMlp):
        own["fc1"] = run_linear(mlp.fc1, norm2.y)
        one, other = np.split(own["fc1"].y, 2, axis=1)
        own["act_in"], own["linear_in"] = (other, one) if mlp.gate_last else (one, other)
        own["gate_last"] = mlp.gate_last
    elif isinstance(mlp, SwiGLU):
        own["fc1_g"], own["fc1_x"] = run_linear(mlp.fc1_g, norm2.y), run_linear(mlp.fc1_x, norm2.y)
        own["act_in"], own["linear_in"] = own["fc1_g"].y, own["fc1_x"].y
    else:
        own["fc1"] = run_linear(mlp.fc1, norm2.y)
        own["act_in"], own["linear_in"] = own["fc1"].y, None
    own["act_out"] = act(own["act_in"])
    hidden = own["act_out"] if own["linear_in"] is None else own["act_out"] * own["linear_in"]
    own["fc2"] = run_linear(mlp.fc2, hidden)
    own["mlp"] = own["fc2"].y * own["ls2"]
    own["out"] = middle + own["mlp"]
    return own


def score(seen: Trace, tokens) -> np.ndarray:
    """The logits if norm, pooling and head read these tokens (T, D)."""
    model = seen.model
    y = value_of(run_norm(model.norm, tokens), tokens)
    pooled = y[0] if model.global_pool == "token" else y[model.num_prefix_tokens :].mean(0)
    return run_linear(model.head, value_of(run_norm(model.fc_norm, pooled), pooled)).y


# ---------------------------------------------------------------- gradients by the rules


@dataclass
class Rules:
    """Taylor softmax and halved products (AttnLRP), or constant attention (LibraGrad)."""

    taylor: bool
    gamma: float = 0.0
    gamma_projection: float = 0.0


def back_norm(norm: Norm | None, g) -> np.ndarray:
    """The divisor is a constant: row by row W^T g / divisor, minus its mean if the norm centres."""
    if norm is None:
        return g
    out = np.zeros_like(g)
    for place in np.ndindex(*g.shape[:-1]):
        row = g[place] * norm.weight / norm.divisor[place]
        out[place] = row - (row.mean() if norm.centred else 0)
    return out


def back_linear(own: Linear, g, gamma: float) -> np.ndarray:
    """Per output: relevance g z is shared by contributions, those with the sign of z counted 1 + gamma times."""
    if gamma == 0:
        return g @ own.weight
    x, y, g_rows = np.atleast_2d(own.x), np.atleast_2d(own.y), np.atleast_2d(g)
    out = np.zeros_like(x)
    for t in range(len(x)):
        for o in range(y.shape[1]):
            z = y[t, o]
            parts = own.weight[o] * x[t]
            bias = 0.0 if own.bias is None else own.bias[o]
            sign = np.sign(z)
            counted = 1 + gamma * (parts * sign > 0)
            whole = (counted * parts).sum() + bias * (1 + gamma * (bias * sign > 0))
            relevance = g_rows[t, o] * z
            out[t] += relevance * counted * own.weight[o] / whole  # relevance of input i, divided by x_i
    return out.reshape(own.x.shape)


def back_block(own, g, rules: Rules, lost: list | None = None, biases: list | None = None) -> np.ndarray:
    """Gradient (T, D) at a block's output to that at its input.

    ``lost`` collects the relevance that the softmax keeps, ``biases`` the bias contributions per token.
    """

    def note(layer, gradient):
        if biases is not None and layer is not None and layer.bias is not None:
            biases.append((gradient * layer.bias).sum(-1))

    half = 0.5 if own["linear_in"] is not None else 1.0
    down = g * own["ls2"]
    note(own["fc2"], down)
    hidden = back_linear(own["fc2"], down, rules.gamma)
    ratio = own["act_out"] / own["act_in"]
    if own["linear_in"] is None:
        at_act, at_linear = hidden * ratio, None
    else:
        at_act, at_linear = half * hidden * own["linear_in"] * ratio, half * hidden * own["act_out"]
    if own["kind"] is SwiGLU:
        note(own["fc1_g"], at_act)
        note(own["fc1_x"], at_linear)
        normed = back_linear(own["fc1_g"], at_act, rules.gamma) + back_linear(own["fc1_x"], at_linear, rules.gamma)
    else:
        if at_linear is not None:
            at_act = np.concatenate([at_linear, at_act] if own["gate_last"] else [at_act, at_linear], axis=1)
        note(own["fc1"], at_act)
        normed = back_linear(own["fc1"], at_act, rules.gamma)
    note(own["norm2"], normed)
    g = g + back_norm(own["norm2"], normed)

    heads, tokens, size = own["v"].shape
    at_proj = g * own["ls1"]
    note(own["proj"], at_proj)
    mixed = back_linear(own["proj"], at_proj, rules.gamma).reshape(tokens, heads, size).transpose(1, 0, 2)
    parts = np.zeros((tokens, 3, heads, size))
    to_q, to_k = np.zeros((heads, tokens, size)), np.zeros((heads, tokens, size))
    for h in range(heads):
        share = 0.5 if rules.taylor else 1.0
        for i in range(tokens):
            for j in range(tokens):
                parts[j, 2, h] += share * own["attention"][h, i, j] * mixed[h, i]
        if not rules.taylor:
            continue
        for i in range(tokens):
            a = own["attention"][h, i]
            at_a = np.array([share * mixed[h, i] @ own["v"][h, j] for j in range(tokens)])
            jacobian = np.diag(a) - np.outer(a, a)
            at_logits = jacobian.T @ at_a
            if lost is not None:
                lost.append((a * at_a).sum() - (own["logits"][h, i] * at_logits).sum())
            for j in range(tokens):
                to_q[h, i] += 0.5 * at_logits[j] * own["k"][h, j] / np.sqrt(size)
                to_k[h, j] += 0.5 * at_logits[j] * own["q"][h, i] / np.sqrt(size)
    parts[:, 0] = back_norm(own["q_norm"], to_q).transpose(1, 0, 2)
    parts[:, 1] = back_norm(own["k_norm"], to_k).transpose(1, 0, 2)
    at_qkv = parts.reshape(tokens, -1)
    note(own["qkv"], at_qkv)
    normed = back_linear(own["qkv"], at_qkv, rules.gamma)
    note(own["norm1"], normed)
    return g + back_norm(own["norm1"], normed)


def back_head(seen: Trace, target: int, rules: Rules, biases: list | None = None) -> np.ndarray:
    """Gradient of the target's logit at the tokens (T, D) that leave the last block."""
    chosen = np.zeros(len(seen.head.y))
    chosen[target] = 1.0
    pooled = back_norm(seen.fc_norm, back_linear(seen.head, chosen, rules.gamma))
    out = np.zeros_like(seen.tokens[-1])
    prefix = seen.model.num_prefix_tokens
    if seen.model.global_pool == "token":
        out[0] = pooled
    else:
        for t in range(prefix, len(out)):
            out[t] = pooled / (len(out) - prefix)
    if biases is not None and seen.norm is not None:
        biases.append((out * seen.norm.bias).sum(-1))
    return back_norm(seen.norm, out)


def gradients(seen: Trace, target: int, rules: Rules, lost=None, biases=None) -> list[np.ndarray]:
    """Gradients at the tokens that enter each block, and at those that leave the last."""
    found = [back_head(seen, target, rules, biases)]
    for own in reversed(seen.blocks):
        found.insert(0, back_block(own, found[0], rules, lost, biases))
    return found


def at_tokens(seen: Trace, target: int, rules: Rules, layer: int) -> np.ndarray:
    """Relevance of the patches after a block."""
    found = gradients(seen, target, rules)
    return (seen.tokens[layer + 1] * found[layer + 1]).sum(-1)[seen.model.num_prefix_tokens :]


def at_pixels(seen: Trace, target: int, rules: Rules) -> np.ndarray:
    """Relevance of the pixels, summed over patches."""
    model = seen.model
    g = back_norm(run_norm(model.norm_pre, seen.embedded), gradients(seen, target, rules)[0])
    g = g[model.num_prefix_tokens :]
    (height, width), (_, columns) = model.patch_embed.patch_size, model.patch_embed.grid_size
    weight, bias = array(model.patch_embed.proj.weight), array(model.patch_embed.proj.bias)
    flat, out = weight.reshape(len(weight), -1), []
    for n in range(len(g)):
        top, left = n // columns * height, n % columns * width
        x = seen.image[:, top : top + height, left : left + width].reshape(-1)
        own = Linear(x, flat, bias, x @ flat.T + (0 if bias is None else bias))
        out.append((x * back_linear(own, g[n], rules.gamma_projection)).sum())
    return np.array(out)


def largest(measured, expected) -> float:
    """The largest difference, relative to the largest value of each row."""
    measured, expected = np.asarray(measured, np.float64), np.asarray(expected, np.float64)
    assert measured.shape == expected.shape
    assert expected.std(-1).min() > 0, "the definition gives a constant map, which proves nothing"
    return float((np.abs(measured - expected).max(-1) / np.abs(expected).max(-1)).max())


# ---------------------------------------------------------------- the authors' package


def import_lxt():
    """Lxt's rules for gradients, without its language models, which need an older transformers; skips without lxt."""
    lxt = pytest.importorskip("lxt")
    folder = Path(lxt.__file__).parent / "efficient" / "models"
    package = types.ModuleType("lxt.efficient.models")
    package.__path__, package.get_default_map = [str(folder)], None
    sys.modules.setdefault(package.__name__, package)
    import lxt.efficient

    return lxt.efficient


# ---------------------------------------------------------------- what a model must look like afterwards

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def state(model) -> dict[str, Any]:
    """What a call could change about a model."""
    modules = dict(model.named_modules())
    return {
        "hooks": {name: [len(getattr(module, kind)) for kind in HOOKS] for name, module in modules.items()},
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "training": {name: module.training for name, module in modules.items()},
        "fused": {name: module.fused_attn for name, module in modules.items() if hasattr(module, "fused_attn")},
        "requires": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "gradients": [name for name, parameter in model.named_parameters() if parameter.grad is not None],
        "values": {name: value.clone().numpy().tobytes() for name, value in model.state_dict().items()},
    }


class Broken(nn.LayerNorm):
    """A norm that fails when it is reached."""

    def forward(self, *_inputs):
        raise ArithmeticError("this part is broken")


def check_left_as_it_came(model, call):
    """A call leaves the model as it came, also in training, with attention fused here and not there, and if it fails."""
    model = copy.deepcopy(model).train()
    model.blocks[0].attn.fused_attn = False
    model.blocks[1].attn.fused_attn = True
    model.blocks[1].mlp.fc1.register_forward_hook(lambda *_: None)
    model.head.requires_grad_(False)
    before = state(model)
    call(model)
    assert state(model) == before
    assert torch.is_grad_enabled()
    model.norm = Broken(model.embed_dim)
    before = state(model)
    try:
        call(model)
    except ArithmeticError:
        assert state(model) == before
        assert torch.is_grad_enabled()
    else:
        raise AssertionError("the broken part was not reached")

"""The definitions once more, slowly: one image, one head, one token, one patch at a time, in float64.

Written from the definitions (docs and papers), not from the package, whose code none of this imports.
Loops only, so that each line can be held against its equation.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import torch
from scipy.stats import spearmanr

# ---------------------------------------------------------------- looking into a model


@dataclass
class Seen:
    """One image's pass; L blocks, H heads, T tokens, D width."""

    logits: np.ndarray
    target: int
    prefix: int
    class_row: bool
    attention: list[np.ndarray]  # L of (H, T, T)
    attention_gradient: list[np.ndarray]
    inputs: list[np.ndarray]  # L of (T, D)
    residuals: list[np.ndarray]
    gradients: list[np.ndarray]
    middles: list[np.ndarray]  # between attention and MLP
    mlp: list[np.ndarray]  # what the MLP adds


def precise(model):
    """A float64 copy."""
    return copy.deepcopy(model).double().eval()


def look(model, image, target=None) -> Seen:
    """Run one image (C, H, W) through a float64 copy; gradients of the target's logit by torch.autograd.grad."""
    model = precise(model)
    kept = {name: {} for name in ("attention", "inputs", "residuals", "middles", "mlp")}

    def keep(name, layer, which):
        def hook(_module, inputs, output):
            kept[name][layer] = inputs[0] if which == "input" else output

        return hook

    for layer, block in enumerate(model.blocks):
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(keep("attention", layer, "input"))
        block.register_forward_hook(keep("inputs", layer, "input"))
        block.register_forward_hook(keep("residuals", layer, "output"))
        block.norm2.register_forward_hook(keep("middles", layer, "input"))
        block.ls2.register_forward_hook(keep("mlp", layer, "output"))
    logits = model(image[None].double())[0]
    chosen = int(logits.argmax()) if target is None else int(target)
    layers = range(len(model.blocks))
    wanted = [kept["attention"][layer] for layer in layers] + [kept["residuals"][layer] for layer in layers]
    gradients = [g[0].numpy() for g in torch.autograd.grad(logits[chosen], wanted)]
    rows = {name: [kept[name][layer][0].detach().numpy() for layer in layers] for name in kept}
    return Seen(
        logits=logits.detach().numpy(),
        target=chosen,
        prefix=model.num_prefix_tokens,
        class_row=model.cls_token is not None and model.global_pool == "token",
        attention=rows["attention"],
        attention_gradient=gradients[: len(layers)],
        inputs=rows["inputs"],
        residuals=rows["residuals"],
        gradients=gradients[len(layers) :],
        middles=rows["middles"],
        mlp=rows["mlp"],
    )


def probabilities(model, image) -> list[float]:
    """Softmax of the logits of one image (C, H, W)."""
    logits = clean_logits(model, image)
    weights = [math.exp(z - max(logits)) for z in logits]
    return [w / sum(weights) for w in weights]


def clean_logits(model, image) -> list[float]:
    """Logits of one image (C, H, W); `model` is float64."""
    with torch.no_grad():
        return model(torch.as_tensor(image)[None].double())[0].tolist()


def attention_by_hand(block, x: np.ndarray) -> np.ndarray:
    """softmax(q k / sqrt d) of a timm block for its input x (T, D): (H, T, T), query by query."""
    block = copy.deepcopy(block).double()
    attn = block.attn
    with torch.no_grad():
        rows = attn.qkv(block.norm1(torch.from_numpy(x)))
    tokens, heads, size = len(x), attn.num_heads, attn.head_dim
    out = np.zeros((heads, tokens, tokens))
    for h in range(heads):
        with torch.no_grad():
            q = attn.q_norm(rows[:, h * size : (h + 1) * size]).numpy()
            k = attn.k_norm(rows[:, (heads + h) * size : (heads + h + 1) * size]).numpy()
        for i in range(tokens):
            weights = [math.exp(float(np.dot(q[i], k[j])) / math.sqrt(size)) for j in range(tokens)]
            for j in range(tokens):
                out[h, i, j] = weights[j] / sum(weights)
    return out


# ---------------------------------------------------------------- attribution


def cam(attention: np.ndarray, gradient: np.ndarray, weight: np.ndarray | None = None) -> list[list[float]]:
    """C = mean over heads of max(A * dz/dA, 0), each column j weighed by weight[h, j] if given."""
    heads, tokens, _ = attention.shape
    out = [[0.0] * tokens for _ in range(tokens)]
    for i in range(tokens):
        for j in range(tokens):
            for h in range(heads):
                positive = max(float(attention[h, i, j] * gradient[h, i, j]), 0.0)
                out[i][j] += positive * (1.0 if weight is None else float(weight[h, j])) / heads
    return out


def product(a, b) -> list[list[float]]:
    """The matrix product of two lists of rows."""
    return [[math.fsum(a[i][k] * b[k][j] for k in range(len(b))) for j in range(len(b[0]))] for i in range(len(a))]


def read(seen: Seen, matrix) -> np.ndarray:
    """The class token's row at the patches, or the mean of the patches' rows."""
    tokens = len(matrix)
    out = []
    for j in range(seen.prefix, tokens):
        if seen.class_row:
            out.append(matrix[0][j])
        else:
            out.append(sum(matrix[i][j] for i in range(seen.prefix, tokens)) / (tokens - seen.prefix))
    return np.array(out)


def transmm(seen: Seen, gates: dict[int, np.ndarray] | None = None) -> np.ndarray:
    """R = I; R <- R + C_l R from the first block to the last; gates multiply the patch columns of C_l."""
    tokens = seen.attention[0].shape[1]
    matrix = [[float(i == j) for j in range(tokens)] for i in range(tokens)]
    for layer in range(len(seen.attention)):
        c = cam(seen.attention[layer], seen.attention_gradient[layer])
        for i in range(tokens):
            for j in range(seen.prefix, tokens):
                if gates and layer in gates:
                    c[i][j] *= float(gates[layer][j - seen.prefix])
        step = product(c, matrix)
        matrix = [[matrix[i][j] + step[i][j] for j in range(tokens)] for i in range(tokens)]
    return read(seen, matrix)


def encode(sae: dict, x: np.ndarray) -> list[float]:
    """ReLU codes of one token x (D,); sae holds the weights, and normalize: none or layer_norm."""
    x = [float(value) for value in x]
    if sae["normalize"] == "layer_norm":
        mean = sum(x) / len(x)
        std = math.sqrt(sum((value - mean) ** 2 for value in x) / (len(x) - 1))
        x = [(value - mean) / (std + 1e-5) for value in x]
    shifted = np.array([value - float(b) for value, b in zip(x, sae["b_dec"], strict=True)])
    features = len(sae["b_enc"])
    return [max(float(np.dot(shifted, sae["W_enc"][:, k])) + float(sae["b_enc"][k]), 0.0) for k in range(features)]


def gate_scores(construction: str, residual, gradient, sae: dict | None = None, order=None) -> np.ndarray:
    """The score of each patch; residual, gradient (N, D). `order` re-indexes the decoder's rows (shuffled control)."""
    out = []
    for r, g in zip(residual, gradient, strict=True):
        if construction == "no_sae":
            out.append(sum(float(a * b) for a, b in zip(r, g, strict=True)))
            continue
        f = encode(sae, r)
        features = range(len(f))
        h = [float(np.dot(g, sae["W_dec"][k if order is None else order[k]])) for k in features]
        if construction == "combined":
            out.append(sum(f[k] * h[k] for k in features))
        elif construction == "activation_only":
            out.append(sum(f))
        elif construction == "gradient_only":
            out.append(sum(h))
    return np.array(out)


def lower_middle(values) -> float:
    """The median; of an even number of values the lower of the middle two."""
    return sorted(values)[(len(values) - 1) // 2]


def standardise(scores) -> np.ndarray:
    """(s - median) / (1.4826 (MAD + 1e-8)): the floor stands inside, as in the reference vectors."""
    middle = lower_middle(list(scores))
    spread = lower_middle([abs(s - middle) for s in scores])
    return np.array([(s - middle) / (1.4826 * (spread + 1e-8)) for s in scores])


def gate(scores, clamp_max: float, alpha: float) -> np.ndarray:
    """clamp_max ** tanh(alpha s~)."""
    return np.array([clamp_max ** math.tanh(alpha * s) for s in standardise(scores)])


def rollout(seen: Seen) -> np.ndarray:
    """The product over blocks of the row-normalised (mean_h A + I) / 2, the last block leftmost."""
    tokens = seen.attention[0].shape[1]
    matrix = [[float(i == j) for j in range(tokens)] for i in range(tokens)]
    for attention in seen.attention:
        mixed = []
        for i in range(tokens):
            row = [
                (sum(float(head[i, j]) for head in attention) / len(attention) + (i == j)) / 2 for j in range(tokens)
            ]
            mixed.append([value / sum(row) for value in row])
        matrix = product(mixed, matrix)
    return read(seen, matrix)


def gradcam(seen: Seen) -> np.ndarray:
    """At layer L-2: max(sum_d w_d r_d, 0), w the mean gradient over the patches."""
    residual, gradient = seen.residuals[-2][seen.prefix :], seen.gradients[-2][seen.prefix :]
    patches, width = residual.shape
    weights = [sum(float(gradient[p, d]) for p in range(patches)) / patches for d in range(width)]
    return np.array([max(sum(weights[d] * float(residual[p, d]) for d in range(width)), 0.0) for p in range(patches)])


def _weights(before, after) -> list[float]:
    """Per token: length ratio times the softmax over tokens of the cosine between before and after."""
    lengths = [
        (math.sqrt(float(np.dot(x, x))), math.sqrt(float(np.dot(y, y)))) for x, y in zip(before, after, strict=True)
    ]
    cosines = [float(np.dot(x, y)) / (a * b) for x, y, (a, b) in zip(before, after, lengths, strict=True)]
    total = sum(math.exp(c) for c in cosines)
    return [b / a * math.exp(c) / total for c, (a, b) in zip(cosines, lengths, strict=True)]


def tokentm(model, seen: Seen) -> np.ndarray:
    """C = diag(|x|); per block C <- C + M C, C <- C + diag(f) C; M weighs the cam's columns, f the MLP."""
    model = precise(model)
    tokens = len(seen.inputs[0])
    lengths = [math.sqrt(float(np.dot(x, x))) for x in seen.inputs[0]]
    matrix = [[lengths[i] * (i == j) for j in range(tokens)] for i in range(tokens)]
    for layer, block in enumerate(model.blocks):
        attn, size = block.attn, block.attn.head_dim
        value = attn.qkv.weight.detach().numpy()[2 * attn.num_heads * size :]
        out = attn.proj.weight.detach().numpy()
        scale = getattr(block.ls1, "gamma", None)
        scale = 1.0 if scale is None else scale.detach().numpy()
        heads = []
        for h in range(attn.num_heads):
            columns = slice(h * size, (h + 1) * size)
            passed = [scale * (out[:, columns] @ (value[columns] @ x)) for x in seen.inputs[layer]]
            heads.append(_weights(seen.inputs[layer], passed))
        step = product(cam(seen.attention[layer], seen.attention_gradient[layer], np.array(heads)), matrix)
        matrix = [[matrix[i][j] + step[i][j] for j in range(tokens)] for i in range(tokens)]
        f = _weights(seen.middles[layer], seen.mlp[layer])
        matrix = [[(1 + f[i]) * matrix[i][j] for j in range(tokens)] for i in range(tokens)]
    return read(seen, matrix)


def log_spread(row) -> float:
    """Standard deviation of log relevance over the positive patches."""
    logs = [math.log(value) for value in row if value > 0]
    mean = sum(logs) / len(logs)
    return math.sqrt(sum((value - mean) ** 2 for value in logs) / len(logs))


def sharpen(vanilla, gated) -> np.ndarray:
    """Vanilla ** p as a share of its maximum, with p found by bisection so that the log spreads agree."""
    wanted, low, high = log_spread(gated), 0.0, 100.0
    for _ in range(200):
        power = (low + high) / 2
        if log_spread([value**power for value in vanilla]) < wanted:
            low = power
        else:
            high = power
    return np.array([(value / max(vanilla)) ** power for value in vanilla])


# ---------------------------------------------------------------- faithfulness


def fill(image: np.ndarray, patches, patch_size: tuple[int, int], value: float) -> np.ndarray:
    """The image (C, H, W) with some patches, numbered row by row, set to a value."""
    out = np.array(image, dtype=np.float64)
    height, width = patch_size
    columns = image.shape[2] // width
    for patch in patches:
        top, left = (patch // columns) * height, (patch % columns) * width
        for channel in range(image.shape[0]):
            for y in range(top, top + height):
                for x in range(left, left + width):
                    out[channel, y, x] = value
    return out


def ranking(relevance) -> list[int]:
    """Patches by descending relevance; equal ones by index."""
    return sorted(range(len(relevance)), key=lambda patch: (-float(relevance[patch]), patch))


def bins_of(relevance, count: int) -> list[list[int]]:
    """The ranking cut into near-equal bins, larger ones first."""
    order = ranking(relevance)
    out, start = [], 0
    for number in range(count):
        size = len(order) // count + (number < len(order) % count)
        out.append(order[start : start + size])
        start += size
    return out


def saco_drops(model, image, groups, patch_size, target: int | None, protocol: str) -> list[float]:
    """Each bin's drop in probability when it alone is filled with the image's mean; `model` is float64."""
    before = probabilities(model, image)
    chosen = before.index(max(before)) if target is None or protocol == "paper" else target
    drops = []
    for group in groups:
        after = probabilities(model, fill(image, group, patch_size, float(np.mean(image, dtype=np.float64))))
        drops.append(max(before) - max(after) if protocol == "thesis" else before[chosen] - after[chosen])
    return drops


def saco_score(totals, drops, protocol: str) -> float:
    """Over pairs of bins: the weight's size, positive when the drops agree, over the sum of sizes."""
    numerator = denominator = 0.0
    for i, j in combinations(range(len(drops)), 2):
        weight = abs(totals[i] - totals[j])
        denominator += weight
        if protocol == "thesis":  # bins come in descending order; equal drops agree
            numerator += weight if drops[i] >= drops[j] else -weight
        elif protocol == "paper":  # i comes before j: its total is not smaller
            numerator += totals[i] - totals[j] if drops[i] - drops[j] >= 0 else totals[j] - totals[i]
        elif drops[i] != drops[j] and totals[i] != totals[j]:
            agree = (drops[i] > drops[j]) == (totals[i] > totals[j])
            numerator += weight if agree else -weight
    if denominator == 0:
        return 0.0 if protocol == "thesis" else math.nan
    return numerator / denominator


def saco(model, image, relevance, count, patch_size, target=None, protocol="corrected") -> tuple[float, list[float]]:
    """The score, and the drops it was made of."""
    groups = bins_of(relevance, count)
    drops = saco_drops(model, image, groups, patch_size, target, protocol)
    return saco_score([math.fsum(float(relevance[p]) for p in group) for group in groups], drops, protocol), drops


def pixel_flipping(
    model, image, relevance, patch_size, target=None, step=1, filling="mean", protocol="corrected"
) -> tuple[float, list[float]]:
    """Area under, and curve of, the class's probability while patches are filled on the pixels, step by step."""
    before = probabilities(model, image)
    chosen = before.index(max(before)) if target is None else target
    order = ranking(relevance)
    current, curve = np.array(image, dtype=np.float64), [before[chosen]]
    while order:
        now, order = order[:step], order[step:]
        seen = current if protocol == "thesis" else image
        value = 0.0 if filling == "black" else float(np.mean(seen, dtype=np.float64))
        current = fill(current, now, patch_size, value)
        curve.append(probabilities(model, current)[chosen])
    area = sum((a + b) / 2 for a, b in pairwise(curve))
    return (area if protocol == "thesis" else area / (len(curve) - 1)), curve


def faithfulness_drops(model, image, subsets, patch_size, target=None) -> list[float]:
    """Drops of the target's logit, subset by subset; `model` is float64."""
    before = clean_logits(model, image)
    chosen = before.index(max(before)) if target is None else target
    mean = float(np.mean(image, dtype=np.float64))
    return [before[chosen] - clean_logits(model, fill(image, s, patch_size, mean))[chosen] for s in subsets]


def faithfulness_correlation(relevance, subsets, drops, protocol: str = "corrected") -> float:
    """Spearman between a subset's summed relevance and its drop; a constant series is NaN (thesis: 0)."""
    sums = [math.fsum(float(relevance[patch]) for patch in subset) for subset in subsets]
    if protocol == "thesis" and (np.std(sums) < 1e-10 or np.std(drops) < 1e-10):
        return 0.0
    if len(set(sums)) == 1 or len(set(drops)) == 1:
        return math.nan
    return float(spearmanr(sums, drops).statistic)

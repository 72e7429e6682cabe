"""Slow maps of the models of `families`: from its attentions and gradients of one image, head by head."""

import copy
import math

import families
import numpy as np
import torch
from zoo import FEW


def cams(seen, target):
    """Per block and branch: the attention (H, T, T) and the gradient of the target's logit."""
    flat = [own for block in seen.attention for own in block]
    slopes = iter(torch.autograd.grad(seen.logits[target], flat, retain_graph=True, materialize_grads=True))
    return [[(own.detach().numpy(), next(slopes).numpy()) for own in block] for block in seen.attention]


def row_of(seen):
    model, tokens = seen.model, len(seen.tokens[0])
    row, prefix = np.zeros(tokens), model.num_prefix_tokens
    if model.global_pool == "token":
        read = [0, 1] if hasattr(model, "head_dist") else [0]
    else:
        read = list(range(prefix, tokens))
    row[read] = 1 / len(read)
    return row


def patches(seen, tokens):
    return tokens[seen.model.num_prefix_tokens :]


def transmm(seen, target, gates=None):
    tokens, matrix = len(seen.tokens[0]), np.eye(len(seen.tokens[0]))
    for layer, block in enumerate(cams(seen, target)):
        step = np.zeros((tokens, tokens))
        for attention, slope in block:
            for own, its in zip(attention, slope, strict=True):
                step += np.maximum(own * its, 0) / len(attention)
        if gates and layer in gates:
            step[:, seen.model.num_prefix_tokens :] *= gates[layer]
        matrix = matrix + step @ matrix
    return patches(seen, row_of(seen) @ matrix)


def rollout(seen, target):
    matrix = np.eye(len(seen.tokens[0]))
    for block in cams(seen, target):
        step = (sum(attention.mean(0) for attention, _ in block) + np.eye(len(matrix))) / 2
        matrix = (step / step.sum(1, keepdims=True)) @ matrix
    return patches(seen, row_of(seen) @ matrix)


def last_attention(seen, target):
    return patches(seen, row_of(seen) @ sum(attention.mean(0) for attention, _ in cams(seen, target)[-1]))


def attention_cam(seen, target):
    heads = [pair for attention, slope in cams(seen, target)[-1] for pair in zip(attention, slope, strict=True)]
    rows = [(patches(seen, row_of(seen) @ own), patches(seen, row_of(seen) @ its)) for own, its in heads]
    return np.maximum(sum(own * its.mean() for own, its in rows) / len(rows), 0)


def gradcam(seen, target):
    tokens = seen.tokens[-2]
    slope = torch.autograd.grad(seen.logits[target], tokens, retain_graph=True)[0]
    return _cam(seen, tokens.detach(), slope)


def _cam(seen, tokens, slope):
    tokens, slope = (patches(seen, each) for each in (tokens, slope))
    return (tokens * slope.mean(0)).sum(-1).clamp(min=0).numpy()


def gradcam_norm1(seen, target):
    """The last block's attention and MLP see only what comes out of norm1; the rest of its input counts as constant."""
    kept = []

    def keep(_module, _inputs, output):
        kept.append(output.detach().requires_grad_())
        return kept[0]

    model = copy.deepcopy(seen.model)
    model.blocks[-1].norm1.register_forward_hook(keep)
    slope = torch.autograd.grad(model(seen.image[None])[0, target], kept[0])[0]
    return _cam(seen, kept[0].detach()[0], slope[0])


def legrad(seen, target):
    maps = []
    for layer, (own,) in enumerate(seen.attention):
        score = families.head(seen.model, seen.tokens[layer + 1])[target]
        maps.append(torch.autograd.grad(score, own, retain_graph=True)[0].clamp(min=0).mean((0, 1)).numpy())
    return patches(seen, np.mean(maps, 0))


def tokentm(seen, target):
    """Distilled models only, whose blocks are timm's."""

    def weight(before, after):
        lengths, cosines = [], []
        for a, b in zip(before, after, strict=True):
            lengths.append(float(b.norm() / a.norm()))
            cosines.append(math.exp(float(a @ b / (a.norm() * b.norm()))))
        return np.array(lengths) * np.array(cosines) / sum(cosines)

    row = row_of(seen)
    for layer in reversed(range(len(seen.attention))):
        block, x = seen.model.blocks[layer], seen.tokens[layer].detach()
        ((attention, slope),) = cams(seen, target)[layer]
        size, width, matrix = block.attn.head_dim, x.shape[1], 0
        value = block.attn.qkv.weight[2 * width :]
        for h in range(len(attention)):
            own = slice(h * size, (h + 1) * size)
            passed = x @ value[own].T @ block.attn.proj.weight[:, own].T
            matrix = matrix + np.maximum(attention[h] * slope[h], 0) * weight(x, passed) / len(attention)
        middle = x + block.attn(block.norm1(x[None]))[0]
        row = row * (1 + weight(middle, block.mlp(block.norm2(middle))))
        row = row + row @ matrix
    return patches(seen, row * seen.tokens[0].detach().norm(dim=1).numpy())


def pixel_gradient(seen, target, image=None):
    image = (seen.image if image is None else image).clone().requires_grad_()
    return torch.autograd.grad(seen.model(image[None])[0, target], image)[0]


def per_patch(seen, values):
    tall, wide = seen.model.patch_embed.patch_size
    return np.array([float(part.sum()) for line in values.sum(0).split(tall) for part in line.split(wide, 1)])


def input_x_gradient(seen, target):
    return per_patch(seen, seen.image * pixel_gradient(seen, target))


def gradient_norm(seen, target):
    return np.sqrt(per_patch(seen, pixel_gradient(seen, target) ** 2))


def integrated_gradients(seen, target):
    places, weights = np.polynomial.legendre.leggauss(FEW["integrated_gradients"]["steps"])
    steps = zip((places + 1) / 2, weights / 2, strict=True)
    return per_patch(seen, seen.image * sum(w * pixel_gradient(seen, target, at * seen.image) for at, w in steps))


def occlusion(seen, target):
    tall, wide = seen.model.patch_embed.patch_size
    clean, drops = seen.model(seen.image[None]).softmax(-1)[0, target], []
    for top in range(0, seen.image.shape[1], tall):
        for left in range(0, seen.image.shape[2], wide):
            changed = seen.image.clone()
            changed[:, top : top + tall, left : left + wide] = seen.image.mean()
            drops.append(float(clean - seen.model(changed[None]).softmax(-1)[0, target]))
    return np.array(drops)

"""Perturbed images as tokens: the effect of filling, replacing or removing a patch after the patch embedding.

The patch embedding is linear and its patches do not overlap, so filling a patch replaces its token. Tokens are computed
once per image and then gathered. The same holds for the first block's queries, keys and values, since each patch has
only two versions of them, clean and filled. If the head reads the class token, the last block computes only that row.
Both shortcuts are for timm's standard block; others run as they are. Rotary positions and relative biases stay with their
patches when others are removed (`fgg.models.architectures.after`).

Symbols: B images, V versions of each, N patches, T tokens, D width, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Attention, PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from fgg.models.architectures import after, logits_of
from fgg.models.architectures import embedded as embedded_tokens
from fgg.models.fast_products import set_by_others
from fgg.models.joined_block import DROPPING, after_attention, hooked
from fgg.models.joined_block import heads as split_heads
from fgg.models.onednn_attention import attention
from fgg.models.onednn_linear import linear
from fgg.models.vit import head_tokens, pools_prefix
from fgg.perturbation.compiled import in_one_shape


def allows_tokens(model: VisionTransformer) -> bool:
    """Whether masking tokens equals masking pixels: a plain convolution whose patches do not overlap."""
    embed = model.patch_embed
    if type(embed) is not PatchEmbed or embed.dynamic_img_pad or not isinstance(embed.proj, nn.Conv2d):
        return False
    if hooked(embed) or set_by_others(embed):
        return False
    proj = embed.proj
    plain = proj.stride == proj.kernel_size and set(proj.padding) == {0} and set(proj.dilation) == {1}
    # Patch dropout draws the tokens of a training model at random; in eval mode it has no effect.
    return plain and proj.groups == 1


def is_standard(block: Any) -> bool:
    """Whether a block is timm's pre-norm block, whose parts this module calls one by one, and nobody sees or has replaced it."""
    if type(block) is not Block or type(block.attn) is not Attention or getattr(block.attn, "gate", None) is not None:
        return False
    attn, drops = block.attn, (block.attn.proj_drop, block.drop_path1, block.drop_path2)
    if type(attn.qkv) is not nn.Linear or any(type(drop) not in DROPPING for drop in drops):
        return False
    return not any(hooked(module) or set_by_others(module) for module in (block, attn, attn.qkv, attn.k_norm, *drops))


class Tokens:
    """Token path of a batch of images: a table of all tokens, clean and filled, and forward passes that start from it.

    Args:
        exact: whether filling tokens equals filling pixels (`allows_tokens`); otherwise tokens can only be removed.
    """

    def __init__(self, model: VisionTransformer, images: Tensor, exact: bool) -> None:
        self.model = model
        self.first = is_standard(model.blocks[0])
        self.prefix = model.num_prefix_tokens
        self.reads_prefix = head_tokens(model) > 0 or (pools_prefix(model) and self.prefix > 0)
        self.embedded = self._normed(model.patch_embed.proj(images)) if exact else model.patch_embed(images)
        self.clean = self._row(self.embedded)
        self.tokens = self.clean.shape[1]
        # Rows 0 to T-1 of an image's table are its clean tokens, rows T to 2T-1 the filled ones.
        self.table = self._pair(self.clean, self.clean)
        self.identity = torch.arange(self.tokens, device=images.device)

    def fill(self, fill: Tensor) -> None:
        """Set the filled half of the table for fill values (B, N)."""
        proj = self.model.patch_embed.proj
        kernel = proj.weight.float().sum((1, 2, 3))
        filled = fill.float()[..., None] * kernel
        if proj.bias is not None:
            filled = filled + proj.bias.float()
        grid = self.embedded.shape[1:3] if self.embedded.ndim == 4 else self.model.patch_embed.grid_size
        filled = filled.transpose(1, 2).unflatten(-1, tuple(grid)).to(self.embedded.dtype)
        self.table = self._pair(self.clean, self._row(self._normed(filled)))

    def exchange(self, images: Tensor) -> None:
        """Set the filled half of the table to the patches of other images (B, C, H, W)."""
        self.table = self._pair(self.clean, self._row(self._normed(self.model.patch_embed.proj(images))))

    def forward(self, images: slice | Tensor, masks: Tensor, fixed: int | None = None) -> Tensor:
        """Logits of versions given by masks (b, v, N) of the images, a slice or their numbers (b,): (b * v, K).

        Args:
            fixed: run compiled passes of exactly so many rows.
        """
        batch, versions, _ = masks.shape
        table = self.table if isinstance(images, Tensor) else self.table[images]
        owners = images if isinstance(images, Tensor) else torch.arange(batch, device=masks.device)
        index = self.identity + self.tokens * torch.nn.functional.pad(masks, (self.prefix, 0)).long()
        index = index + 2 * self.tokens * owners[:, None, None]
        rows = table.flatten(0, 1).index_select(0, index.flatten()).view(batch * versions, self.tokens, -1)
        if fixed is None:
            return self._blocks(rows)
        return in_one_shape(from_table if self.first else from_tokens, self.model, rows, fixed)

    def without(self, masks: Tensor, rows: int, owners: Tensor | None = None) -> Tensor:
        """Logits of versions (B, V, N) whose masked patches are left out: float32 (B, V, K).

        NaN where no token is left that the head reads. Versions with the same number of tokens share a forward pass, at
        most ``rows`` of them at once. ``owners`` (B,) are the images' numbers, if they are not those of the masks.
        """
        table = self.table[:, : self.tokens].flatten(0, 1)
        device, (batch, versions, patches) = table.device, masks.shape
        # What decides the shapes of the passes is read from a GPU once, here, so that none of them waits for another.
        gone, identity = masks.flatten(0, 1).cpu(), self.identity[: self.prefix].cpu()
        counts = gone.sum(1)
        images = (torch.arange(batch) if owners is None else owners.cpu()).repeat_interleave(versions)
        logits = table.new_full((len(gone), self.model.num_classes), torch.nan, dtype=torch.float32)
        for count in counts.unique().tolist():
            if count == patches and not self.reads_prefix:
                continue
            for members in (counts == count).nonzero()[:, 0].split(rows):
                kept = (~gone[members]).nonzero()[:, 1].view(len(members), patches - count)
                index = torch.cat([identity.expand(len(members), -1), kept + self.prefix], dim=1)
                rows_of = (index + self.tokens * images[members][:, None]).flatten()
                tokens = table.index_select(0, moved(rows_of, device)).view(*index.shape, -1)
                found = self._blocks(tokens, moved(kept, device)).float()
                logits.index_copy_(0, moved(members, device), found)
        return logits.view(batch, versions, -1)

    def _blocks(self, rows: Tensor, kept: Tensor | None = None) -> Tensor:
        """Logits of rows of the table, (n, T, …) to (n, K); ``kept`` (n, k) are the patches that are left, None for all."""
        run = from_table if self.first else from_tokens
        # On a CPU, products of one row are computed otherwise than those of several.
        if len(rows) == 1 and rows.device.type == "cpu":
            return run(self.model, rows.repeat(2, 1, 1), None if kept is None else kept.repeat(2, 1))[:1]
        return run(self.model, rows, kept)

    def _normed(self, features: Tensor) -> Tensor:
        """Patch features (B, D, h, w) in the layout and norm of timm's patch embedding."""
        embed = self.model.patch_embed
        if embed.flatten:
            features = features.flatten(2).transpose(1, 2)
        else:
            features = features.permute(0, 2, 3, 1)  # dynamic input size: (B, h, w, D)
        return embed.norm(features)

    def _row(self, embedded: Tensor) -> Tensor:
        """The tokens that enter the first block, (B, T, D)."""
        return embedded_tokens(self.model, embedded)

    def _pair(self, clean: Tensor, filled: Tensor) -> Tensor:
        tokens = torch.cat([clean, filled], dim=1)
        if not self.first:
            return tokens
        block = self.model.blocks[0]
        return torch.cat([tokens, block.attn.qkv(block.norm1(tokens)).to(tokens.dtype)], dim=-1)


def from_table(model: VisionTransformer, rows: Tensor, kept: Tensor | None = None) -> Tensor:
    """Logits (n, K) of tokens with their queries, keys and values in the first block, (n, T, D + 3 H d)."""
    block, width = model.blocks[0], model.embed_dim
    x = after_attention(block, rows[..., :width], attention(*split_heads(block.attn, rows[..., width:])))
    return rest_of_rows(model, x, 1, kept)


def from_tokens(model: VisionTransformer, tokens: Tensor, kept: Tensor | None = None) -> Tensor:
    """Logits (n, K) of tokens (n, T, D)."""
    return rest_of_rows(model, tokens, 0, kept)


def moved(values: Tensor, device: torch.device) -> Tensor:
    """Values of the CPU on a device; a GPU fetches them while the CPU goes on."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def rest_of_rows(model: VisionTransformer, tokens: Tensor, first: int, kept: Tensor | None = None) -> Tensor:
    """Logits (B, K) from the tokens (B, T, D) that enter block ``first``: the blocks from there on, the norm and the head.

    If the head reads the class token (and the distillation token), a standard last block computes only these rows.

    Args:
        kept: see `fgg.models.architectures.after`.
    """
    rows, last = head_tokens(model), model.blocks[-1]
    if not rows or first >= len(model.blocks) or not is_standard(last):
        return logits_of(model, after(model, tokens, first, kept))
    # Standard blocks are not called with positions.
    for block in model.blocks[first:-1]:
        tokens = block(tokens)
    return logits_of(model, class_row(last, tokens, rows))


def class_row(block: Block, x: Tensor, rows: int = 1) -> Tensor:
    """The first rows of a block's output, (B, rows, D).

    Few queries need neither keys nor values of all tokens: with k = W x + b, the scores q . k are (W^T q) . x, up to what
    b adds to all scores of a row alike, and the weighted sum of values is the projection of a weighted sum of tokens.
    """
    attn = block.attn
    normed = block.norm1(x)
    width = attn.attn_dim
    weight, bias = attn.qkv.weight, attn.qkv.bias
    q = linear(normed[:, :rows], weight[:width], None if bias is None else bias[:width])
    q = attn.q_norm(q.unflatten(-1, (attn.num_heads, attn.head_dim)).transpose(1, 2))
    if not isinstance(attn.k_norm, nn.Identity):
        kv = linear(normed, weight[width:], None if bias is None else bias[width:], low=True)
        k, v = kv.unflatten(-1, (2, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4)
        return after_attention(block, x[:, :rows], attention(q, attn.k_norm(k), v))
    heads = int(attn.num_heads)
    of_keys, of_values = weight[width : 2 * width], weight[2 * width :]
    # One product for all heads, of which each reads its own part: a batch of small products would depend on the batch.
    wide = q[:, :, :, None] * torch.eye(heads, dtype=q.dtype, device=q.device)[:, None, :, None]
    sought = linear(wide.flatten(3), of_keys.t()).flatten(1, 2)  # (B, heads x rows, D)
    found = ((sought @ normed.transpose(1, 2)) * attn.scale).softmax(-1) @ normed
    mixed = linear(found, of_values).unflatten(1, (heads, rows)).unflatten(3, (heads, -1))
    mixed = mixed.diagonal(dim1=1, dim2=3).permute(0, 1, 3, 2).flatten(2)
    return after_attention(block, x[:, :rows], mixed if bias is None else mixed + bias[2 * width :])

"""The perturbation engine: logits of many versions of an image with some patches filled.

Patch embedding is linear and its patches do not overlap, so filling a patch with a constant replaces
its token by ``fill * (sum of the kernel) + bias``. Masks are therefore applied to tokens, which are
computed once per image, and so are the first block's queries, keys and values: each patch has only two
of them, clean and filled. Where the head reads the class token, the last block computes that row only.
A model that does not fit takes the pixel path, with the same numbers.

Letters: B images, V versions of each, N patches, T tokens, D width, K classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from timm.layers import Attention, PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from fgg.errors import FggError
from fgg.models.capture import at_rest
from fgg.models.device import halved, rows_per_batch
from fgg.models.finite_logits import check_finite
from fgg.models.onednn_linear import linear
from fgg.models.vit import check_images, patch_size, reads_class_token


class Perturber:
    """A batch of images, ready to be asked for the logits of its perturbed versions.

    Args:
        model: a timm VisionTransformer; it leaves as it came.
        images: normalised float (B, C, H, W).
        rows: perturbed images per forward pass; None chooses it from the model and the device.
        path: ``tokens``, ``pixels``, or None for the faster one that the model allows.

    Raises:
        FggError: wrong images, or ``path="tokens"`` for a model that does not allow it.
    """

    def __init__(
        self, model: VisionTransformer, images: Tensor, rows: int | None = None, path: str | None = None
    ) -> None:
        check_images(model, images)
        self.model = model
        self.images = images.detach()
        self.rows = rows or rows_per_batch(model, images.device)
        self.grid = tuple(size // patch for size, patch in zip(images.shape[2:], patch_size(model), strict=True))
        self.patches = self.grid[0] * self.grid[1]
        if path not in (None, "tokens", "pixels"):
            raise FggError(f"path {path!r} is unknown; choose 'tokens' or 'pixels', or None for the faster one")
        if path == "tokens" and not allows_tokens(model):
            raise FggError("the patch embedding of this model does not allow the token path; use the pixel path")
        self.path = path or ("tokens" if allows_tokens(model) else "pixels")
        self.mean = self.images.float().mean((1, 2, 3))
        with self._evaluating():
            self._tokens = _Tokens(model, self.images) if self.path == "tokens" else None
            none = torch.zeros(len(images), 1, self.patches, dtype=torch.bool, device=images.device)
        self.clean = self.logits(none)[:, 0]

    def logits(self, masks: Tensor, fill: Tensor | None = None) -> Tensor:
        """Logits of the versions.

        Args:
            masks: bool (B, V, N), True where a patch is filled.
            fill: (B,) one value per image, or (B, N) one per patch, in normalised units; None fills with
                the mean over all channels and pixels of the clean image.

        Returns:
            float32 (B, V, K).

        Raises:
            FggError: masks of the wrong shape, logits that are not finite, or too little GPU memory for one row.
        """
        while True:
            try:
                return self._logits(masks, fill)
            except torch.OutOfMemoryError:
                self.rows = halved(self.rows, "perturbed images per forward pass")

    def _logits(self, masks: Tensor, fill: Tensor | None) -> Tensor:
        batch, versions, patches = masks.shape
        if batch != len(self.images) or patches != self.patches:
            expected = f"({len(self.images)}, V, {self.patches})"
            raise FggError(f"masks are {tuple(masks.shape)}, expected {expected}")
        fill = self.mean if fill is None else fill
        if fill.ndim == 1:
            fill = fill[:, None].expand(-1, patches)
        out = None
        with self._evaluating():
            if self._tokens is not None and versions and masks.any():
                self._tokens.fill(fill)
            for images, chosen in self._plan(batch, versions):
                part = masks[images, chosen]
                if self._tokens is not None:
                    logits = self._tokens.forward(images, part)
                else:
                    logits = self._pixels(images, part, fill)
                if out is None:
                    out = logits.new_empty(batch, versions, logits.shape[-1], dtype=torch.float32)
                out[images, chosen] = logits.view(*part.shape[:2], -1).float()
        if out is None:
            return self.images.new_empty(batch, versions, self.model.num_classes, dtype=torch.float32)
        if not out.isfinite().all():
            with self._evaluating():
                check_finite(self.model, self.images, out)
        return out

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        with at_rest(self.model), torch.inference_mode():
            yield

    def _plan(self, batch: int, versions: int) -> Iterator[tuple[slice, slice]]:
        """Rectangles of images x versions of about `rows` rows."""
        together = max(1, self.rows // max(versions, 1))
        pieces = max(1, -(-versions // self.rows))
        length = max(1, -(-versions // pieces))
        for first in range(0, batch, together):
            for start in range(0, versions, length):
                yield slice(first, min(first + together, batch)), slice(start, min(start + length, versions))

    def _pixels(self, images: slice, masks: Tensor, fill: Tensor) -> Tensor:
        pixels = self.images[images]
        height, width = patch_size(self.model)

        def spread(values: Tensor) -> Tensor:
            rows = values.unflatten(-1, self.grid).repeat_interleave(height, -2)
            return rows.repeat_interleave(width, -1)

        filled = spread(fill[images].to(pixels.dtype))[:, None, None]
        versions = torch.where(spread(masks)[:, :, None], filled, pixels[:, None])
        return self.model(versions.flatten(0, 1))


def allows_tokens(model: VisionTransformer) -> bool:
    """Whether masking tokens equals masking pixels: a plain convolution whose patches do not overlap."""
    embed = model.patch_embed
    if type(embed) is not PatchEmbed or embed.dynamic_img_pad or not isinstance(embed.proj, nn.Conv2d):
        return False
    proj = embed.proj
    plain = proj.stride == proj.kernel_size and set(proj.padding) == {0} and set(proj.dilation) == {1}
    # With patch dropout the tokens of a training model are drawn at random; in eval mode it is idle.
    return plain and proj.groups == 1


def _standard(block: nn.Module) -> bool:
    """Whether a block is timm's pre-norm block, whose parts are used one by one here."""
    return type(block) is Block and type(block.attn) is Attention and getattr(block.attn, "gate", None) is None


class _Tokens:
    """Token path of a batch of images: a table of each token, clean and filled, and forward passes from it."""

    def __init__(self, model: VisionTransformer, images: Tensor) -> None:
        self.model = model
        self.first = _standard(model.blocks[0])
        self.last = _standard(model.blocks[-1]) and reads_class_token(model) and len(model.blocks) > 1
        self.prefix = model.num_prefix_tokens
        self.embedded = self._normed(model.patch_embed.proj(images))
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

    def forward(self, images: slice, masks: Tensor) -> Tensor:
        """Logits of versions given by masks (b, v, N) of the images: (b * v, K)."""
        model = self.model
        batch, versions, _ = masks.shape
        table = self.table[images]
        index = self.identity + self.tokens * torch.nn.functional.pad(masks, (self.prefix, 0)).long()
        index = index + 2 * self.tokens * torch.arange(batch, device=index.device)[:, None, None]
        rows = table.flatten(0, 1).index_select(0, index.flatten()).view(batch * versions, self.tokens, -1)
        blocks = list(model.blocks)
        if self.first:
            width = self.clean.shape[-1]
            x = _attend(blocks[0], rows[..., :width], _heads(blocks[0].attn, rows[..., width:]))
            blocks = blocks[1:]
        else:
            x = rows
        for block in blocks[: -1 if self.last else None]:
            x = block(x)
        if self.last:
            x = _class_row(model.blocks[-1], x)
        return model.forward_head(model.norm(x))

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
        return self.model.norm_pre(self.model._pos_embed(embedded))

    def _pair(self, clean: Tensor, filled: Tensor) -> Tensor:
        tokens = torch.cat([clean, filled], dim=1)
        if not self.first:
            return tokens
        block = self.model.blocks[0]
        return torch.cat([tokens, block.attn.qkv(block.norm1(tokens)).to(tokens.dtype)], dim=-1)


def _heads(attn: Attention, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, H, T, d) from the fused projection (B, T, 3 H d)."""
    q, k, v = qkv.unflatten(-1, (-1, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4)
    return attn.q_norm(q), attn.k_norm(k), v


def _attend(block: Block, x: Tensor, heads: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """A pre-norm block from its queries, keys and values on; x are the queries' tokens."""
    attn = block.attn
    mixed = scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    x = x + block.ls1(attn.proj(attn.norm(mixed)))
    return x + block.ls2(block.mlp(block.norm2(x)))


def _class_row(block: Block, x: Tensor) -> Tensor:
    """The class-token row of a block's output, (B, 1, D): keys and values for all tokens, a query for one."""
    attn = block.attn
    normed = block.norm1(x)
    width = attn.attn_dim
    weight, bias = attn.qkv.weight, attn.qkv.bias
    q = linear(normed[:, :1], weight[:width], None if bias is None else bias[:width])
    kv = linear(normed, weight[width:], None if bias is None else bias[width:])
    q = q.unflatten(-1, (attn.num_heads, attn.head_dim)).transpose(1, 2)
    k, v = kv.unflatten(-1, (2, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4)
    return _attend(block, x[:, :1], (attn.q_norm(q), attn.k_norm(k), v))

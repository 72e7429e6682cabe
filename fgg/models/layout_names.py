"""Names of weights in the layouts of open_clip, torchvision, Meta's DINOv2 and BAAI's EVA-02, and timm's names for them."""

from __future__ import annotations

# Names in an image tower: open_clip's, and timm's.
CLIP_NAMES = (
    (r"conv1\.weight", r"patch_embed.proj.weight"),
    (r"class_embedding", r"cls_token"),
    (r"positional_embedding", r"pos_embed"),
    (r"proj", r"head.weight"),
    (r"ln_pre\.(\w+)", r"norm_pre.\1"),
    (r"ln_post\.(\w+)", r"norm.\1"),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"transformer\.resblocks\.(\d+)\.ls_([12])\.gamma", r"blocks.\1.ls\2.gamma"),
    (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(\w+)", r"blocks.\1.attn.qkv.\2"),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
)
CLIP_SHAPES = {
    "cls_token": lambda tensor: tensor.reshape(1, 1, -1),
    "pos_embed": lambda tensor: tensor[None],
    "head.weight": lambda tensor: tensor.T.contiguous(),
}
TORCHVISION_NAMES = (
    (r"class_token", r"cls_token"),
    (r"encoder\.pos_embedding", r"pos_embed"),
    (r"conv_proj\.(\w+)", r"patch_embed.proj.\1"),
    (r"encoder\.ln\.(\w+)", r"norm.\1"),
    (r"heads\.(?:head|\d+)\.(\w+)", r"head.\1"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_(\w+)", r"blocks.\1.attn.qkv.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
)
# Meta's DINOv2, and BAAI's EVA-02.
OTHER_NAMES = (
    (r"register_tokens", r"reg_token"),
    (r"(blocks\..*)\.mlp\.w12\.(\w+)", r"\1.mlp.fc1.\2"),
    (r"(blocks\..*)\.mlp\.w1\.(\w+)", r"\1.mlp.fc1_g.\2"),
    (r"(blocks\..*)\.mlp\.w2\.(\w+)", r"\1.mlp.fc1_x.\2"),
    (r"(blocks\..*)\.mlp\.w3\.(\w+)", r"\1.mlp.fc2.\2"),
    (r"(blocks\..*)\.mlp\.ffn_ln\.(\w+)", r"\1.mlp.norm.\2"),
    (r"(blocks\..*)\.attn\.inner_attn_ln\.(\w+)", r"\1.attn.norm.\2"),
)

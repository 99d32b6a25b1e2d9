"""The same weights in the layouts that are published, renamed from transformers' module: what the converter undoes.

The names are those of real files: torchvision's resnet50 and swin_t, timm's swin (since 0.9) and Microsoft's release.
"""

import re

import numpy as np


def transformers_swin(spec, **extra):
    """The state_dict of a SwinBackbone with random weights, as NumPy arrays."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.SwinConfig(
        embed_dim=spec.embed_dim, depths=list(spec.depths), num_heads=list(spec.heads), window_size=spec.window,
        out_features=["stage1", "stage2", "stage3", "stage4"], **extra,
    )  # fmt: skip
    model = transformers.SwinForImageClassification(config)
    for name, tensor in model.named_parameters():
        if tensor.ndim == 1 or "table" in name:
            tensor.data.normal_()
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}, model


def microsoft(weights, window=3):
    """Query, key and value as one tensor; the buffers that those files hold."""
    made = {}
    for name, array in weights.items():
        name = name.removeprefix("swin.").removeprefix("encoder.")
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            others = (name.replace("q_proj", f"{part}_proj") for part in "kv")
            array = np.concatenate([array, *(weights[f"swin.encoder.{other}"] for other in others)])
            name = name.replace("q_proj", "qkv")
        for ours, theirs in (
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"), ("embeddings.norm", "patch_embed.norm"),
            ("attention.relative_position_bias.", "attn."), ("attention.o_proj", "attn.proj"),
            ("attention.qkv", "attn.qkv"), ("layernorm_before", "norm1"), ("layernorm_after", "norm2"),
            ("layernorm.", "norm."), ("classifier.", "head."),
        ):  # fmt: skip
            name = name.replace(ours, theirs)
        made[name] = array
        if name.endswith("bias_table"):
            tokens = window * window
            made[name.replace("bias_table", "index")] = np.zeros((tokens, tokens), np.int64)
            if ".blocks.1." in name:
                made[name.split("attn")[0] + "attn_mask"] = np.zeros((4, tokens, tokens), np.float32)
    return made


def timm(weights):
    """Merging at the start of the next stage, another head, no buffers."""

    def rename(name):
        name = re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name)
        return name.replace("head.", "head.fc.")

    buffers = ("relative_position_index", "attn_mask")
    return {rename(name): array for name, array in microsoft(weights).items() if not name.endswith(buffers)}


def torchvision(weights):
    """All stages and mergings in one row of features."""

    def rename(name):
        name = name.replace("patch_embed.proj", "features.0.0").replace("patch_embed.norm", "features.0.2")
        name = re.sub(r"layers\.(\d)\.blocks", lambda m: f"features.{2 * int(m[1]) + 1}", name)
        name = re.sub(r"layers\.(\d)\.downsample", lambda m: f"features.{2 * int(m[1]) + 2}", name)
        return name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")

    return {rename(name): array for name, array in microsoft(weights).items() if not name.endswith("attn_mask")}

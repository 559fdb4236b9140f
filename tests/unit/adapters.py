"""Small adapters as the real libraries write them, and their updates as those have them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorasweep.features.adapters.adapter import open_adapter

RANK, ALPHA = 2, 3.0


def deltas(path, **kwargs):
    """Canonical layer -> ΔW (outputs, inputs) float64, as read here."""
    return {
        name: layer.scale * layer.up.astype(np.float64) @ layer.down.astype(np.float64)
        for name, layer in open_adapter(path, **kwargs).read()
    }


def check_same(found, expected, rtol=1e-5):
    """Two sets of updates have the same layers and values."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        value = np.asarray(value, np.float64).reshape(len(value), -1)
        np.testing.assert_allclose(
            found[name], value, rtol=rtol, atol=rtol * abs(value).max(), err_msg=name
        )


def micro_unet():
    """A UNet of SD 1.5's kind with 20,000 weights."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
        layers_per_block=1,
    )


def micro_clip():
    """A CLIP text encoder of one layer."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = transformers.CLIPTextConfig(
        vocab_size=20, hidden_size=12, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return transformers.CLIPTextModel(config)


def micro_llama():
    """A Llama of two layers."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(2)
    config = transformers.LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def peft_deltas(model, component=""):
    """Layer -> ΔW of a model with PEFT's layers, as PEFT merges it."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight") and getattr(module, "scaling", None):
            with torch.no_grad():
                found[component + name] = module.get_delta_weight("default").numpy()
    return found


def inject(model, **kwargs):
    """Random adapters in a model; α is not r, so that who counts it twice or never is found out."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        **{"r": RANK, "lora_alpha": ALPHA, "init_lora_weights": False, **kwargs}
    )
    return peft.inject_adapter_in_model(config, model)


@pytest.fixture(scope="session")
def sd_adapter():
    """(UNet, text encoder) with adapters, and their updates by canonical names."""
    targets = ["to_q", "to_k", "to_out.0", "ff.net.2", "conv1", "time_emb_proj"]
    unet = inject(micro_unet(), target_modules=targets)
    clip = inject(micro_clip(), target_modules=["q_proj", "out_proj", "fc1"])
    expected = peft_deltas(unet, "unet.")
    for name, value in peft_deltas(clip, "text_encoder.").items():
        if ".text_model." not in name:  # since transformers 5
            name = name.replace("text_encoder.", "text_encoder.text_model.")
        expected[name] = value
    return unet, clip, expected


def save_diffusers(folder: Path, unet, clip, *, with_alpha=True) -> Path:
    """What `save_lora_weights` of Stable Diffusion's pipeline writes."""
    from diffusers import StableDiffusionPipeline
    from peft.utils import get_peft_model_state_dict

    metadata = {}
    if with_alpha:
        metadata = {
            "unet_lora_adapter_metadata": unet.peft_config["default"].to_dict(),
            "text_encoder_lora_adapter_metadata": clip.peft_config["default"].to_dict(),
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        StableDiffusionPipeline.save_lora_weights(
            folder,
            unet_lora_layers=get_peft_model_state_dict(unet),
            text_encoder_lora_layers=get_peft_model_state_dict(clip),
            **metadata,
        )
    return folder / "pytorch_lora_weights.safetensors"


def respell(weights: Path, target: Path, rename, alpha=ALPHA) -> Path:
    """The same tensors under the names that `rename(layer, is_down)` gives, with α beside them."""
    tensors = {}
    for name, value in load_file(weights).items():
        layer, _, side = name.removesuffix(".weight").rpartition(".lora_")
        tensors[rename(layer, side == "A")] = value
        if alpha is not None and side == "A":
            tensors[alpha_name(rename(layer, True))] = torch.tensor(alpha)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target)
    return target


def alpha_name(down: str) -> str:
    """The name of the α beside a down tensor."""
    for mark in (".lora_down", ".lora_A", ".lora.down", "_lora.down", ".lora_linear_layer.down"):
        if mark in down:
            return down.partition(mark)[0] + ".alpha"
    raise AssertionError(down)


def kohya(layer: str, down: bool) -> str:
    """kohya's name of a diffusers layer's tensor."""
    component, _, path = layer.partition(".")
    if component == "text_encoder" and not path.startswith("text_model."):
        path = f"text_model.{path}"
    prefix = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}
    side = "lora_down" if down else "lora_up"
    return f"{prefix[component]}_{path.replace('.', '_')}.{side}.weight"


def diffusers_old(layer: str, down: bool) -> str:
    """What diffusers wrote before it used PEFT."""
    side = "down" if down else "up"
    if layer.startswith("text_encoder"):
        return f"{layer}.lora_linear_layer.{side}.weight"
    head, _, last = layer.removesuffix(".0").rpartition(".")
    if last.startswith("to_") and ".attn" in head:
        return f"{head}.processor.{last}_lora.{side}.weight"
    return f"{layer}.lora.{side}.weight"


def diffusers_lora(layer: str, down: bool) -> str:
    """What diffusers' training scripts wrote in between."""
    return f"{layer}.lora.{'down' if down else 'up'}.weight"

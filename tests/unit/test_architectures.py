"""Architectures' names in every spelling, against diffusers' own conversions."""

import pytest
import torch
from safetensors.torch import save_file

from lorasweep.features.adapters.adapter import open_adapter
from lorasweep.features.adapters.errors import BadAdapterError
from lorasweep.features.architectures.catalogue import ARCHITECTURES, OTHER_BLOCKS

from .test_adapter_files import check_same, deltas, named, random_pairs

W = 48
"""Width of the small models here; other sizes are as many widths as in the published ones."""

EXPECTED = {
    "flux-2": {
        "double_blocks.0.img_attn.qkv": (3 * W, W, "transformer_blocks.0.attn.to_q"),
        "double_blocks.0.txt_attn.proj": (W, W, "transformer_blocks.0.attn.to_add_out"),
        "double_blocks.1.img_mlp.0": (6 * W, W, "transformer_blocks.1.ff.linear_in"),
        "double_blocks.1.txt_mlp.2": (W, 3 * W, "transformer_blocks.1.ff_context.linear_out"),
        "single_blocks.0.linear1": (9 * W, W, "single_transformer_blocks.0.attn.to_q"),
        "single_blocks.0.linear2": (W, 4 * W, "single_transformer_blocks.0.attn.to_out"),
        "img_in": (W, 16, "x_embedder"),
        "time_in.in_layer": (W, 32, "time_guidance_embed.timestep_embedder.linear_1"),
    },
    "qwen-image": {
        "transformer_blocks.0.attn.to_q": (W, W, "transformer_blocks.0.attn.to_q"),
        "transformer_blocks.0.attn.add_k_proj": (W, W, "transformer_blocks.0.attn.add_k_proj"),
        "transformer_blocks.0.img_mlp.net.0.proj": (
            *(4 * W, W), "transformer_blocks.0.img_mlp.net.0.proj",
        ),
        "transformer_blocks.0.txt_mod.1": (6 * W, W, "transformer_blocks.0.txt_mod.1"),
        "img_in": (W, 16, "img_in"),
        "txt_in": (W, 16, "txt_in"),
        "norm_out.linear": (2 * W, W, "norm_out.linear"),
        "proj_out": (16, W, "proj_out"),
    },
    "z-image": {
        "layers.0.attention.to_q": (W, W, "layers.0.attention.to_q"),
        "layers.0.attention.to_out.0": (W, W, "layers.0.attention.to_out.0"),
        "layers.1.feed_forward.w1": (128, W, "layers.1.feed_forward.w1"),
        "layers.1.adaLN_modulation.0": (4 * W, 16, "layers.1.adaLN_modulation.0"),
        "noise_refiner.0.attention.to_v": (W, W, "noise_refiner.0.attention.to_v"),
        "context_refiner.1.feed_forward.w2": (W, 128, "context_refiner.1.feed_forward.w2"),
    },
    "lumina-2": {
        **{
            f"{block}.{module}": (m, n, f"{block}.{expected}")
            for block in ("layers.0", "noise_refiner.0", "context_refiner.0")
            for module, (m, n, expected) in {
                # diffusers cuts at these rows alone
                "attention.qkv": (2304 + 2 * 768, 2304, "attn.to_q"),
                "attention.out": (2304, 2304, "attn.to_out.0"),
                "feed_forward.w1": (96, 2304, "feed_forward.linear_1"),
                "feed_forward.w2": (2304, 96, "feed_forward.linear_2"),
                "feed_forward.w3": (96, 2304, "feed_forward.linear_3"),
                "adaLN_modulation.1": (64, 16, "norm1.linear"),
            }.items()
            if block != "context_refiner.0" or module != "adaLN_modulation.1"
        },
    },
    "hidream": {
        "double_stream_blocks.0.block.attn1.to_q_t": (
            *(W, W), "double_stream_blocks.0.block.attn1.to_q_t",
        ),
        "single_stream_blocks.3.block.ff_i.experts.2.w1": (
            *(2 * W, W), "single_stream_blocks.3.block.ff_i.experts.2.w1",
        ),
        "double_stream_blocks.1.block.ff_i.shared_experts.w2": (
            *(W, 2 * W), "double_stream_blocks.1.block.ff_i.shared_experts.w2",
        ),
        "final_layer.adaLN_modulation.1": (2 * W, W, "final_layer.adaLN_modulation.1"),
    },
    "ltx-2": {
        "transformer_blocks.0.attn1.to_q": (W, W, "transformer_blocks.0.attn1.to_q"),
        "transformer_blocks.0.audio_attn2.to_out.0": (
            *(24, 24), "transformer_blocks.0.audio_attn2.to_out.0",
        ),
        "transformer_blocks.0.video_to_audio_attn.to_k": (
            *(24, W), "transformer_blocks.0.video_to_audio_attn.to_k",
        ),
        "patchify_proj": (W, 16, "proj_in"),
        "audio_patchify_proj": (24, 16, "audio_proj_in"),
        "adaln_single.linear": (6 * W, W, "time_embed.linear"),
        "audio_adaln_single.linear": (6 * 24, 24, "audio_time_embed.linear"),
        "av_ca_a2v_gate_adaln_single.linear": (W, W, "av_cross_attn_video_a2v_gate.linear"),
    },
    "cosmos": {
        "blocks.0.self_attn.q_proj": (W, W, "transformer_blocks.0.attn1.to_q"),
        "blocks.0.cross_attn.output_proj": (W, W, "transformer_blocks.0.attn2.to_out.0"),
        "blocks.1.mlp.layer1": (4 * W, W, "transformer_blocks.1.ff.net.0.proj"),
        "blocks.1.adaln_modulation_mlp.2": (3 * W, 16, "transformer_blocks.1.norm3.linear_2"),
        "final_layer.linear": (16, W, "proj_out"),
    },
}  # fmt: skip
"""Architecture -> its authors' path -> (outputs, inputs, the canonical path; of a fused module that
of its first part)."""

CONVERSIONS = {
    ("flux-2", "authors"): "_convert_non_diffusers_flux2_lora_to_diffusers",
    ("flux-2", "kohya"): "_convert_kohya_flux2_lora_to_diffusers",
    ("qwen-image", "authors"): "_convert_non_diffusers_qwen_lora_to_diffusers",
    ("qwen-image", "kohya"): "_convert_non_diffusers_qwen_lora_to_diffusers",
    ("z-image", "authors"): "_convert_non_diffusers_z_image_lora_to_diffusers",
    ("z-image", "kohya"): "_convert_non_diffusers_z_image_lora_to_diffusers",
    ("lumina-2", "authors"): "_convert_non_diffusers_lumina2_lora_to_diffusers",
    ("hidream", "authors"): "_convert_non_diffusers_hidream_lora_to_diffusers",
    ("ltx-2", "authors"): "_convert_non_diffusers_ltx2_lora_to_diffusers",
    ("cosmos", "authors"): "_convert_non_diffusers_anima_lora_to_diffusers",
}
"""(architecture, spelling) -> diffusers' conversion of it."""


def spelled(spelling, pairs):
    """Tensors of an adapter as a program writes them."""
    if spelling == "kohya":
        flat = {f"lora_unet_{name.replace('.', '_')}": pair for name, pair in pairs.items()}
        return named(flat, ".lora_down.weight", ".lora_up.weight", alpha=1.0)
    prefix = {"authors": "diffusion_model.", "model": "model.diffusion_model.", "bare": ""}
    dotted = {f"{prefix[spelling]}{name}": pair for name, pair in pairs.items()}
    return named(dotted, ".lora_A.weight", ".lora_B.weight")


def converted(architecture, spelling, tensors):
    """What diffusers makes of them; it takes tensors out of what it is given."""
    from diffusers.loaders import lora_conversion_utils

    convert = getattr(lora_conversion_utils, CONVERSIONS[architecture, spelling])
    own = {name: value.clone() for name, value in tensors.items()}
    return {name: value.clone().contiguous() for name, value in convert(own).items()}


def pairs_of(architecture):
    return random_pairs({name: (m, n) for name, (m, n, _) in EXPECTED[architecture].items()})


@pytest.mark.parametrize(("architecture", "spelling"), CONVERSIONS)
def test_an_adapter_is_the_one_that_diffusers_makes_of_it(tmp_path, architecture, spelling):
    pairs = pairs_of(architecture)
    if (architecture, spelling) == ("flux-2", "kohya"):
        del pairs["time_in.in_layer"]  # diffusers takes another name for it there
    tensors = spelled(spelling, pairs)
    save_file(tensors, tmp_path / "own.safetensors")
    save_file(converted(architecture, spelling, tensors), tmp_path / "diffusers.safetensors")
    check_same(deltas(tmp_path / "own.safetensors"), deltas(tmp_path / "diffusers.safetensors"))


@pytest.mark.parametrize("spelling", ["authors", "kohya", "model", "bare"])
@pytest.mark.parametrize("architecture", EXPECTED)
def test_the_expected_names_in_every_spelling(tmp_path, architecture, spelling):
    tensors = spelled(spelling, pairs_of(architecture))
    save_file(tensors, tmp_path / "a.safetensors")
    shapes = open_adapter(tmp_path / "a.safetensors").shapes
    wanted = {f"transformer.{path}" for _, _, path in EXPECTED[architecture].values()}
    assert wanted <= shapes.keys(), wanted - shapes.keys()
    assert all(name.startswith("transformer.") for name in shapes)


def test_every_architecture_whose_files_tell_it_has_expected_names():
    told = {item.name for item in ARCHITECTURES if item.is_shown_by and item is not OTHER_BLOCKS}
    assert told == EXPECTED.keys() - {"hidream"}


def test_z_image_of_fused_queries_is_taken_apart(tmp_path):
    pairs = random_pairs({"layers.0.attention.qkv": (3 * W, W), "layers.0.attention.out": (W, W)})
    save_file(spelled("authors", pairs), tmp_path / "fused.safetensors")
    a, b = pairs["layers.0.attention.qkv"]
    parts = {f"layers.0.attention.to_{p}": (a, rows) for p, rows in zip("qkv", b.chunk(3))}
    parts["layers.0.attention.to_out.0"] = pairs["layers.0.attention.out"]
    parts = {name: (a.clone(), b.clone()) for name, (a, b) in parts.items()}
    save_file(spelled("authors", parts), tmp_path / "parts.safetensors")
    check_same(deltas(tmp_path / "fused.safetensors"), deltas(tmp_path / "parts.safetensors"))


def test_a_language_model_with_such_names_is_none(tmp_path):
    """Llama's authors call its modules `attention.wq` and `feed_forward.w1`."""
    sizes = {"layers.0.attention.wq": (W, W), "layers.0.feed_forward.w1": (128, W)}
    save_file(spelled("bare", random_pairs(sizes)), tmp_path / "a.safetensors")
    assert open_adapter(tmp_path / "a.safetensors").shapes.keys() == sizes.keys()


def test_names_of_flux_in_a_file_of_flux_stay_its_own(tmp_path):
    sizes = {"double_blocks.0.img_mlp.0": (4 * W, W), "single_blocks.0.linear2": (W, 5 * W)}
    save_file(spelled("authors", random_pairs(sizes)), tmp_path / "a.safetensors")
    assert open_adapter(tmp_path / "a.safetensors").shapes.keys() == {
        "transformer.transformer_blocks.0.ff.net.0.proj",
        "transformer.single_transformer_blocks.0.proj_out",
    }


def test_one_layer_under_two_names_of_an_architecture_is_refused(tmp_path):
    sizes = {"layers.0.attention.to_out.0": (W, W), "layers.0.attention.out": (W, W)}
    save_file(spelled("authors", random_pairs(sizes)), tmp_path / "a.safetensors")
    with pytest.raises(BadAdapterError, match="is there twice"):
        open_adapter(tmp_path / "a.safetensors")


def test_ignored_tensors_have_the_names_of_the_architecture(tmp_path):
    tensors = spelled("authors", pairs_of("flux-2"))
    tensors["diffusion_model.double_blocks.1.img_mlp.0.diff_b"] = torch.ones(6 * W)
    save_file(tensors, tmp_path / "a.safetensors")
    unread = open_adapter(tmp_path / "a.safetensors").unread
    assert unread["transformer.transformer_blocks.1.ff.linear_in"] == {"diff_b"}


def test_a_model_of_version_0_1_is_given_the_names_of_then(tmp_path):
    from types import SimpleNamespace

    from lorasweep.sweep.models.new_adapters import _Files

    save_file(spelled("authors", pairs_of("flux-2")), tmp_path / "a.safetensors")
    today, then = (
        open_adapter(tmp_path / "a.safetensors", earlier_names=earlier).shapes
        for earlier in (False, True)
    )
    assert "transformer.transformer_blocks.1.ff.net.0.proj" in then.keys() - today.keys()
    for layers in (today, then):
        files = _Files(SimpleNamespace(layers=layers, lokr_rank=64), None)
        assert files._open_file(tmp_path / "a.safetensors").shapes == layers

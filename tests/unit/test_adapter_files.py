"""Adapter files of every format, compared with what the libraries that write them make of them."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorasweep.features.adapters.adapter import open_adapter
from lorasweep.features.adapters.errors import BadAdapterError
from lorasweep.features.adapters.locations import find_candidates
from lorasweep.features.adapters.stack import Stack
from lorasweep.features.layers.names import parse_layer

from .adapters import (
    ALPHA,
    RANK,
    check_same,
    deltas,
    diffusers_lora,
    diffusers_old,
    inject,
    kohya,
    micro_llama,
    micro_unet,
    peft_deltas,
    respell,
    save_diffusers,
)
from .adapters import sd_adapter as sd_adapter

# The same adapter in every spelling


@pytest.fixture(scope="module")
def spelled(sd_adapter, tmp_path_factory):
    """Spelling -> a file of the same adapter."""
    folder = tmp_path_factory.mktemp("spelled")
    unet, clip, _ = sd_adapter
    weights = save_diffusers(folder / "diffusers", unet, clip)
    return {
        "diffusers": weights,
        "diffusers-lora": respell(weights, folder / "lora.safetensors", diffusers_lora),
        "diffusers-old": respell(weights, folder / "old.safetensors", diffusers_old),
        "kohya": respell(weights, folder / "kohya.safetensors", kohya),
    }


@pytest.mark.parametrize("name", ["diffusers", "diffusers-lora", "diffusers-old", "kohya"])
def test_every_spelling_gives_the_same_update(spelled, sd_adapter, name):
    check_same(deltas(spelled[name]), sd_adapter[2])


@pytest.mark.parametrize(
    "representation", ["channel_norms", "update_spectrum", "update_sketch:32", "canonical"]
)
def test_every_spelling_gives_the_same_features(spelled, representation):
    from lorasweep.features.numerics.update_batch import UpdateBatch
    from lorasweep.features.representations import get_representation

    compute = get_representation(representation).compute
    rows = {}
    for name, path in spelled.items():
        for layer, f in open_adapter(path).read():
            batch = UpdateBatch(
                [layer],
                torch.from_numpy(f.down.copy())[None],
                torch.from_numpy(f.up.copy())[None],
                torch.tensor([f.scale]),
            )
            rows.setdefault(layer, {})[name] = compute(batch).numpy()
    for values in rows.values():
        assert len(values) == len(spelled)
        expected = values["diffusers"]
        for value in values.values():
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())


def test_without_an_alpha_the_scale_is_one(sd_adapter, tmp_path):
    unet, clip, expected = sd_adapter
    weights = save_diffusers(tmp_path, unet, clip, with_alpha=False)
    check_same(deltas(weights), {name: v * RANK / ALPHA for name, v in expected.items()})


def test_diffusers_own_conversion_of_kohyas_names_agrees(spelled, sd_adapter):
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers

    from lorasweep.features.layers.names import canonical_name, parse_tensor

    content = load_file(spelled["kohya"])
    # It does not know the names of these in a UNet that is not Stability's.
    content = {k: v for k, v in content.items() if "resnets" not in k}
    converted, _ = _convert_non_diffusers_lora_to_diffusers(dict(content))
    names = {canonical_name(parse_tensor(name).layer) for name in converted}
    assert names == {name for name in sd_adapter[2] if "resnets" not in name}


def test_half_precision(spelled, sd_adapter, tmp_path):
    content = load_file(spelled["kohya"])
    for dtype, rtol in ((torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
        path = tmp_path / "half.safetensors"
        save_file({name: value.to(dtype) for name, value in content.items()}, path)
        check_same(deltas(path), sd_adapter[2], rtol)
        exact = {
            name: layer.down
            for name, layer in open_adapter(path).read()
            if name.endswith("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
        }
        (down,) = exact.values()
        stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
        assert (down == content[f"{stem}.lora_down.weight"].to(dtype).float().numpy()).all()


def test_pickles_of_tensors_are_read_and_others_refused(spelled, sd_adapter, tmp_path):
    path = tmp_path / "adapter.pt"
    torch.save(load_file(spelled["kohya"]), path)
    check_same(deltas(path), sd_adapter[2])
    torch.save({"a": SimpleNamespace()}, path)
    with pytest.raises(BadAdapterError, match="could run code"):
        open_adapter(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_of_trainers_hold_parameters_and_more(spelled, sd_adapter, tmp_path, zipped):
    path = tmp_path / "adapter.pt"
    content = {name: torch.nn.Parameter(v) for name, v in load_file(spelled["kohya"]).items()}
    torch.save(
        {**content, 7: torch.ones(2), "step": 3}, path, _use_new_zipfile_serialization=zipped
    )
    found = open_adapter(path)
    assert (str(path) in Path("/proc/self/maps").read_text()) == zipped
    assert found.dtypes == ("F32",)
    check_same(deltas(path), sd_adapter[2])


# Language models


def test_peft_of_a_language_model(tmp_path):
    peft = pytest.importorskip("peft")
    for name, kwargs in {
        "plain": {"target_modules": ["q_proj", "v_proj", "down_proj"]},
        "rank-stabilised": {"target_modules": ["q_proj"], "use_rslora": True},
        "patterns": {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"v_proj": 4, "layers.0.mlp.down_proj": 1},
            "alpha_pattern": {"layers.1.self_attn.q_proj": 7, "down_proj": 5},
        },
    }.items():
        config = peft.LoraConfig(
            **{"r": RANK, "lora_alpha": ALPHA, "init_lora_weights": False, **kwargs}
        )
        model = peft.get_peft_model(micro_llama(), config)
        model.save_pretrained(tmp_path / name)
        check_same(deltas(tmp_path / name), peft_deltas(model.base_model.model))
    found = open_adapter(tmp_path / "patterns")
    assert found.format == "peft"
    assert (str(found.base), found.base.certain) == ("llm-16", None)
    assert found.shapes["model.layers.0.self_attn.v_proj"] == (8, 16, 4)


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        ("LoHaConfig", {}),
        ("LoKrConfig", {"decompose_factor": 2}),
        ("LoKrConfig", {"decompose_both": True, "decompose_factor": 4}),
        ("LoKrConfig", {"r": 64}),
    ],
)
def test_peft_with_products_of_lycoris(tmp_path, kind, kwargs):
    peft = pytest.importorskip("peft")
    config = getattr(peft, kind)(
        **{"r": RANK, "alpha": ALPHA, "target_modules": ["q_proj", "down_proj"], **kwargs},
        init_weights=False,
    )
    model = peft.get_peft_model(micro_llama(), config)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "hada" in name or "lokr" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    check_same(deltas(tmp_path), peft_deltas(model.base_model.model))


def test_the_name_of_a_language_model(tmp_path):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(micro_llama(), peft.LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "somebody/Micro-Llama"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert open_adapter(tmp_path).base.certain == "Micro-Llama"


def test_peft_embeddings_and_modules_that_were_saved_whole(tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        target_modules=["embed_tokens", "q_proj"], modules_to_save=["lm_head"],
        r=RANK, lora_alpha=ALPHA, init_lora_weights=False,
    )  # fmt: skip
    model = peft.get_peft_model(micro_llama(), config)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    expected = peft_deltas(model.base_model.model)
    # An embedding's weight lies the other way round: its rows are the inputs.
    expected["model.embed_tokens"] = expected["model.embed_tokens"].T
    check_same(deltas(tmp_path), expected)
    assert any("lm_head" in name for name in open_adapter(tmp_path).ignored)


def test_peft_without_its_configuration_is_refused(tmp_path):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(micro_llama(), peft.LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace('"LORA"', '"VERA"'))
    with pytest.raises(BadAdapterError, match="type VERA"):
        open_adapter(tmp_path)
    config.unlink()
    with pytest.raises(BadAdapterError, match=r"has no adapter_config\.json"):
        open_adapter(tmp_path)


def test_dora_is_marked(tmp_path):
    peft = pytest.importorskip("peft")
    unet = inject(micro_unet(), target_modules=["to_q"], use_dora=True)
    state = {f"unet.{k}": v for k, v in peft.get_peft_model_state_dict(unet).items()}
    save_file(state, tmp_path / "dora.safetensors")
    found = open_adapter(tmp_path / "dora.safetensors")
    assert found.dora
    assert not found.ignored


def test_dora_of_kohya_is_marked(spelled, tmp_path):
    content = load_file(spelled["kohya"])
    assert not open_adapter(spelled["kohya"]).dora
    layer = next(name for name in content if "attn1_to_q" in name).partition(".")[0]
    content[f"{layer}.dora_scale"] = torch.ones(8, 1)
    save_file(content, tmp_path / "dora.safetensors")
    found = open_adapter(tmp_path / "dora.safetensors")
    assert found.dora
    assert not found.ignored


# Larger diffusion models


def random_pairs(sizes, rank=2, seed=0):
    """Layer -> (A, B) of the given (outputs, inputs)."""
    rng = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(rank, inputs, generator=rng),
            torch.randn(outputs, rank, generator=rng),
        )
        for name, (outputs, inputs) in sizes.items()
    }


def named(pairs, down, up, alpha=None):
    """Tensors by name, with α beside them."""
    found = {}
    for layer, (a, b) in pairs.items():
        found[layer + down], found[layer + up] = a, b
        if alpha is not None:
            found[f"{layer}.alpha"] = torch.tensor(alpha)
    return found


def probed(path):
    """Canonical layer -> ΔW · x of three random x: ΔW itself would be large."""
    found = {}
    for name, f in open_adapter(path).read():
        x = np.random.default_rng(0).standard_normal((f.down.shape[1], 3))
        found[name] = f.scale * (f.up.astype(np.float64) @ (f.down.astype(np.float64) @ x))
    return found


FLUX = {
    "double_blocks.0.img_attn.qkv": (96, 32),
    "double_blocks.0.txt_attn.qkv": (96, 32),
    "double_blocks.0.img_attn.proj": (32, 32),
    "double_blocks.0.txt_mlp.0": (128, 32),
    "double_blocks.0.img_mod.lin": (192, 32),
    "single_blocks.1.linear1": (21504, 3072),
    "single_blocks.1.linear2": (3072, 15360),
    "single_blocks.1.modulation.lin": (9216, 3072),
}


UNKNOWN_FLUX = "unknown-single_transformer_blocks+transformer_blocks-32"


def flux_spellings(folder, pairs, alpha):
    """One adapter as kohya, the authors and diffusers' own conversion spell it."""
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    down, up = ".lora_down.weight", ".lora_up.weight"
    by_kohya = {f"lora_unet_{name.replace('.', '_')}": value for name, value in pairs.items()}
    content = named(by_kohya, down, up, alpha)
    save_file(content, folder / "kohya.safetensors")
    authors = {f"diffusion_model.{name}": value for name, value in pairs.items()}
    save_file(
        named(authors, ".lora_A.weight", ".lora_B.weight", alpha), folder / "authors.safetensors"
    )
    converted = _convert_kohya_flux_lora_to_diffusers(dict(content))
    converted = {name: value.clone().contiguous() for name, value in converted.items()}
    save_file(converted, folder / "diffusers.safetensors")
    return [folder / f"{name}.safetensors" for name in ("diffusers", "kohya", "authors")]


def test_flux_in_its_spellings(tmp_path):
    pairs = random_pairs(FLUX)
    first, *others = flux_spellings(tmp_path, pairs, alpha=1.0)
    expected = probed(first)
    assert "transformer.transformer_blocks.0.attn.add_k_proj" in expected
    assert "transformer.single_transformer_blocks.1.proj_mlp" in expected
    for path in others:
        check_same(probed(path), expected)
        assert str(open_adapter(path).base) == UNKNOWN_FLUX


def test_fused_blocks_that_were_trained_apart_keep_their_ranks(tmp_path):
    a, b = torch.randn(6, 32), torch.zeros(96, 6)
    for i in range(3):
        b[32 * i : 32 * (i + 1), 2 * i : 2 * (i + 1)] = torch.randn(32, 2)
    first, *others = flux_spellings(tmp_path, {"double_blocks.0.img_attn.qkv": (a, b)}, alpha=2.0)
    for path in others:
        check_same(deltas(path), deltas(first))
        ranks = {layer.down.shape[0] for _, layer in open_adapter(path).read()}
        assert ranks == {2}
        assert {rank for _, _, rank in open_adapter(path).shapes.values()} == {6}
        assert {rank for _, _, rank in open_adapter(path).split_shapes().values()} == {2}


def test_flux_of_xlabs(tmp_path):
    from diffusers.loaders.lora_conversion_utils import _convert_xlabs_flux_lora_to_diffusers

    pairs = random_pairs(
        {
            "double_blocks.0.processor.qkv_lora1": (96, 32),
            "double_blocks.0.processor.proj_lora1": (32, 32),
            "double_blocks.0.processor.qkv_lora2": (96, 32),
            "double_blocks.0.processor.proj_lora2": (32, 32),
            "single_blocks.3.processor.qkv_lora": (96, 32),
            "single_blocks.3.processor.proj_lora": (32, 32),
        }
    )
    content = named(pairs, ".down.weight", ".up.weight")
    save_file(content, tmp_path / "xlabs.safetensors")
    converted = _convert_xlabs_flux_lora_to_diffusers(dict(content))
    save_file({k: v.clone() for k, v in converted.items()}, tmp_path / "diffusers.safetensors")
    check_same(deltas(tmp_path / "xlabs.safetensors"), deltas(tmp_path / "diffusers.safetensors"))
    assert open_adapter(tmp_path / "xlabs.safetensors").format == "xlabs"
    assert str(open_adapter(tmp_path / "xlabs.safetensors").base) == UNKNOWN_FLUX


def test_the_last_modulation_of_flux_has_its_halves_swapped(tmp_path):
    layer = "lora_unet_final_layer_adaLN_modulation_1"
    pairs = random_pairs({layer: (64, 32), "lora_unet_double_blocks_0_img_attn_proj": (32, 32)})
    content = named(pairs, ".lora_down.weight", ".lora_up.weight")
    save_file(content, tmp_path / "kohya.safetensors")
    a, b = pairs[layer]
    expected = torch.cat([b[32:], b[:32]]) @ a
    np.testing.assert_allclose(
        deltas(tmp_path / "kohya.safetensors")["transformer.norm_out.linear"], expected, rtol=1e-5
    )


@pytest.mark.parametrize("prefix", ["diffusion_model.", "transformer."])
@pytest.mark.parametrize(
    ("block", "outputs"),
    [("double_stream_blocks.0.block.attn1.to_q", 64), ("layers.0.attention.qkv", 32)],
)
def test_the_final_layer_of_other_models_is_as_it_stands(tmp_path, prefix, block, outputs):
    """HiDream has shift before scale in diffusers, too; Lumina 2 and Z-Image have scale alone."""
    layer = f"{prefix}final_layer.adaLN_modulation.1"
    pairs = random_pairs({layer: (outputs, 32), f"{prefix}{block}": (96, 32)})
    save_file(named(pairs, ".lora_A.weight", ".lora_B.weight"), tmp_path / "a.safetensors")
    a, b = pairs[layer]
    found = deltas(tmp_path / "a.safetensors")
    np.testing.assert_allclose(
        found["transformer.final_layer.adaLN_modulation.1"], b @ a, rtol=1e-5
    )
    if "double_stream" in block:
        assert f"transformer.{block}" in found


def test_a_text_encoder_is_no_foreign_block(tmp_path):
    layer = "lora_unet_final_layer_linear"
    other = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    pairs = random_pairs({layer: (16, 32), other: (32, 32)})
    save_file(named(pairs, ".lora_down.weight", ".lora_up.weight"), tmp_path / "a.safetensors")
    assert "transformer.proj_out" in deltas(tmp_path / "a.safetensors")


def test_hunyuan_video_in_its_spellings(tmp_path):
    """Musubi's and the authors' names come to what diffusers makes of the authors'."""
    from diffusers.loaders.lora_conversion_utils import _convert_hunyuan_video_lora_to_diffusers

    pairs = random_pairs(
        {
            "double_blocks.0.img_attn_qkv": (3 * 3072, 3072),
            "double_blocks.0.txt_attn_proj": (3072, 3072),
            "double_blocks.0.img_mlp.fc1": (4 * 3072, 3072),
            "double_blocks.0.txt_mlp.fc2": (3072, 4 * 3072),
            "single_blocks.0.linear1": (7 * 3072, 3072),  # diffusers splits at this width alone
            "single_blocks.0.linear2": (3072, 5 * 3072),
        }
    )
    authors = named(
        {f"diffusion_model.{name}": value for name, value in pairs.items()},
        ".lora_A.weight",
        ".lora_B.weight",
    )
    save_file(authors, tmp_path / "authors.safetensors")
    prefixed = {n.replace("diffusion_model.", "transformer."): v for n, v in authors.items()}
    save_file(prefixed, tmp_path / "prefixed.safetensors")
    by_musubi = {f"lora_unet_{name.replace('.', '_')}": value for name, value in pairs.items()}
    musubi = named(by_musubi, ".lora_down.weight", ".lora_up.weight")
    save_file(musubi, tmp_path / "musubi.safetensors")
    converted = _convert_hunyuan_video_lora_to_diffusers(
        {name: value.clone() for name, value in prefixed.items()}
    )
    converted = {name: value.clone().contiguous() for name, value in converted.items()}
    save_file(converted, tmp_path / "diffusers.safetensors")
    expected = probed(tmp_path / "diffusers.safetensors")
    assert "transformer.single_transformer_blocks.0.proj_mlp" in expected
    for name in ("authors", "prefixed", "musubi"):
        check_same(probed(tmp_path / f"{name}.safetensors"), expected)


def test_wan_in_its_spellings(tmp_path):
    """Musubi's and the authors' names come to what diffusers makes of the authors'."""
    from diffusers.loaders.lora_conversion_utils import (
        _convert_non_diffusers_wan_lora_to_diffusers,
    )

    sizes = {
        f"blocks.{i}.{module}": size
        for i in range(2)
        for module, size in {
            **{f"self_attn.{p}": (24, 24) for p in "qkvo"},
            **{f"cross_attn.{p}": (24, 24) for p in ("q", "k", "v", "o", "k_img", "v_img")},
            **{"ffn.0": (40, 24), "ffn.2": (24, 40)},
        }.items()
    }
    pairs = random_pairs(sizes)
    authors = named(
        {f"diffusion_model.{name}": value for name, value in pairs.items()},
        ".lora_A.weight",
        ".lora_B.weight",
    )
    save_file(authors, tmp_path / "authors.safetensors")
    kohya = {f"lora_unet_{name.replace('.', '_')}": value for name, value in pairs.items()}
    save_file(named(kohya, ".lora_down.weight", ".lora_up.weight"), tmp_path / "musubi.safetensors")
    converted = _convert_non_diffusers_wan_lora_to_diffusers(
        {name: value.clone() for name, value in authors.items()}
    )
    second = {name.replace("transformer.", "transformer_2."): v for name, v in converted.items()}
    for name, content in (("diffusers", converted), ("second", second)):
        content = {name: value.clone().contiguous() for name, value in content.items()}
        save_file(content, tmp_path / f"{name}.safetensors")
    expected = deltas(tmp_path / "diffusers.safetensors")
    assert len(expected) == 24
    for name in ("authors", "musubi"):
        check_same(deltas(tmp_path / f"{name}.safetensors"), expected)
    found = deltas(tmp_path / "second.safetensors")
    check_same({n.replace("transformer_2.", "transformer."): v for n, v in found.items()}, expected)
    assert {parse_layer(name).component for name in found} == {"transformer"}
    assert str(open_adapter(tmp_path / "authors.safetensors").base) == "unknown-blocks-24"


def test_omi_names_of_one_trainer(tmp_path):
    """Parts of fused modules by numbers, Stability's UNet, and the text encoders' short names."""
    sizes = {
        "transformer.double_blocks.0.img_attn.qkv.0": (32, 32),
        "transformer.double_blocks.0.txt_attn.qkv.2": (32, 32),
        "transformer.single_blocks.0.linear1.3": (128, 32),
        "unet.output_blocks.5.1.transformer_blocks.1.attn2.to_k": (32, 2048),
        "clip_l.text_model.encoder.layers.0.self_attn.q_proj": (32, 32),
        "clip_g.text_model.encoder.layers.0.mlp.fc1": (32, 32),
    }
    pairs = random_pairs(sizes)
    save_file(named(pairs, ".lora_down.weight", ".lora_up.weight"), tmp_path / "omi.safetensors")
    assert set(deltas(tmp_path / "omi.safetensors")) == {
        "transformer.transformer_blocks.0.attn.to_q",
        "transformer.transformer_blocks.0.attn.add_v_proj",
        "transformer.single_transformer_blocks.0.proj_mlp",
        "unet.up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_k",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc1",
    }


def test_the_second_attention_of_sd_3_5_medium(tmp_path):
    pairs = random_pairs({"diffusion_model.joint_blocks.0.x_block.attn2.qkv": (96, 32)})
    save_file(named(pairs, ".lora_A.weight", ".lora_B.weight"), tmp_path / "a.safetensors")
    (a, b), *_ = pairs.values()
    found = deltas(tmp_path / "a.safetensors")
    for i, part in enumerate("qkv"):
        expected = b[32 * i : 32 * i + 32] @ a
        name = f"transformer.transformer_blocks.0.attn2.to_{part}"
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)


def test_sdxl_of_kohya(tmp_path):
    from diffusers.loaders.lora_conversion_utils import (
        _convert_non_diffusers_lora_to_diffusers,
        _maybe_map_sgm_blocks_to_diffusers,
    )

    from lorasweep.features.layers.names import canonical_name, parse_tensor

    pairs = random_pairs(
        {
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": (16, 16),
            "lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_k": (16, 2048),
            "lora_unet_middle_block_1_transformer_blocks_3_ff_net_2": (16, 64),
            "lora_unet_output_blocks_5_1_proj_in": (16, 16),
            "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (16, 16),
            "lora_te2_text_model_encoder_layers_31_mlp_fc1": (16, 16),
        }
    )
    content = named(pairs, ".lora_down.weight", ".lora_up.weight", alpha=ALPHA)
    save_file(content, tmp_path / "kohya.safetensors")
    mapped = _maybe_map_sgm_blocks_to_diffusers(dict(content), SimpleNamespace(layers_per_block=2))
    converted, alphas = _convert_non_diffusers_lora_to_diffusers(mapped)
    own = deltas(tmp_path / "kohya.safetensors")
    tensors = {}
    for name, value in converted.items():
        parsed = parse_tensor(name)
        tensors[canonical_name(parsed.layer), parsed.down] = value
    scale = next(iter(alphas.values())) / 2
    expected = {
        layer: scale * tensors[layer, False] @ value
        for (layer, down), value in tensors.items()
        if down
    }
    check_same(own, expected)
    assert open_adapter(tmp_path / "kohya.safetensors").base.certain == "sdxl"


# What is refused


def pair(layer="unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"):
    return {
        f"{layer}.lora.down.weight": torch.ones(1, 4),
        f"{layer}.lora.up.weight": torch.ones(4, 1),
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            {
                **pair("transformer.transformer_blocks.0.attn.to_q"),
                "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.ones(1, 4),
                "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": torch.ones(12, 1),
            },
            "in a fused module and by itself",
        ),
        ({"conv_in.weight": torch.ones(2, 2)}, "none of its 1 tensors is of a LoRA"),
        (dict(list(pair().items())[:1]), r"has no B \(up\)"),
        (pair() | {"unet.x.lora.down.weight": torch.ones(1, 4)}, "layer unet.x has no B"),
        ({**pair("a"), "a.lora.up.weight": torch.ones(4, 2)}, "does not fit"),
        ({**pair("a"), "a.lora.up.weight": torch.ones(0, 1)}, "is empty"),
        (
            pair() | pair("unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q"),
            "is there twice",
        ),
        ({"x.lora.down.weight": torch.ones(4), "x.lora.up.weight": torch.ones(4)}, "does not fit"),
        ({f"x.hada_w{s}": torch.ones(4) for s in ("1_a", "1_b", "2_a", "2_b")}, "too few axes"),
        ({**pair("a"), "a.alpha": torch.ones(0)}, "its α is not one number"),
        ({k: v.char() for k, v in pair("a").items()}, r"a\.lora\.down.* has dtype I8"),
        (
            {
                "lora_unet_final_layer_adaLN_modulation_1.lora_down.weight": torch.ones(1, 4),
                "lora_unet_final_layer_adaLN_modulation_1.lora_up.weight": torch.ones(3, 1),
            },
            "has no two halves",
        ),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path, content, reason):
    save_file(content, tmp_path / "a.safetensors")
    with pytest.raises(BadAdapterError, match=reason) as caught:
        open_adapter(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(pair(), path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:5], whole[:40], whole[:-3], b"\xff" * 100, whole[:9] + b"x" * 200):
        path.write_bytes(damaged)
        with pytest.raises(BadAdapterError, match=r"safetensors|cut"):
            open_adapter(path)
    with pytest.raises(BadAdapterError, match="does not exist"):
        open_adapter(tmp_path / "b.safetensors")
    with pytest.raises(BadAdapterError, match="holds none of"):
        open_adapter(tmp_path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.int8, torch.complex64, torch.int64, torch.bool]
)
def test_a_dtype_that_is_not_read_is_named(tmp_path, suffix, dtype):
    path = tmp_path / f"a{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save({k: v.to(dtype) for k, v in pair().items()}, path)
    with pytest.raises(BadAdapterError, match=r"has dtype \w+, which is not read"):
        open_adapter(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_an_alpha_may_be_a_whole_number(tmp_path, suffix):
    save = save_file if suffix == ".safetensors" else torch.save
    save({**pair("a"), "a.alpha": torch.tensor(3)}, tmp_path / f"a{suffix}")
    assert open_adapter(tmp_path / f"a{suffix}").alphas == {"a": 3.0}


def test_sparse_tensors_are_refused(tmp_path):
    torch.save({k: v.to_sparse() for k, v in pair().items()}, tmp_path / "a.pt")
    with pytest.raises(BadAdapterError, match="sparse"):
        open_adapter(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "change",
    [{"dtype": 5}, {"data_offsets": [0.0, 16.0]}, {"data_offsets": [0]}, {"shape": [True, 4]}],
)
def test_a_header_of_other_types_is_refused(tmp_path, change):
    path = tmp_path / "a.safetensors"
    save_file(pair("a"), path)
    data = path.read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:size])
    entries["a.lora.down.weight"] |= change
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[size:])
    with pytest.raises(BadAdapterError):
        open_adapter(path)


LOKR = {
    "x.lokr_w1": torch.ones(2, 2),
    "x.lokr_w2_a": torch.ones(2, 1),
    "x.lokr_w2_b": torch.ones(1, 2),
}


def test_bad_numbers_of_a_lokr_are_told_as_those_of_others(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({**LOKR, "x.lokr_w1": torch.full((2, 2), torch.nan)}, path)
    ((_, layer),) = open_adapter(path).read()
    assert (layer.up.shape, layer.down.shape) == ((4, 2), (2, 4))
    stack = Stack({"x": (4, 4, 2)}, 1)
    with pytest.raises(BadAdapterError, match="NaN or infinite numbers in 1 layers, like x"):
        stack.read(0, open_adapter(path), frozenset("x"))


@pytest.mark.parametrize(("outputs", "inputs"), [(6, 9), (9, 6)])
def test_a_loha_of_more_rank_than_its_matrix_is_of_the_matrix_rank(tmp_path, outputs, inputs):
    rng = torch.Generator().manual_seed(0)
    sizes = {"w1_a": (outputs, 4), "w1_b": (4, inputs), "w2_a": (outputs, 4), "w2_b": (4, inputs)}
    parts = {name: torch.randn(size, generator=rng) for name, size in sizes.items()}
    save_file({f"x.hada_{name}": v for name, v in parts.items()}, tmp_path / "a.safetensors")
    assert open_adapter(tmp_path / "a.safetensors").shapes == {"x": (outputs, inputs, 6)}
    expected = (parts["w1_a"] @ parts["w1_b"]) * (parts["w2_a"] @ parts["w2_b"])
    check_same(deltas(tmp_path / "a.safetensors"), {"x": expected})


def test_what_is_ignored_of_a_layer_is_told(tmp_path):
    fused = "lora_unet_double_blocks_0_img_attn_qkv"
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    content = {
        **pair(layer),
        f"{layer}.lora_B.bias": torch.ones(4),
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_k.diff": torch.ones(4, 4),
        f"{fused}.diff_b": torch.ones(12),
    }
    save_file(content, tmp_path / "a.safetensors")
    unread = open_adapter(tmp_path / "a.safetensors").unread
    assert unread[layer] == {"lora_B.bias"}
    assert unread[layer.replace("to_q", "to_k")] == {"diff"}
    assert unread["transformer.transformer_blocks.0.attn.to_v"] == {"diff_b"}


@pytest.mark.parametrize(
    ("name", "content", "rounds"),
    [
        ("a.safetensors", pair(), 1000),
        ("a.safetensors", {**pair("a"), "a.alpha": torch.tensor(3)}, 500),
        ("a.safetensors", {**LOKR, "x.alpha": torch.tensor(2.0)}, 500),
        ("a.pt", {**LOKR, **pair("a"), "x.alpha": torch.tensor(2.0)}, 300),
        ("legacy.pt", {**LOKR, **pair("a"), "x.alpha": torch.tensor(2.0)}, 300),
    ],
)
def test_whatever_is_damaged_is_refused_in_one_line_or_read(tmp_path, name, content, rounds):
    path = tmp_path / name
    config = json.dumps({"unet.r": 1, "unet.lora_alpha": 2, "unet.alpha_pattern": {"to_q": 3}})
    if path.suffix == ".pt":
        torch.save(content, path, _use_new_zipfile_serialization=name != "legacy.pt")
    else:
        save_file(content, path, {"lora_adapter_metadata": config})
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = []
    for _ in range(rounds):
        damaged = bytearray(whole)
        for at in rng.integers(len(whole), size=rng.integers(1, 4)):
            damaged[at] = rng.choice([rng.integers(256), *b'"{}[],:-0189'])
        path.write_bytes(
            damaged[: rng.choice([len(whole), rng.integers(len(whole))], p=[0.9, 0.1])]
        )
        try:
            found = open_adapter(path)
            list(found.read())
            assert found.alphas
        except BadAdapterError as error:
            refused.append(str(error))
    assert len(refused) > rounds / 10
    assert all(len(message.splitlines()) == 1 for message in refused)


@pytest.mark.parametrize(
    "change",
    [
        {"lora_alpha": "x"},
        {"alpha_pattern": {"(": 1}},
        {"rank_pattern": [1]},
        {"alpha_pattern": {"q": "x"}},
    ],
)
def test_a_damaged_configuration_is_refused(tmp_path, change):
    content = {f"base_model.model.{name}": value for name, value in pair("model.q").items()}
    save_file(content, tmp_path / "adapter_model.safetensors")
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"r": 1, "lora_alpha": 2, "peft_type": "LORA"}))
    assert list(open_adapter(tmp_path).alphas.values()) == [2]
    config.write_text(json.dumps({"r": 1, "lora_alpha": 2, **change}))
    with pytest.raises(BadAdapterError, match="damaged"):
        open_adapter(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"target_parameters": ["experts.gate_up_proj"]},
        {"use_qalora": True},
        {"use_bdlora": {"nblocks": 2}},
        {"kasa_config": {"beta": 1e-4}},
    ],
)
def test_variants_of_lora_that_are_no_product_are_refused(tmp_path, change):
    content = {f"base_model.model.{name}": value for name, value in pair("model.q").items()}
    save_file(content, tmp_path / "adapter_model.safetensors")
    config = {"r": 1, "lora_alpha": 2, "peft_type": "LORA", **dict.fromkeys(change)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    open_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(BadAdapterError, match=rf"with {next(iter(change))}, whose update is not"):
        open_adapter(tmp_path)


@pytest.mark.parametrize("begins", ["pissa", "pissa_niter_4", "olora", "corda", "loftq"])
def test_initialisations_that_change_the_base_are_refused(tmp_path, begins):
    peft = pytest.importorskip("peft")
    own = peft.LoraConfig(r=RANK, target_modules=["q_proj"])
    if begins in ("pissa", "olora"):
        own.init_lora_weights = begins
    peft.get_peft_model(micro_llama(), own).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "init_lora_weights": begins}))
    with pytest.raises(BadAdapterError, match=f"began by {begins}, which changes the base"):
        open_adapter(tmp_path)
    for harmless in (True, False, "gaussian", "eva", "orthogonal"):
        path.write_text(json.dumps({**config, "init_lora_weights": harmless}))
        assert len(open_adapter(tmp_path).shapes) == 2


@pytest.mark.parametrize("name", ["default", "cat", "v1-5"])
def test_pefts_name_of_an_adapter_may_stand_in_any_tensor(tmp_path, name):
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    content = {
        f"{layer}.lora_A.{name}.weight": torch.ones(2, 4),
        f"{layer}.lora_B.{name}.weight": torch.ones(3, 2),
        f"{layer}.lora_magnitude_vector.{name}.weight": torch.ones(3),
        f"base_model.model.model.embed_tokens.lora_embedding_A.{name}": torch.ones(2, 9),
        f"base_model.model.model.embed_tokens.lora_embedding_B.{name}": torch.ones(4, 2),
    }
    save_file(content, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 2}))
    found = open_adapter(tmp_path)
    assert found.dora
    assert not found.ignored
    assert found.shapes == {
        "model.layers.0.self_attn.q_proj": (3, 4, 2),
        "model.embed_tokens": (4, 9, 2),
    }


# Where adapters lie


def test_what_may_be_an_adapter_is_found_and_what_is_passed_over_is_said(tmp_path):
    inside = {
        "a.safetensors": "",
        "b/pytorch_lora_weights.safetensors": "",
        "b/other.SAFETENSORS": "",
        "b/optimizer.safetensors": "",
        "a.pt": "in another format",
        "last.ckpt": "checkpoint",
        "b/optimizer.bin": "state of a training",
        "b/.hidden.safetensors": "is hidden",
        ".trash/c/a.pt": "is hidden",
        "run/models/m.safetensors": "run directory",
    }
    for name in inside:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "in" / "run" / "sweep.json").touch()
    (tmp_path / "in" / "readme.txt").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    found = {
        path.relative_to(tmp_path / "in").as_posix(): (aside, problem)
        for path, aside, problem in find_candidates(tmp_path / "in")
    }
    assert "not followed" in found.pop("link")[1]
    assert found.keys() == inside.keys()
    for name, words in inside.items():
        aside, problem = found[name]
        assert problem == ""
        assert words in aside
        assert bool(words) == bool(aside)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_that_cannot_be_looked_into_is_said(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o000)
    ((path, aside, problem),) = find_candidates(tmp_path)
    assert path == tmp_path / "closed"
    assert aside == problem
    assert problem.startswith("cannot be listed")

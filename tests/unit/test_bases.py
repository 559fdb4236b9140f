"""Base models: certain, compatible with several, or unknown; none is taken for another."""

from itertools import permutations

import pytest

from lorasweep.features.adapters.bases import Base, guess_base
from lorasweep.features.adapters.known_bases import KNOWN_BASES, NAMES_OF_BASES

JOINT = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj")


def transformer(width, **lists):
    """Layers of some blocks.

    Arguments:
        lists: list of blocks -> (their numbers, module -> (outputs, inputs) in widths).
    """
    return {
        f"transformer.{name}.{number}.{module}": (m * width, n * width, 4)
        for name, (numbers, modules) in lists.items()
        for number in numbers
        for module, (m, n) in modules.items()
    }


def square(*modules):
    return dict.fromkeys(modules, (1, 1))


SINGLE = {**square("attn.to_q", "attn.to_k", "attn.to_v"), "proj_mlp": (4, 1), "proj_out": (1, 5)}
FLUX_FF = {"ff.net.0.proj": (4, 1), "ff.net.2": (1, 4)}


def flux(double=range(19), single=range(38), modulation=False):
    extra = {"norm1.linear": (6, 1)} if modulation else {}
    return transformer(
        3072,
        transformer_blocks=(double, {**square(*JOINT), **FLUX_FF, **extra}),
        single_transformer_blocks=(single, SINGLE),
    )


def unet(*layers):
    return {f"unet.{name}": (m, n, 4) for name, m, n in layers}


CROSS = "attentions.0.transformer_blocks.0.attn2.to_k"
SELF = "attentions.0.transformer_blocks.0.attn1.to_q"
WHOLE = {
    "flux": flux(modulation=True),
    "hunyuan-video": flux(range(20), range(40)),
    "chroma": {**flux(), "transformer.distilled_guidance_layer.layers.0.linear_1": (5120, 5120, 4)},
    "flux-2-klein-4b": transformer(
        3072,
        transformer_blocks=(range(5), {**square(*JOINT), "ff.linear_in": (6, 1)}),
        single_transformer_blocks=(range(20), {"attn.to_qkv_mlp_proj": (9, 1)}),
    ),
    "flux-2-klein-9b": transformer(4096, transformer_blocks=(range(8), square(*JOINT))),
    "flux-2-dev": transformer(6144, transformer_blocks=(range(8), square(*JOINT))),
    "qwen-image": transformer(
        3072, transformer_blocks=(range(60), {**square(*JOINT), "img_mod.1": (6, 1)})
    ),
    "auraflow": transformer(
        3072,
        joint_transformer_blocks=(range(4), square(*JOINT)),
        single_transformer_blocks=(range(32), square("attn.to_q", "attn.to_out.0")),
    ),
    "sd-3.5-medium": transformer(
        1536, transformer_blocks=(range(24), square(*JOINT, "attn2.to_q"))
    ),
    "sd-3.5-large": transformer(2432, transformer_blocks=(range(38), square(*JOINT))),
    "ltx-video": transformer(2048, transformer_blocks=(range(28), square("attn1.to_q"))),
    "ltx-video-13b": transformer(4096, transformer_blocks=(range(48), square("attn1.to_q"))),
    "sd-1": unet((f"down_blocks.0.{CROSS}", 320, 768)),
    "svd": unet(
        (f"down_blocks.0.{CROSS}", 320, 1024),
        ("down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn1.to_q", 320, 320),
    ),
    "zeroscope": unet(
        (f"down_blocks.0.{CROSS}", 320, 1024),
        ("down_blocks.0.temp_attentions.0.transformer_blocks.0.attn1.to_q", 320, 320),
    ),
    "animatediff": unet(
        ("down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q", 320, 320)
    ),
    "sdxl-refiner": unet((f"down_blocks.1.{CROSS}", 768, 1280)),
    "sdxl": {
        **unet((f"down_blocks.1.{CROSS}", 640, 2048)),
        "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj": (1280, 1280, 4),
    },
    "Llama-2-7b-hf": {"language_model.layers.0.self_attn.q_proj": (4096, 4096, 4)},
}
"""Base -> layers that no other known base has."""

SEVERAL = {
    "chroma|flux": flux(),
    "chroma|flux|hunyuan-video?": flux(range(2), range(2)),
    "flux|hunyuan-video?": flux([7], [3], modulation=True),
    "kolors|sdxl": unet((f"down_blocks.1.{CROSS}", 640, 2048)),
    "sd-2|svd|zeroscope": unet((f"down_blocks.0.{CROSS}", 320, 1024)),
    "sd-1|sd-2|svd|zeroscope": unet((f"down_blocks.0.{SELF}", 320, 320)),
    "pixart-alpha|pixart-sigma": transformer(
        1152, transformer_blocks=(range(28), square("attn1.to_q", "attn2.to_q"))
    ),
    "sd-3-medium|sd-3.5-medium": transformer(1536, transformer_blocks=(range(24), square(*JOINT))),
}
"""Base as it is written -> layers that several known bases have."""

UNKNOWN = {
    # Names of Flux, in other sizes, other numbers of blocks, or beside modules that Flux lacks.
    "unknown-transformer-64": transformer(64, transformer_blocks=(range(2), square(*JOINT))),
    "unknown-transformer-3072": flux(range(19), [*range(38), 57]),
    "unknown-transformer-2560": transformer(
        2560, double_stream_blocks=(range(2), square("block.attn1.to_q"))
    ),
    "unknown-unet-12": unet((f"down_blocks.0.{CROSS}", 32, 12)),
    "unknown-unet-of-32-channels": unet((f"down_blocks.0.{SELF}", 32, 32)),
    "unknown-blocks-1536": {"blocks.3.self_attn.qkv_proj_fused": (1536, 1536, 4)},
    "unknown-layers-2304": {"layers.3.attention.qkv": (6912, 2304, 4)},
}


def found(layers, header=None, config=None):
    return guess_base(layers, header or {}, config or {})


@pytest.mark.parametrize("name", WHOLE)
def test_a_base_is_certain_by_what_it_alone_has(name):
    config = {"base_model_name_or_path": name} if name.startswith("Llama") else {}
    base = found(WHOLE[name], config=config)
    assert (base.certain, base.in_words, str(base)) == (name, name, name)


@pytest.mark.parametrize("text", SEVERAL)
def test_what_several_have_is_compatible_with_all_of_them(text):
    base = found(SEVERAL[text])
    assert (str(base), base.certain) == (text, None)
    assert Base.parse(text) == base


@pytest.mark.parametrize("text", UNKNOWN)
def test_what_none_has_is_unknown_under_a_name_of_its_own(text):
    base = found(UNKNOWN[text])
    assert (str(base), base.names, base.certain) == (text, (), None)
    assert Base.parse(text) == base
    assert base.is_chosen(text)


def test_no_base_is_taken_for_another():
    """A certain base is refused by a model of another, and not imported beside it."""
    bases = {name: Base((name,)) for name in WHOLE} | {
        text: found(layers) for text, layers in UNKNOWN.items()
    }
    for (first, one), (second, other) in permutations(bases.items(), 2):
        assert not one.goes_with(other), (first, second)
        if "Llama" not in first + second or not (one.names and other.names):
            continue
        assert one.differs_from([other]), (first, second)
    layered = {name: base for name, base in bases.items() if "Llama" not in name}
    for (first, one), (second, other) in permutations(layered.items(), 2):
        assert one.differs_from([other]), (first, second)
    assert not any(base.differs_from([base]) for base in bases.values())


def test_one_that_may_be_of_the_models_base_is_judged():
    trained = [Base(("flux",))]
    assert not Base(("chroma", "flux")).differs_from(trained)
    assert Base(("sd-1", "sd-2")).differs_from(trained)
    assert not Base(described="text-encoder").differs_from(trained)
    assert Base(("hunyuan-video",)).differs_from([Base.parse("chroma|flux|hunyuan-video?")])
    assert not Base(("sd-1",)).differs_from([Base.parse("sd-1-or-2")])  # self-attention alone
    # Shapes tell language models of one width apart, unless both say a name.
    assert not Base(("Mistral-7B",)).differs_from([Base(described="llm-4096")])
    assert Base(("Mistral-7B",)).differs_from([Base(("Llama-2-7b",))])
    # Earlier versions wrote this.
    assert not Base(("flux",)).differs_from([Base(described="transformer-3072")])


@pytest.mark.parametrize(
    ("claim", "text"),
    [
        ({"modelspec.architecture": "flux-1-dev/lora"}, "flux"),
        ({"ss_base_model_version": "flux1"}, "flux"),
        ({"modelspec.architecture": "chroma/lora"}, "chroma"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "chroma|flux"),
        ({"ss_sd_model_name": "flux.safetensors"}, "chroma|flux"),  # a file's name says nothing
        ({"ss_base_model_version": "hunyuan_video"}, "chroma|flux"),
    ],
)
def test_a_claim_chooses_among_what_fits_and_never_beyond(claim, text):
    assert str(found(flux(), claim)) == text


def test_a_configurations_claim_counts_alike():
    config = {"base_model_name_or_path": "black-forest-labs/FLUX.1-dev"}
    assert found(flux(), config=config).certain == "flux"
    assert found(WHOLE["qwen-image"], config=config).certain == "qwen-image"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("meta-llama/Llama-2-7b-hf", "Llama-2-7b-hf"),
        ("/data/models/Llama-2-7b-hf/", "Llama-2-7b-hf"),
        ("C:\\models\\Llama-2-7b-hf", "Llama-2-7b-hf"),
        ("/hub/models--meta-llama--Llama-2-7b-hf/snapshots/01c7f73d771dfac7", "Llama-2-7b-hf"),
        (".", None),
        ("", None),
        (None, None),
    ],
)
def test_a_language_models_name_is_that_of_its_model(path, name):
    base = found(WHOLE["Llama-2-7b-hf"], config={"base_model_name_or_path": path})
    assert base.certain == name
    assert name or str(base) == "llm-4096"


def test_every_claim_is_of_a_base_that_is_known():
    known = {base.name for base in KNOWN_BASES} | {"sd-1", "sd-2", "sdxl", "sdxl-refiner"}
    assert set(NAMES_OF_BASES.values()) <= known | {"svd", "zeroscope", "kolors"}

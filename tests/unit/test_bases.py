"""Base models: certain, compatible with several, or unknown; none is taken for another."""

import importlib
import inspect
import pkgutil
import re
from itertools import permutations

import pytest
import torch

from lorasweep.features.adapters.bases import Base, base_by_layers, guess_base
from lorasweep.features.architectures.catalogue import CLAIMS, KNOWN_BASES
from lorasweep.features.architectures.unet import UNETS

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
    "ltx-video": transformer(
        2048, transformer_blocks=(range(28), square("attn1.to_q", "attn2.to_k"))
    ),
    "ltx-2": transformer(
        4096, transformer_blocks=(range(48), {**square("attn1.to_q"), "audio_ff.net.2": (0.5, 2)})
    ),
    "sd-3.5-large": transformer(2432, transformer_blocks=([0, 37], square(*JOINT))),
    "bria": flux(range(8), range(28)),
    "longcat-image": flux(range(10), range(20)),
    "lumina-2": transformer(2304, layers=(range(26), square("attn.to_q"))),
    "z-image": transformer(
        3840,
        layers=(range(30), square("attention.to_q")),
        noise_refiner=([0, 1], square("attention.to_v")),
    ),
    "hidream-i1": transformer(2560, double_stream_blocks=([3], square("block.attn1.to_q_t"))),
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
    "bria|bria-fibo|chroma|flux|flux-lite|hunyuan-video|longcat-image?": flux(range(2), range(2)),
    "bria-fibo|chroma|flux|flux-lite|hunyuan-video?": flux([7], [30]),
    "flux|hunyuan-video?": flux([17], [3], modulation=True),
    "anima|cosmos-predict2-2b|ltx-video?": transformer(
        2048, transformer_blocks=(range(20), square("attn1.to_q"))
    ),
    "ltx-2|ltx-video-13b": transformer(
        4096, transformer_blocks=(range(48), square("attn1.to_q", "attn2.to_k"))
    ),
    "anima|cosmos-predict2-2b": transformer(
        2048, transformer_blocks=(range(28), {"attn2.to_k": (1, 0.5)})
    ),
    "bria-fibo|flux-lite": flux(range(8), range(38), modulation=True),
    # No other known base has them, but blocks are missing whose number would tell.
    "lumina-2?": transformer(2304, layers=(range(3), square("attn.to_q"))),
    "sd-3.5-large?": transformer(2432, transformer_blocks=([4, 9], square(*JOINT))),
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
    "unknown-transformer_blocks-64": transformer(64, transformer_blocks=(range(2), square(*JOINT))),
    "unknown-single_transformer_blocks+transformer_blocks-3072": flux(range(19), [*range(38), 57]),
    "unknown-double_stream_blocks-1280": transformer(
        1280, double_stream_blocks=(range(2), square("block.attn1.to_q"))
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


def test_one_known_base_among_missing_blocks_is_not_certain():
    """It is as good as its whole adapters, and not stated."""
    part = found(SEVERAL["lumina-2?"])
    whole = found(WHOLE["lumina-2"])
    assert (part.certain, part.names, part.in_words) == (None, ("lumina-2",), "perhaps lumina-2")
    assert part.goes_with(whole)
    assert whole.goes_with(part)
    assert not part.differs_from([whole])
    assert found(SEVERAL["lumina-2?"], {"modelspec.architecture": "lumina-2"}).certain == "lumina-2"


def test_unknown_bases_go_together_by_width_and_lists_of_blocks():
    attention, both = (Base(described=f"unknown-{of}-5120") for of in ("blocks", "blocks+layers"))
    other, earlier = (Base(described=f"unknown-{of}-5120") for of in ("layers", "transformer"))
    assert attention.goes_with(both)
    assert not attention.goes_with(other)
    assert not attention.goes_with(Base(described="unknown-blocks-1536"))
    assert not attention.differs_from([earlier])  # what earlier versions wrote


def test_one_adapter_of_a_single_base_does_not_vouch_for_partial_ones():
    """Ten of two blocks each may be of Flux; one of HunyuanVideo among them is not."""
    ten = found(SEVERAL["bria|bria-fibo|chroma|flux|flux-lite|hunyuan-video|longcat-image?"])
    for part, certain in (([0, 39], "hunyuan-video"), ([0, 38], None)):
        one = found(flux([0], part))
        assert (one.names, one.certain) == (("hunyuan-video",), certain)
        assert not one.goes_with(ten)
        assert not ten.goes_with(one)
        assert one.differs_from([ten])


def test_every_claim_is_of_a_base_that_is_known():
    assert CLAIMS.keys() == {base.name for base in KNOWN_BASES} | set(UNETS)


CLAIMED = {
    "black-forest-labs/FLUX.1-Kontext-dev": {"flux"},
    "black-forest-labs/FLUX.2-dev": {"flux-2-dev"},
    "black-forest-labs/FLUX.2-klein-4B": {"flux-2-klein-4b"},
    "black-forest-labs/FLUX.2-klein-9B": {"flux-2-klein-9b"},
    "Freepik/flux.1-lite-8B": {"flux-lite"},
    "lodestones/Chroma1-HD": {"chroma"},
    "hunyuanvideo-community/HunyuanVideo": {"hunyuan-video"},
    "Qwen/Qwen-Image-Edit-2509": {"qwen-image"},
    "Tongyi-MAI/Z-Image-Turbo": {"z-image"},
    "stabilityai/stable-diffusion-3.5-medium": {"sd-3.5-medium"},
    "stabilityai/stable-diffusion-3-medium-diffusers": {"sd-3-medium"},
    "stabilityai/stable-diffusion-xl-base-1.0": {"sdxl"},
    "stabilityai/stable-diffusion-xl-refiner-1.0": {"sdxl-refiner"},
    "stabilityai/stable-video-diffusion-img2vid-xt": {"svd"},
    "Kwai-Kolors/Kolors-diffusers": {"kolors"},
    "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": {"pixart-sigma"},
    "Lightricks/LTX-Video": {"ltx-video"},
    "Lightricks/LTX-2": {"ltx-2"},
    "google/gemma-2-2b": set(),
}
"""Name in the hub -> the bases whose pattern it fits."""


@pytest.mark.parametrize("name", CLAIMED)
def test_a_name_in_the_hub_claims_one_base(name):
    claimed = {base for base, pattern in CLAIMS.items() if re.search(pattern, name.lower())}
    assert claimed == CLAIMED[name]


# diffusers' classes

CLASSES = {
    "AuraFlow": "auraflow",
    "Chroma": "chroma",
    "Flux2": "flux-2-dev",
    "Flux": "flux",
    "HunyuanVideo": "hunyuan-video",
    "HunyuanVideoFramepack": "hunyuan-video",
    "LTX2Video": "ltx-2",
    "LTXVideo": "ltx-video",
    "Lumina2": "lumina-2",
    "OvisImage": "ovis-image",
    "QwenImage": "qwen-image",
    "SanaWMLTX2Refiner": "ltx-2",
    "ZImage": "z-image",
}
"""diffusers' class -> the base whose configuration is its default."""
# The defaults of these are Flux' or HunyuanVideo's numbers; the published models have others.
UNPUBLISHED = {"Bria", "BriaFibo", "LongCatImage", "MotifVideo"}


@pytest.mark.long
def test_no_class_of_diffusers_is_taken_for_another():
    """Whole adapters, those of attention alone, and those of two blocks."""
    checked = set()
    for name, shapes in layers_of_diffusers_classes():
        short = re.sub("(Transformer(2D|3D|1D)?(Model)?|DiTModel)$", "", name)
        if short in UNPUBLISHED:
            continue
        attention = {n: s for n, s in shapes.items() if re.search(r"attn\d?\.(to_|add_)", n)}
        two = {n: s for n, s in attention.items() if re.search(r"\.[01]\.", n)}
        for layers in filter(None, (shapes, attention, two)):
            base = base_by_layers(layers)
            assert base.certain in (None, CLASSES.get(short)), (name, str(base))
        assert base_by_layers(shapes).certain == CLASSES.get(short), name
        checked.add(short)
    assert checked >= CLASSES.keys()
    assert len(checked) > 50


def layers_of_diffusers_classes():
    """(class, layer of its transformer -> (outputs, inputs, rank)), without any weights."""
    from diffusers.models import transformers
    from diffusers.models.modeling_utils import ModelMixin

    for module in pkgutil.iter_modules(transformers.__path__):
        content = vars(importlib.import_module(f"{transformers.__name__}.{module.name}"))
        for name, of in sorted(content.items()):
            if not (inspect.isclass(of) and issubclass(of, ModelMixin)):
                continue
            if of.__module__.rpartition(".")[2] != module.name:
                continue
            try:
                with torch.device("meta"):
                    model = of()
            except (TypeError, ValueError):  # some have no defaults
                continue
            yield (
                name,
                {
                    f"transformer.{path}": (len(part.weight), part.weight[0].numel(), 4)
                    for path, part in model.named_modules()
                    if isinstance(part, torch.nn.Linear)
                },
            )

"""The zoo's base, a toy diffusion model of digits, and the training of LoRA adapters on it.

The base has Stable Diffusion 1.5's block layout at a few dozen channels. Adapters are trained
a group at a time: `torch.func.vmap` runs the one frozen base under each adapter's weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

CLASSES = 10
GENERIC_LABEL = CLASSES  # the prompt that names no class
TOKENS = 4
HEADS = 2
NORM_GROUPS = 8
TIMESTEPS = 1000
LABEL_DROPOUT = 0.2
MIN_IMAGES, MAX_IMAGES = 4, 12
LOSS_WINDOW = 10


@dataclass(frozen=True)
class BaseConfig:
    """Everything the base's weights follow from."""

    channels: tuple[int, ...]
    text_width: int
    steps: int
    batch: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class Recipe:
    """How an adapter is trained.

    Attributes:
        prompt: "none": every adapter is prompted with the tokens that name no class, so that what
            makes its class has to go into its weights; "class": with those of its own class, as
            people train.
    """

    rank: int
    targets: tuple[str, ...]
    steps: int
    batch: int
    learning_rate: float
    seed: int
    prompt: str = "none"


@dataclass(frozen=True)
class Plan:
    """What adapter `index` of a zoo is trained on; follows from the seed and the index alone."""

    index: int
    label: int
    image_indices: tuple[int, ...]
    pool: str = ""


@dataclass(frozen=True)
class Adapter:
    """A trained adapter: its LoRA tensors by diffusers name, and its mean loss at the end."""

    plan: Plan
    tensors: dict[str, Tensor]
    final_loss: float


class ToyDiffusion(nn.Module):
    """A denoising UNet and its prompts: one sequence of learned tokens a class, one for none."""

    def __init__(self, config: BaseConfig) -> None:
        super().__init__()
        self.prompts = nn.Parameter(torch.randn(CLASSES + 1, TOKENS, config.text_width))
        self.unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=config.channels,
            cross_attention_dim=config.text_width,
            attention_head_dim=HEADS,
            norm_num_groups=NORM_GROUPS,
        )
        # An 8x8 image halved three times is one pixel, where self-attention has nothing to
        # choose from and its LoRA tensors would get no gradient: keep 2x2 at the bottom.
        for downsampler in self.unet.down_blocks[2].downsamplers:
            downsampler.conv.stride = (1, 1)
        for upsampler in self.unet.up_blocks[0].upsamplers:
            upsampler.interpolate = False

    def forward(self, noisy: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Predict the noise in `noisy` (batch, 1, 8, 8) at `timesteps` (batch,)."""
        return self.unet(noisy, timesteps, self.prompts[labels]).sample


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trainable low-rank update, at scale one (alpha = rank)."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.lora = nn.ModuleDict(
            {
                "down": nn.Linear(base.in_features, rank, bias=False),
                "up": nn.Linear(rank, base.out_features, bias=False),
            }
        )

    def forward(self, hidden: Tensor) -> Tensor:
        return self.base(hidden) + self.lora["up"](self.lora["down"](hidden))


def seed_for(*key: int | str) -> int:
    """A seed of its own for each key."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7], "big")


def generator_for(*key: int | str) -> torch.Generator:
    """A random generator of its own for each key."""
    return torch.Generator().manual_seed(seed_for(*key))


def load_images() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: images (n, 1, 8, 8) in [-1, 1] and labels (n,)."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    return images, torch.tensor(digits.target)


@cache
def noise_scheduler() -> DDPMScheduler:
    """The forward process that base and adapters share."""
    return DDPMScheduler(num_train_timesteps=TIMESTEPS)


def add_noise(images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Images (count, 1, 8, 8) as they are at `timesteps` (count,) of the forward process."""
    return noise_scheduler().add_noise(images, noise, timesteps)  # type: ignore[arg-type]


def train_base(config: BaseConfig) -> dict[str, Tensor]:
    """Train the base from its seed. Changes torch's thread count: run it in a process apart."""
    torch.set_num_threads(1)
    torch.manual_seed(seed_for("base", config.seed))
    images, labels = load_images()
    model = ToyDiffusion(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.steps)
    for _ in range(config.steps):
        picked = torch.randint(len(images), (config.batch,))
        timesteps = torch.randint(TIMESTEPS, (config.batch,))
        noise = torch.randn(config.batch, 1, 8, 8)
        dropped = torch.rand(config.batch) < LABEL_DROPOUT
        prompt = labels[picked].masked_fill(dropped, GENERIC_LABEL)
        noisy = add_noise(images[picked], noise, timesteps)
        predicted = model(noisy, timesteps, prompt)
        loss = nn.functional.mse_loss(predicted, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def plan_adapter(seed: int, index: int, labels: Tensor) -> Plan:
    """Choose 4 to 12 images of class `index` mod 10 for adapter `index`."""
    generator = generator_for("images", seed, index)
    label = index % CLASSES
    candidates = torch.nonzero(labels == label).flatten()
    count = int(torch.randint(MIN_IMAGES, MAX_IMAGES + 1, (), generator=generator))
    order = torch.randperm(len(candidates), generator=generator)[:count]
    return Plan(index, label, tuple(sorted(candidates[order].tolist())))


SHARED, OWN = "shared", "own"
_SHARED_IMAGES = 0.4
"""Of a class's images, the share that adapters of the shared pool are trained on."""


def plan_with_pools(seed: int, index: int, size: int, labels: Tensor) -> Plan:
    """The same of a zoo with two pools: two of three adapters draw their images from one part of
    the class's, each third has images that no other adapter of the zoo has.

    Arguments:
        size: adapters of the zoo; the more there are, the fewer images has one of its own.
    """
    generator = generator_for("images", seed, index)
    label, turn = index % CLASSES, index // CLASSES
    candidates = torch.nonzero(labels == label).flatten()
    candidates = candidates[
        torch.randperm(len(candidates), generator=generator_for("pools", seed, label))
    ]
    shared = int(_SHARED_IMAGES * len(candidates))
    if turn % 3 != 2:
        count = int(torch.randint(MIN_IMAGES, MAX_IMAGES + 1, (), generator=generator))
        chosen = candidates[:shared][torch.randperm(shared, generator=generator)[:count]]
        return Plan(index, label, tuple(sorted(chosen.tolist())), SHARED)
    owners = max(1, -(-size // CLASSES) // 3)
    each = min(MAX_IMAGES, (len(candidates) - shared) // owners)
    count = int(torch.randint(min(MIN_IMAGES, each), each + 1, (), generator=generator))
    start = shared + turn // 3 * each
    return Plan(index, label, tuple(sorted(candidates[start : start + count].tolist())), OWN)


def attach_lora(unet: nn.Module, rank: int, targets: Sequence[str]) -> None:
    """Put a LoRALinear in place of each target layer of every self- and cross-attention."""
    for name, attention in list(unet.named_modules()):
        if name.endswith((".attn1", ".attn2")):
            for target in targets:
                layer = attention.get_submodule(target)
                attention.set_submodule(target, LoRALinear(layer, rank))


def initial_lora(
    shapes: dict[str, torch.Size], rank: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """diffusers' LoRA start: down normal with deviation 1/rank, up zero."""
    return {
        name: torch.randn(shape, generator=generator) / rank
        if ".down." in name
        else torch.zeros(shape)
        for name, shape in shapes.items()
    }


def train_adapters(
    config: BaseConfig, base: dict[str, Tensor], recipe: Recipe, plans: Sequence[Plan]
) -> list[Adapter]:
    """Train one adapter a plan, all at once. Changes torch's thread count, as train_base does.

    With which tokens they are prompted, the recipe says.
    """
    torch.set_num_threads(1)
    images, _ = load_images()
    model = ToyDiffusion(config)
    model.load_state_dict(base)
    model.requires_grad_(False)
    # vmap has no fast rule for the fused attention of the default processor.
    model.unet.set_attn_processor(AttnProcessor())
    attach_lora(model.unet, recipe.rank, recipe.targets)
    shapes = {n: p.shape for n, p in model.named_parameters() if ".lora." in n}
    generators = [generator_for("training", recipe.seed, plan.index) for plan in plans]
    starts = [initial_lora(shapes, recipe.rank, generator) for generator in generators]
    stacked = {name: torch.stack([start[name] for start in starts]) for name in shapes}
    optimizer = torch.optim.AdamW(list(stacked.values()), lr=recipe.learning_rate)
    is_generic = recipe.prompt == "none"
    named = [GENERIC_LABEL] if is_generic else [plan.label for plan in plans]
    prompts = torch.tensor(named)[:, None].expand(-1, recipe.batch)

    def denoising_loss(
        lora: dict[str, Tensor], noisy: Tensor, noise: Tensor, timesteps: Tensor, prompt: Tensor
    ) -> Tensor:
        predicted = functional_call(model, lora, (noisy, timesteps, prompt))
        return nn.functional.mse_loss(predicted, noise)

    # A prompt that all share stays one: batches of it would round otherwise.
    prompt = prompts[0] if is_generic else prompts
    gradients_and_losses = vmap(
        grad_and_value(denoising_loss), in_dims=(0, 0, 0, 0, None if is_generic else 0)
    )
    own_images = [images[list(plan.image_indices)] for plan in plans]
    losses = []
    for _ in range(recipe.steps):
        batches = [
            draw_batch(own, recipe.batch, generator)
            for own, generator in zip(own_images, generators, strict=True)
        ]
        noisy, noise, timesteps = (torch.stack(part) for part in zip(*batches, strict=True))
        gradients, loss = gradients_and_losses(stacked, noisy, noise, timesteps, prompt)
        for name, tensor in stacked.items():
            tensor.grad = gradients[name]
        optimizer.step()
        losses.append(loss)
    final_losses = torch.stack(losses[-LOSS_WINDOW:]).mean(0).tolist()
    return [
        Adapter(plan, {name: tensor[row].clone() for name, tensor in stacked.items()}, loss)
        for row, (plan, loss) in enumerate(zip(plans, final_losses, strict=True))
    ]


def draw_batch(
    images: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy images (count, 1, 8, 8), their noise and timesteps; images may be drawn twice."""
    picked = torch.randint(len(images), (count,), generator=generator)
    timesteps = torch.randint(TIMESTEPS, (count,), generator=generator)
    noise = torch.randn((count, *images.shape[1:]), generator=generator)
    noisy = add_noise(images[picked], noise, timesteps)
    return noisy, noise, timesteps

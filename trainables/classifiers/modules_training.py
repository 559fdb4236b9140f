"""A dropout layer and an Adam that cost little next to small matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_LEVELS = 1 << 16


class Dropout(nn.Module):
    """Dropout; on the CPU with a mask from 16 random bits per unit.

    torch's own draws a whole Bernoulli variate per unit there, which takes a tenth of a training
    step. The probability is rounded to 1/65536, the scale is that of the rounded one.

    Arguments:
        p: probability of dropping a unit, in [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self._dropped = min(round(p * _LEVELS), _LEVELS - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Drop units while training; the rest are scaled by 1/(1 − p)."""
        if not self.training or self._dropped == 0:
            return x
        if x.device.type != "cpu":
            return nn.functional.dropout(x, self.p)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        levels = words.view(torch.int16)[: x.numel()].view(x.shape)
        kept = (levels >= self._dropped - _LEVELS // 2).to(x.dtype)
        return x * kept.mul_(_LEVELS / (_LEVELS - self._dropped))


class FusedAdam(torch.optim.Adam):
    """torch's Adam with its fused kernel, called directly.

    `torch.optim.Adam.step` sorts parameters into groups and counts steps one tensor at a time,
    every time. Here all parameters are float32 on one device and share one count. The state is
    kept here, not in `state`.
    """

    def __init__(self, parameters: Any, *, lr: float, weight_decay: float) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, fused=True)
        self._own: list[Tensor] = self.param_groups[0]["params"]
        self._first = [torch.zeros_like(parameter) for parameter in self._own]
        self._second = [torch.zeros_like(parameter) for parameter in self._own]
        self._count = torch.zeros((), dtype=torch.float32, device=self._own[0].device)

    def tensors(self) -> dict[str, Tensor]:
        """The count of steps and every parameter's two moments."""
        named = {"step": self._count}
        for i, pair in enumerate(zip(self._first, self._second)):
            named[f"{i}.exp_avg"], named[f"{i}.exp_avg_sq"] = pair
        return named

    def load_tensors(self, named: dict[str, Tensor]) -> None:
        """Go on from what `tensors` returned."""
        for name, tensor in self.tensors().items():
            tensor.copy_(named[name])

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter from its gradient, and forget the gradients."""
        group = self.param_groups[0]
        self._count += 1
        # The moments of a unit that gets no gradient any more fade into denormal numbers and stay
        # there, on which a processor takes ten times as long; they count as zero.
        torch.set_flush_denormal(True)
        try:
            torch._fused_adam_(
                self._own,
                [parameter.grad for parameter in self._own],  # type: ignore[misc]
                self._first,
                self._second,
                [],
                [self._count] * len(self._own),
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )
        finally:
            torch.set_flush_denormal(False)
        for parameter in self._own:
            parameter.grad = None

"""Adapters that LyCORIS writes, compared with the updates that its own modules make."""

import logging

import numpy as np
import pytest
import torch

from lorasweep.features.adapters.adapter import open_adapter

from .adapters import check_same, deltas, micro_unet

lycoris = pytest.importorskip("lycoris")


def _update(module):
    """ΔW as the module's forward pass adds it. Its `get_diff_weight` counts the scale of LoHa and
    LoKr twice."""
    if hasattr(module, "get_weight"):
        return module.get_weight(module.shape).numpy()
    return module.get_diff_weight(1.0)[0].numpy()


@pytest.fixture
def saved(tmp_path):
    """Save a random LyCORIS network; the file, and layer -> ΔW as LyCORIS has it."""
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    lycoris.LycorisNetwork.apply_preset({"target_module": ["Transformer2DModel", "ResnetBlock2D"]})

    def save(algorithm, **kwargs):
        unet = micro_unet()
        network = lycoris.create_lycoris(
            unet, 1.0, linear_dim=2, linear_alpha=3, conv_dim=2, conv_alpha=3, algo=algorithm,
            **kwargs,
        )  # fmt: skip
        network.apply_to()
        torch.manual_seed(0)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter)
        path = tmp_path / "lycoris.safetensors"
        network.save_weights(str(path), torch.float32, {"trained_by": "LyCORIS"})
        names = {
            f"lycoris_{name.replace('.', '_')}": f"unet.{name}" for name, _ in unet.named_modules()
        }
        with torch.no_grad():
            expected = {names[module.lora_name]: _update(module) for module in network.loras}
        return path, expected

    return save


@pytest.mark.parametrize(
    ("algorithm", "kwargs", "kinds"),
    [
        ("lora", {}, ("lora",)),
        ("lora", {"rs_lora": True}, ("lora",)),
        ("locon", {"use_tucker": True}, ("locon", "lora")),
        ("loha", {}, ("loha",)),
        ("loha", {"use_tucker": True}, ("loha",)),
        ("lokr", {"factor": 2}, ("lokr",)),
        ("lokr", {"factor": 2, "use_tucker": True}, ("lokr",)),
        ("lokr", {"decompose_both": True}, ("lokr",)),
        ("lokr", {"full_matrix": True}, ("lokr",)),
    ],
)
def test_lycoris(saved, algorithm, kwargs, kinds):
    path, expected = saved(algorithm, **kwargs)
    found = open_adapter(path)
    assert found.algorithms == kinds
    assert found.header["trained_by"] == "LyCORIS"
    check_same(deltas(path), expected)
    assert all(layer.lost < 1e-12 for _, layer in found.read())


def test_a_truncated_lokr_says_what_it_has_lost(saved):
    path, expected = saved("lokr", factor=2)
    layers = dict(open_adapter(path, lokr_rank=3).read())
    for name, layer in layers.items():
        update = expected[name].reshape(len(expected[name]), -1).astype(np.float64)
        error = layer.scale * layer.up @ layer.down - update
        share = (error**2).sum() / (update**2).sum()
        assert layer.lost == pytest.approx(share, rel=1e-3, abs=1e-6)
        values = np.linalg.svd(update, compute_uv=False)
        assert share == pytest.approx((values[3:] ** 2).sum() / (values**2).sum(), abs=1e-5)

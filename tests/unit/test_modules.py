"""Dropout and Adam against torch's own."""

import pytest
import torch

from lorasweep.trainables.classifiers.modules_training import Dropout, FusedAdam


@pytest.mark.parametrize("p", [0.5, 0.1, 0.9, 1 / 3])
def test_dropout_drops_at_random_and_keeps_the_mean(p):
    torch.manual_seed(0)
    layer = Dropout(p)
    x = torch.full((400, 1001), 3.0, requires_grad=True)
    y = layer(x)
    values = y.detach()
    dropped = values == 0
    assert abs(dropped.float().mean().item() - p) < 4 * (p * (1 - p) / x.numel()) ** 0.5
    assert values[~dropped].unique().numel() == 1
    assert values[~dropped][0].item() == pytest.approx(3.0 / (1 - p), rel=1e-4 / (1 - p))
    # Neighbours along both axes are independent.
    for a, b in ((dropped[:, 1:], dropped[:, :-1]), (dropped[1:], dropped[:-1])):
        both = (a & b).float().mean()
        assert abs(both - p * p) < 5 * (p * p * (1 - p * p) / a.numel()) ** 0.5
    y.sum().backward()
    torch.testing.assert_close(x.grad, values / 3.0)
    assert not torch.equal(layer(x) == 0, dropped)


def test_dropout_does_nothing_outside_training_or_with_p_0():
    x = torch.randn(5, 7)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0).train()(x) is x


def test_dropout_on_other_devices_is_torchs():
    y = Dropout(0.5).train()(torch.empty(3, 4, device="meta"))
    assert y.shape == (3, 4)
    assert y.device.type == "meta"


def test_dropout_follows_the_seed():
    x = torch.ones(9, 9)
    torch.manual_seed(3)
    first = Dropout(0.5)(x)
    torch.manual_seed(3)
    assert torch.equal(Dropout(0.5)(x), first)


def test_adam_updates_as_torchs_adam_does():
    torch.manual_seed(0)
    ours = torch.nn.Sequential(torch.nn.Linear(9, 5), torch.nn.BatchNorm1d(5))
    theirs = torch.nn.Sequential(torch.nn.Linear(9, 5), torch.nn.BatchNorm1d(5))
    theirs.load_state_dict(ours.state_dict())
    mine = FusedAdam(ours.parameters(), lr=0.01, weight_decay=0.1)
    reference = torch.optim.Adam(theirs.parameters(), lr=0.01, weight_decay=0.1, fused=True)
    for step in range(20):
        if step == 10:
            mine.param_groups[0]["lr"] = reference.param_groups[0]["lr"] = 0.003
        x = torch.randn(8, 9)
        for model, optimizer in ((ours, mine), (theirs, reference)):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters()):
        assert torch.equal(a, b)
        assert a.grad is None


@pytest.fixture
def one_thread():
    """As a trial has by default: how a processor rounds is set for a thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_moments_that_fade_become_zero_and_not_denormal():
    parameter = torch.nn.Parameter(torch.ones(64))
    adam = FusedAdam([parameter], lr=1e-3, weight_decay=0.0)
    parameter.grad = torch.ones(64)
    adam.step()
    for _ in range(1_200):  # 0.9 ** 900 is below the least normal float32
        parameter.grad = torch.zeros(64)
        adam.step()
    assert not adam.tensors()["0.exp_avg"].any()
    assert adam.tensors()["0.exp_avg_sq"].all()
    tiny = torch.tensor(1e-20) * torch.tensor(1e-20)
    assert tiny > 0, "other arithmetic keeps its denormal numbers"

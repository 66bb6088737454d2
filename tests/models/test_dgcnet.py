# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""DGCNet: sizes, gates, heads and the pruning schedule."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchgeo_ekgnet.models.dgcnet import DynamicGroupConv3d, inactive_channels


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ('name', 'kwargs', 'parameters'),
    [
        ('dgcnet', {}, 911_712),
        ('dgcnet', {'in_chans': 103, 'num_classes': 9}, 908_905),
        ('dgcnet', {'in_chans': 176, 'num_classes': 13}, 910_509),
        ('dgcnet_large', {}, 4_608_304),
    ],
)
def test_parameters(name: str, kwargs: dict[str, Any], parameters: int) -> None:
    assert count(timm.create_model(name, **kwargs)) == parameters


def test_schedule() -> None:
    assert inactive_channels(0.0, 80) == 0
    assert inactive_channels(1 / 12, 80) == 0
    middle = (1 / 12 + 3 / 4) / 2
    assert inactive_channels(middle, 80) == 30
    assert inactive_channels(3 / 4, 80) == inactive_channels(1.0, 80) == 60
    assert inactive_channels(1.0, 80, gate_factor=1.0) == 0
    for step in range(101):
        t = step / 100
        if 1 / 12 <= t <= 3 / 4:
            formula = round(37 * (1 - 0.25) * 1.5 * (t - 1 / 12))
            assert abs(inactive_channels(t, 37) - formula) <= 1
    counts = [inactive_channels(step / 200, 123) for step in range(201)]
    assert counts == sorted(counts)
    with pytest.raises(ValueError, match='progress must be between 0 and 1'):
        inactive_channels(1.1, 80)


def head_by_head(layer: DynamicGroupConv3d, x: Tensor, inactive: int) -> Tensor:
    """The layer with a loop over patches and heads."""
    norm = layer.norm
    assert norm.running_mean is not None and norm.running_var is not None
    x = F.relu(
        F.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-5
        )
    )
    heads = layer.heads
    hidden = layer.excite_weight.shape[1]
    share = layer.weight.shape[0] // heads
    patches = []
    for patch in x:
        outputs = []
        for head in range(heads):
            squeeze = layer.squeeze.weight[head * hidden : (head + 1) * hidden]
            y = F.relu(squeeze @ patch.mean((1, 2, 3)))
            y = F.relu(layer.excite_weight[head].T @ y + layer.excite_bias[head])
            gate = y.clone()
            gate[y.argsort(stable=True)[:inactive]] = 0.0
            kernel = layer.weight[head * share : (head + 1) * share]
            gated = (patch * gate[:, None, None, None]).unsqueeze(0)
            outputs.append(F.conv3d(gated, kernel)[0])
        # Channel shuffle: one channel of each head after the other.
        patches.append(torch.stack(outputs, 1).flatten(0, 1))
    return torch.stack(patches)


@pytest.mark.parametrize('progress', [0.0, 0.4, 1.0])
@pytest.mark.parametrize('channels', [24, 96])
def test_layer_equals_loop_over_heads(channels: int, progress: float) -> None:
    torch.manual_seed(0)
    layer = DynamicGroupConv3d(channels, 16).double()
    x = torch.randn(3, channels, 4, 2, 2, dtype=torch.double)
    layer.train()(x)
    layer.eval().update_inactive(progress)
    inactive = inactive_channels(progress, channels)
    torch.testing.assert_close(layer(x), head_by_head(layer, x, inactive))
    gates = layer.gates(x.mean((2, 3, 4)))
    assert gates.shape == (3, 4, channels)
    assert int((gates == 0).sum(2).min()) >= inactive
    # Channels of equal saliency are masked as well.
    silent = layer.gates(torch.zeros(2, channels, dtype=torch.double))
    assert (silent == 0).sum(2).eq(inactive).all()


@pytest.mark.parametrize('inactive', [0, 3, 24])
def test_exported_gates_are_those_of_the_network(
    inactive: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX has no stable sort, so exported networks count ranks; ties included."""
    torch.manual_seed(0)
    layer = DynamicGroupConv3d(24, 16).double().eval()
    layer.inactive.fill_(inactive)
    pooled = torch.randn(5, 24, dtype=torch.double)
    pooled[3] = 0
    expected = layer.gates(pooled)
    monkeypatch.setattr('torchgeo_ekgnet.models.dgcnet.exporting', lambda: True)
    assert torch.equal(layer.gates(pooled), expected)


def test_squeeze_rate_is_halved_for_few_channels() -> None:
    assert DynamicGroupConv3d(79, 8).excite_weight.shape[1] == 79 // 8
    assert DynamicGroupConv3d(80, 8).excite_weight.shape[1] == 80 // 16
    assert DynamicGroupConv3d(4, 8).excite_weight.shape[1] == 1


def test_pruned_channels_get_no_gradient_but_parameters_do() -> None:
    torch.manual_seed(0)
    layer = DynamicGroupConv3d(16, 8).double()
    layer.update_inactive(1.0)
    x = torch.randn(1, 16, 2, 2, 2, dtype=torch.double)
    layer(x).square().sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is not None
    kernel = layer.weight.grad
    assert kernel is not None
    # One patch: every head leaves 12 of its 16 input channels without gradient.
    silent = (kernel.reshape(4, 2, 16) == 0).all(1).sum(1)
    assert silent.tolist() == [12] * 4


def test_progress_of_the_network_and_its_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model('dgcnet', in_chans=16).eval()
    x = torch.randn(2, 16, 5, 5)
    with torch.no_grad():
        start = model(x)
        model.set_progress(0.05)
        torch.testing.assert_close(model(x), start)
        model.set_progress(1.0)
        end = model(x)
    assert not end.allclose(start)
    layers = [m for m in model.modules() if isinstance(m, DynamicGroupConv3d)]
    assert len(layers) == 18
    for layer in layers:
        assert int(layer.inactive) == round(0.75 * layer.weight.shape[1])
    torch.save(model.state_dict(), tmp_path / 'dgcnet.pt')
    again: Any = timm.create_model('dgcnet', in_chans=16).eval()
    again.load_state_dict(torch.load(tmp_path / 'dgcnet.pt'))
    with torch.no_grad():
        torch.testing.assert_close(again(x), end)
    model.bfloat16()
    assert int(layers[-1].inactive) == round(0.75 * layers[-1].weight.shape[1])
    with pytest.raises(ValueError, match='progress must be between 0 and 1'):
        model.set_progress(-0.1)


def test_start_of_the_saliencies_is_not_decayed() -> None:
    model: Any = timm.create_model('dgcnet', in_chans=16)
    names = {n for n, _ in model.named_parameters() if n.endswith('excite_bias')}
    assert len(names) == 18 and model.no_weight_decay() == names


def test_gate_factor_one_never_prunes() -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model('dgcnet', in_chans=16, gate_factor=1).eval()
    x = torch.randn(2, 16, 5, 5)
    with torch.no_grad():
        start = model(x)
        model.set_progress(1.0)
        assert model(x).equal(start)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'heads': 3}, 'heads must divide out_channels=32'),
        ({'squeeze_rate': 0}, 'squeeze_rate'),
        ({'gate_factor': 0.0}, 'gate_factor'),
    ],
)
def test_wrong_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timm.create_model('dgcnet', **kwargs)
    assert 'heads=4, gate_factor=0.25' in repr(DynamicGroupConv3d(4, 8))

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Dense blocks: layers read slices of one buffer, as if they were concatenated."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torchgeo_ekgnet.layers import DynamicExpertConv3d, conv_strategy
from torchgeo_ekgnet.models._skeleton import DenseStage


def make_stage(bottleneck: Callable[[int, int], nn.Module], pool: bool) -> DenseStage:
    """A block of three layers in float64, training."""
    torch.manual_seed(0)
    return DenseStage(4, 3, 4, bottleneck, pool, groups=2).double()


def experts(in_channels: int, out_channels: int) -> nn.Module:
    return DynamicExpertConv3d(in_channels, out_channels, 1, num_experts=2)


def static(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Conv3d(in_channels, out_channels, 1)


def maps(batch: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    options = {'dtype': torch.float64, 'generator': generator}
    x = torch.randn(batch, 4, 6, 4, 4, **options)  # type: ignore[call-overload]
    return x.requires_grad_()  # type: ignore[no-any-return]


def buffers_read(stage: DenseStage, x: Tensor, strategy: str | None = None) -> int:
    """In how many buffers the inputs of the layers lie."""
    # Kept until the end: freed memory would come again at the same address.
    read: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda module, args: read.append(args[0]))
        for layer in stage.layers
    ]
    with conv_strategy(strategy):
        stage(x)
    for hook in hooks:
        hook.remove()
    return len({tensor.untyped_storage().data_ptr() for tensor in read})


@pytest.mark.parametrize('pool', [False, True])
@pytest.mark.parametrize('batch', [1, 3])
def test_one_buffer_computes_what_concatenation_does(pool: bool, batch: int) -> None:
    stage, x = make_stage(experts, pool), maps(batch)
    assert buffers_read(stage, x) == 1
    assert buffers_read(stage, x, 'grouped') == 3
    assert buffers_read(make_stage(static, pool), x) == 3
    found = stage(x)
    with conv_strategy('grouped'):
        expected = stage(x)
    assert found.shape == (batch, 16, *((3, 2, 2) if pool else (6, 4, 4)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    inputs = [x, *stage.parameters()]
    grads, reference = (
        torch.autograd.grad(y.square().sum(), inputs) for y in (found, expected)
    )
    torch.testing.assert_close(grads, reference, rtol=0, atol=1e-10)


def test_second_derivatives_through_the_buffer() -> None:
    stage = make_stage(experts, False).eval()
    assert torch.autograd.gradgradcheck(stage, maps(1), fast_mode=True, atol=1e-4)


def test_maps_without_gradients() -> None:
    stage, x = make_stage(experts, False).eval(), maps()
    expected = stage(x)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            torch.testing.assert_close(stage(x), expected, rtol=0, atol=0)


def test_the_output_may_be_changed_in_place() -> None:
    stage, x = make_stage(experts, False).eval(), maps()
    expected = torch.autograd.grad((3 * stage(x)).square().sum(), x)
    found = torch.autograd.grad(stage(x).mul_(3).square().sum(), x)
    torch.testing.assert_close(found, expected)


def test_a_change_of_what_layers_read_is_noticed() -> None:
    stage, x = make_stage(experts, False).eval(), maps()
    read: list[Tensor] = []
    stage.layers[1].register_forward_pre_hook(lambda module, args: read.append(args[0]))
    y = stage(x).sum()
    with torch.no_grad():
        read[0].mul_(2)
    with pytest.raises(RuntimeError, match='modified inplace'):
        y.backward()

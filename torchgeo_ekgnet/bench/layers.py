# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The section of layers: geometries of ekgnet_base, in the middle of each block."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..layers import DynamicExpertConv3d, GroupedConv3d, expert_conv3d
from .arms import Setting

__all__ = ('bench_layers',)

#: Blocks of ekgnet_base: layers, growth rate, channels at the block's entry.
_BLOCKS = ((4, 8, 16), (6, 16, 48), (8, 32, 144))

_Size = tuple[int, int, int]


class _Arm(NamedTuple):
    """A function without arguments, and what it is differentiated with respect to."""

    function: Callable[[], Tensor]
    inputs: list[Any]


class _Case(NamedTuple):
    """A layer of which the arms are variants.

    Attributes:
        name: What the row is called.
        arms: Arms by name.
        work: Multiplications and additions of a forward pass.
        values: Values that it reads and writes.
    """

    name: str
    arms: dict[str, _Arm]
    work: float
    values: float


def _sizes(patch: int, bands: int) -> list[_Size]:
    """Sizes of the maps in the three blocks."""
    size = [(n + 1) // 2 for n in (bands, patch, patch)]
    sizes = []
    for _ in _BLOCKS:
        sizes.append((size[0], size[1], size[2]))
        size = [max(n // 2, 1) for n in size]
    return sizes


def _experts(setting: Setting, cin: int, width: int, size: _Size) -> _Case:
    """The expert convolution of a dense layer, and a static twin."""
    batch, device = setting.options.batch, setting.device
    # What a layer gets from its neighbours under autocast.
    x = torch.randn(
        batch, cin, *size, device=device, dtype=setting.dtype, requires_grad=True
    )
    layer = DynamicExpertConv3d(cin, width, 1).to(device).eval()
    static = nn.Conv3d(cin, width, 1).to(device)
    with torch.no_grad(), setting.autocast():
        attention = layer.attention_weights(x)
    attention.requires_grad_()
    experts: list[Any] = [x, attention, layer.weight, layer.bias]
    ours = partial(expert_conv3d, *experts)
    arms = {
        'ours': _Arm(ours, experts),
        'paper': _Arm(partial(ours, strategy='grouped'), experts),
        'static': _Arm(partial(static, x), [x, *static.parameters()]),
        'with mapping': _Arm(partial(layer, x), [x, *layer.parameters()]),
    }
    positions = batch * size[0] * size[1] * size[2]
    return _Case(
        f'expert 1x1x1, {cin} to {width}, {size}',
        arms,
        2.0 * cin * width * positions,
        (cin + width) * positions,
    )


def _grouped(setting: Setting, width: int, growth: int, size: _Size) -> _Case:
    """The static convolution of a dense layer, and one without groups."""
    batch, device = setting.options.batch, setting.device
    x = torch.randn(
        *(batch, width, size[1], size[0], size[2]),
        device=device,
        dtype=setting.dtype,
        requires_grad=True,
    )

    def arm(layer: nn.Module) -> _Arm:
        layer.to(device)
        return _Arm(partial(layer, x), [x, *layer.parameters()])

    options: dict[str, Any] = {'padding': 1, 'bias': False}
    arms = {
        'ours': arm(
            GroupedConv3d(width, growth, 3, groups=4, rows_first=True, **options)
        ),
        'paper': arm(nn.Conv3d(width, growth, 3, groups=4, **options)),
        'dense': arm(nn.Conv3d(width, growth, 3, **options)),
    }
    positions = batch * size[0] * size[1] * size[2]
    return _Case(
        f'3x3x3 groups 4, {width} to {growth}, {size}',
        arms,
        2.0 * width // 4 * growth * 27 * positions,
        (width + growth) * positions,
    )


def bench_layers(setting: Setting) -> list[dict[str, Any]]:
    """Time the layers of ekgnet_base, in the middle of each block.

    Args:
        setting: Options, device and floor.

    Returns:
        One row a layer and pass.
    """
    options = setting.options
    rows: list[dict[str, Any]] = []
    for block, ((layers, growth, entry), size) in enumerate(
        zip(_BLOCKS, _sizes(options.patches[0], options.bands[0]), strict=True)
    ):
        cin, width = entry + (layers // 2) * growth, 4 * growth
        for case in (
            _experts(setting, cin, width, size),
            _grouped(setting, width, growth, size),
        ):
            rows += _rows(setting, f'block {block + 1}: {case.name}', case)
    return rows


def _pass(setting: Setting, arm: _Arm, backward: bool) -> Callable[[], None]:
    """Make a forward pass, or forward and backward."""
    if not backward:

        def forward() -> None:
            with torch.no_grad(), setting.autocast():
                arm.function()

        return forward
    with torch.no_grad(), setting.autocast():
        seen = torch.randn_like(arm.function())

    def both() -> None:
        with setting.autocast():
            out = arm.function()
        torch.autograd.grad(out, arm.inputs, seen)

    return both


def _rows(setting: Setting, name: str, case: _Case) -> list[dict[str, Any]]:
    """Time the arms of one layer, forward and with backward."""
    rows = []
    for passes, factor in (('forward', 1), ('forward + backward', 3)):
        times = setting.times(
            {arm: _pass(setting, how, factor == 3) for arm, how in case.arms.items()}
        )
        ours = times['ours']['median']
        rows.append(
            {
                'layer': name,
                'pass': passes,
                'seconds': times,
                'paper / ours': times['paper']['median'] / ours,
                'ours / static': (
                    ours / times['static']['median'] if 'static' in times else None
                ),
                **setting.shares(factor * case.work, factor * case.values, ours),
            }
        )
    return rows

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A 3D convolution whose kernel is mixed from experts for every sample.

The dynamic kernel generation of EKGNet (arXiv 2504.13045, section 2.2.2).
"""

import math
import numbers
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .context_mapping import ContextMapping
from .functional import expert_conv3d
from .geometry import triple
from .rule import check_type, leaf_call, symbolic

__all__ = ['DynamicExpertConv3d', 'expert_convs']

_PADDING_MODES = ('zeros', 'reflect', 'replicate', 'circular')


def _plain_expert_conv3d(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int, int],
    padding: tuple[int, int, int],
    dilation: tuple[int, int, int],
    groups: int,
) -> Tensor:
    """Convolve in the paper's formulation; what TorchScript compiles."""
    batch, out = x.shape[0], weight.shape[1]
    if batch == 0:
        # No sample has no group; any kernel gives the shape.
        return F.conv3d(x, weight[0], None, stride, padding, dilation, groups)
    mixed = (attention @ weight.flatten(1)).reshape(
        batch * out, weight.shape[2], weight.shape[3], weight.shape[4], weight.shape[5]
    )
    one_to_one = max(stride) == 1 and max(padding) == 0 and groups == 1
    if one_to_one and weight[0, 0, 0].numel() == 1:
        y = torch.bmm(mixed.reshape(batch, out, x.shape[1]), x.flatten(2))
        if bias is not None:
            y = y + (attention @ bias).unsqueeze(2)
        return y.reshape(batch, out, x.shape[2], x.shape[3], x.shape[4])
    mixed_bias: Tensor | None = None
    if bias is not None:
        mixed_bias = (attention @ bias).flatten()
    folded = x.reshape(1, batch * x.shape[1], x.shape[2], x.shape[3], x.shape[4])
    y = F.conv3d(folded, mixed, mixed_bias, stride, padding, dilation, groups * batch)
    return y.reshape(batch, out, y.shape[2], y.shape[3], y.shape[4])


def _check_sizes(
    in_channels: int, out_channels: int, groups: int, num_experts: int
) -> None:
    """Refuse numbers of channels, groups and experts that make no layer."""
    for name, value in (
        ('in_channels', in_channels),
        ('out_channels', out_channels),
        ('groups', groups),
        ('num_experts', num_experts),
    ):
        whole = isinstance(value, numbers.Integral)
        if not whole or value < 1:
            raise ValueError(
                f'{name} must be a whole number of at least 1, found {value!r}'
            )
    for name, channels in (
        ('in_channels', in_channels),
        ('out_channels', out_channels),
    ):
        if channels % groups:
            raise ValueError(f'{name}={channels} must be a multiple of groups={groups}')


def _check_padding(
    padding: str | int | tuple[int, int, int], stride: tuple[int, int, int]
) -> str | tuple[int, int, int]:
    """Expand a padding and refuse names that PyTorch does not know either."""
    if not isinstance(padding, str):
        return triple(padding, 'padding')
    if padding not in ('same', 'valid'):
        raise ValueError(
            f"padding must be 'same', 'valid', an int or 3 ints, found {padding!r}"
        )
    if padding == 'same' and stride != (1, 1, 1):
        raise ValueError(f"padding='same' needs stride 1, found stride={stride}")
    return padding


class DynamicExpertConv3d(nn.Module):
    r"""3D convolution with a kernel of its own for every sample of a batch.

    Takes :class:`torch.nn.Conv3d`'s place: same positional arguments, defaults, shapes
    and attributes. Inside, K expert kernels :math:`W_k` and biases :math:`b_k` are
    mixed with weights that a context mapping network computes from the input:

    .. math::
        a &= \mathrm{softmax}(f_\mathrm{map}(\mathrm{AvgPool}(x)) / \tau), \\
        y &= \Bigl(\sum_k a_k W_k\Bigr) * x + \sum_k a_k b_k.

    Experts start from a truncated normal distribution (cut at two deviations) whose
    standard deviation is :math:`1 / \sqrt{\text{fan in}}`, biases from zero.

    Shape: (B, Cin, D, H, W) to (B, Cout, D', H', W'), or without B. An empty batch
    gives an empty batch. A training batch of one sample (also an unbatched input)
    leaves the mapping's batch statistics alone (:class:`ContextMapping`).

    Args:
        in_channels: Channels Cin of the input.
        out_channels: Channels Cout of the output.
        kernel_size: Extent of the kernels along D, H, W.
        stride: Step of the kernels.
        padding: Positions added on both sides, 'same' or 'valid'. Read here alone:
            changing the attribute later has no effect.
        dilation: Spacing of the kernel elements.
        groups: Groups of channels that do not see each other.
        bias: Whether the experts have biases.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        device: Where the parameters live.
        dtype: Type of the parameters.
        num_experts: Number K of experts.
        temperature: Temperature tau at the start.
        num_mapping_blocks: Residual blocks N of the mapping network.
        mapping_units_per_block: BN-GELU-convolution units of such a block.
        learnable_residual: Learn the mapping's residual weights.
        mapping: Network to use instead of a :class:`ContextMapping`; any module from
            (B, Cin, D, H, W) to weights (B, K).

    Attributes:
        weight: Experts, (K, Cout, Cin/groups, kD, kH, kW).
        bias: Their biases, (K, Cout), or None.
        mapping: The mapping network.

    Raises:
        ValueError: If an argument is out of range or does not fit another.
    """

    #: TorchScript must not compile the property.
    __jit_unused_properties__ = ('temperature',)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int, int],
        stride: int | tuple[int, int, int] = 1,
        padding: str | int | tuple[int, int, int] = 0,
        dilation: int | tuple[int, int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = 'zeros',
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        num_experts: int = 4,
        temperature: float = 34.0,
        num_mapping_blocks: int = 2,
        mapping_units_per_block: int = 1,
        learnable_residual: bool = True,
        mapping: nn.Module | None = None,
    ) -> None:
        """Make the experts and the mapping network."""
        super().__init__()
        _check_sizes(in_channels, out_channels, groups, num_experts)
        if padding_mode not in _PADDING_MODES:
            raise ValueError(
                f'padding_mode must be one of {_PADDING_MODES}, found {padding_mode!r}'
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = triple(kernel_size, 'kernel_size')
        self.stride = triple(stride, 'stride')
        self.dilation = triple(dilation, 'dilation')
        self.padding = _check_padding(padding, self.stride)
        for name, values, least in (
            ('kernel_size', self.kernel_size, 1),
            ('stride', self.stride, 1),
            ('dilation', self.dilation, 1),
            ('padding', self.padding, 0),
        ):
            if not isinstance(values, str) and min(values) < least:
                raise ValueError(f'{name} must be at least {least}, found {values}')
        self.transposed = False
        self.output_padding = (0, 0, 0)
        self.groups = groups
        self.padding_mode = padding_mode
        self.num_experts = num_experts
        self._set_padding()
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        self.weight = nn.Parameter(
            torch.empty(
                num_experts,
                out_channels,
                in_channels // groups,
                *self.kernel_size,
                **dd,
            )
        )
        self.bias: nn.Parameter | None
        if bias:
            self.bias = nn.Parameter(torch.empty(num_experts, out_channels, **dd))
        else:
            self.register_parameter('bias', None)
        if mapping is None:
            mapping = ContextMapping(
                in_channels,
                num_experts,
                num_mapping_blocks,
                units_per_block=mapping_units_per_block,
                learnable_residual=learnable_residual,
                temperature=temperature,
                **dd,
            )
        self.mapping = mapping
        self.reset_parameters()

    def _set_padding(self) -> None:
        """Split the padding into what the convolution adds and what comes before it."""
        before, after = [], []
        for axis in range(3):
            if self.padding == 'same':
                total = self.dilation[axis] * (self.kernel_size[axis] - 1)
                before.append(total // 2)
                after.append(total - total // 2)
            else:
                size = 0 if isinstance(self.padding, str) else self.padding[axis]
                before.append(size)
                after.append(size)
        inside = self.padding_mode == 'zeros' and before == after
        self._conv_padding: tuple[int, int, int] = (
            (before[0], before[1], before[2]) if inside else (0, 0, 0)
        )
        # In the order of torch.nn.functional.pad, the last axis first.
        self._pads: tuple[int, int, int, int, int, int] = (
            (0, 0, 0, 0, 0, 0)
            if inside
            else (before[2], after[2], before[1], after[1], before[0], after[0])
        )
        self._pad_first = any(self._pads)
        self._pad_mode = (
            'constant' if self.padding_mode == 'zeros' else self.padding_mode
        )

    def reset_parameters(self) -> None:
        """Draw the experts anew; the mapping network is left alone."""
        std = 1.0 / math.sqrt(self.weight[0, 0].numel())
        nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def temperature(self) -> Tensor:
        """The temperature tau of the mapping network."""
        return cast(Tensor, self.mapping.temperature)

    @torch.jit.unused
    def update_temperature(self, step: float = 3.0, end: float = 1.0) -> None:
        """Lower the temperature by one step (:meth:`ContextMapping.update_temperature`).

        Args:
            step: By how much.
            end: The lowest value that annealing reaches.
        """
        cast(ContextMapping, self.mapping).update_temperature(step, end)

    @torch.jit.unused
    def _check(self, x: Tensor) -> None:
        """Refuse input that the layer cannot convolve."""
        if x.dim() not in (4, 5):
            raise ValueError(
                f'DynamicExpertConv3d: the input has shape {tuple(x.shape)}, expected '
                f'(B, {self.in_channels}, D, H, W) or ({self.in_channels}, D, H, W)'
            )
        channels = x.shape[x.dim() - 4]
        if channels != self.in_channels:
            raise ValueError(
                f'DynamicExpertConv3d: the input of shape {tuple(x.shape)} has '
                f'{channels} channels, expected in_channels={self.in_channels}'
            )
        if 0 in x.shape[-3:]:
            raise ValueError(
                f'DynamicExpertConv3d: the input of shape {tuple(x.shape)} has an '
                'empty axis, expected at least one position along D, H and W'
            )
        if not x.is_floating_point():
            raise TypeError(
                f'DynamicExpertConv3d: the input is {x.dtype}, expected floating '
                'point values; convert it with .float()'
            )
        check_type('DynamicExpertConv3d', x, self)

    @torch.jit.unused
    def _check_context(self, x: Tensor, context: Tensor) -> None:
        """Refuse what is not the mean of (B, Cin, D, H, W) over space."""
        if context.dim() != 5 or context.shape[:2] != x.shape[:2]:
            raise ValueError(
                f'DynamicExpertConv3d: the context has shape {tuple(context.shape)}, '
                f'expected ({x.shape[0]}, {x.shape[1]}, 1, 1, 1)'
            )

    def attention_weights(self, x: Tensor) -> Tensor:
        """Compute the weights with which the experts are mixed.

        Args:
            x: Maps, (B, Cin, D, H, W) or (Cin, D, H, W).

        Returns:
            Weights that sum to 1 over the experts, (B, K) or (K).
        """
        if not torch.jit.is_scripting():
            self._check(x)
        if x.dim() == 4:
            weights: Tensor = self.mapping(x.unsqueeze(0))
            return weights.squeeze(0)
        weights = self.mapping(x)
        return weights

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Convolve each sample with its mixture of the experts.

        Args:
            x: Maps, (B, Cin, D, H, W) or (Cin, D, H, W).
            context: Their mean over space, (B, Cin, 1, 1, 1), where it is known
                already; only for mappings that ask for nothing else
                (``needs_only_context``).

        Returns:
            Maps, (B, Cout, D', H', W') or (Cout, D', H', W').

        Raises:
            ValueError: If the shape is another or the channels differ.
            TypeError: If the input is not floating point, or of another type than the
                weights.
        """
        if not torch.jit.is_scripting():
            if symbolic(x):
                return leaf_call(self, x, context)  # type: ignore[no-any-return]
            self._check(x)
        unbatched = x.dim() == 4
        if unbatched:
            x = x.unsqueeze(0)
        if context is not None and not torch.jit.is_scripting():
            self._check_context(x, context)
        attention = self.mapping(x if context is None else context)
        if not torch.jit.is_scripting():
            y = self.convolve(x, attention, self.weight, self.bias)
            return y.squeeze(0) if unbatched else y
        if self._pad_first:
            x = F.pad(x, self._pads, self._pad_mode)
        y = _plain_expert_conv3d(
            x,
            attention,
            self.weight,
            self.bias,
            self.stride,
            self._conv_padding,
            self.dilation,
            self.groups,
        )
        return y.squeeze(0) if unbatched else y

    @torch.jit.unused
    def convolve(
        self,
        x: Tensor,
        attention: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        shift: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        """Convolve as this layer does, with other weights than its own.

        Args:
            x: Maps, (B, Cin, D, H, W).
            attention: Mixing weights, (B, K).
            weight: Experts, shaped as :attr:`weight`.
            bias: Their biases, (K, Cout).
            shift: Biases that every sample gets, (Cout).
            relu: Whether a ReLU follows.

        Returns:
            Maps, (B, Cout, D', H', W').
        """
        if self._pad_first:
            x = F.pad(x, self._pads, self._pad_mode)
        return expert_conv3d(
            x,
            attention,
            weight,
            bias,
            self.stride,
            self._conv_padding,
            self.dilation,
            self.groups,
            shift=shift,
            relu=relu,
        )

    def extra_repr(self) -> str:
        """Describe the layer as ``nn.Conv3d`` does."""
        parts = [
            f'{self.in_channels}, {self.out_channels}',
            f'kernel_size={self.kernel_size}',
            f'stride={self.stride}',
        ]
        if self.padding != (0, 0, 0):
            parts.append(f'padding={self.padding}')
        if self.dilation != (1, 1, 1):
            parts.append(f'dilation={self.dilation}')
        if self.groups != 1:
            parts.append(f'groups={self.groups}')
        if self.bias is None:
            parts.append('bias=False')
        if self.padding_mode != 'zeros':
            parts.append(f'padding_mode={self.padding_mode}')
        parts.append(f'num_experts={self.num_experts}')
        return ', '.join(parts)


def expert_convs(module: nn.Module) -> Iterator[tuple[str, DynamicExpertConv3d]]:
    """Find the dynamic convolutions of a network.

    Args:
        module: The network.

    Yields:
        Name and layer, in the order of registration.
    """
    for name, child in module.named_modules():
        if isinstance(child, DynamicExpertConv3d):
            yield name, child

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Convolution with kernels mixed per sample, and the one rule that says how.

:func:`expert_conv3d` (arXiv 2504.13045, section 2.2.2) and the static
:func:`grouped_conv3d` have several exact strategies. All of them are compositions of
differentiable PyTorch operations, so first and second derivatives, ``torch.func``,
compilation and export hold for each of them:

``'grouped'``
    The plain formulation. For experts it is the paper's: mix the kernels, fold the
    batch into the channels, one convolution with B times as many groups.
``'pointwise'``
    1x1x1 kernels as one matrix product per sample.
``'experts'``
    A static convolution with the kernels of all experts, then the weighted sum of
    their outputs. K times the work, but the graph is the same for every batch size.
``'unrolled'``
    An axis (or two) of the image becomes part of the channels and the kernel a banded
    matrix over it, so that thin groups become wide enough for fast matrix kernels.
"""

import contextlib
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ['STRATEGIES', 'conv_strategy', 'expert_conv3d', 'grouped_conv3d']

#: Names that ``strategy=`` and :func:`conv_strategy` accept.
STRATEGIES = ('grouped', 'pointwise', 'experts', 'unrolled')

_Size = int | Sequence[int]
_Triple = tuple[int, int, int]

# What conv_strategy asks for; None leaves the choice to the rule.
_forced: str | None = None


@contextlib.contextmanager
def conv_strategy(strategy: str | None) -> Iterator[None]:
    """Choose the strategy of all convolutions of this package in a block of code.

    A convolution to which the strategy does not apply (a 3x3x3 kernel under
    ``'pointwise'``) takes the plain ``'grouped'`` form; ``None`` restores the rule.
    The choice is the process's, not the thread's.

    Args:
        strategy: One of :data:`STRATEGIES`, or None.

    Yields:
        Nothing.

    Raises:
        ValueError: If there is no such strategy.
    """
    global _forced
    _check_strategy(strategy)
    before = _forced
    _forced = strategy
    try:
        yield
    finally:
        _forced = before


def _check_strategy(strategy: str | None) -> None:
    """Refuse a name that is not a strategy."""
    if strategy is not None and strategy not in STRATEGIES:
        raise ValueError(
            f'strategy must be one of {STRATEGIES} or None, found {strategy!r}'
        )


def triple(value: _Size, name: str) -> _Triple:
    """Expand an int and check the length of a sequence.

    Args:
        value: One value for D, H and W, or three; NumPy's integers as well.
        name: Name of the argument.

    Returns:
        The values along D, H, W.

    Raises:
        ValueError: If it is anything else.
    """
    values = tuple(value) if isinstance(value, Iterable) else (value,) * 3
    if len(values) != 3 or not all(isinstance(v, numbers.Integral) for v in values):
        raise ValueError(f'{name} must be an int or 3 ints, found {value!r}')
    return (int(values[0]), int(values[1]), int(values[2]))


class _Geometry(NamedTuple):
    """A convolution without its tensors."""

    kernel: _Triple
    stride: _Triple
    padding: _Triple
    dilation: _Triple
    groups: int

    def is_pointwise(self) -> bool:
        """Whether each output position depends on one input position alone."""
        return (
            self.kernel == (1, 1, 1)
            and self.stride == (1, 1, 1)
            and self.padding == (0, 0, 0)
        )

    def output_size(self, size: Sequence[int]) -> _Triple:
        """Positions of the output along each axis."""
        out = [
            (
                size[a]
                + 2 * self.padding[a]
                - self.dilation[a] * (self.kernel[a] - 1)
                - 1
            )
            // self.stride[a]
            + 1
            for a in range(3)
        ]
        return (out[0], out[1], out[2])


def _geometry(
    weight: Tensor, stride: _Size, padding: _Size, dilation: _Size, groups: int
) -> _Geometry:
    """Collect the geometry of a convolution with kernels (..., kD, kH, kW)."""
    return _Geometry(
        (weight.shape[-3], weight.shape[-2], weight.shape[-1]),
        triple(stride, 'stride'),
        triple(padding, 'padding'),
        triple(dilation, 'dilation'),
        groups,
    )


def _check_input(x: Tensor, channels: int, where: str) -> None:
    """Refuse inputs that no strategy can convolve."""
    if x.dim() != 5:
        raise ValueError(
            f'{where}: the input has {x.dim()} dimensions {tuple(x.shape)}, '
            'expected 5: (B, C, D, H, W)'
        )
    if x.shape[1] != channels:
        raise ValueError(
            f'{where}: the input has {x.shape[1]} channels, '
            f'expected {channels} (Cin/groups of the kernels times groups)'
        )
    if not x.is_floating_point():
        raise TypeError(
            f'{where}: the input is {x.dtype}, expected floating point values; '
            'convert it with .float()'
        )


# --------------------------------------------------------------------------------------
# The rule


def _plain_only(*tensors: Tensor | None) -> bool:
    """Whether PyTorch must see and differentiate the operations themselves."""
    if (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
    ):
        return True
    given = [t for t in tensors if t is not None]
    device = given[0].device.type
    # Our backward pass switches autocast off, which some devices (meta) do not know.
    if not torch.amp.is_autocast_available(device):
        return True
    forward_mode = any(forward_ad.unpack_dual(t).tangent is not None for t in given)
    return forward_mode or torch.is_autocast_enabled(device)


def _may_unroll(x: Tensor, geometry: _Geometry) -> bool:
    """Whether an unrolling can be faster than the plain form at all."""
    return geometry.groups != 1 and x.device.type == 'cpu' and x.dtype == torch.float32


def _chosen_at_run_time(x: Tensor, geometry: _Geometry) -> bool:
    """Whether a compiled graph leaves the choice to :func:`_compiled_conv`.

    An exported graph does not: it may run where this package is not installed.
    """
    return (
        torch.compiler.is_compiling()
        # PyTorch before 2.7 does not tell compilation from export.
        and hasattr(torch.compiler, 'is_exporting')
        and not _exporting()
        and not torch._C._are_functorch_transforms_active()
        and not torch.is_autocast_enabled('cpu')
        and _may_unroll(x, geometry)
    )


def _exporting() -> bool:
    """Whether the graph that is being made will be given batches of any size."""
    # torch.compiler.is_exporting came with PyTorch 2.7.
    return torch.onnx.is_in_onnx_export() or (
        hasattr(torch.compiler, 'is_exporting') and torch.compiler.is_exporting()
    )


def reads_slices(x: Tensor) -> bool:
    """Whether 1x1x1 experts read some channels of larger maps without copying them.

    Args:
        x: Maps like those to come.

    Returns:
        False where PyTorch's own convolution runs, and where PyTorch must see how maps
        are concatenated (compilation, tracing, export, transforms, autocast).
    """
    return _forced in (None, 'pointwise') and not _plain_only(x)


def choose_expert_strategy(
    x: Tensor, weight: Tensor, geometry: _Geometry, forced: str | None = None
) -> str:
    """Say how :func:`expert_conv3d` computes; the one rule for experts.

    1. What the caller or :func:`conv_strategy` asks for, where it applies.
    2. 1x1x1 kernels: one matrix product per sample, on every device.
    3. Graphs that must hold for any batch size (export, ONNX) and empty batches: all
       experts, then their weighted sum.
    4. Everything else: mix the kernels, fold the batch into groups; the convolution
       that results chooses for itself (:func:`choose_conv_strategy`).

    Args:
        x: Input (B, Cin, D, H, W).
        weight: Expert kernels (K, Cout, Cin/groups, kD, kH, kW).
        geometry: Strides and so on.
        forced: Strategy asked for.

    Returns:
        A strategy; ``'unrolled'`` stands for step 4.
    """
    pointwise = geometry.is_pointwise()
    if forced is not None and (forced != 'pointwise' or pointwise):
        # No sample has no group to be folded into.
        return 'experts' if x.shape[0] == 0 else forced
    if forced is not None:
        return 'grouped'
    if pointwise:
        return 'pointwise'
    if _exporting() or x.shape[0] == 0:
        return 'experts'
    return 'unrolled'


def choose_conv_strategy(
    x: Tensor, weight: Tensor, geometry: _Geometry
) -> tuple[str, '_Unrolling | None']:
    """Say how a static convolution computes; the one rule for grouped kernels.

    oneDNN, PyTorch's engine for float32 on CPUs, has matrix kernels for groups whose
    input and output channels are multiples of 16 and falls back to tiny products
    otherwise. So, for grouped float32 convolutions on a CPU, the estimated time of
    each unrolling is compared with that of the plain form. Other devices, types and
    ungrouped convolutions take the plain form.

    Args:
        x: Input (B, Cin, D, H, W).
        weight: Kernels (Cout, Cin/groups, kD, kH, kW).
        geometry: Strides and so on.

    Returns:
        ``'grouped'`` and None, or ``'unrolled'`` and how to unroll.
    """
    if (
        not _may_unroll(x, geometry)
        or x.numel() == 0
        or not torch.backends.mkldnn.is_available()
    ):
        return 'grouped', None
    best = _best_unrolling(x.shape, weight.shape, geometry)
    if best is None:
        return 'grouped', None
    return 'unrolled', best


# --------------------------------------------------------------------------------------
# The public functions


def expert_conv3d(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Size = 1,
    padding: _Size = 0,
    dilation: _Size = 1,
    groups: int = 1,
    strategy: str | None = None,
) -> Tensor:
    r"""Convolve every sample with its own mixture of expert kernels.

    Sample b is convolved with :math:`\sum_k a_{bk} W_k` and gets the bias
    :math:`\sum_k a_{bk} b_k` (arXiv 2504.13045, section 2.2.2).

    Args:
        x: Input (B, Cin, D, H, W).
        attention: Mixing weights (B, K).
        weight: Expert kernels (K, Cout, Cin/groups, kD, kH, kW).
        bias: Expert biases (K, Cout).
        stride: Step of the kernel along D, H, W.
        padding: Zeros added on both sides of D, H, W.
        dilation: Spacing of the kernel elements along D, H, W.
        groups: Groups of channels that do not see each other.
        strategy: One of :data:`STRATEGIES`; None leaves the choice to the rule
            (:func:`choose_expert_strategy`).

    Returns:
        Output (B, Cout, D', H', W').

    Raises:
        ValueError: If shapes do not fit each other or the strategy does not apply.
        TypeError: If ``x`` is not floating point.
    """
    _check_strategy(strategy)
    if weight.dim() != 6:
        raise ValueError(
            f'expert_conv3d: weight has shape {tuple(weight.shape)}, '
            'expected (K, Cout, Cin/groups, kD, kH, kW)'
        )
    _check_input(x, weight.shape[2] * groups, 'expert_conv3d')
    if attention.shape != (x.shape[0], weight.shape[0]):
        raise ValueError(
            f'expert_conv3d: attention has shape {tuple(attention.shape)}, '
            f'expected (B, K) = ({x.shape[0]}, {weight.shape[0]})'
        )
    if bias is not None and bias.shape != weight.shape[:2]:
        raise ValueError(
            f'expert_conv3d: bias has shape {tuple(bias.shape)}, '
            f'expected (K, Cout) = {tuple(weight.shape[:2])}'
        )
    geometry = _geometry(weight, stride, padding, dilation, groups)
    if strategy == 'pointwise' and not geometry.is_pointwise():
        raise ValueError(
            "expert_conv3d: strategy='pointwise' needs 1x1x1 kernels, stride 1 and no "
            f'padding, found {geometry}'
        )
    chosen = choose_expert_strategy(x, weight, geometry, strategy or _forced)
    if chosen == 'experts':
        return _experts(x, attention, weight, bias, geometry)
    if chosen == 'pointwise':
        return _pointwise(x, attention, weight, bias, groups)
    return _batch_as_groups(x, attention, weight, bias, geometry, strategy or _forced)


def grouped_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Size = 1,
    padding: _Size = 0,
    dilation: _Size = 1,
    groups: int = 1,
    strategy: str | None = None,
) -> Tensor:
    """Compute ``torch.nn.functional.conv3d`` on the path that is fast for thin groups.

    Args:
        x: Input (B, Cin, D, H, W).
        weight: Kernels (Cout, Cin/groups, kD, kH, kW).
        bias: Biases (Cout).
        stride: Step of the kernel along D, H, W.
        padding: Zeros added on both sides of D, H, W.
        dilation: Spacing of the kernel elements along D, H, W.
        groups: Groups of channels that do not see each other.
        strategy: ``'grouped'`` or ``'unrolled'``; None leaves the choice to the rule
            (:func:`choose_conv_strategy`).

    Returns:
        Output (B, Cout, D', H', W').

    Raises:
        ValueError: If shapes do not fit each other or the strategy does not apply.
        TypeError: If ``x`` is not floating point.
    """
    _check_strategy(strategy)
    if strategy not in (None, 'grouped', 'unrolled'):
        raise ValueError(
            "grouped_conv3d: strategy must be 'grouped', 'unrolled' or None, "
            f'found {strategy!r}'
        )
    if weight.dim() != 5:
        raise ValueError(
            f'grouped_conv3d: weight has shape {tuple(weight.shape)}, '
            'expected (Cout, Cin/groups, kD, kH, kW)'
        )
    _check_input(x, weight.shape[1] * groups, 'grouped_conv3d')
    geometry = _geometry(weight, stride, padding, dilation, groups)
    return _conv(x, weight, bias, geometry, strategy or _forced)


# --------------------------------------------------------------------------------------
# The strategies for experts


def _mix(attention: Tensor, stacked: Tensor) -> Tensor:
    """Mix stacked parameters (K, ...) into one set per sample, (B, ...)."""
    mixed = attention @ stacked.flatten(1)
    kernels: Tensor = mixed.unflatten(1, stacked.shape[1:])
    return kernels


def _batch_as_groups(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: _Geometry,
    forced: str | None,
) -> Tensor:
    """Fold the batch into the channels: one convolution with B times the groups."""
    batch = x.shape[0]
    mixed = _mix(attention, weight).flatten(0, 1)
    mixed_bias = None if bias is None else (attention @ bias).flatten()
    folded = geometry._replace(groups=geometry.groups * batch)
    # reshape, not view: channels_last input cannot be viewed.
    x = x.reshape(1, batch * x.shape[1], x.shape[2], x.shape[3], x.shape[4])
    y = _conv(x, mixed, mixed_bias, folded, forced)[0]
    unfolded: Tensor = y.unflatten(0, (batch, weight.shape[1]))
    return unfolded


def _pointwise(
    x: Tensor, attention: Tensor, weight: Tensor, bias: Tensor | None, groups: int
) -> Tensor:
    """Multiply each sample's (Cin, D*H*W) matrix by its mixed kernel."""
    stacked = weight.flatten(2)
    mixed_bias = None if bias is None else attention @ bias
    if _plain_only(x, attention, weight, bias):
        return _products(x, _mix(attention, stacked), mixed_bias, groups)
    return cast(Tensor, _MixedProducts.apply(x, attention, stacked, mixed_bias, groups))


def _products(x: Tensor, kernels: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """Multiply each sample by its matrix (B, Cout, Cin/groups); biases (B, Cout)."""
    channels_last = not x.is_contiguous() and x.is_contiguous(
        memory_format=torch.channels_last_3d
    )
    size = x.shape[2:]
    x = x.flatten(2)
    if groups > 1:
        # (B, groups, Cout/groups, Cin/groups) @ (B, groups, Cin/groups, D*H*W)
        y = kernels.unflatten(1, (groups, -1)) @ x.unflatten(1, (groups, -1))
        y = y.flatten(1, 2)
        if bias is not None:
            y = y + bias.unsqueeze(2)
    elif channels_last:
        rows, columns = x.transpose(1, 2), kernels.transpose(1, 2)
        if bias is None:
            y = torch.bmm(rows, columns).transpose(1, 2)
        else:
            y = torch.baddbmm(bias.unsqueeze(1), rows, columns).transpose(1, 2)
    elif bias is None:
        y = torch.bmm(kernels, x)
    else:
        y = torch.baddbmm(bias.unsqueeze(2), kernels, x)
    shaped: Tensor = y.unflatten(2, size)
    return shaped


class _MixedProducts(torch.autograd.Function):
    """Mixing and :func:`_products`; kernels of a whole batch are not kept for backward.

    Mixing them again costs next to nothing. There are B times as many of them as the
    layer has parameters per expert: a tenth of a training step's memory.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        attention: Tensor,
        stacked: Tensor,
        bias: Tensor | None,
        groups: int,
    ) -> Tensor:
        """Convolve with experts (K, Cout, Cin/groups) and mixed biases (B, Cout)."""
        ctx.save_for_backward(x, attention, stacked, bias)  # type: ignore[arg-type]
        ctx.groups = groups  # type: ignore[attr-defined]
        return _products(x, _mix(attention, stacked), bias, groups)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, None]:
        """Compute the gradients; differentiable when a graph is asked for."""
        x, attention, stacked, bias = ctx.saved_tensors  # type: ignore[attr-defined]
        groups: int = ctx.groups  # type: ignore[attr-defined]
        wanted = ctx.needs_input_grad[:4]  # type: ignore[attr-defined]
        with torch.autocast(grad.device.type, enabled=False):
            if _differentiated_again(grad):
                gradients = _composed_gradients(
                    lambda x, attention, stacked, bias: _products(
                        x, _mix(attention, stacked), bias, groups
                    ),
                    (x, attention, stacked, bias),
                    grad,
                    wanted,
                )
                return *gradients, None  # type: ignore[return-value]
            gx = ga = gs = None
            if wanted[0]:
                kernels = _mix(attention, stacked).unflatten(1, (groups, -1))
                turned = kernels.transpose(2, 3).flatten(1, 2)
                gx = _products(grad, turned, None, groups)
            if wanted[1] or wanted[2]:
                rows = grad.flatten(2).unflatten(1, (groups, -1))
                columns = x.flatten(2).unflatten(1, (groups, -1))
                gk = (rows @ columns.transpose(2, 3)).flatten(1)
                ga = gk @ stacked.flatten(1).t() if wanted[1] else None
                gs = (attention.t() @ gk).view_as(stacked) if wanted[2] else None
            gb = grad.sum((2, 3, 4)) if wanted[3] else None
        return gx, ga, gs, gb, None


def _experts(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: _Geometry,
) -> Tensor:
    """Convolve with every expert, then take the weighted sum of the outputs."""
    groups = geometry.groups
    num_experts, out = weight.shape[0], weight.shape[1]
    # Group-major order, so that a static convolution has all experts of a group.
    kernels = weight.unflatten(1, (groups, out // groups)).transpose(0, 1)
    y = F.conv3d(
        x,
        kernels.flatten(0, 2),
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        groups,
    )
    y = cast(Tensor, y.unflatten(1, (groups, num_experts, out // groups)))
    shares = attention[:, None, :, None, None, None, None].to(y.dtype)
    y = (y * shares).sum(2).flatten(1, 2)
    if bias is not None:
        y = y + (attention @ bias)[:, :, None, None, None].to(y.dtype)
    return y


# --------------------------------------------------------------------------------------
# The strategies for static kernels


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: _Geometry,
    forced: str | None,
) -> Tensor:
    """Convolve with static kernels."""
    if forced is None and _chosen_at_run_time(x, geometry):
        y = cast(Tensor, _compiled_conv(x, weight, *geometry[1:]))
        return y if bias is None else y + bias[:, None, None, None]
    plain, unrolling = _plain_only(x, weight, bias), None
    if forced == 'unrolled' and x.numel() > 0:
        unrolling = _any_unrolling(x.shape, weight.shape, geometry)
    elif forced is None and not plain:
        unrolling = choose_conv_strategy(x, weight, geometry)[1]
    if unrolling is None:
        return F.conv3d(
            x,
            weight,
            bias,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            geometry.groups,
        )
    if plain:
        return _unrolled(x, weight, bias, unrolling).contiguous()
    return cast(Tensor, _UnrolledConv.apply(x, weight, bias, unrolling))


class _AxisPlan(NamedTuple):
    """How one axis is treated.

    An axis that is kept has ``block == 0``. An unrolled axis is cut into ``blocks`` of
    ``block`` output positions, each of which sees ``window`` input positions, starting
    ``-left`` positions into the image and ``step`` further for each block. Positions
    outside the image, and those behind the last output, are zeros.
    """

    block: int = 0
    blocks: int = 1
    window: int = 1
    left: int = 0
    step: int = 1


class _Unrolling(NamedTuple):
    """Which axes become channels."""

    axes: tuple[_AxisPlan, _AxisPlan, _AxisPlan]
    out_size: _Triple
    geometry: _Geometry

    def unrolled_axes(self) -> list[int]:
        """The axes (0 to 2) that become channels."""
        return [a for a in range(3) if self.axes[a].block]

    def kept(self, values: _Triple, instead: int) -> _Triple:
        """Replace a value on unrolled axes."""
        kept = [instead if self.axes[a].block else values[a] for a in range(3)]
        return (kept[0], kept[1], kept[2])

    def sizes(self, x_shape: Sequence[int], w_shape: Sequence[int]) -> tuple[int, int]:
        """Elements of the unrolled input and of the output before it is folded."""
        inputs, outputs = x_shape[0] * x_shape[1], x_shape[0] * w_shape[0]
        for a, plan in enumerate(self.axes):
            inputs *= plan.window * plan.blocks if plan.block else x_shape[2 + a]
            outputs *= plan.block * plan.blocks if plan.block else self.out_size[a]
        return inputs, outputs


# Constants of the estimate, measured on two AVX-512 cores; only their ratios matter.
_FAST = 100e9  # multiply-adds * 2 per second of oneDNN's kernels for wide groups
_SLOW = 5e9  # of its fallback for thin groups
_COPY = 6e9  # bytes per second of a permuting copy
_WIDTH = 16  # channels of a group must be a multiple of this
_PIECE = 16 << 20  # bytes of unrolled copies at a time, measured like them


def _full_axis(
    size: int, out: int, geometry: _Geometry, axis: int, pad_in: int, pad_out: int
) -> _AxisPlan:
    """Unroll an axis as one block that covers it, rounded up to multiples."""
    window = math.ceil(size / pad_in) * pad_in
    block = math.ceil(out / pad_out) * pad_out
    return _AxisPlan(block, 1, window, 0, 1)


def _block_axis(
    block: int, out: int, geometry: _Geometry, axis: int, pad_in: int
) -> _AxisPlan:
    """Cut an axis into blocks with their halo."""
    stride = geometry.stride[axis]
    reach = (block - 1) * stride + geometry.dilation[axis] * (geometry.kernel[axis] - 1)
    window = math.ceil((reach + 1) / pad_in) * pad_in
    return _AxisPlan(
        block, math.ceil(out / block), window, geometry.padding[axis], block * stride
    )


def _candidates(
    size: Sequence[int], geometry: _Geometry, cin: int, cout: int
) -> list[_Unrolling]:
    """List unrollings whose groups are wide multiples of the vector length."""
    out = geometry.output_size(size)
    keep = _AxisPlan()
    need_in = _WIDTH // math.gcd(cin, _WIDTH)
    need_out = _WIDTH // math.gcd(cout, _WIDTH)
    found = []
    for a in (0, 1, 2):
        plans = []
        if size[a] <= 32:
            plans.append(_full_axis(size[a], out[a], geometry, a, need_in, need_out))
        if need_out < out[a]:
            plans.append(_block_axis(need_out, out[a], geometry, a, need_in))
        for plan in plans:
            axes = [keep, keep, keep]
            axes[a] = plan
            found.append(_Unrolling((axes[0], axes[1], axes[2]), out, geometry))
    if size[1] * size[2] <= 32:
        rows = _AxisPlan(out[1], 1, size[1], 0, 1)
        need_in = need_in // math.gcd(need_in, size[1])
        need_out = need_out // math.gcd(need_out, out[1])
        columns = _full_axis(size[2], out[2], geometry, 2, need_in, need_out)
        found.append(_Unrolling((keep, rows, columns), out, geometry))
    return found


def _cost(
    unrolling: _Unrolling | None,
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    geometry: _Geometry,
) -> float:
    """Estimate the seconds of a forward pass."""
    out = geometry.output_size(x_shape[2:])
    cin, cout = w_shape[1], w_shape[0] // geometry.groups
    work = 2.0 * x_shape[0] * w_shape[0] * cin * math.prod(geometry.kernel)
    if unrolling is None:
        wide = cin % _WIDTH == 0 and cout % _WIDTH == 0
        return work * math.prod(out) / (_FAST if wide else _SLOW)
    inputs, outputs = unrolling.sizes(x_shape, w_shape)
    first = unrolling.axes[0]
    # The axis behind the channels joins them without a copy.
    alone = first.block > 0 and first.blocks == 1 and not unrolling.axes[1].block
    moves_in = 0 if alone and first.window == x_shape[2] else 4
    moves_out = 0 if alone and first.block == out[0] else 4
    for a, plan in enumerate(unrolling.axes):
        if plan.block:
            work *= plan.window * plan.block * plan.blocks / geometry.kernel[a]
        else:
            work *= out[a]
    return work / _FAST + (moves_in * inputs + moves_out * outputs) / _COPY


def _best_unrolling(
    x_shape: Sequence[int], w_shape: Sequence[int], geometry: _Geometry
) -> _Unrolling | None:
    """Choose the unrolling that is estimated to be fastest; None for the plain form."""
    if min(geometry.output_size(x_shape[2:])) < 1:
        return None
    best, least = None, _cost(None, x_shape, w_shape, geometry)
    cin, cout = w_shape[1], w_shape[0] // geometry.groups
    for candidate in _candidates(x_shape[2:], geometry, cin, cout):
        cost = _cost(candidate, x_shape, w_shape, geometry)
        if cost < least:
            best, least = candidate, cost
    return best


def _any_unrolling(
    x_shape: Sequence[int], w_shape: Sequence[int], geometry: _Geometry
) -> _Unrolling | None:
    """Choose an unrolling even where the plain form is estimated to be faster."""
    if min(geometry.output_size(x_shape[2:])) < 1:
        return None
    cin, cout = w_shape[1], w_shape[0] // geometry.groups
    found = _candidates(x_shape[2:], geometry, cin, cout)
    return min(found, key=lambda c: _cost(c, x_shape, w_shape, geometry), default=None)


def _unroll_input(x: Tensor, unrolling: _Unrolling) -> Tensor:
    """Move the unrolled axes of (B, C, D, H, W) into the channels.

    Returns:
        (B, C * windows, D', H', W'), an unrolled axis having one position per block.
    """
    pads = [0, 0, 0, 0, 0, 0]
    for a, plan in enumerate(unrolling.axes):
        if plan.block:
            needed = (plan.blocks - 1) * plan.step + plan.window
            pads[4 - 2 * a] = plan.left
            pads[5 - 2 * a] = needed - plan.left - x.shape[2 + a]
    if any(pads):
        # Negative padding crops what no output sees.
        x = F.pad(x, pads)
    axes = unrolling.unrolled_axes()
    for a in axes:
        plan = unrolling.axes[a]
        x = x.unfold(2 + a, plan.window, plan.step)
    order = [0, 1, *range(5, 5 + len(axes)), 2, 3, 4]
    return x.permute(order).flatten(1, 1 + len(axes))


def _fold_output(y: Tensor, unrolling: _Unrolling) -> Tensor:
    """Move the unrolled positions of an output from the channels back to their axes."""
    axes = unrolling.unrolled_axes()
    plans = unrolling.axes
    y = y.unflatten(1, (-1, *(plans[a].block for a in axes)))
    # (B, Cout, blocks of axes..., D', H', W'): each block goes behind its axis.
    order = [0, 1]
    for a in range(3):
        order.append(2 + len(axes) + a)
        if a in axes:
            order.append(2 + axes.index(a))
    y = y.permute(order)
    for a in axes:
        y = y.flatten(2 + a, 3 + a)
    for a in axes:
        y = y.narrow(2 + a, 0, unrolling.out_size[a])
    return y


def _unfold_grad(grad: Tensor, unrolling: _Unrolling) -> Tensor:
    """Bring the gradient of an output into the layout of the unrolled convolution."""
    pads = [0, 0, 0, 0, 0, 0]
    axes = unrolling.unrolled_axes()
    for a in axes:
        plan = unrolling.axes[a]
        pads[5 - 2 * a] = plan.block * plan.blocks - grad.shape[2 + a]
    if any(pads):
        grad = F.pad(grad, pads)
    for a in reversed(axes):
        plan = unrolling.axes[a]
        grad = grad.unflatten(2 + a, (plan.blocks, plan.block))
    # Positions of the blocks in the unflattened tensor.
    order_kept, order_blocks, position = [], [], 2
    for a in range(3):
        order_kept.append(position)
        position += 1
        if a in axes:
            order_blocks.append(position)
            position += 1
    return grad.permute(0, 1, *order_blocks, *order_kept).flatten(1, 1 + len(axes))


def _refold_input(grad: Tensor, unrolling: _Unrolling, size: Sequence[int]) -> Tensor:
    """Transpose :func:`_unroll_input`: add up the gradients of overlapping windows."""
    axes = unrolling.unrolled_axes()
    plans = unrolling.axes
    grad = grad.unflatten(1, (-1, *(plans[a].window for a in axes)))
    grad = grad.permute(
        0, 1, *range(2 + len(axes), 5 + len(axes)), *range(2, 2 + len(axes))
    )
    # The windows are the last dimensions now, that of the last axis at the end.
    for a in reversed(axes):
        plan = plans[a]
        needed = (plan.blocks - 1) * plan.step + plan.window
        if plan.blocks == 1:
            grad = grad.select(2 + a, 0).movedim(-1, 2 + a)
        else:
            shape = [*grad.shape[:-1]]
            shape[2 + a] = needed
            total = grad.new_zeros(shape)
            for block in range(plan.blocks):
                window = total.narrow(2 + a, block * plan.step, plan.window)
                window += grad.select(2 + a, block).movedim(-1, 2 + a)
            grad = total
        length = min(size[a], needed - plan.left)
        grad = grad.narrow(2 + a, plan.left, length)
        if length < size[a]:
            pads = [0] * (2 * (grad.dim() - 3 - a))
            pads += [0, size[a] - length]
            grad = F.pad(grad, pads)
    return grad


def _bands(unrolling: _Unrolling, axis: int, like: Tensor) -> Tensor:
    """Say which kernel element joins which input and output position of a block.

    Returns:
        Zeros and ones, (kernel, block, window).
    """
    plan, geometry = unrolling.axes[axis], unrolling.geometry
    offset = plan.left - geometry.padding[axis]
    device = like.device
    element = torch.arange(geometry.kernel[axis], device=device)[:, None, None]
    output = torch.arange(plan.block, device=device)[None, :, None]
    window = torch.arange(plan.window, device=device)[None, None, :]
    seen = output * geometry.stride[axis] + element * geometry.dilation[axis] + offset
    return (seen == window).to(like.dtype)


def _unroll_kernel(weight: Tensor, unrolling: _Unrolling) -> Tensor:
    """Turn kernels into banded matrices over the unrolled axes.

    Returns:
        (Cout * blocks, Cin/groups * windows, kD', kH', kW'), 1 along unrolled axes.
    """
    axes = unrolling.unrolled_axes()
    if len(axes) == 1:
        bands = _bands(unrolling, axes[0], weight)
        moved = weight.movedim(2 + axes[0], -1)
        unrolled = torch.einsum('ocijk,kbw->obcwij', moved, bands)
        unrolled = unrolled.flatten(2, 3).flatten(0, 1).unsqueeze(-1)
        return unrolled.movedim(-1, 2 + axes[0])
    rows = _bands(unrolling, 1, weight)
    columns = _bands(unrolling, 2, weight)
    unrolled = torch.einsum('ocijk,jpq,kbw->opbcqwi', weight, rows, columns)
    return unrolled.flatten(3, 5).flatten(0, 2)[..., None, None]


def _roll_kernel(
    grad: Tensor, weight_shape: Sequence[int], unrolling: _Unrolling
) -> Tensor:
    """Transpose :func:`_unroll_kernel`."""
    axes = unrolling.unrolled_axes()
    plans = unrolling.axes
    out, cin = weight_shape[0], weight_shape[1]
    if len(axes) == 1:
        plan = plans[axes[0]]
        grad = grad.movedim(2 + axes[0], -1).squeeze(-1)
        grad = grad.unflatten(1, (cin, plan.window)).unflatten(0, (out, plan.block))
        bands = _bands(unrolling, axes[0], grad)
        rolled = torch.einsum('obcwij,kbw->ocijk', grad, bands)
        return rolled.movedim(-1, 2 + axes[0])
    grad = grad[..., 0, 0]
    grad = grad.unflatten(1, (cin, plans[1].window, plans[2].window))
    grad = grad.unflatten(0, (out, plans[1].block, plans[2].block))
    rows, columns = _bands(unrolling, 1, grad), _bands(unrolling, 2, grad)
    return torch.einsum('opbcqwi,jpq,kbw->ocijk', grad, rows, columns)


def _unrolled_bias(bias: Tensor | None, unrolling: _Unrolling) -> Tensor | None:
    """Repeat a bias for the output positions that became channels."""
    if bias is None:
        return None
    times = math.prod(plan.block for plan in unrolling.axes if plan.block)
    return bias[:, None].expand(-1, times).flatten()


def _unrolled(
    x: Tensor, weight: Tensor, bias: Tensor | None, unrolling: _Unrolling
) -> Tensor:
    """Convolve the unrolled image with banded kernels; not always contiguous."""
    geometry = unrolling.geometry
    y = F.conv3d(
        _unroll_input(x, unrolling),
        _unroll_kernel(weight, unrolling),
        _unrolled_bias(bias, unrolling),
        unrolling.kept(geometry.stride, 1),
        unrolling.kept(geometry.padding, 0),
        unrolling.kept(geometry.dilation, 1),
        geometry.groups,
    )
    return _fold_output(y, unrolling)


class _Piece(NamedTuple):
    """Some samples, or some groups of all samples, and how they are unrolled."""

    samples: slice
    inputs: slice
    outputs: slice
    unrolling: _Unrolling


def _pieces(x: Tensor, weight: Tensor, unrolling: _Unrolling) -> list[_Piece]:
    """Cut a convolution into parts with small unrolled copies.

    The copies of a whole batch leave the processor's caches, raise the peak and, above
    32 MiB, are mapped anew by glibc's allocator for every layer.
    """
    needed = sum(unrolling.sizes(x.shape, weight.shape)) * x.element_size()
    geometry = unrolling.geometry
    samples, groups = x.shape[0], geometry.groups
    parts = samples if samples > 1 else groups
    count = min(parts, math.ceil(needed / _PIECE))
    edges = [parts * i // count for i in range(count + 1)]
    found = []
    for start, stop in pairwise(edges):
        if samples > 1:
            found.append(
                _Piece(slice(start, stop), slice(None), slice(None), unrolling)
            )
            continue
        cin, cout = weight.shape[1], weight.shape[0] // groups
        part = geometry._replace(groups=stop - start)
        found.append(
            _Piece(
                slice(None),
                slice(start * cin, stop * cin),
                slice(start * cout, stop * cout),
                unrolling._replace(geometry=part),
            )
        )
    return found


def _unrolled_in_pieces(
    x: Tensor, weight: Tensor, bias: Tensor | None, unrolling: _Unrolling
) -> Tensor:
    """Compute :func:`_unrolled` piece by piece; not for autograd."""
    pieces = _pieces(x, weight, unrolling)
    if len(pieces) == 1:
        return _unrolled(x, weight, bias, unrolling).contiguous()
    y = x.new_empty(x.shape[0], weight.shape[0], *unrolling.out_size)
    for samples, inputs, outputs, part in pieces:
        y[samples, outputs] = _unrolled(
            x[samples, inputs],
            weight[outputs],
            None if bias is None else bias[outputs],
            part,
        )
    return y


_Gradients = tuple[Tensor | None, ...]


def _differentiated_again(grad: Tensor) -> bool:
    """Whether a second derivative, or many gradients at once, are asked for."""
    return torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(grad)


def _composed_gradients(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    grad: Tensor,
    wanted: Sequence[bool],
) -> _Gradients:
    """Differentiate a function; the gradients can be differentiated again."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: the kernel may have been computed from the image, a path that the
        # surrounding graph follows itself.
        inputs = [None if t is None else t.view_as(t) for t in inputs]
        chosen = [t for t, w in zip(inputs, wanted, strict=True) if w and t is not None]
        found = torch.autograd.grad(
            function(*inputs), chosen, grad, create_graph=create_graph
        )
    grads = iter(found)
    return tuple(next(grads) if w else None for w in wanted)


def _unrolled_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    unrolling: _Unrolling,
    wanted: Sequence[bool],
) -> _Gradients:
    """Compute the gradients piece by piece, unrolling the image anew."""
    # Not empty_like: the image may lie in another order.
    gx = x.new_empty(x.shape) if wanted[0] else None
    gw = torch.zeros_like(weight) if wanted[1] else None
    for samples, inputs, outputs, part in _pieces(x, weight, unrolling):
        geometry, kernels = part.geometry, weight[outputs]
        gx_part, gw_part, _ = torch.ops.aten.convolution_backward(
            _unfold_grad(grad[samples, outputs], part),
            _unroll_input(x[samples, inputs], part),
            _unroll_kernel(kernels, part),
            None,
            part.kept(geometry.stride, 1),
            part.kept(geometry.padding, 0),
            part.kept(geometry.dilation, 1),
            False,
            (0, 0, 0),
            geometry.groups,
            (wanted[0], wanted[1], False),
        )
        if gx is not None:
            gx[samples, inputs] = _refold_input(gx_part, part, x.shape[2:])
        if gw is not None:
            gw[outputs] += _roll_kernel(gw_part, kernels.shape, part)
    gb = grad.sum((0, 2, 3, 4)) if wanted[2] else None
    return gx, gw, gb


class _UnrolledConv(torch.autograd.Function):
    """:func:`_unrolled` that keeps the image, not its unrolled copy, for backward."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        unrolling: _Unrolling,
    ) -> Tensor:
        """Convolve."""
        ctx.save_for_backward(x, weight, bias)  # type: ignore[arg-type]
        ctx.unrolling = unrolling  # type: ignore[attr-defined]
        return _unrolled_in_pieces(x, weight, bias, unrolling)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Compute the gradients; differentiable when a graph is asked for."""
        x, weight, bias = ctx.saved_tensors  # type: ignore[attr-defined]
        unrolling: _Unrolling = ctx.unrolling  # type: ignore[attr-defined]
        wanted = ctx.needs_input_grad[:3]  # type: ignore[attr-defined]
        # The forward pass ran without autocast, whatever surrounds this one.
        with torch.autocast(grad.device.type, enabled=False):
            if _differentiated_again(grad):
                gradients = _composed_gradients(
                    lambda x, weight, bias: _unrolled(x, weight, bias, unrolling),
                    (x, weight, bias),
                    grad,
                    wanted,
                )
            else:
                gradients = _unrolled_gradients(
                    grad, x, weight, bias, unrolling, wanted
                )
        return *gradients, None  # type: ignore[return-value]


# --------------------------------------------------------------------------------------
# Operators that torch.compile does not look into. The choice among unrollings depends
# on all sizes; made here it leaves one graph for every batch and patch size, and a
# graph that is captured in a fraction of the time.


@torch.library.custom_op('torchgeo_ekgnet::conv3d', mutates_args=())
def _compiled_conv(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolve with static kernels in a compiled graph."""
    geometry = _geometry(weight, stride, padding, dilation, groups)
    with torch.autocast(x.device.type, enabled=False):
        return _conv(x, weight, None, geometry, None).contiguous()


@_compiled_conv.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Give the shape of the output."""
    geometry = _geometry(weight, stride, padding, dilation, groups)
    size = geometry.output_size(x.shape[2:])
    return x.new_empty(x.shape[0], weight.shape[0], *size)


@torch.library.custom_op('torchgeo_ekgnet::conv3d_backward', mutates_args=())
def _compiled_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of :func:`_compiled_conv`."""
    geometry = _geometry(weight, stride, padding, dilation, groups)
    unrolling = choose_conv_strategy(x, weight, geometry)[1]
    with torch.autocast(x.device.type, enabled=False):
        if unrolling is None:
            gx, gw, _ = torch.ops.aten.convolution_backward(
                grad,
                x,
                weight,
                None,
                geometry.stride,
                geometry.padding,
                geometry.dilation,
                False,
                (0, 0, 0),
                geometry.groups,
                (True, True, False),
            )
        else:
            gx, gw, _ = _unrolled_gradients(
                grad, x, weight, None, unrolling, (True, True, False)
            )
    return gx.contiguous(), gw.contiguous()


@_compiled_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[Tensor, Tensor]:
    """Give the shapes of the gradients."""
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _keep_inputs(
    ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Any, ...], output: Tensor
) -> None:
    """Save what :func:`_compiled_backward` needs."""
    ctx.save_for_backward(*inputs[:2])
    ctx.geometry = inputs[2:]  # type: ignore[attr-defined]


def _compiled_gradients(
    ctx: torch.autograd.function.FunctionCtx, grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Differentiate :func:`_compiled_conv`."""
    x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
    gx, gw = _compiled_backward(grad, x, weight, *ctx.geometry)  # type: ignore[attr-defined]
    return gx, gw, None, None, None, None


_compiled_conv.register_autograd(_compiled_gradients, setup_context=_keep_inputs)

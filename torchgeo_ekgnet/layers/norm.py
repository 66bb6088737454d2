# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

r"""A convolution and the batch normalization behind it, with fewer passes over the maps.

In evaluation batch normalization scales and shifts channels by constants, and so do the
rows of a kernel, those of every expert as well:

.. math::
    W'_k = \frac{\gamma}{\sigma} W_k, \qquad
    b'_k = \frac{\gamma}{\sigma} b_k, \qquad
    \text{shift} = \beta - \frac{\gamma}{\sigma} \mu.

Nothing is stored: the kernels are scaled in every pass, which costs far less than the
pass over the maps that it saves. In training statistics belong to the batch:
:mod:`.norm_cpu` and the kernels for a GPU have ways of their own.
"""

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import trial
from .derivatives import Gradients, own_gradients
from .direct import can_mix, direct_dense, takes
from .dynamic_expert_conv import DynamicExpertConv3d
from .geometry import Triple, geometry_of
from .grouped_conv import GroupedConv3d
from .norm_cpu import experts_norm_act, normalize_on_cpu, trains_plainly
from .rule import (
    asked_strategy,
    choose_expert_strategy,
    fastest_conv,
    plain_only,
    symbolic,
    traced,
    trains_by_kernels,
    watched,
)

__all__ = [
    'conv_norm',
    'dense_layer',
    'folded_evaluation',
    'folds',
    'norm_act',
    'normalize',
]

_enabled: ContextVar[bool] = ContextVar('folded_evaluation', default=True)

_NORMS = (nn.BatchNorm3d, nn.SyncBatchNorm)


@contextlib.contextmanager
def folded_evaluation(enabled: bool) -> Iterator[None]:
    """Choose whether evaluation folds batch normalization in a block of code.

    Args:
        enabled: Whether to fold where it is exact (the default outside of any block),
            or to normalize in passes of their own.

    Yields:
        Nothing.
    """
    token = _enabled.set(enabled)
    try:
        yield
    finally:
        _enabled.reset(token)


def folds(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether :func:`conv_norm` computes both in one pass at present.

    It does in evaluation without gradients, outside of compilation, export and
    transforms, where no strategy is asked for and nobody watches either module.
    """
    if torch.is_grad_enabled() or traced() or not _enabled.get():
        return False
    if type(conv) not in (DynamicExpertConv3d, GroupedConv3d, nn.Conv3d):
        return False
    if type(norm) not in _NORMS or norm.training or norm.running_mean is None:
        return False
    return asked_strategy() is None and not (watched(conv) or watched(norm))


def _fold(
    weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm3d, channels: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Scale kernels and biases, whose output channels are an axis; tell the shift."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    shape = [1] * weight.dim()
    shape[channels] = -1
    folded = weight * scale.to(weight.dtype).view(shape)
    if bias is not None:
        bias = bias * scale.to(bias.dtype)
    return folded, bias, shift.to(weight.dtype)


def conv_norm(
    conv: nn.Module,
    norm: nn.Module,
    x: Tensor,
    context: Tensor | None = None,
    act: nn.Module | None = None,
) -> Tensor:
    """Convolve, normalize and activate, in one pass over the maps where that is exact.

    Args:
        conv: A convolution whose output only ``norm`` reads.
        norm: The batch normalization behind it.
        x: Maps, (B, Cin, D, H, W).
        context: Their mean over space where it is known and ``conv`` takes it
            (:meth:`DynamicExpertConv3d.forward`).
        act: The activation behind both; None for none.

    Returns:
        ``act(norm(conv(x)))``, (B, Cout, D', H', W').
    """
    y: Tensor
    if symbolic(x) or not folds(conv, norm):
        whole = None if symbolic(x) else experts_norm_act(conv, norm, act, x, context)
        if whole is not None:
            return whole
        return normalize(norm, conv(x) if context is None else conv(x, context), act)
    norm = cast(nn.BatchNorm3d, norm)
    if isinstance(conv, DynamicExpertConv3d):
        attention = conv.mapping(x if context is None else context)
        weight, bias, shift = _fold(conv.weight, conv.bias, norm, 1)
        relu = type(act) is nn.ReLU and not watched(act)
        y = conv.convolve(x, attention, weight, bias, shift, relu)
        return y if relu else _activated(norm, y, act)
    plain = cast(nn.Conv3d, conv)
    weight, bias, shift = _fold(plain.weight, plain.bias, norm, 0)
    bias = shift if bias is None else bias + shift
    if isinstance(plain, GroupedConv3d):
        y = plain.convolve(x, weight, bias)
    else:
        y = plain._conv_forward(x, weight, bias)
    return _activated(norm, y, act)


def _one_call(
    conv: DynamicExpertConv3d, last: GroupedConv3d, x: Tensor, axes: Triple
) -> bool:
    """Whether one kernel computes both convolutions, as the rule would choose."""
    first = geometry_of(
        conv.weight, conv.stride, conv._conv_padding, conv.dilation, conv.groups
    )
    if conv._pad_first or choose_expert_strategy(x, conv.weight, first) != 'pointwise':
        return False
    padding, zeros = last.padding, last.padding_mode == 'zeros'
    if isinstance(padding, str) or not zeros or last.bias is not None:
        return False
    if plain_only(x) or not can_mix(x, conv.groups, conv.weight, last.weight):
        return False
    # Otherwise the parts say what is wrong.
    if x.shape[1] != conv.in_channels or last.in_channels != conv.out_channels:
        return False
    geometry = geometry_of(
        last.weight, last.stride, padding, last.dilation, last.groups
    ).ordered(axes)
    between = x.shape[0], conv.out_channels, *x.shape[2:]
    kernels = *last.weight.shape[:2], *geometry.kernel
    return fastest_conv(between, kernels, geometry)[0] == 'direct'


def dense_layer(
    conv: nn.Module,
    norm: nn.Module,
    act: nn.Module,
    last: GroupedConv3d,
    x: Tensor,
    context: Tensor | None = None,
    out: Tensor | None = None,
    bands_last: bool = False,
) -> Tensor | None:
    """Evaluate a dense layer in one call where there is a kernel for that.

    Args:
        conv: Its 1x1x1 convolution.
        norm: The batch normalization behind it.
        act: The activation behind both.
        last: The grouped convolution behind all.
        x: Maps, (B, C, H, D, W); with ``bands_last`` (B, C, H, W, D).
        context: Their mean over space, see :func:`conv_norm`.
        out: Where to write the output.
        bands_last: The order of the axes.

    Returns:
        Maps in the same order; None where the parts are to be computed on their own.
    """
    if symbolic(x) or not isinstance(conv, DynamicExpertConv3d):
        return None
    if not folds(conv, norm) or type(act) is not nn.ReLU or watched(act):
        return None
    axes = (1, 2, 0) if bands_last else (1, 0, 2)
    if not _one_call(conv, last, x, axes):
        return None
    attention = conv.mapping(x if context is None else context)
    if attention.shape != (len(x), conv.num_experts) or not takes(attention):
        return None
    weight, bias, shift = _fold(conv.weight, conv.bias, cast(nn.BatchNorm3d, norm), 1)
    fits = bias is None or bias.shape == weight.shape[:2]
    if not fits or shift.shape != weight.shape[1:2] or not takes(bias, shift):
        return None
    kernels = last.weight.permute(0, 1, *(2 + axis for axis in axes))
    return direct_dense(
        x, attention, weight.flatten(2), bias, shift, kernels, last.groups, out
    )


def _activated(norm: nn.Module, y: Tensor, act: nn.Module | None) -> Tensor:
    """Activate what a normalization gave: in place, unless somebody may hold it."""
    if act is None:
        return y
    # What a subclass returns from a function of autograd is a view, or a stand-in.
    held = type(y) is not Tensor or type(norm) not in _NORMS or watched(norm)
    if held or type(act) is not nn.ReLU or watched(act):
        return cast(Tensor, act(y))
    return y.relu_()


def _fuses(norm: nn.Module, x: Tensor) -> bool:
    """Whether :func:`normalize` may compute a training batch with kernels of ours."""
    return (
        trial.applies(x)
        and x.dtype in trial.CLOSE
        and trains_plainly(norm, x)
        and norm.momentum is not None
        and trains_by_kernels(x)
    )


def _composed_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, relu: bool
) -> Tensor:
    """Normalize a batch with PyTorch's own operations."""
    y = F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
    return F.relu(y) if relu else y


class _FusedNorm(torch.autograd.Function):
    """Batch normalization of a training batch and ReLU, by the kernels for a GPU."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        found: tuple[Tensor, Tensor, Tensor],
        eps: float,
        relu: bool,
    ) -> Tensor:
        """Take what ``norm_forward`` has found: a failure of autograd is none of it."""
        y, mean, inverse = found
        ctx.save_for_backward(x, weight, bias, mean, inverse)
        ctx.options = eps, relu
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        """Compute the gradients; differentiable when a graph is asked for."""
        x, weight, bias, mean, inverse = ctx.saved_tensors
        eps, relu = ctx.options
        gradients = own_gradients(
            grad,
            (x, weight, bias),
            ctx.needs_input_grad[:3],
            lambda x, weight, bias: _composed_norm(x, weight, bias, eps, relu),
            lambda: trial.attempt(
                _NAME,
                'triton',
                lambda: trial.kernels().norm_backward(
                    grad.contiguous(), x, weight, bias, mean, inverse, relu
                ),
            ),
        )
        return *gradients, None, None, None


_NAME = 'batch normalization'


def _fused_is_faster(norm: nn.BatchNorm3d, x: Tensor, relu: bool) -> bool:
    """Whether the kernels were seen to run on this device, and to be faster."""
    weight, bias = norm.weight.detach(), cast(Tensor, norm.bias).detach()
    size, positions = weight.shape, x.shape[2] * x.shape[3] * x.shape[4]
    draw = functools.cache(lambda: trial.drawn(x))

    def composed() -> tuple[Tensor, ...]:
        values = draw()
        with torch.enable_grad():
            inputs = [t.requires_grad_() for t in (values.detach(), weight, bias)]
            y = _composed_norm(inputs[0], inputs[1], inputs[2], norm.eps, relu)
            return y, *torch.autograd.grad(y, inputs, values.flip(0, 4))

    def fused() -> tuple[Tensor, ...]:
        values = draw()
        running = torch.zeros(2, *size, device=x.device)
        tracked = torch.zeros((), dtype=torch.int64, device=x.device)
        kernels = trial.kernels()
        y, mean, inverse = kernels.norm_forward(
            values, weight, bias, (*running, tracked), 0.1, norm.eps, relu
        )
        known = values, weight, bias, mean, inverse
        return y, *kernels.norm_backward(values.flip(0, 4), *known, relu)

    key = (*size, positions, x.dtype, relu, x.device.index)
    ways = {'PyTorch': composed, 'triton': fused}
    return trial.fastest(_NAME, key, ways, trial.CLOSE[x.dtype], 'triton') == 'triton'


def _fused(norm: nn.BatchNorm3d, x: Tensor, relu: bool) -> Tensor | None:
    """Normalize a training batch with kernels of ours; None where they fail."""
    if not _fused_is_faster(norm, x, relu):
        return None
    kept = norm.running_mean, norm.running_var, norm.num_batches_tracked
    given = x, norm.weight, norm.bias
    found = trial.attempt(
        _NAME,
        'triton',
        lambda: trial.kernels().norm_forward(
            *given, kept, norm.momentum, norm.eps, relu
        ),
    )
    if found is None:
        return None
    return cast(Tensor, _FusedNorm.apply(*given, found, norm.eps, relu))


def normalize(norm: nn.Module, x: Tensor, act: nn.Module | None = None) -> Tensor:
    """Apply a batch normalization, its statistics taken the fast way where there is one.

    Args:
        norm: The normalization.
        x: Maps, (B, C, D, H, W).
        act: The activation behind it; None for none.

    Returns:
        ``act(norm(x))``, running statistics updated as the normalization does.
    """
    if not symbolic(x) and _fuses(norm, x):
        relu = type(act) is nn.ReLU and not watched(act)
        fused = _fused(cast(nn.BatchNorm3d, norm), x, relu)
        if fused is not None:
            return fused if relu or act is None else cast(Tensor, act(fused))
    y = norm(x) if symbolic(x) else normalize_on_cpu(norm, x)
    return _activated(norm, y, act)


def norm_act(norm: nn.Module, x: Tensor, act: nn.Module) -> Tensor:
    """Apply a normalization that no convolution stands before, and an activation.

    Args:
        norm: The normalization.
        x: Maps, (B, C, D, H, W).
        act: The activation.

    Returns:
        ``act(norm(x))``.
    """
    if symbolic(x) or not trial.applies(x):
        return cast(Tensor, act(norm(x)))
    return normalize(norm, x, act)

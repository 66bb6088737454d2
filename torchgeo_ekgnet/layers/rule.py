# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The one rule that says how a convolution is computed.

:mod:`.functional` lists the strategies; what is asked for with :func:`conv_strategy` goes
before the rule.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as modules

from . import direct, trial
from .geometry import Geometry
from .unrolled import Unrolling, best_unrolling

__all__ = [
    'DENSE',
    'FEW',
    'STRATEGIES',
    'asked_strategy',
    'called',
    'casts_itself',
    'check_strategy',
    'check_type',
    'choose_conv_strategy',
    'choose_expert_strategy',
    'chosen_at_run_time',
    'conv_strategy',
    'dense_passes',
    'exporting',
    'faster_order',
    'fastest_conv',
    'forward_mode',
    'knows_autocast',
    'leaf_call',
    'multiplies_bfloat16',
    'plain_only',
    'reads_slices',
    'symbolic',
    'traced',
    'trains_by_kernels',
    'type_of',
    'unrolls_under_autocast',
    'watched',
]

#: Names that ``strategy=`` and :func:`conv_strategy` accept.
STRATEGIES = ('grouped', 'pointwise', 'experts', 'unrolled', 'dense', 'direct')

#: Input and output channels of each of four groups for which a dense 3x3x3 kernel in the
#: order channels-last was faster than a grouped one on an H200, in half precision: in
#: the forward pass alone, or with the backward pass as well. These are the three blocks
#: of EKGNet-base; measured at batch 80, patch 15, 200 bands. It is where the choice
#: among the ways of :mod:`.static_gpu` starts.
DENSE = {(8, 2): 'both', (16, 4): 'forward', (32, 8): 'both'}

#: Positions of a map up to which a CPU applies four large experts to a batch sooner than
#: it mixes them: 1.5 to 6 times as fast at 4 to 1 positions; at 13 mixing is faster.
FEW = 6

_asked: ContextVar[str | None] = ContextVar('conv_strategy', default=None)
# How many blocks of conv_strategy are open in all threads. While there is none, nothing
# looks at the context variable, which compilers of older PyTorch do not understand.
_open_blocks = 0
_lock = threading.Lock()


@contextlib.contextmanager
def conv_strategy(strategy: str | None) -> Iterator[None]:
    """Choose the strategy of all convolutions of this package in a block of code.

    A convolution to which the strategy does not apply (a 3x3x3 kernel under
    ``'pointwise'``) takes the plain ``'grouped'`` form; ``None`` restores the rule.
    The choice is that of the context (:mod:`contextvars`): other threads and other
    asynchronous tasks do not see it.

    Args:
        strategy: One of :data:`STRATEGIES`, or None.

    Yields:
        Nothing.

    Raises:
        ValueError: If there is no such strategy.
    """
    global _open_blocks
    check_strategy(strategy)
    token = _asked.set(strategy)
    with _lock:
        _open_blocks += 1
    try:
        yield
    finally:
        with _lock:
            _open_blocks -= 1
        _asked.reset(token)


def asked_strategy() -> str | None:
    """Return what the innermost :func:`conv_strategy` asks for; None for the rule."""
    return _asked.get() if _open_blocks else None


def check_strategy(strategy: str | None) -> None:
    """Refuse a name that is not a strategy."""
    if strategy is not None and strategy not in STRATEGIES:
        raise ValueError(
            f'strategy must be one of {STRATEGIES} or None, found {strategy!r}'
        )


def traced() -> bool:
    """Whether PyTorch must see the operations: compilation, tracing, transforms."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
    )


@torch.compiler.assume_constant_result
def knows_autocast(device: str) -> bool:
    """Whether a type of devices knows autocast; PyTorch 2.8 cannot trace the question."""
    return torch.amp.is_autocast_available(device)


def forward_mode() -> bool:
    """Whether forward-mode derivatives are asked for, of maps or of any parameter."""
    return forward_ad._current_level >= 0


def plain_only(x: Tensor) -> bool:
    """Whether PyTorch must see and differentiate the operations on maps themselves."""
    if traced() or forward_mode():
        return True
    device = x.device.type
    # Our backward pass switches autocast off, which some devices (meta) do not know.
    if not knows_autocast(device):
        return True
    return torch.is_autocast_enabled(device)


def check_type(name: str, x: Tensor, module: nn.Module) -> None:
    """Refuse maps of another type than the weights that they meet first.

    PyTorch's own message comes from somewhere inside and names neither.

    Args:
        name: Who refuses.
        x: Maps or patches.
        module: Holds ``weight``; one that is computed (parametrized) is not asked for.

    Raises:
        TypeError: If the types differ and autocast does not bring them together.
    """
    weight = module._parameters.get('weight')
    if weight is None or weight.dtype == x.dtype:
        return
    device = x.device.type
    if not (knows_autocast(device) and torch.is_autocast_enabled(device)):
        raise TypeError(
            f'{name}: the input is {x.dtype}, expected {weight.dtype} as the weights; '
            f'convert it with .to({weight.dtype})'
        )


def casts_itself(x: Tensor) -> bool:
    """Whether maps are on a GPU under autocast, where our functions cast themselves."""
    if not trial.applies(x) or traced() or forward_mode():
        return False
    return torch.is_autocast_enabled(x.device.type)


def trains_by_kernels(x: Tensor) -> bool:
    """Whether kernels for a GPU, with gradients of their own, may train on a batch."""
    if traced() or forward_mode():
        return False
    # Tensors of inference mode cannot be saved for a backward pass.
    if x.is_inference() or torch.is_inference_mode_enabled():
        return False
    return trial.has_kernels(x)


def type_of(x: Tensor) -> torch.dtype:
    """Type in which convolutions and products compute: that of autocast, if it is on."""
    kind = x.device.type
    autocast = torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if autocast else x.dtype


def dense_passes(dtype: torch.dtype, weight: Tensor, geometry: Geometry) -> str | None:
    """For which passes a dense kernel was measured to be faster on a GPU.

    Args:
        dtype: Type in which the convolution computes.
        weight: Kernels (Cout, Cin/groups, kD, kH, kW).
        geometry: Strides and so on.

    Returns:
        ``'both'``, ``'forward'`` or None.
    """
    if dtype not in (torch.bfloat16, torch.float16) or geometry.groups != 4:
        return None
    if geometry.kernel != (3, 3, 3) or geometry.stride != (1, 1, 1):
        return None
    return DENSE.get((weight.shape[1], weight.shape[0] // geometry.groups))


@torch.compiler.assume_constant_result  # which PyTorch cannot trace
def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16."""
    asked = ('_is_avx512_bf16_supported', '_is_amx_tile_supported')
    return any(getattr(torch.cpu, name, bool)() for name in asked)


def _unrolls_bfloat16() -> bool:
    """Whether bfloat16 is unrolled: not where gradients are wanted.

    PyTorch's gradient of the unrolled kernels (oneDNN, bfloat16, few channels) was seen
    to take up memory that nobody had written, now and then a NaN.
    """
    return multiplies_bfloat16() and not torch.is_grad_enabled()


def _may_unroll(x: Tensor, geometry: Geometry) -> bool:
    """Whether an unrolling can be faster than the plain form at all."""
    fast = x.dtype == torch.float32 or (
        x.dtype == torch.bfloat16 and _unrolls_bfloat16()
    )
    return geometry.groups != 1 and x.device.type == 'cpu' and fast


def unrolls_under_autocast(x: Tensor) -> bool:
    """Whether a convolution under autocast leaves it to be unrolled in bfloat16."""
    return (
        x.device.type == 'cpu'
        and torch.is_autocast_enabled('cpu')
        and torch.get_autocast_dtype('cpu') == torch.bfloat16
        and x.dtype in (torch.float32, torch.bfloat16)
        and _unrolls_bfloat16()
        and not traced()
        and asked_strategy() is None
    )


def chosen_at_run_time(x: Tensor, geometry: Geometry) -> bool:
    """Whether a compiled graph leaves the choice to :func:`compiled_conv3d`.

    An exported graph does not: it may run where this package is not installed.
    """
    return (
        torch.compiler.is_compiling()
        and x.dtype == torch.float32
        and not exporting()
        and not torch._C._are_functorch_transforms_active()
        and not torch.is_autocast_enabled('cpu')
        and _may_unroll(x, geometry)
    )


@torch.compiler.assume_constant_result
def _is_exporting() -> bool:
    """Ask PyTorch; its compiler answers yes for itself up to version 2.11 at least."""
    return torch.compiler.is_exporting()


def exporting() -> bool:
    """Whether the graph that is being made will be given batches of any size."""
    return torch.onnx.is_in_onnx_export() or torch.jit.is_tracing() or _is_exporting()


def reads_slices(x: Tensor) -> bool:
    """Whether 1x1x1 experts read some channels of larger maps without copying them.

    Args:
        x: Maps like those to come.

    Returns:
        False where PyTorch's own convolution runs, and where PyTorch must see how maps
        are concatenated (compilation, tracing, export, transforms, autocast on a CPU).
    """
    pointwise = asked_strategy() in (None, 'pointwise')
    return pointwise and (casts_itself(x) or not plain_only(x))


def watched(module: nn.Module) -> bool:
    """Whether somebody relies on the call of a module: hooks, a replaced forward."""
    state = module.__dict__
    return bool(
        state['_forward_hooks']
        or state['_forward_pre_hooks']
        or state['_backward_hooks']
        or state['_backward_pre_hooks']
        or 'forward' in state
        or modules._global_forward_hooks
        or modules._global_forward_pre_hooks
        or modules._global_backward_hooks
        or modules._global_backward_pre_hooks
    )


def symbolic(x: Any) -> bool:
    """Whether a trace is being made of modules, which records those that it knows."""
    return isinstance(x, fx.Proxy)


def leaf_call(module: nn.Module, x: Any, *rest: Any) -> Any:
    """Record the call of a module in a symbolic trace as one node, as PyTorch's are."""
    name = x.tracer.path_of_module(module)
    if not name:
        raise ValueError(
            f'{type(module).__name__} is one node of a symbolic trace; trace a network '
            'that holds it, found the layer alone'
        )
    given = tuple(value for value in (x, *rest) if value is not None)
    return x.tracer.create_proxy('call_module', name, given, {})


def called(module: nn.Module, x: Tensor) -> Tensor:
    """Call a module, without the machinery of hooks where there are none.

    It takes longer than the operations on pooled maps do.
    """
    y: Tensor = module(x) if watched(module) else module.forward(x)
    return y


def _smaller_than_kernels(x: Tensor, weight: Tensor) -> bool:
    """Whether 1x1x1 kernels hold many times the values of the maps they are for."""
    positions = x.shape[2] * x.shape[3] * x.shape[4]
    if positions == 1:
        # Mixing kernels takes as many products, and memory for a kernel a sample.
        return weight.shape[1] * weight.shape[2] >= 2048
    graph = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if graph or x.device.type != 'cpu':
        return False
    few = positions * weight.shape[0] <= 4 * FEW
    return few and weight.shape[1] * weight.shape[2] >= 2048


def choose_expert_strategy(
    x: Tensor, weight: Tensor, geometry: Geometry, forced: str | None = None
) -> str:
    """Say how :func:`expert_conv3d` computes; the one rule for experts.

    1. What the caller or :func:`conv_strategy` asks for, where it applies.
    2. 1x1x1 kernels: one matrix product per sample, on every device; but all experts
       and the weighted sum of their outputs where maps are smaller than a kernel
       (one pixel, or :data:`FEW`; a CPU would spend its time on mixing kernels).
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
    if forced == 'dense':  # a batch of groups would make enormous kernels
        forced = 'grouped'
    if forced is not None and (forced != 'pointwise' or pointwise):
        # No sample has no group to be folded into.
        return 'experts' if x.shape[0] == 0 else forced
    if forced is not None:
        return 'grouped'
    if pointwise:
        return 'experts' if _smaller_than_kernels(x, weight) else 'pointwise'
    if exporting() or x.shape[0] == 0:
        return 'experts'
    return 'unrolled'


def choose_conv_strategy(
    x: Tensor, weight: Tensor, geometry: Geometry
) -> tuple[str, Unrolling | None]:
    """Say how a static convolution computes; the one rule for grouped kernels.

    ======  =================  ==============================  =======================
    device  type               geometry                        strategy
    ======  =================  ==============================  =======================
    CPU     float32            3x3x3, stride 1, padding 1,     ``'direct'``
                               where the estimated time is
                               least (:mod:`.direct`)
    CPU     float32, bfloat16  groups, where the estimated     ``'unrolled'``
            without gradients  time is less than the plain
    CUDA    float32, bfloat16, 3x3x3, stride 1, 2 to 8 groups; measured on the spot,
            float16            stems of few inputs             pass by pass
                                                               (:mod:`.static_gpu`)
    any     any                everything else                 ``'grouped'``
    ======  =================  ==============================  =======================

    oneDNN, PyTorch's engine for float32 on CPUs, has matrix kernels for groups whose
    input and output channels are multiples of 16 and falls back to tiny products
    otherwise. cuDNN's tensor kernels do not know thin groups either.

    Args:
        x: Input (B, Cin, D, H, W).
        weight: Kernels (Cout, Cin/groups, kD, kH, kW).
        geometry: Strides and so on.

    Returns:
        ``'grouped'`` or ``'direct'`` and None, or ``'unrolled'`` and how to unroll.
    """
    if (
        not _may_unroll(x, geometry)
        or x.numel() == 0
        or not torch.backends.mkldnn.is_available()
    ):
        return 'grouped', None
    exact = direct.takes(x, weight)
    return fastest_conv(x.shape, weight.shape, geometry, exact)[:2]


def fastest_conv(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    geometry: Geometry,
    exact: bool = True,
) -> tuple[str, Unrolling | None, float]:
    """Choose what is estimated to take least time on a CPU, and tell the estimate.

    Args:
        x_shape: Shape of the maps, (B, Cin, D, H, W).
        w_shape: Shape of the kernels, (Cout, Cin/groups, kD, kH, kW).
        geometry: Strides and so on.
        exact: Whether the maps are float32.

    Returns:
        ``'grouped'``, ``'unrolled'`` or ``'direct'``, how to unroll, and seconds on a
        scale of its own.
    """
    best, least = best_unrolling(x_shape, w_shape, geometry)
    if exact and direct.can_convolve(x_shape, w_shape, geometry):
        seconds = direct.seconds(x_shape, w_shape, geometry)
        if seconds < least:
            return 'direct', None, seconds
    return 'grouped' if best is None else 'unrolled', best, least


def faster_order(
    size: Sequence[int], w_shape: Sequence[int], geometry: Geometry
) -> Literal['HDW', 'HWD']:
    """Say in which order of the axes a float32 convolution is estimated to be faster.

    Args:
        size: Extent of the input along D, H, W.
        w_shape: Shape of the kernels, (Cout, Cin/groups, kD, kH, kW).
        geometry: Strides and so on along D, H, W.

    Returns:
        Rows, bands, columns, or rows, columns, bands.
    """
    costs = []
    for axes in ((1, 0, 2), (1, 2, 0)):
        turned = geometry.ordered(axes)
        # The batch makes no difference to which is faster.
        x_shape = (1, w_shape[1] * geometry.groups, *(size[a] for a in axes))
        kernels = (*w_shape[:2], *turned.kernel)
        costs.append(fastest_conv(x_shape, kernels, turned)[2])
    return 'HWD' if costs[1] < costs[0] else 'HDW'

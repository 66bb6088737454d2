# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The context mapping network of EKGNet (arXiv 2504.13045, section 2.2.1)."""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .mapped import map_fused
from .mapped_cpu import Kinds, map_at_once
from .rule import called, casts_itself, knows_autocast, leaf_call, symbolic, watched

__all__ = [
    'TEMPERATURE_FLOOR',
    'ContextMapping',
    'ContextNorm',
    'MappingBlock',
    'pool_context',
]

#: The temperature never falls below this value, whatever the optimizer does.
TEMPERATURE_FLOOR = 0.01


def pool_context(x: Tensor) -> Tensor:
    """Average over space: the global context of a map.

    Args:
        x: Maps, (B, C, D, H, W).

    Returns:
        Their mean, (B, C, 1, 1, 1); in float32 under autocast on a GPU.
    """
    # A sum times a constant: the backward pass expands a view instead of dividing a
    # map of full size.
    if x.shape[2] == 1 and x.shape[3] == 1 and x.shape[4] == 1:
        return x
    positions = x.shape[2] * x.shape[3] * x.shape[4]
    if x.dtype == torch.float16 or x.dtype == torch.bfloat16:
        if not torch.jit.is_scripting():  # noqa: SIM102 (TorchScript needs the nesting)
            if casts_itself(x):
                # Mapping networks compute in float32 under autocast.
                return cast(Tensor, _ExactMean.apply(x))
        # The sum of a large map is beyond the range of float16.
        total = x.sum(dim=(2, 3, 4), keepdim=True, dtype=torch.float32)
        return (total * (1.0 / positions)).to(x.dtype)
    return x.sum(dim=(2, 3, 4), keepdim=True) * (1.0 / positions)


class _ExactMean(torch.autograd.Function):
    """Mean of maps of a half type over space, in float32.

    Its gradient is rounded before it is expanded: PyTorch rounds a map of full size.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Average (B, C, D, H, W) to (B, C, 1, 1, 1)."""
        ctx.like = x.shape, x.dtype
        total = x.sum(dim=(2, 3, 4), keepdim=True, dtype=torch.float32)
        return total * (1.0 / x.shape[2:].numel())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Spread a gradient evenly."""
        size, dtype = ctx.like
        even: Tensor = (grad * (1.0 / size[2:].numel())).to(dtype)
        return even.expand(size)


class ContextNorm(nn.BatchNorm3d):
    """Batch normalization of pooled maps that also trains on a single sample.

    A pooled map has one value per sample and channel, so a training batch of one sample
    has no variance. The rule: a training batch of fewer than two samples is normalized
    with the running statistics, which it leaves as they are. Every other batch is
    treated as :class:`torch.nn.BatchNorm3d` does.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize."""
        if not torch.jit.is_scripting() and not self.training:
            # Each attribute of a module is a search, which weighs here.
            values, statistics = self._parameters, self._buffers
            mean = statistics['running_mean']
            # Pruning and parametrizations put an attribute in a parameter's place.
            whole = 'weight' in values and 'bias' in values
            return F.batch_norm(
                input,
                mean,
                statistics['running_var'],
                values['weight'] if whole else self.weight,
                values['bias'] if whole else self.bias,
                mean is None,
                0.0,
                self.eps,
            )
        mean, variance = self.running_mean, self.running_var
        from_batch = mean is None
        momentum = 0.0
        if self.training and input.shape[0] > 1:
            from_batch = True
            if self.momentum is not None:
                momentum = self.momentum
            if not self.track_running_stats:
                mean, variance = None, None
            elif self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
                if self.momentum is None:
                    momentum = 1.0 / float(self.num_batches_tracked)
        return F.batch_norm(
            input,
            mean,
            variance,
            self.weight,
            self.bias,
            from_batch,
            momentum,
            self.eps,
        )


class PooledConv3d(nn.Conv3d):
    """A 1x1x1 convolution of pooled maps, computed as the linear map that it is.

    Shape: (B, C) to (B, C').
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map the channels."""
        if torch.jit.is_scripting():
            return F.linear(input, self.weight.flatten(1), self.bias)
        values = self._parameters
        if 'weight' not in values or 'bias' not in values:  # pruned, parametrized
            return F.linear(input, self.weight.flatten(1), self.bias)
        weight = cast(Tensor, values['weight'])
        return F.linear(input, weight.flatten(1), values['bias'])


class MappingBlock(nn.Module):
    r"""Residual block of BN-GELU-convolution units.

    Computes :math:`\alpha \, f(g) + g`. With ``learnable_residual=False`` alpha is the
    constant 1. The parameter ``residual_weight`` still takes part in the graph of the
    mapping network and its gradient is exactly zero, so tools that expect a gradient
    everywhere are content.
    Weight decay would shrink the stored number nevertheless (and change no output):
    exclude it (``no_weight_decay`` of the models does), and it is written as 1 into
    every state dict.

    Args:
        channels: Channels C of the pooled maps.
        units: Number of BN-GELU-convolution units.
        learnable_residual: Whether alpha is learnt; it starts at 1 either way.
        device: Where the parameters live.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        channels: int,
        units: int = 1,
        learnable_residual: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the units."""
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(units):
            layers += [
                ContextNorm(channels, device=device, dtype=dtype),
                nn.GELU(),
                PooledConv3d(channels, channels, 1, device=device, dtype=dtype),
            ]
        self.units = nn.Sequential(*layers)
        self.residual_weight = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.learnable_residual = learnable_residual
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set alpha to 1; the units have methods of their own."""
        nn.init.ones_(self.residual_weight)

    def forward(self, g: Tensor) -> Tensor:
        """Apply the block, (B, C) to (B, C)."""
        if torch.jit.is_scripting():
            mapped: Tensor = self.units(g)
        elif watched(self.units):
            mapped = self.units(g)
        else:
            mapped = g
            for unit in self.units._modules.values():
                mapped = called(unit, mapped)
        if self.learnable_residual:
            return torch.addcmul(g, self.residual_weight, mapped)
        return g + mapped

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        """Store a frozen residual weight as the 1 that it stands for."""
        if not self.learnable_residual:
            with torch.no_grad():
                self.residual_weight.fill_(1.0)
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def extra_repr(self) -> str:
        """Describe the block."""
        return f'learnable_residual={self.learnable_residual}'


class ContextMapping(nn.Module):
    r"""Translate the global context of a map into weights over K experts.

    With :math:`h_0 = \mathrm{AvgPool}(X)`,

    .. math::
        h_{i+1} &= \alpha_i \, \mathrm{Conv}(\mathrm{GELU}(\mathrm{BN}(h_i))) + h_i, \\
        a &= \mathrm{softmax}(\mathrm{Conv}(\mathrm{BN}(h_N)) / \tau).

    The temperature is ``0.01 + softplus(raw_temperature)``: positive for every value of
    the parameter. Near the initial 34 the softplus is the identity to the last bit of
    single precision, so an optimizer moves tau exactly as if tau were the parameter.
    The softmax is computed in float32 (float64 for double input), also under autocast.

    A training batch of fewer than two samples is normalized with running statistics,
    which it does not update (:class:`ContextNorm`).

    Shape: (B, C, D, H, W) or pooled (B, C, 1, 1, 1) to (B, K).

    Args:
        in_channels: Channels C of the input.
        num_experts: Number K of experts.
        num_blocks: Number N of residual blocks.
        units_per_block: BN-GELU-convolution units in a block: 1 in the paper's formula,
            2 in the released program.
        learnable_residual: Learn the residual weights alpha.
        temperature: Temperature tau at the start.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        ValueError: If a size is not positive or ``temperature`` not above the floor.
    """

    #: The output depends on the mean of the maps alone, so callers that know the mean
    #: may pass it, (B, C, 1, 1, 1), instead of the maps.
    needs_only_context = True

    #: TorchScript must not compile the property.
    __jit_unused_properties__ = ('temperature',)

    def __init__(
        self,
        in_channels: int,
        num_experts: int = 4,
        num_blocks: int = 2,
        *,
        units_per_block: int = 1,
        learnable_residual: bool = True,
        temperature: float = 34.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the network."""
        super().__init__()
        for name, value, least in (
            ('in_channels', in_channels, 1),
            ('num_experts', num_experts, 1),
            ('num_blocks', num_blocks, 0),
            ('units_per_block', units_per_block, 1),
        ):
            if value < least:
                raise ValueError(f'{name} must be at least {least}, found {value}')
        self.in_channels = in_channels
        self.num_experts = num_experts
        self.floor = TEMPERATURE_FLOOR
        self.blocks = nn.ModuleList(
            MappingBlock(
                in_channels, units_per_block, learnable_residual, device, dtype
            )
            for _ in range(num_blocks)
        )
        self.norm = ContextNorm(in_channels, device=device, dtype=dtype)
        self.project = PooledConv3d(
            in_channels, num_experts, 1, device=device, dtype=dtype
        )
        # One axis: tools that share parameters out (FSDP) take no scalars.
        self.raw_temperature = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self._start = float(temperature)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the temperature to its start; what lies inside has methods of its own."""
        self.set_temperature(self._start)

    @property
    def temperature(self) -> Tensor:
        """The temperature tau, a scalar tensor that carries gradients."""
        raw: Any = self.raw_temperature
        if hasattr(raw, 'full_tensor'):  # between passes FSDP keeps a part of it
            raw = raw.full_tensor()
        return self.floor + F.softplus(raw).squeeze(0)

    def set_temperature(self, value: float) -> None:
        """Set the temperature.

        Args:
            value: The new tau.

        Raises:
            ValueError: If it is not a finite number above the floor.
        """
        above = float(value) - self.floor
        if not (above > 0 and math.isfinite(above)):
            raise ValueError(
                f'temperature must be a finite number above {self.floor}, found {value}'
            )
        # The inverse of softplus; -expm1(-y) keeps its digits for small y.
        raw = above + math.log(-math.expm1(-above))
        with torch.no_grad():
            self.raw_temperature.fill_(raw)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        """Read the scalar that the raw temperature was before version 0.1 as well."""
        name = f'{prefix}raw_temperature'
        raw = state_dict.get(name)
        if isinstance(raw, Tensor) and raw.dim() == 0:
            state_dict[name] = raw.reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def update_temperature(self, step: float = 3.0, end: float = 1.0) -> None:
        """Lower the temperature by one step, as the paper does after every epoch.

        A temperature that is at or below ``end`` already stays where it is.

        Args:
            step: By how much.
            end: The lowest value that annealing reaches.

        Raises:
            ValueError: If ``step`` is negative or ``end`` not above the floor.
        """
        if step < 0:
            raise ValueError(f'step must not be negative, found {step}')
        if end <= self.floor:
            raise ValueError(f'end must be above {self.floor}, found {end}')
        current = float(self.temperature.detach())
        if current > end:
            self.set_temperature(max(current - step, end))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the weights of the experts.

        Args:
            x: Maps, (B, C, D, H, W).

        Returns:
            Weights that sum to 1 over the experts, (B, K), in the type of the
            parameters.
        """
        if not torch.jit.is_scripting():  # noqa: SIM102 (TorchScript would read both)
            if symbolic(x):
                return leaf_call(self, x)  # type: ignore[no-any-return]
        g = pool_context(x).flatten(1)
        if not torch.jit.is_scripting():
            device = g.device.type  # meta, for one, does not know autocast
            if knows_autocast(device) and torch.is_autocast_enabled(device):
                # So small that casts would cost more than half types spare.
                with torch.autocast(g.device.type, enabled=False):
                    return self._map(g.to(self.raw_temperature.dtype))
        return self._map(g)

    def _map(self, g: Tensor) -> Tensor:
        """Map contexts, (B, C), to weights, (B, K)."""
        if not torch.jit.is_scripting():
            kinds = Kinds(MappingBlock, ContextNorm, PooledConv3d)
            fused = map_fused(self, g, kinds) if self.training else None
            if fused is None:
                fused = map_at_once(self, g, kinds)
            if fused is not None:
                return fused
        tau = self.floor + F.softplus(self.raw_temperature)
        for block in self.blocks:
            if torch.jit.is_scripting():
                g = block(g)
            else:
                g = called(block, g)
            if not block.learnable_residual and torch.is_grad_enabled():
                tau = tau + 0.0 * block.residual_weight  # type: ignore[operator]
        if torch.jit.is_scripting():
            logits: Tensor = self.project(self.norm(g))
        else:
            logits = called(self.project, called(self.norm, g))
        if logits.dtype != torch.float64:
            logits = logits.float()
            tau = tau.float()
        return torch.softmax(logits / tau, dim=1).to(self.raw_temperature.dtype)

    def extra_repr(self) -> str:
        """Describe the network."""
        return f'{self.in_channels}, num_experts={self.num_experts}'

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""CUDA graphs on a CPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchgeo_ekgnet.layers.attention import Keeper


class Graphs:
    """Stands in for ``torch.cuda.make_graphed_callables``.

    Like it, it runs the module some times first, what it returns takes one shape, type
    and mode only, and every run writes its input and gradients to the same memory.
    Unlike it, it runs the module again.
    """

    def __init__(self) -> None:
        self.made: list[tuple[int, ...]] = []
        self.replays = 0

    def __call__(
        self,
        module: nn.Module,
        sample: tuple[Tensor],
        num_warmup_iters: int = 3,
        allow_unused_input: bool = False,
    ) -> Callable[[Tensor], Tensor]:
        assert not torch.is_autocast_enabled('cpu') or (
            not torch.is_autocast_cache_enabled()
        )
        assert not torch.is_inference_mode_enabled()
        (image,) = sample

        def kept() -> list[Tensor]:
            hooks: Any = (
                h for m in module.modules() for h in m._forward_hooks.values()
            )
            assert all(isinstance(hook, Keeper) for hook in hooks)
            hooks = (h for m in module.modules() for h in m._forward_hooks.values())
            return [hook.recorded[hook.name] for hook in hooks]

        for _ in range(num_warmup_iters):
            output = module(image).detach().clone()
        places = kept()
        self.made.append(tuple(image.shape))
        training, grad = module.training, torch.is_grad_enabled()
        every = tuple(module.parameters())
        parameters = tuple(p for p in every if p.requires_grad)
        gradients = [torch.zeros_like(parameter) for parameter in parameters]

        class Graphed(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, new: Tensor, *weights: Tensor) -> Tensor:
                image.copy_(new)
                with torch.set_grad_enabled(grad):
                    ctx.logits = module(image)
                for place, value in zip(places, kept(), strict=True):
                    place.copy_(value)
                # What it returns lies in one place, as that of a graph does.
                output.copy_(ctx.logits.detach())
                logits: Tensor = output.detach()
                return logits

            @staticmethod
            def backward(ctx: Any, *grads: Tensor) -> Any:
                found = torch.autograd.grad(
                    ctx.logits, parameters, grads, allow_unused=allow_unused_input
                )
                for place, value in zip(gradients, found, strict=True):
                    place.zero_() if value is None else place.copy_(value)
                places = iter(gradients)
                return None, *(
                    next(places).detach() if p.requires_grad else None for p in every
                )

        def replay(new: Tensor) -> Tensor:
            assert new.shape == image.shape and new.dtype == image.dtype
            assert module.training == training and torch.is_grad_enabled() == grad
            self.replays += 1
            logits: Tensor = Graphed.apply(new, *every)
            return logits

        return replay


class Tape(TorchDispatchMode):
    """Stands in for ``torch.cuda.CUDAGraph``: repeats operators, not what decided on them.

    Each run writes to the tensors that the recorded one made.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any, list[tuple[int, Tensor]]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, 'the host waits'
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        known = {t.untyped_storage()._cdata for t in tensors((args, kwargs))}
        new = [
            (place, tensor.detach())
            for place, tensor in enumerate(tensors(made))
            if tensor.untyped_storage()._cdata not in known
        ]
        self.calls.append((func, args, kwargs, new))
        return made

    def replay(self) -> None:
        # Operators were recorded below autocast and autograd.
        with torch.no_grad(), torch.autocast('cpu', enabled=False):
            for func, args, kwargs, new in self.calls:
                made = tensors(func(*args, **kwargs))
                for place, tensor in new:
                    tensor.copy_(made[place])


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@contextmanager
def recording(tape: Tape, **options: Any) -> Iterator[None]:
    with tape:
        yield


def make_taped(module: nn.Module, sample: tuple[Tensor], **options: Any) -> Any:
    """Run PyTorch's own function over tapes."""
    own: Any = torch.cuda.make_graphed_callables
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, 'CUDAGraph', Tape)
        patch.setattr(torch.cuda, 'graph', recording)
        patch.setattr(torch.cuda, 'Stream', lambda: None)
        patch.setattr(torch.cuda, 'stream', lambda stream: nullcontext())
        patch.setattr(torch.cuda, 'synchronize', lambda: None)
        return own(module, sample, pool=(0, 0), **options)

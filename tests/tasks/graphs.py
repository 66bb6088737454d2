# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""CUDA graphs on a CPU."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

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

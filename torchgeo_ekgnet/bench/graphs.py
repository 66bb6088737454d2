# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Networks captured as CUDA graphs, for the arms on a GPU."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..tasks.capture import Capture, recovering
from .arms import Arm, Setting
from .measure import WARM_UPS

__all__ = ('graphed_inference', 'graphed_training', 'kernels_of')


class _Captured(nn.Module):
    """A network that the task's own mechanism runs as graphs."""

    def __init__(self, network: nn.Module) -> None:
        """Initialize."""
        super().__init__()
        self.network = network
        self.capture = Capture(network)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        return self.capture(x)


def graphed_training(setting: Setting, network: nn.Module, x: Tensor) -> Arm:
    """Capture forward and backward pass of a copy of a network, as the task does.

    Args:
        setting: Precision and device.
        network: The network; its copy shares nothing with it.
        x: A batch of the shape that will come.

    Returns:
        An arm for training steps with such batches.
    """
    captured = _Captured(copy.deepcopy(network).train())
    with setting.autocast():
        captured.capture.capture(x)
    return Arm(captured)


def graphed_inference(
    setting: Setting, network: nn.Module, x: Tensor
) -> Callable[[], Tensor]:
    """Capture the forward pass of a network in evaluation.

    Args:
        setting: Precision and device.
        network: The network.
        x: The batch that is classified, again and again.

    Returns:
        A call that replays the graph and gives its logits.
    """
    network.eval()

    def forward() -> Tensor:
        with torch.no_grad(), Arm(network).applied(setting):
            logits: Tensor = network(x)
        return logits

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            forward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with recovering(x.device), torch.cuda.graph(graph):
        logits = forward()

    def replay() -> Tensor:
        graph.replay()
        return logits

    return replay


def kernels_of(call: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Count the kernels of a call and the time that the card works on them.

    Args:
        call: What to call; it has been called before.
        device: Where it runs.

    Returns:
        ``kernels`` and ``seconds`` of one call; zeros on a CPU.
    """
    if device.type != 'cuda':
        return {'kernels': 0, 'seconds': 0.0}
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        call()
        torch.cuda.synchronize(device)
    events = [
        event
        for event in profiler.key_averages()
        if event.device_type.name == 'CUDA'
        and not getattr(event, 'is_user_annotation', False)
    ]
    return {
        'kernels': sum(event.count for event in events),
        'seconds': sum(event.self_device_time_total for event in events) / 1e6,
    }

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What is compared: networks, passes and their memory."""

import argparse
import contextlib
import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import conv_strategy, keep_freed_memory
from ..layers.norm import folded_evaluation
from ..models import network_class
from ..models.ekgnet import EKGNet
from .count import create_model
from .measure import WARM_UPS, measure, peak_memory
from .released import ReleasedNet

__all__ = (
    'ARMS',
    'COMPILED',
    'TYPES',
    'Arm',
    'Setting',
    'arms_of',
    'inference_pass',
    'model_calls',
    'peak_alone',
    'peaks_apart',
    'random_batch',
    'training_peak',
    'training_step',
)

TYPES = {'32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}

#: Modes of torch.compile and what their arms are called.
COMPILED = {'default': 'compiled', 'reduce-overhead': 'captured'}

#: What a network is compared with. Itself and its compiled form always take part.
ARMS = ('unfolded', 'paper', 'released', 'static', 'checkpointed')


class Setting(NamedTuple):
    """What all sections share.

    Attributes:
        options: Command-line options.
        device: Where to run.
        floor: What the machine can do.
    """

    options: argparse.Namespace
    device: torch.device
    floor: dict[str, float]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values that layers exchange."""
        return TYPES[self.options.precision]

    def autocast(self) -> torch.autocast:
        """Make the autocast that was asked for."""
        return torch.autocast(
            self.device.type, self.dtype, enabled=self.options.precision != '32'
        )

    def times(self, arms: dict[str, Callable[[], Any]]) -> dict[str, dict[str, float]]:
        """Time functions in turn, see :func:`measure`."""
        options = self.options
        return measure(arms, options.repeats, self.device, options.clock)

    def shares(self, flops: float, values: float, seconds: float) -> dict[str, float]:
        """Hold a time against the floor.

        Args:
            flops: Multiplications and additions.
            values: Values read and written.
            seconds: The time.

        Returns:
            Shares of the matrix peak, of the copy bandwidth and of the floor, which is
            the larger of the two.
        """
        peak = flops / self.floor['flops'] / seconds
        copy = values * self.dtype.itemsize / self.floor['bytes'] / seconds
        return {
            'share of peak': peak,
            'share of bandwidth': copy,
            'share of floor': max(peak, copy),
        }


def random_batch(
    setting: Setting, patch: int, bands: int, batch: int
) -> tuple[Tensor, Tensor]:
    """Draw patches and labels."""
    x = torch.randn(batch, bands, patch, patch, device=setting.device)
    return x, torch.randint(0, 9, (batch,), device=setting.device)


class Arm(NamedTuple):
    """A network, and how it is made to compute.

    Attributes:
        network: The network.
        strategy: Strategy that its convolutions are forced to take.
        folded: Fold batch normalization in evaluation.
    """

    network: nn.Module
    strategy: str | None = None
    folded: bool = True

    @contextlib.contextmanager
    def applied(self, setting: Setting) -> Iterator[None]:
        """Compute as this arm does, in the precision that was asked for."""
        with (
            conv_strategy(self.strategy),
            folded_evaluation(self.folded),
            setting.autocast(),
        ):
            yield


def training_step(
    setting: Setting, arm: Arm, batch: tuple[Tensor, Tensor]
) -> Callable[[], None]:
    """Make a training step: forward, backward and Adam."""
    network = arm.network
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4, fused=True)
    x, labels = batch

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        # The backward pass chooses among strategies as well, but outside of autocast.
        with conv_strategy(arm.strategy):
            with arm.applied(setting):
                loss = F.cross_entropy(network(x), labels)
            loss.backward()
        optimizer.step()

    return step


def inference_pass(
    setting: Setting, arm: Arm, batch: tuple[Tensor, Tensor]
) -> Callable[[], None]:
    """Make a forward pass without gradients."""

    def forward() -> None:
        arm.network.eval()
        with torch.inference_mode(), arm.applied(setting):
            arm.network(batch[0])

    return forward


def _released(network: nn.Module, patch: int, bands: int) -> nn.Module | None:
    """Make the released network of the sizes of ours; None where it cannot run."""
    if not isinstance(network, EKGNet):
        return None
    layers = [list(cast(Any, stage).layers) for stage in network.stages]
    # Its poolings empty an axis that is too short.
    if min((n + 1) // 2 for n in (patch, bands)) < 2 ** (len(layers) - 1):
        return None
    first = layers[0][0]
    released = ReleasedNet(
        network.num_classes,
        [len(stage) for stage in layers],
        first.conv.out_channels,
        first.bottleneck.num_experts,
    )
    # Other variants of the family are other networks.
    ours = [network.stem.weight.numel()]
    for layer in (layer for stage in layers for layer in stage):
        ours += [layer.bottleneck.weight.numel(), layer.conv.weight.numel()]
    return released if released.kernels() == ours else None


def arms_of(
    setting: Setting, patch: int, bands: int, ours_only: bool
) -> dict[str, Arm]:
    """Make the arms, by name."""
    options, device = setting.options, setting.device
    ours = create_model(options.model, patch, bands).to(device)
    arms = {'ours': Arm(ours)}
    if ours_only:
        return arms
    arms['unfolded'] = Arm(ours, folded=False)
    arms['paper'] = Arm(ours, 'grouped')
    released = _released(ours, patch, bands)
    if released is not None:
        arms['released'] = Arm(released.to(device))
    network = network_class(options.model)
    if network is not None and network.static_options is not None:
        twin = create_model(options.model, patch, bands, **network.static_options)
        arms['static'] = Arm(twin.to(device))
    checkpointed = create_model(options.model, patch, bands).to(device)
    cast(Any, checkpointed).set_grad_checkpointing()
    arms['checkpointed'] = Arm(checkpointed)
    if options.compile is not None:
        # What was compiled for other sizes counts against a limit of recompilations.
        torch.compiler.reset()
        for mode in options.compile or ['default']:
            compiled = cast(nn.Module, torch.compile(ours, mode=mode))
            arms[COMPILED[mode]] = Arm(compiled)
    return arms


#: Arms that make a difference in one pass alone: without gradients there is nothing to
#: recompute, and batch statistics cannot be folded.
_ONLY = {'checkpointed': 'training', 'unfolded': 'inference'}


def model_calls(
    setting: Setting, patch: int, bands: int, batch: int, ours_only: bool = False
) -> dict[str, dict[str, Callable[[], Any]]]:
    """Make the training step and the forward pass of every arm, by pass and arm."""
    torch.manual_seed(0)
    samples = random_batch(setting, patch, bands, batch)
    arms = arms_of(setting, patch, bands, ours_only)
    asked = {'ours', *COMPILED.values(), *setting.options.arms}
    return {
        passes: {
            name: make(setting, arm, samples)
            for name, arm in arms.items()
            if _ONLY.get(name, passes) == passes and name in asked
        }
        for passes, make in (('training', training_step), ('inference', inference_pass))
        if passes in setting.options.passes
    }


def peak_alone(
    options: argparse.Namespace, size: tuple[int, int, int], passes: str, arm: str
) -> int | None:
    """Measure the peak of one arm on a CPU, in a process in which nothing else ran.

    Args:
        options: Command-line options.
        size: Patch, bands and batch.
        passes: 'training' or 'inference'.
        arm: The arm.

    Returns:
        The median of some calls, see :func:`peak_memory`.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device('cpu')
    call = model_calls(Setting(options, device, {}), *size)[passes][arm]
    for _ in range(WARM_UPS):
        call()
    peaks = [peak_memory(call, device) for _ in range(options.repeats)]
    known = [peak for peak in peaks if peak is not None]
    return int(statistics.median(known)) if known else None


def peaks_apart(
    setting: Setting,
    size: tuple[int, int, int],
    passes: str,
    arms: dict[str, Callable[[], Any]],
) -> dict[str, int | None]:
    """Measure the peak of every arm, on a CPU each in a new process.

    What one arm leaves in the heap of the C library moves the peak of the next by a
    tenth. The counters of CUDA are exact in any process.

    Args:
        setting: Options, device and floor.
        size: Patch, bands and batch.
        passes: 'training' or 'inference'.
        arms: What the arms call, by name.

    Returns:
        Bytes by arm, see :func:`peak_memory`.

    Raises:
        RuntimeError: If a process was killed.
    """
    if setting.device.type != 'cpu':
        return {arm: peak_memory(call, setting.device) for arm, call in arms.items()}
    peaks = {}
    for arm in arms:
        # A pool each: one that renews its process starts one more than there are arms.
        with ProcessPoolExecutor(
            1, multiprocessing.get_context('spawn'), keep_freed_memory
        ) as pool:
            work = pool.submit(peak_alone, setting.options, size, passes, arm)
            try:
                peaks[arm] = work.result()
            except BrokenProcessPool as error:
                raise RuntimeError(
                    f'memory of {arm} in {passes}: found that the process that measured it '
                    'was killed, as the system does for want of memory; --no-memory '
                    'leaves these measurements out'
                ) from error
    return peaks


def training_peak(
    setting: Setting, network: nn.Module, batch: tuple[Tensor, Tensor]
) -> int | None:
    """Measure the peak of a training step, its gradients included.

    The state of the optimizer appears in the first call and stays; fragments of freed
    memory only add. So the smallest of some measurements is taken.
    """
    step = training_step(setting, Arm(network), batch)
    peaks = []
    for _ in range(WARM_UPS):
        network.zero_grad()
        peaks.append(peak_memory(step, setting.device))
    return min((peak for peak in peaks if peak is not None), default=None)

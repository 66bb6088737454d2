# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A network's forward and backward pass as CUDA graphs.

A step of these networks is thousands of kernels that are shorter than their launch. A
graph launches all of them at once. It holds for one shape of the batch, and repeats what
the device did, not what Python decided: whatever may decide otherwise runs eagerly.
"""

import inspect
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from ..layers.attention import Keeper
from .handover import handed_over, keep_sums, watched_gradients

__all__ = ('Capture', 'make_capture', 'reason_against', 'recovering')

#: Runs before a capture; data-parallel training needs so many.
_WARMUP, _PARALLEL_WARMUP = 3, 11

#: Changes of the network after which it is captured no more.
_CHANGES = 3

#: Shapes of batches that are captured in each mode: the usual one and the last one.
_SHAPES = 2


class _Key(NamedTuple):
    """What a graph holds for."""

    modes: tuple[bool, ...]  # whether each module, the network first, is in training
    grad: bool
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    autocast: torch.dtype | None
    kept: tuple[str, ...]


class _Wrapper(nn.Module):
    """Holds the network: what a graph takes the place of is this forward.

    Autocast is on in here and off around it, as it is in a training step: within it,
    the threads of a backward pass would round float32 to float16, whatever its type.
    """

    def __init__(self, network: nn.Module, autocast: torch.dtype | None) -> None:
        """Initialize."""
        super().__init__()
        self.network = network
        self.autocast = autocast
        self.training = network.training
        self.logits: Tensor | None = None

    def forward(self, image: Tensor) -> Tensor:
        """Run the network."""
        if self.autocast is None:
            logits: Tensor = self.network(image)
        else:
            # A graph must not read the cache, which is another one in each step.
            kind = image.device.type
            with torch.autocast(kind, self.autocast, cache_enabled=False):
                logits = self.network(image)
        self.logits = logits
        return logits

    def let_go(self) -> None:
        """Free the nodes of the last run, which are bound to the stream of the capture.

        While those that hand gradients to the parameters lived, each backward pass would
        make that stream and its own wait for each other, once a parameter.
        """
        if self.logits is not None and not self.logits._is_view():
            self.logits.detach_()
        self.logits = None


class Capture:
    """Runs a network, by a graph where one holds for the batch.

    A shape is captured when it comes for the second time, two for training and two for
    evaluation (one for training where the network is wrapped); other shapes run eagerly with
    the same weights and statistics. Graphs read weights where they lie: in-place changes
    (optimizers, averages, a temperature that is annealed) are seen. A network whose
    weights were moved, frozen or thawed or whose modules were replaced is captured anew,
    the third time no more.

    All graphs share their memory: the backward pass of a batch comes before the forward
    pass of another.

    Args:
        network: The network.
        make_graphed: What captures: ``torch.cuda.make_graphed_callables``.
        device_types: Devices that it can capture on.
        wrapped: Whether data-parallel training wraps the network, and watches the nodes
            of autograd that give gradients to its parameters.
    """

    def __init__(
        self,
        network: nn.Module,
        make_graphed: Callable[..., Any] | None = None,
        device_types: tuple[str, ...] = ('cuda',),
        wrapped: bool = False,
    ) -> None:
        """Initialize."""
        self.network = network
        self._wrapped = wrapped
        self._anchor: Tensor | None = None
        self.device_types = device_types
        self._make: Callable[..., Any]
        self._make = make_graphed or torch.cuda.make_graphed_callables
        self._warmup = _PARALLEL_WARMUP if wrapped else _WARMUP
        self._shapes = 1 if wrapped else _SHAPES
        self._pool: Any = None
        self._refused: set[_Key] = set()
        self._graphs: dict[_Key, Callable[[Tensor], Tensor]] = {}
        self._kept: dict[_Key, list[Tensor]] = {}
        self._seen: Counter[_Key] = Counter()
        # The first change already is the last one where the network has been wrapped
        # since it was captured.
        self._changes = _CHANGES - 1 if wrapped else 0
        self._off = False
        self._places: tuple[list[Any], ...] = ()
        self._look()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy it without its graphs, which belong to this network's memory."""
        return type(self), (self.network, None, self.device_types, self._wrapped)

    def __call__(self, image: Tensor) -> Tensor:
        """Run the network.

        Args:
            image: Patches, shape (B, bands, P, P).

        Returns:
            Logits, shape (B, C); of a graph, valid until its next run.
        """
        if (
            self._off
            or image.device.type not in self.device_types
            or image.requires_grad
        ):
            return self._eager(image)
        keepers = self._keepers()
        if keepers is None:
            return self._eager(image)
        key = self._key(image, keepers)
        if self._graphs and self._places != self._present_places():
            self.clear()
            self._look()
            self._changes += 1
            self._off = self._changes >= _CHANGES
            then = 'it runs eagerly' if self._off else 'it is captured anew'
            _say(f'modules, or the place of weights, changed; from here {then}')
            return self._eager(image)
        graph = self._graphs.get(key)
        if graph is None:
            self._seen[key] += 1
            if self._seen[key] < 2 or not self._has_room(key):
                return self._eager(image)
            graph = self.capture(image)
        logits = graph(image)
        if key in self._graphs:
            for keeper, value in zip(keepers, self._kept[key], strict=True):
                keeper.recorded[keeper.name] = value.clone()
            if logits.requires_grad:
                return self._with_gradients(logits)
        return logits

    def _with_gradients(self, logits: Tensor) -> Tensor:
        """Let the gradients of a graph come to the parameters."""
        if self._wrapped or watched_gradients(self._weights):
            logits.register_hook(lambda _: keep_sums(self._weights))
            return logits
        if self._anchor is None or self._anchor.device != logits.device:
            self._anchor = torch.zeros((), device=logits.device, requires_grad=True)
        return handed_over(logits, self._weights, self._anchor)

    def capture(self, image: Tensor) -> Callable[[Tensor], Tensor]:
        """Capture the network for batches like this one.

        Args:
            image: A batch.

        Returns:
            The graph, or the network if it cannot be captured.
        """
        keepers, start = self._keepers() or [], time.perf_counter()
        key = self._key(image, keepers)
        try:
            with self._unchanged(image.device), _plain(key):
                graph = self._graph(image, key.autocast)
        except torch.OutOfMemoryError:
            # Other graphs have their memory already.
            self._refused.add(key)
            _say(f'no memory for batches of {key.shape}; they run eagerly')
            return self._eager
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            self.clear()
            self._off = True
            line = ' '.join(str(error).split())[:200]
            _say(f'not possible here ({type(error).__name__}: {line}); runs eagerly')
            return self._eager
        self._graphs[key] = graph
        # Hooks ran while the graph was made; it writes what they kept anew in each run.
        self._kept[key] = [keeper.recorded[keeper.name] for keeper in keepers]
        self._places = self._present_places()
        passes = 'forward and backward pass' if key.grad else 'forward pass'
        _say(
            f'{passes} of {type(self.network).__name__} for batches of {key.shape}, in '
            f'{time.perf_counter() - start:.1f} s; other batches run eagerly'
        )
        return graph

    def clear(self) -> None:
        """Give the graphs and their memory back."""
        self._graphs.clear()
        self._kept.clear()
        self._seen.clear()
        self._pool = None

    def _eager(self, image: Tensor) -> Tensor:
        """Run the network as it is."""
        logits: Tensor = self.network(image)
        return logits

    def _graph(
        self, image: Tensor, autocast: torch.dtype | None
    ) -> Callable[[Tensor], Tensor]:
        """Make the graph of this mode; its input is a tensor of its own."""
        options: dict[str, Any] = {
            'num_warmup_iters': self._warmup,
            'allow_unused_input': True,
        }
        known = inspect.signature(self._make).parameters
        if 'capture_error_mode' in known:
            # Other threads, which load data, may use the device meanwhile.
            options['capture_error_mode'] = 'thread_local'
        if image.is_cuda:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            options['pool'] = self._pool
        sample = image.detach().clone()
        wrapper = _Wrapper(self.network, autocast)
        graph: Callable[[Tensor], Tensor] = self._make(wrapper, (sample,), **options)
        wrapper.let_go()
        return graph

    def _key(self, image: Tensor, keepers: Sequence[Keeper]) -> _Key:
        """Say what a graph for this batch would hold for."""
        kind = image.device.type
        autocast = torch.is_autocast_enabled(kind)
        return _Key(
            tuple(module.training for module in self._modules),
            torch.is_grad_enabled(),
            tuple(image.shape),
            image.dtype,
            image.device,
            torch.get_autocast_dtype(kind) if autocast else None,
            tuple(keeper.name for keeper in keepers),
        )

    def _has_room(self, key: _Key) -> bool:
        """Whether one more graph may be captured."""
        if key in self._refused:
            return False
        same = [other for other in self._graphs if other.modes == key.modes]
        return len(same) < (self._shapes if key.modes[0] else _SHAPES)

    def _look(self) -> None:
        """List where modules keep what graphs rely on.

        Every batch asks: nn.Module.parameters() would take milliseconds.
        """
        self._modules = list(self.network.modules())
        tables = (t for m in self._modules for t in (m._parameters, m._buffers))
        self._tables = [table for table in tables if table]
        self._children = [m._modules for m in self._modules if m._modules]
        self._weights = list(self.network.parameters())
        self._hooks = [
            table
            for m in self._modules
            for table in (
                m._forward_pre_hooks,
                m._backward_hooks,
                m._backward_pre_hooks,
            )
        ]
        self._forward_hooks = [m._forward_hooks for m in self._modules]
        self._places = ()

    def _present_places(self) -> tuple[list[Any], ...]:
        """Tell where modules and tensors are now, and which of them are trained."""
        tables = self._tables
        tensors = [t for table in tables for t in table.values() if t is not None]
        return (
            [id(child) for table in self._children for child in table.values()],
            list(map(Tensor.data_ptr, tensors)),
            [tensor.requires_grad for tensor in tensors],
        )

    def _keepers(self) -> list[Keeper] | None:
        """List hooks that only keep what they see; None if one wants more.

        With gradients whoever watches sees an eager run.
        """
        if any(self._hooks):
            return None
        found = []
        for table in filter(None, self._forward_hooks):
            for hook in table.values():
                if not isinstance(hook, Keeper) or torch.is_grad_enabled():
                    return None
                found.append(hook)
        return found

    @contextmanager
    def _unchanged(self, device: torch.device) -> Iterator[None]:
        """Undo what the runs before a capture do to statistics and random numbers."""
        buffers = list(self.network.buffers())
        kept = [buffer.clone() for buffer in buffers]
        devices = [device] if device.type == 'cuda' else []
        try:
            with (
                recovering(device),
                torch.random.fork_rng(devices),
                torch.inference_mode(False),
            ):
                yield
        finally:
            with torch.no_grad():
                for buffer, value in zip(buffers, kept, strict=True):
                    buffer.copy_(value)


@contextmanager
def recovering(device: torch.device) -> Iterator[None]:
    """Undo what a capture that fails leaves: its stream, and generators that wait.

    Args:
        device: Where it is captured.

    Yields:
        Nothing.
    """
    if device.type != 'cuda':
        yield
        return
    try:
        with torch.cuda.stream(torch.cuda.current_stream(device)):
            yield
    except torch.OutOfMemoryError:
        raise  # what was captured ended in order, and other graphs use the generator
    except Exception:
        # Up to PyTorch 2.11 at least its state draws no number before that capture ends.
        generator = torch.cuda.default_generators[device.index]
        generator.graphsafe_set_state(generator.clone_state())
        raise


@contextmanager
def _plain(key: _Key) -> Iterator[None]:
    """Keep gradient mode, and leave autocast."""
    kind = key.device.type
    with torch.set_grad_enabled(key.grad), torch.autocast(kind, enabled=False):
        yield


def reason_against(network: nn.Module, compiled: bool) -> str | None:
    """Say why a network is not captured.

    Args:
        network: The network.
        compiled: Whether ``torch.compile`` has it.

    Returns:
        The reason; None if nothing is known to be against it.
    """
    if compiled:
        return 'compile has the network'
    for module in network.modules():
        if getattr(module, 'grad_checkpointing', False):
            return 'gradient checkpointing draws its random numbers on the host'
        if callable(getattr(module, 'set_progress', None)):
            return f'{type(module).__name__} changes by itself while it is trained'
        if isinstance(module, nn.SyncBatchNorm):
            return 'SyncBatchNorm waits for other processes'
    return None


def make_capture(
    network: nn.Module, trainer: Trainer, settings: Mapping[str, Any], training: bool
) -> Capture | None:
    """Decide whether a network runs as CUDA graphs, and say why not.

    Args:
        network: The network.
        trainer: Trainer that runs it.
        settings: 'capture', 'compile' and 'in_channels' of the task.
        training: Whether the network is going to be trained.

    Returns:
        What runs it; None if it runs eagerly.
    """
    wanted = settings['capture']
    if wanted is False:
        return None
    alone = isinstance(trainer.strategy, SingleDeviceStrategy)
    capture = Capture(network, wrapped=not alone)
    device = trainer.strategy.root_device
    reason = reason_against(network, bool(settings['compile']))
    if device.type not in capture.device_types:
        if wanted is not True:
            return None
        reason = f'CUDA graphs need a CUDA device, found {device.type}'
    elif trainer.world_size > 1 and training and reason is None:
        reason = _capture_before_wrapping(capture, trainer, settings['in_channels'])
    if reason is not None:
        _say(f'not done: {reason}; the network runs eagerly')
        return None
    return capture


def _capture_before_wrapping(
    capture: Capture, trainer: Trainer, bands: int
) -> str | None:
    """Capture before the network is wrapped for data-parallel training."""
    datamodule: Any = getattr(trainer, 'datamodule', None)
    size = getattr(datamodule, 'train_batch_size', None) or getattr(
        datamodule, 'batch_size', None
    )
    crop = getattr(getattr(datamodule, 'augmentation', None), 'crop', None)
    patch = crop or getattr(datamodule, 'patch_size', None)
    if type(trainer.strategy).__name__ != 'DDPStrategy':
        return f'{type(trainer.strategy).__name__} may change the network'
    if str(trainer.precision) in ('16-true', 'bf16-true', '64-true'):
        return f'precision {trainer.precision} moves the weights later'
    if not isinstance(size, int) or not isinstance(patch, int):
        return 'the datamodule does not tell the size of its batches'
    device = trainer.strategy.root_device
    capture.network.to(device).train()
    # Ways to compute are compared by what they make of it: not of zeros.
    drawing = torch.Generator().manual_seed(0)
    image = torch.randn(size, bands, patch, patch, generator=drawing).to(device)
    with trainer.precision_plugin.forward_context():
        capture.capture(image)
    return None


def _say(text: str) -> None:
    """Tell the user, once for all processes."""
    rank_zero_info(f'capture: {text}')

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of networks that run as CUDA graphs: with a stand-in, and where CUDA is."""

import copy
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from tests.small import BANDS, CLASSES, PATCH, make_datamodule, make_task, make_trainer
from torchgeo_ekgnet.callbacks import ExpertUse, MovingAverage, TemperatureAnnealing
from torchgeo_ekgnet.layers import record_attention
from torchgeo_ekgnet.tasks import capture as capturing
from torchgeo_ekgnet.tasks.capture import Capture, reason_against

from .graphs import Graphs

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')


def make_network() -> Any:
    torch.manual_seed(0)
    return timm.create_model('ekgnet_tiny', in_chans=BANDS, num_classes=CLASSES)


def batch(size: int = 4) -> Tensor:
    return torch.randn(size, BANDS, PATCH, PATCH)


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


class TestCapture:
    def test_second_batch_of_a_shape_is_captured(self) -> None:
        graphs, network = Graphs(), make_network()
        capture = Capture(network, graphs, ('cpu',))
        for size in (4, 2, 4, 4, 2, 3, 3):
            capture(batch(size))
        assert [shape[0] for shape in graphs.made] == [4, 2]
        assert graphs.replays == 3
        network.eval()
        with torch.no_grad():
            for size in (8, 8, 3, 3, 5, 5, 3):
                capture(batch(size))
        assert [shape[0] for shape in graphs.made] == [4, 2, 8, 3]

    def test_a_wrapped_network_captures_one_shape_to_train(self) -> None:
        graphs = Graphs()
        capture = Capture(make_network(), graphs, ('cpu',), wrapped=True)
        for size in (4, 4, 2, 2):
            capture(batch(size))
        assert [shape[0] for shape in graphs.made] == [4]

    def test_nothing_keeps_the_nodes_of_the_capture(self) -> None:
        outputs = []

        def make(module: nn.Module, sample: Any, **options: Any) -> Any:
            outputs.append(module(*sample))
            return lambda image: outputs[0].detach()

        capture = Capture(make_network(), make, ('cpu',))
        for _ in range(2):
            capture(batch())
        assert outputs[0].grad_fn is None

    def test_capture_changes_neither_statistics_nor_random_numbers(self) -> None:
        graphs, network = Graphs(), make_network()
        capture = Capture(network, graphs, ('cpu',))
        before, image = state_of(network), batch()
        torch.manual_seed(3)
        capture.capture(image)
        for name, value in network.state_dict().items():
            assert value.equal(before[name]), name
        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        capture.capture(image)
        assert torch.rand(2).equal(expected)

    def test_gradients_and_statistics_are_those_of_an_eager_run(self) -> None:
        captured, eager = make_network(), make_network()
        capture = Capture(captured, Graphs(), ('cpu',))
        for _ in range(3):
            image = batch()
            for network, run in ((captured, capture), (eager, eager)):
                network.zero_grad()
                run(image).square().mean().backward()
        for (name, ours), theirs in zip(
            captured.named_parameters(), eager.parameters(), strict=True
        ):
            torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
        for ours, theirs in zip(captured.buffers(), eager.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs)

    def test_the_captured_backward_pass_runs_without_autocast(self) -> None:
        """As that of a training step does: within it, it would round to half types."""
        network, image = make_network(), batch()
        parameters = tuple(network.parameters())
        found = []

        def differentiate(logits: Tensor) -> tuple[Tensor, ...]:
            assert logits.dtype == torch.bfloat16
            return torch.autograd.grad(logits, parameters, torch.ones_like(logits))

        def make(module: nn.Module, sample: Any, **options: Any) -> Any:
            found.append(differentiate(module(*sample)))
            return lambda image: module(image).detach()

        capture = Capture(network, make, ('cpu',))
        before = state_of(network)
        with torch.autocast('cpu', torch.bfloat16):
            capture.capture(image)
        network.load_state_dict(before)
        with torch.autocast('cpu', torch.bfloat16):
            logits = network(image)
        expected = differentiate(logits)
        for ours, theirs in zip(found[0], expected, strict=True):
            assert ours.equal(theirs)

    def test_hooks_run(self) -> None:
        graphs, network = Graphs(), make_network().eval()
        capture = Capture(network, graphs, ('cpu',))
        with torch.no_grad():
            for _ in range(2):
                capture(batch())
            replays = graphs.replays
            with network.norm.register_forward_hook(lambda *args: None):
                capture(batch())
            assert graphs.replays == replays
            capture(batch())
        assert graphs.replays == replays + 1

    def test_what_is_recorded_comes_from_graphs_as_well(self) -> None:
        graphs, network = Graphs(), make_network().eval()
        capture, before = Capture(network, graphs, ('cpu',)), batch()
        with torch.no_grad():
            for replays in (0, 1, 2):
                image = batch()
                with record_attention(network) as recorded:
                    capture(image)
                assert graphs.replays == replays and len(recorded) == 6
                with record_attention(network) as expected:
                    network(image)
                for name, value in expected.items():
                    assert recorded[name].equal(value), name
            with record_attention(network) as recorded:
                capture(image)
                first = dict(recorded)
                capture(before)
            assert any(not recorded[name].equal(value) for name, value in first.items())
            capture(image)
        assert len(graphs.made) == 1
        with record_attention(network):
            capture(image)  # with gradients it is watched as it runs
        assert len(graphs.made) == 1

    def test_moved_weights_are_captured_anew_and_the_third_time_no_more(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        graphs, network = Graphs(), make_network()
        capture = Capture(network, graphs, ('cpu',))
        for _ in range(2):
            capture(batch())
        weight = network.classifier.weight
        with torch.no_grad():
            weight.mul_(2)
        capture(batch())
        assert graphs.replays == 2 and len(graphs.made) == 1
        with caplog.at_level(logging.INFO):
            for made in (2, 3, 3):
                weight.data = weight.data.clone()
                for _ in range(4):
                    capture(batch())
                assert len(graphs.made) == made
        assert caplog.text.count('from here it is captured anew') == 2
        assert caplog.text.count('from here it runs eagerly') == 1

    @pytest.mark.parametrize('change', ['thaw', 'replace'])
    def test_graphs_do_not_outlive_a_change_of_the_network(self, change: str) -> None:
        network = make_network()
        network.stem.weight.requires_grad_(change != 'thaw')
        capture = Capture(network, Graphs(), ('cpu',))
        for _ in range(3):
            capture(batch())
        if change == 'thaw':
            network.stem.weight.requires_grad_()
        else:
            network.classifier = nn.Linear(network.num_features, 2)
        for _ in range(3):
            network.zero_grad()
            logits = capture(batch())
            logits.square().mean().backward()
            assert len(logits.T) == (CLASSES if change == 'thaw' else 2)
            assert network.stem.weight.grad.any()

    def test_parts_that_stop_learning_statistics_are_seen(self) -> None:
        network = make_network()
        capture = Capture(network, Graphs(), ('cpu',))
        sizes = (4, 4, 3, 3)
        for size in sizes:
            capture(batch(size))
        network.norm.eval()
        graphs, before = capture._graphs, network.norm.running_mean.clone()
        for size in sizes:
            capture(batch(size))
        assert network.norm.running_mean.equal(before)
        # Each graph repeats the modes in which it was captured, for two shapes each.
        assert len({key.modes for key in graphs}) == 2 and len(graphs) == 4

    @pytest.mark.parametrize('set_to_none', [True, False])
    def test_gradients_accumulate(self, set_to_none: bool) -> None:
        captured, eager = make_network(), make_network()
        capture = Capture(captured, Graphs(), ('cpu',))
        for _ in range(2):
            for network in (captured, eager):
                network.zero_grad(set_to_none)
            for _ in range(4):
                image = batch()
                for run in (capture, eager):
                    run(image).square().mean().backward()
        for (name, ours), theirs in zip(
            captured.named_parameters(), eager.parameters(), strict=True
        ):
            torch.testing.assert_close(ours.grad, theirs.grad, msg=name)

    def test_failure_is_told_once(self, caplog: pytest.LogCaptureFixture) -> None:
        def fail(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError('operation not permitted\nwhen stream is capturing')

        network = make_network()
        capture, before = Capture(network, fail, ('cpu',)), state_of(network)
        image = batch()
        with caplog.at_level(logging.INFO):
            found = [capture(image) for _ in range(4)]
        assert caplog.text.count('not possible here (RuntimeError: operation') == 1
        assert all(logits.shape == (4, CLASSES) for logits in found)
        assert network.stem.weight.equal(before['stem.weight'])

    def test_a_batch_without_room_leaves_other_graphs(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        graphs = Graphs()

        def make(module: nn.Module, sample: Any, **options: Any) -> Any:
            if len(sample[0]) > 4:
                raise torch.OutOfMemoryError('out of memory')
            return graphs(module, sample, **options)

        capture = Capture(make_network(), make, ('cpu',))
        with caplog.at_level(logging.INFO):
            for size in (4, 4, 8, 8, 8, 4):
                assert len(capture(batch(size))) == size
        assert caplog.text.count('no memory for batches of (8, ') == 1
        assert graphs.replays == 2

    def test_other_devices_run_eagerly(self) -> None:
        graphs = Graphs()
        capture = Capture(make_network(), graphs)
        for _ in range(3):
            capture(batch())
        assert not graphs.made

    def test_copies_have_no_graphs(self) -> None:
        capture = Capture(make_network(), Graphs(), ('cpu',))
        for _ in range(2):
            capture(batch())
        again = copy.deepcopy(capture)
        assert again(batch()).shape == (4, CLASSES)
        assert again.network is not capture.network


def test_reasons() -> None:
    network = make_network()
    assert reason_against(network, False) is None
    assert reason_against(network, True) == 'compile has the network'
    network.set_grad_checkpointing()
    assert 'gradient checkpointing' in str(reason_against(network, False))
    pruned = timm.create_model('dgcnet', in_chans=BANDS, num_classes=CLASSES)
    assert 'changes by itself' in str(reason_against(pruned, False))


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """Let the task capture on the CPU."""
    found = Graphs()

    def make(network: nn.Module, **options: Any) -> Capture:
        return Capture(network, found, ('cpu',), **options)

    monkeypatch.setattr(capturing, 'Capture', make)
    return found


def fit(
    folder: Path, capture: Any, *callbacks: Any, **options: Any
) -> tuple[Any, Trainer]:
    torch.manual_seed(0)
    task = make_task(capture=capture, **options.pop('task', {}))
    trainer = make_trainer(folder, max_epochs=2, callbacks=list(callbacks), **options)
    trainer.fit(task, make_datamodule(batch_size=16))
    return task, trainer


def annealing() -> TemperatureAnnealing:
    return TemperatureAnnealing(3, 1, step=1.5)


def moving_average() -> MovingAverage:
    return MovingAverage(share=0.5)


@pytest.mark.parametrize(
    ('options', 'callbacks'),
    [
        ({}, []),
        ({'precision': 'bf16-mixed'}, []),
        ({'gradient_clip_val': 0.1}, []),
        ({'accumulate_grad_batches': 2}, []),
        ({'task': {'class_weights': 'balanced', 'mixup': 0.3}}, []),
        ({'task': {'on_nonfinite': 'skip'}}, []),
        ({}, [annealing]),
        ({}, [moving_average]),
    ],
    # Names, no addresses: processes that share the suite must collect the same tests.
    ids=lambda value: str(
        [make.__name__ for make in value] if isinstance(value, list) else value
    ),
)
def test_training_is_the_same(
    options: dict[str, Any], callbacks: list[Any], graphs: Graphs, tmp_path: Path
) -> None:
    found = []
    for capture in ('auto', False):
        np.random.seed(0)
        more = copy.deepcopy(options)
        task, trainer = fit(tmp_path, capture, *(make() for make in callbacks), **more)
        found.append((state_of(task.model), trainer.callback_metrics['val_loss']))
        assert task._capture is None
    assert [shape[0] for shape in graphs.made].count(16) >= 1 and graphs.replays > 4
    for name, value in found[0][0].items():
        torch.testing.assert_close(value, found[1][0][name], msg=name)
    torch.testing.assert_close(found[0][1], found[1][1])


def test_resumed_and_tested(graphs: Graphs, tmp_path: Path) -> None:
    _, trainer = fit(tmp_path, 'auto')
    trainer.save_checkpoint(tmp_path / 'two.ckpt')
    task = make_task()
    again = make_trainer(tmp_path, max_epochs=3)
    again.fit(task, make_datamodule(batch_size=16), ckpt_path=tmp_path / 'two.ckpt')
    made = len(graphs.made)
    (first,) = again.test(task, make_datamodule(batch_size=16), verbose=False)
    assert len(graphs.made) > made
    again.save_checkpoint(tmp_path / 'three.ckpt')
    (second,) = make_trainer(tmp_path).test(
        make_task(capture=False),
        make_datamodule(batch_size=16),
        ckpt_path=tmp_path / 'three.ckpt',
        verbose=False,
    )
    assert first == pytest.approx(second)


def test_expert_use_sees_the_network(graphs: Graphs, tmp_path: Path) -> None:
    task, trainer = fit(tmp_path, 'auto')
    trainer.callbacks.append(ExpertUse())  # type: ignore[attr-defined]
    trainer.test(task, make_datamodule(batch_size=16), verbose=False)
    use = json.loads((tmp_path / 'expert_use.json').read_text(encoding='utf-8'))
    assert use['samples'] == task.accuracies['test'].confusion.sum()
    assert 0 < use['normalised_entropy'] <= 1


def test_temperature_is_that_of_an_eager_run(graphs: Graphs, tmp_path: Path) -> None:
    """The logits of a graph are overwritten by those of the next batch."""
    kept = []
    for capture in ('auto', False):
        task, _ = fit(tmp_path, capture, task={'calibrate': True})
        assert task.temperature is not None
        kept.append(task.temperature)
    assert graphs.replays > 0
    assert kept[0] == pytest.approx(kept[1], rel=1e-4)


@pytest.mark.parametrize(
    ('task', 'message'),
    [
        ({'compile': True}, 'not done: compile has the network'),
        ({'model': 'dgcnet'}, 'not done: DGCNet changes by itself'),
    ],
)
def test_reason_is_told(
    task: dict[str, Any],
    message: str,
    graphs: Graphs,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nn.Module, 'compile', lambda self, **kwargs: None)
    with caplog.at_level(logging.INFO):
        fit(tmp_path, 'auto', task=task)
    assert message in caplog.text and not graphs.made


def test_without_cuda(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fit(tmp_path, 'auto', accelerator='cpu')
        assert 'capture:' not in caplog.text
        fit(tmp_path, True, accelerator='cpu')
    assert 'not done: CUDA graphs need a CUDA device, found cpu' in caplog.text


def test_matmul_precision_holds_while_the_task_runs(tmp_path: Path) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    task = make_task(matmul_precision='high')
    seen = []
    task.on_train_start = lambda: seen.append(  # type: ignore[method-assign]
        (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    )
    make_trainer(tmp_path, fast_dev_run=True).fit(task, make_datamodule())
    assert seen == [('high', True)]
    after = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    assert after == before


@cuda
@pytest.mark.parametrize('precision', ['32-true', 'bf16-mixed'])
def test_graphs_agree_with_eager_runs(precision: Any, tmp_path: Path) -> None:
    found = []
    for capture in (True, False):
        _, trainer = fit(
            tmp_path,
            capture,
            TemperatureAnnealing(3, 1, step=1.5),
            accelerator='gpu',
            devices=1,
            precision=precision,
            task={'matmul_precision': 'highest'},
        )
        found.append(trainer.callback_metrics['val_loss'])
        (optimizer,) = trainer.optimizers
        assert optimizer.defaults['fused']
    tolerance = 1e-3 if precision == '32-true' else 5e-2
    torch.testing.assert_close(*found, rtol=tolerance, atol=tolerance)


@cuda
def test_small_gradients_of_graphs_are_those_of_eager_runs() -> None:
    """Float16, to which a backward pass under autocast rounds, knows none so small."""
    network = make_network().cuda()
    image, found = batch().cuda(), []
    capture = Capture(network)
    for run in (network, capture, capture):
        network.zero_grad()
        with torch.autocast('cuda', torch.bfloat16):
            logits = run(image)
        (1e-6 * logits.float().square().mean()).backward()
        found.append([parameter.grad for parameter in network.parameters()])
    assert capture._graphs
    for ours, theirs in zip(found[2], found[0], strict=True):
        assert ours is not None and theirs is not None
        assert ours.any() == theirs.any()


@cuda
def test_no_step_waits_on_cuda(tmp_path: Path) -> None:
    class Watch(Callback):
        steps = 0

        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            if trainer.current_epoch > 1:  # the last batch's shape is captured, too
                self.steps += 1
                torch.cuda.set_sync_debug_mode('error')

        def on_train_batch_end(self, *args: Any) -> None:
            torch.cuda.set_sync_debug_mode('default')

    watch, datamodule = Watch(), make_datamodule(batch_size=16)
    trainer = make_trainer(
        tmp_path, accelerator='gpu', devices=1, max_epochs=3, callbacks=[watch]
    )
    try:
        trainer.fit(make_task(), datamodule)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert watch.steps > 3

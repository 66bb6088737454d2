# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of what checkpoints say of their run, and of who reads it."""

import copy
import io
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torchgeo.datasets import EnMAP

from tests.data.enmap import data as enmap
from tests.small import make_datamodule, make_trainer
from torchgeo_ekgnet._files import file_digest
from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet.callbacks import AccuracyReport, ClassificationMap, RunFolder
from torchgeo_ekgnet.checkpoint import (
    LocalCheckpointIO,
    Provenance,
    check_same_classes,
    check_same_network,
    check_sizes,
    data_state,
    other_bands,
    reach,
    read_checkpoint,
    trained_bands,
)
from torchgeo_ekgnet.datamodules import LabelledPixelsDataModule
from torchgeo_ekgnet.datasets import LabelRaster, RandomSplit, open_scene
from torchgeo_ekgnet.maps import load_classifier, predict_map
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask

STATE: dict[str, Any] = {
    'scene': {
        'name': 'field',
        'class_names': ['a', 'b'],
        'wavelengths': [400.0, 500.0],
    },
    'split': {'identity': '0'},
    'patch_size': 5,
    'padding_mode': 'zeros',
    'num_bands': 2,
}


class TestProvenance:
    def test_round_trip(self) -> None:
        run = Provenance(data=STATE, epochs=3, seed=1, versions={'torch': '2.6'})
        assert Provenance.from_dict(run.to_dict()) == run
        assert Provenance.of({'torchgeo_ekgnet': run.to_dict()}) == run

    def test_of_another_task_knows_the_data_at_most(self) -> None:
        assert Provenance.of({'state_dict': {}, 'OtherData': STATE}) == Provenance(
            STATE
        )
        assert Provenance.of({'state_dict': {}, 'OtherData': {'scene': 1}}) is None

    def test_own_entry_comes_first(self) -> None:
        other = {**STATE, 'patch_size': 7}
        content = {'Data': other, 'torchgeo_ekgnet': Provenance(STATE).to_dict()}
        found = data_state(content)
        assert found is not None and found['patch_size'] == 5


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f'touch {self.path}',)


class TestRead:
    def test_file_that_is_replaced_while_it_is_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / 'last.ckpt'
        first = {'state_dict': {}, 'epoch': 1, 'pytorch-lightning_version': '2.6.0'}
        torch.save(first, path)
        old = file_digest(path)

        def slow(found: Any) -> dict[str, Any]:
            content = read_checkpoint(found)
            if content['epoch'] == 1:
                torch.save(first | {'epoch': 2}, path)
            return content

        monkeypatch.setattr('torchgeo_ekgnet.checkpoint.reading.read_checkpoint', slow)
        reader = LocalCheckpointIO(TorchCheckpointIO())
        assert reader.digest(path) is None
        assert reader.load_checkpoint(path)['epoch'] == 2
        assert reader.digest(path) == file_digest(path) != old
        assert reader.digest(tmp_path / 'other.ckpt') is None
        reader.writer = writer = Mock()
        reader.remove_checkpoint(path)
        writer.remove_checkpoint.assert_called_once_with(path)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(
            FileNotFoundError, match=r'there is no checkpoint .*no\.ckpt'
        ):
            read_checkpoint(tmp_path / 'no.ckpt')

    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            (b'', r'.* cannot be read as a checkpoint'),
            (b'text' * 99, r'.* cannot be read as a checkpoint'),
            (b'PK\x03\x04', r'is cut off: found the beginning'),
        ],
    )
    def test_damaged(self, content: bytes, message: str, tmp_path: Path) -> None:
        path = tmp_path / 'bad.ckpt'
        path.write_bytes(content)
        with pytest.raises(FileError, match=rf'bad\.ckpt {message}'):
            read_checkpoint(path)

    def test_code_is_not_run(self, tmp_path: Path) -> None:
        path, trace = tmp_path / 'evil.ckpt', tmp_path / 'ran'
        torch.save({'state_dict': {}, 'more': Evil(str(trace))}, path)
        with pytest.raises(ValueError, match=r'evil\.ckpt names .*system, expected'):
            read_checkpoint(path)
        content = io.BytesIO(path.read_bytes())
        with pytest.raises(pickle.UnpicklingError):
            HyperspectralClassificationTask.load_from_checkpoint(content)
        assert not trace.exists()

    @pytest.mark.parametrize(
        ('entry', 'message'),
        [
            (
                {'state_dict': {'a': 1.0}},
                r'found 1\.0 for state_dict\.a, expected Tensor',
            ),
            ({'epoch': 'x' * 99}, r"found 'x{59} \.\.\. for epoch, expected int"),
            ({'Data': {**STATE, 'split': 3}}, 'found 3 for Data.split, expected Mapp'),
            (
                {'torchgeo_ekgnet': {'data': {**STATE, 'patch_size': True}}},
                'found True for torchgeo_ekgnet.data.patch_size, expected int',
            ),
            (
                {'Data': {**STATE, 'scene': {**STATE['scene'], 'shape': [4, 5]}}},
                r'found 2 values for Data\.scene\.shape, expected 3',
            ),
            (
                {'Data': {**STATE, 'split': {'protocol': 'random'}}},
                r'found None for Data\.split\.identity, expected str',
            ),
            ({'callbacks': {3: {}}}, 'found 3 for a key of callbacks, expected str'),
            (
                {'callbacks': {'Best': {'best_model_path': {}}}},
                'found a dict for Best.best_model_path, expected str',
            ),
            (
                {'callbacks': {'Best': {'best_k_models': {'run/../../x': 1.0}}}},
                "found 'run/../../x' among the checkpoints of Best",
            ),
            (
                {'callbacks': {'Best': {'best_k_models': {'s3://x': 1.0}}}},
                "found 's3://x' among the checkpoints of Best",
            ),
        ],
    )
    def test_entries_of_other_types(
        self, entry: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        content = {'state_dict': {'a': torch.ones(1)}, **entry}
        torch.save(content, tmp_path / 'odd.ckpt')
        with pytest.raises(FileError, match=f'odd.ckpt: {message}'):
            read_checkpoint(tmp_path / 'odd.ckpt')

    def test_sums_of_the_archive(self, tmp_path: Path) -> None:
        path = tmp_path / 'flipped.ckpt'
        weights = torch.full((99,), 3.25)
        torch.save({'state_dict': {'a': weights}}, path)
        content = bytearray(path.read_bytes())
        content[content.index(weights.numpy().tobytes()) + 40] ^= 4
        path.write_bytes(content)
        with pytest.raises(
            FileError, match=r'flipped\.ckpt is damaged: found other bytes'
        ):
            read_checkpoint(path)

    def test_packed_tensors_are_bounded(self, tmp_path: Path) -> None:
        path = tmp_path / 'bomb.ckpt'
        torch.save({'state_dict': {'a': torch.ones(3)}}, tmp_path / 'whole.ckpt')
        with (
            zipfile.ZipFile(tmp_path / 'whole.ckpt') as whole,
            zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as packed,
        ):
            for name in whole.namelist():
                packed.writestr(name, whole.read(name))
        size = sum(item.file_size for item in packed.infolist())
        content = path.read_bytes()
        # The largest size that the directory can tell.
        central = content.index(b'PK\x01\x02')
        path.write_bytes(
            content[: central + 24] + b'\xfe' * 4 + content[central + 28 :]
        )
        assert size < 10_000
        with pytest.raises(FileError, match=r'bomb\.ckpt'):
            read_checkpoint(path)

    def test_values_without_end(self, tmp_path: Path) -> None:
        shared: list[Any] = [1]
        for _ in range(60):
            shared = [shared, shared]
        circle: list[Any] = []
        circle.append(circle)
        for value, message in (
            (shared, 'found more than 200,000 values'),
            (circle, 'found more than 200,000 values'),
            ({'class_path': 'subprocess.Popen'}, 'that are no plain values'),
        ):
            content = {
                'state_dict': {'a': torch.ones(1)},
                'hyper_parameters': {'model': value},
            }
            torch.save(content, tmp_path / 'odd.ckpt')
            with pytest.raises(FileError, match=message):
                read_checkpoint(tmp_path / 'odd.ckpt')

    @pytest.mark.parametrize('content', [[1], {}, 3, None], ids=str)
    def test_other_content(self, content: Any, tmp_path: Path) -> None:
        torch.save(content, tmp_path / 'other.pt')
        with pytest.raises(FileError, match=r'other\.pt holds no checkpoint: found'):
            read_checkpoint(tmp_path / 'other.pt')

    @pytest.mark.parametrize(
        'address',
        [
            'http://127.0.0.1:9/best.ckpt',
            'https://example.org/best.ckpt',
            's3://bucket/best.ckpt',
            'gs://bucket/best.ckpt',
            'file:///best.ckpt',
            'hf-hub:owner/name',
            'simplecache::http://127.0.0.1/best.ckpt',
            'memory://best.ckpt',
            'data:text/plain,x',
        ],
    )
    def test_address(self, address: str) -> None:
        with pytest.raises(FileNotFoundError, match='checkpoint: found an address'):
            read_checkpoint(address)
        with pytest.raises(FileNotFoundError, match='found an address'):
            load_classifier(address)
        with pytest.raises(FileNotFoundError, match='weights: found an address'):
            HyperspectralClassificationTask(
                'ekgnet_tiny', weights=address, in_channels=8, num_classes=3
            )
        with pytest.raises(FileNotFoundError, match='found an address'):
            trainer = make_trainer()
            task = HyperspectralClassificationTask('ekgnet_tiny')
            trainer.test(task, make_datamodule(), ckpt_path=address)

    @pytest.mark.parametrize('folder', ['http_runs', 'http:', 's3', 'file:'])
    def test_folder_that_looks_like_one(
        self, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / folder).mkdir()
        # Options that are none are left to whoever builds the network.
        content: dict[str, Any] = {'state_dict': {'a': torch.ones(1)}}
        content['hyper_parameters'] = {'model_options': 3}
        torch.save(content, tmp_path / folder / 'a.ckpt')
        monkeypatch.chdir(tmp_path)
        assert read_checkpoint(f'{folder}/a.ckpt')['state_dict']['a'] == 1

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match='is a folder, expected a file'):
            read_checkpoint(tmp_path)

    @pytest.mark.parametrize(
        ('settings', 'message'),
        [
            ({'_class_path': 'os.system'}, "the class 'os.system'"),
            ({'_class_path': 'antigravity.Task'}, "the class 'antigravity.Task'"),
            ({'_class_path': 'torch.nn.Linear'}, "the class 'torch.nn.Linear'"),
            ({'_class_path': 'torchgeo_ekgnet.tasks.x'}, "the class 'torchgeo_ekgnet"),
            ({'model': 'hf-hub:owner/name'}, "the model 'hf-hub:owner/name'"),
            ({'model': 'local-dir:/etc'}, "the model 'local-dir:/etc'"),
            ({'model': r'a\b'}, 'the model '),
            ({'weights': 'http://127.0.0.1/x'}, "weights 'http://127.0.0.1/x'"),
            ({'model_options': {'checkpoint_path': 'x'}}, 'model_options .*checkpoint'),
            (
                {'model_options': {'pretrained_cfg_overlay': {'file': 'x'}}},
                'model_options .*pretrained_cfg_overlay',
            ),
            (
                {'model_options': {'a': torch.ones(1)}},
                'hyper_parameters that are no plain values',
            ),
            ([1], 'a list for hyper_parameters'),
        ],
    )
    def test_names_in_hyperparameters(
        self, settings: Any, message: str, tmp_path: Path
    ) -> None:
        content = {'state_dict': {'a': torch.ones(1)}, 'hyper_parameters': settings}
        torch.save(content, tmp_path / 'best.ckpt')
        with pytest.raises(FileError, match=f'found {message}'):
            read_checkpoint(tmp_path / 'best.ckpt')
        assert 'antigravity' not in sys.modules

    def test_of_a_task_that_is_not_imported_yet(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As in export, and after an import of maps alone."""
        name = 'torchgeo_ekgnet.tasks.HyperspectralClassificationTask'
        content = {'state_dict': {'a': torch.ones(1)}}
        for settings in ({'_class_path': name}, {'_class_path': 'torchgeo.trainers.A'}):
            torch.save({**content, 'hyper_parameters': settings}, tmp_path / 'a.ckpt')
            with monkeypatch.context() as patch:
                for module in ('torchgeo_ekgnet.tasks', 'torchgeo.trainers'):
                    patch.delitem(sys.modules, module, raising=False)
                read_checkpoint(tmp_path / 'a.ckpt')
                assert not {'torchgeo_ekgnet.tasks', 'torchgeo.trainers'} & {
                    *sys.modules
                }

    def test_something_else(self, tmp_path: Path) -> None:
        torch.save({'weights': torch.zeros(1)}, tmp_path / 'other.pt')
        with pytest.raises(FileError, match='found no entry state_dict'):
            read_checkpoint(tmp_path / 'other.pt')


@pytest.mark.parametrize(
    ('network', 'data', 'message'),
    [
        (
            {'in_channels': 9},
            {'in_channels': 12},
            'network has 9 bands, the data have 12',
        ),
        (
            {'num_classes': 7},
            {'num_classes': 3},
            'network has 7 classes, the data have 3',
        ),
        ({'img_size': 9}, {'img_size': 5}, "img_size is 9, the data's patch_size is 5"),
    ],
)
def test_other_sizes(
    network: dict[str, int], data: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_sizes(network, data)
    check_sizes(network, network)
    check_sizes(network, dict.fromkeys(data))


@pytest.mark.parametrize('name', ['model', 'in_channels', 'num_classes'])
def test_another_network(name: str) -> None:
    mine = {'model': 'ekgnet_tiny', 'in_channels': 9, 'num_classes': 3}
    check_same_network({'hyper_parameters': mine}, mine)
    check_same_network({}, mine)
    with pytest.raises(ValueError, match=f'was trained with {name} 2, this task has'):
        check_same_network({'hyper_parameters': {**mine, name: 2}}, mine)


def test_other_classes() -> None:
    check_same_classes(STATE, 'meadow', ['a', 'b'], 'x.ckpt')
    with pytest.raises(ValueError, match=r"x\.ckpt was trained on the 2 classes \['a'"):
        check_same_classes(STATE, 'meadow', ['b', 'a'], 'x.ckpt')


def test_trained_bands() -> None:
    number, centres = trained_bands(STATE)
    assert number == 2 and centres is not None and centres.tolist() == [400, 500]
    assert trained_bands({'scene': {'shape': [4, 5, 6]}}) == (6, None)
    # Half the distance to the nearer neighbour, in whichever order the bands are.
    assert reach(np.array([430.0, 400, 410])).tolist() == [10, 5, 5]
    assert reach(np.array([400.0, 400.2])).tolist() == [0.5, 0.5]
    centres = np.array([400.0, 410])
    assert other_bands(2, centres, 2, centres + 5) is None
    assert 'band 1 lies at 400.0' in str(other_bands(2, centres, 2, centres + 5.1))


def test_weights_alone_are_tested_and_mapped(tmp_path: Path) -> None:
    """Of ModelCheckpoint(save_weights_only=True), as of any other checkpoint."""
    task = HyperspectralClassificationTask('ekgnet_tiny')
    saver = ModelCheckpoint(
        tmp_path / 'run' / 'checkpoints', 'best', save_weights_only=True
    )
    make_trainer(None, saver).fit(task, make_datamodule())
    path = saver.best_model_path
    assert 'optimizer_states' not in read_checkpoint(path)

    classifier = load_classifier(path)
    datamodule = make_datamodule()
    datamodule.setup('predict')
    direct = predict_map(classifier, datamodule.scene)
    other = copy.copy(datamodule.scene)
    other.class_names = other.class_names[::-1]
    with pytest.raises(ValueError, match=r'was trained on the .* classes'):
        predict_map(classifier, other)

    for stage in ('test', 'predict'):
        callbacks = (AccuracyReport(table=False), ClassificationMap(), RunFolder('run'))
        trainer = make_trainer(tmp_path, *callbacks)
        again = HyperspectralClassificationTask('ekgnet_tiny')
        getattr(trainer, stage)(again, datamodule=make_datamodule(), ckpt_path=path)
    names = {file.name for file in (tmp_path / 'run').iterdir()}
    assert {'map.tif', 'test.json', 'report.html'} <= names
    assert direct.labels.shape == (20, 20)

    with pytest.raises(ValueError, match='another split'):
        make_trainer().test(
            HyperspectralClassificationTask('ekgnet_tiny'),
            make_datamodule(split=RandomSplit(0.3, 0.2, 4)),
            ckpt_path=path,
        )


def test_network_of_labelled_pixels_maps_a_scene(tmp_path: Path) -> None:
    bands = EnMAP.all_bands[:6]
    enmap.make(tmp_path, bands=6)
    datamodule = LabelledPixelsDataModule(
        EnMAP(tmp_path / 'image', bands=bands),
        LabelRaster(str(tmp_path / 'labels')),
        patch_size=5,
        statistics_pixels=40,
    )
    task = HyperspectralClassificationTask('ekgnet_tiny')
    trainer = make_trainer()
    trainer.fit(task, datamodule)
    trainer.save_checkpoint(tmp_path / 'best.ckpt')

    classifier = load_classifier(tmp_path / 'best.ckpt')
    assert classifier.class_names == ('class 1', 'class 2')
    assert classifier.wavelengths is not None
    np.testing.assert_allclose(
        classifier.wavelengths, [1000 * EnMAP.wavelengths[band] for band in bands]
    )
    scene = open_scene(tmp_path / 'image' / enmap.NAME)
    found = predict_map(classifier, scene)
    assert found.labels.shape == (enmap.ROWS, enmap.COLS)

    # A patch is the same by either way.
    sampler: Any = datamodule.train_sampler
    window = next(iter(sampler.subset(np.array([0]), shuffle=False)))
    patches: Any = datamodule.dataset
    row, col = sampler.places[0]
    torch.testing.assert_close(
        patches[window]['image'][None],
        classifier.patches(scene).gather(torch.tensor([[row, col]]), 'cpu'),
        rtol=1e-4,
        atol=1e-4,
    )


def test_no_reader_of_lightning_unpickles(tmp_path: Path) -> None:
    """Whatever Lightning's own default is, for every stage."""
    task = HyperspectralClassificationTask('ekgnet_tiny')
    trainer = make_trainer()
    trainer.fit(task, make_datamodule())
    path, trace = tmp_path / 'evil.ckpt', tmp_path / 'ran'
    trainer.save_checkpoint(path)
    content = read_checkpoint(path)
    torch.save({**content, 'more': Evil(str(trace))}, path)
    for stage in ('fit', 'validate', 'test', 'predict'):
        again = make_trainer(max_epochs=2)
        task = HyperspectralClassificationTask('ekgnet_tiny')
        with pytest.raises(FileError, match=r'names .*system'):
            getattr(again, stage)(
                task, datamodule=make_datamodule(), ckpt_path=path, weights_only=False
            )
    assert not trace.exists()

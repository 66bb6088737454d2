# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the data module of torchgeo's georeferenced images with label rasters."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from torchgeo.datasets import EnMAP

from tests.data.enmap import data
from tests.data.geotiff.data import write
from tests.small import make_task, make_trainer
from torchgeo_ekgnet import _compat
from torchgeo_ekgnet.datamodules import LabelledPixelsDataModule
from torchgeo_ekgnet.datasets import (
    BlockSplit,
    DisjointSplit,
    LabelRaster,
    RandomSplit,
    SavedSplit,
    SyntheticScene,
)
from torchgeo_ekgnet.datasets.splits import Split, SplitProtocol
from torchgeo_ekgnet.samplers import LabelledPixelSampler

from .small import KeepScores

BANDS = 6


def make(root: Path, **options: Any) -> LabelledPixelsDataModule:
    if not root.joinpath('image').is_dir():
        data.make(root, bands=BANDS)
    return LabelledPixelsDataModule(
        EnMAP(root / 'image', bands=EnMAP.all_bands[:BANDS]),
        LabelRaster(str(root / 'labels')),
        **{'patch_size': 5, 'statistics_pixels': 40, **options},
    )


def write_image(root: Path, cube: np.ndarray, **options: Any) -> None:
    write(root / 'image' / data.NAME, cube, data.TRANSFORM, data.CRS, **options)


def write_labels(root: Path, labels: np.ndarray, **options: Any) -> None:
    path = root / 'labels' / data.LABELS_NAME
    write(path, labels[None], data.TRANSFORM, data.CRS, **options)


def places_of(module: LabelledPixelsDataModule, subset: str) -> set[tuple[float, ...]]:
    positions = getattr(module, f'{subset}_sampler').positions
    return set(map(tuple, positions.tolist()))


def corner_of(module: LabelledPixelsDataModule) -> torch.Tensor:
    """Read the normalised patch of the upper left pixel, which is labelled."""
    sampler = LabelledPixelSampler(module.image & module.labels, 5, shuffle=False)
    corner = np.flatnonzero((sampler.places == 0).all(axis=1))
    window = next(iter(sampler.subset(corner, shuffle=False)))
    image: torch.Tensor = scores_of(module, module.image[window]['image'])
    return image[None]


def scores_of(module: LabelledPixelsDataModule, image: torch.Tensor) -> torch.Tensor:
    patches: Any = module.dataset
    scores: torch.Tensor = patches.normalize(image)
    return scores


class TestSplit:
    def test_identity_travels(self, tmp_path: Path) -> None:
        split = RandomSplit(0.5, 0.1)
        first, second = (make(tmp_path, split=split) for _ in range(2))
        assert first.state_dict() == {}
        with pytest.raises(RuntimeError, match='split is known after setup'):
            _ = first.split
        first.setup('fit')
        second.setup('test')
        state = first.state_dict()
        assert state['split']['identity'] == second.state_dict()['split']['identity']
        counts = state['split']['counts']
        assert np.sum(list(counts.values()), axis=0).tolist() == [81, 121]
        json.dumps(state)
        other = make(tmp_path, split=RandomSplit(0.5, 0.1, seed=2))
        other.setup('test')
        with pytest.raises(ValueError, match='trained with another split'):
            other.load_state_dict(state)
        other.allow_other_split = True
        with pytest.warns(UserWarning, match='because allow_other_split is set'):
            other.load_state_dict(state)
        assert other.mean.tolist() == first.mean.tolist()
        smaller = make(tmp_path, split=split, patch_size=3)
        smaller.load_state_dict(state)
        with pytest.raises(ValueError, match='trained with patch_size 5'):
            smaller.setup('test')

    def test_checkpoint_of_another_data_module(self, tmp_path: Path) -> None:
        module = make(tmp_path)
        module.setup('test')
        module.trainer = SimpleNamespace(  # type: ignore[assignment]
            ckpt_path='other.ckpt',
            lightning_module=None,
            state=SimpleNamespace(fn='test'),
            world_size=1,
        )
        with pytest.raises(ValueError, match='holds no split of LabelledPixels'):
            module.test_dataloader()
        module.load_state_dict(module.state_dict())
        assert len(module.test_dataloader()) > 0

    def test_saved(self, tmp_path: Path) -> None:
        module = make(tmp_path)
        module.setup('fit')
        path = module.split.save(tmp_path / 'split.npz')
        again = make(tmp_path, split=SavedSplit(str(path)))
        again.setup('test')
        assert again.split.identity() == module.split.identity()
        assert again.split.shape == (data.ROWS, data.COLS)

    @pytest.mark.parametrize(
        ('split', 'protocol'),
        [
            (BlockSplit(5, 0.5, 0.1, guard='patch', seed=0), 'blocks'),
            (DisjointSplit(0.5, 0.1, guard='patch', min_pixels=4), 'disjoint'),
        ],
    )
    def test_guard(self, tmp_path: Path, split: SplitProtocol, protocol: str) -> None:
        module = make(tmp_path, split=split, patch_size=3)
        module.setup('fit')
        described = module.describe()['split']
        assert described['protocol'] == protocol
        assert described['overlap']['shares_training_pixel'] == 0
        assert min(described['counts']['train'] + described['counts']['test']) > 0
        assert np.sum(list(described['counts'].values()), axis=0).tolist() == [81, 121]
        train, test = (
            np.array(sorted(places_of(module, subset))) for subset in ('train', 'test')
        )
        apart = np.abs(train[:, None] - test[None]).max(axis=2)
        assert apart.min() > 2 * 30 + 15

    def test_places_keep_their_subset_at_all_times(self, tmp_path: Path) -> None:
        data.make(tmp_path, bands=BANDS)
        later = data.NAME.replace('20220612T105735Z', '20220712T105735Z')
        path = tmp_path / 'image' / later
        write(path, data.cube_of()[:BANDS], data.TRANSFORM, data.CRS)
        module = make(tmp_path, nodata=data.NODATA)
        module.setup('fit')
        times = 1 if _compat.HAS_SPATIAL_SAMPLERS else 2
        for subset in ('train', 'val', 'test'):
            sampler = getattr(module, f'{subset}_sampler')
            places = places_of(module, subset)
            assert len(sampler) == times * len(places)
            assert len(places) == module.split.indices(subset).size
            assert int(module.class_counts(subset).sum()) == len(sampler)
        assert not places_of(module, 'train') & places_of(module, 'test')

    def test_small_class(self, tmp_path: Path) -> None:
        data.make(tmp_path, bands=BANDS)
        labels = data.labels_of()
        labels[30, 30:32] = 3
        write_labels(tmp_path, labels)
        with pytest.raises(ValueError, match='cannot serve every class'):
            make(tmp_path).setup('fit')
        dropped = make(tmp_path, split=RandomSplit(unserved='drop'))
        dropped.setup('fit')
        assert dropped.class_names == ['class 1', 'class 2', 'class 3']
        assert dropped.describe()['split']['dropped'] == [3]
        for subset in ('train', 'val', 'test'):
            assert dropped.class_counts(subset)[2] == 0
            assert 3 not in getattr(dropped, f'{subset}_sampler').labels

    def test_merged_classes(self, tmp_path: Path) -> None:
        data.make(tmp_path, bands=BANDS)
        labels = data.labels_of()
        labels[30, 30:33] = 7
        labels[30, 34:37] = 9
        write_labels(tmp_path, labels)
        module = make(tmp_path, split=RandomSplit(unserved='merge'), batch_size=500)
        module.setup('fit')
        assert module.class_values == [1, 2, 7, 9]
        assert module.describe()['split']['relabel'] == {'4': 3}
        seen = {
            int(label)
            for loader in (module.train_dataloader(), module.test_dataloader())
            for batch in loader
            for label in batch['label']
        }
        assert seen == {0, 1, 2}
        assert 9 in [
            *module.train_sampler.labels,  # type: ignore[union-attr]
            *module.val_sampler.labels,  # type: ignore[union-attr]
            *module.test_sampler.labels,  # type: ignore[union-attr]
        ]

    def test_no_validation_pixels(self, tmp_path: Path) -> None:
        module = make(tmp_path, split=RandomSplit(0.5, 0.0))
        module.setup('fit')
        state = SimpleNamespace(fn='fit')
        trainer: Any = SimpleNamespace(
            state=state, ckpt_path=None, callbacks=[], lr_scheduler_configs=[]
        )
        module.trainer = trainer
        assert module.val_dataloader() == []
        trainer.callbacks.append(SimpleNamespace(monitor='val_loss'))
        with pytest.raises(ValueError, match='leaves no validation pixel, and'):
            module.val_dataloader()
        # Lightning's words name an attribute, not what a user can change.
        state.fn = 'validate'
        with pytest.raises(ValueError, match='leaves no validation pixel, expected'):
            module.val_dataloader()

    @pytest.mark.parametrize('left', [0, 1, 2])
    def test_only_a_single_last_sample_is_dropped(
        self, tmp_path: Path, left: int
    ) -> None:
        module = make(tmp_path)
        module.setup('fit')
        count = int(module.class_counts().sum())
        module.batch_size = next(n for n in range(3, count) if count % n == left)
        drawn = sum(len(batch['label']) for batch in module.train_dataloader())
        assert drawn == count - (left == 1)


class TestNodata:
    def make(
        self, root: Path, declared: bool = True, **options: Any
    ) -> LabelledPixelsDataModule:
        """Make a module whose image has no data in four rows of the first class."""
        data.make(root, bands=BANDS)
        cube = data.cube_of()[:BANDS]
        cube[2:, 10:14] = data.NODATA
        write_image(root, cube, nodata=data.NODATA if declared else None)
        return make(root, batch_size=500, **options)

    @pytest.mark.parametrize('declared', [True, False])
    def test_no_labelled_pixel_without_data(
        self, tmp_path: Path, declared: bool
    ) -> None:
        options = {} if declared else {'nodata': data.NODATA}
        module = self.make(tmp_path, declared, **options)
        module.setup('fit')
        counts = module.describe()['split']['counts']
        assert np.sum(list(counts.values()), axis=0).tolist() == [81 - 40, 121]
        assert module.describe()['scene']['nodata'] == data.NODATA
        assert 1400 < module.mean.min() and module.mean.max() < 1700
        scores = next(iter(module.train_dataloader()))['image']
        absent = (scores == 0).all(dim=1)
        assert absent.any() and not absent[:, 2, 2].any()
        assert scores.abs().max() < 10

    def test_none(self, tmp_path: Path) -> None:
        module = self.make(tmp_path, declared=False)
        module.setup('fit')
        counts = module.describe()['split']['counts']
        assert np.sum(list(counts.values()), axis=0).tolist() == [81, 121]

    @pytest.mark.parametrize('nodata', [data.NODATA, None])
    def test_zero_beyond_the_edge(self, tmp_path: Path, nodata: int | None) -> None:
        data.make(tmp_path, bands=BANDS)
        write_image(tmp_path, data.cube_of()[:BANDS], nodata=nodata)
        module = make(tmp_path)
        module.setup('fit')
        scores = corner_of(module)
        assert (scores[:, :, :2] == 0).all() and (scores[:, :, :, :2] == 0).all()
        assert (scores[:, :, 2:, 2:] != 0).any(dim=1).all()

    def test_value_of_the_labels(self, tmp_path: Path) -> None:
        data.make(tmp_path, bands=BANDS)
        labels = np.where(data.labels_of() == 0, 255, data.labels_of() - 1)
        write_labels(tmp_path, labels.astype(np.uint8), nodata=255)
        module = make(tmp_path, unlabelled=[])
        module.setup('fit')
        assert module.class_values == [0, 1]
        counts = module.describe()['split']['counts']
        assert np.sum(list(counts.values()), axis=0).tolist() == [81, 121]

    def test_unlabelled(self, tmp_path: Path) -> None:
        data.make(tmp_path, bands=BANDS)
        labels = data.labels_of()
        labels[30:36, 2:10] = 99
        write_labels(tmp_path, labels)
        module = make(tmp_path, unlabelled=[0, 99])
        module.setup('fit')
        assert module.class_values == [1, 2]


def test_statistics_are_those_of_the_training_pixels(tmp_path: Path) -> None:
    module = make(tmp_path)
    module.setup('fit')
    batch = next(iter(module.train_dataloader()))
    assert batch['image'].shape[1:] == (BANDS, 5, 5)
    centre = batch['image'][:, :, 2, 2]
    assert centre.mean(dim=0).abs().max() < 0.6
    assert 0.4 < centre.std() < 1.6


def test_band_without_spread_is_zero_everywhere(tmp_path: Path) -> None:
    """As of scenes: in raw units it would drown the others where it does vary."""
    module = make(tmp_path)
    path = tmp_path / 'image' / data.NAME
    with rasterio.open(path) as raster:
        cube = raster.read()
    cube[2] = 700
    write_image(tmp_path, cube)
    module.setup('fit')
    image = torch.full((1, BANDS, 5, 5), 730.0)
    scores = scores_of(module, image)
    assert scores[:, 2].abs().max() == 0
    assert scores[:, 3].isfinite().all()


def test_labels_are_those_of_the_pixels(tmp_path: Path) -> None:
    module = make(tmp_path, batch_size=500)
    module.setup('fit')
    batch = next(iter(module.test_dataloader()))
    values = np.array(module.class_values)[batch['label'].numpy()]
    assert values.tolist() == module.test_sampler.labels.tolist()  # type: ignore[union-attr]


def test_two_processes_score_every_patch_once(tmp_path: Path) -> None:
    """Patches that do not go round: the same matrix as that of one process."""
    drawn = make(tmp_path)
    drawn.setup('test')
    test = drawn.split.test
    for count in (21, 1):  # with one patch a process has none
        split = Split(
            'hand', {}, drawn.split.shape, drawn.split.train, test[:0], test[:count]
        )
        module = make(tmp_path, split=split, batch_size=6)
        task = make_task()
        run = make_trainer(tmp_path)
        run.fit(task, datamodule=module)
        (alone,) = run.test(task, datamodule=module, verbose=False)
        one = task.accuracies['test'].to_dict()['confusion_matrix']
        kept = KeepScores(tmp_path / f'two of {count}')
        make_trainer(tmp_path, devices=2, strategy='ddp_fork', callbacks=[kept]).test(
            task, datamodule=module, verbose=False
        )
        two = json.loads((kept.folder / 'test').read_text())
        assert np.sum(two['confusion_matrix']) == count
        assert two['confusion_matrix'] == one
        assert two['loss'] == pytest.approx(alone['test_loss'], rel=1e-4)


def test_labels_of_two_datasets_have_the_names_of_both(tmp_path: Path) -> None:
    data.make(tmp_path, bands=BANDS)
    labels = data.labels_of()
    for value, name in enumerate(('crop', 'wood'), start=1):
        (tmp_path / name).mkdir()
        path = tmp_path / name / data.LABELS_NAME
        only = np.where(labels == value, labels, 0).astype(np.uint8)
        write(path, only[None], data.TRANSFORM, data.CRS)
    crop, wood = (
        LabelRaster(str(tmp_path / name), class_names={value: name})
        for value, name in enumerate(('crop', 'wood'), start=1)
    )
    image = EnMAP(tmp_path / 'image', bands=EnMAP.all_bands[:BANDS])
    module = LabelledPixelsDataModule(image, crop | wood, patch_size=3)
    module.setup('test')
    assert module.class_names == ['crop', 'wood']
    counts = [sum(column) for column in zip(*module._counts.values(), strict=True)]
    assert counts == [(labels == 1).sum(), (labels == 2).sum()]


def test_wrong_scenes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='1 class names for 2 classes'):
        make(tmp_path, class_names=['one']).setup('fit')
    with pytest.raises(ValueError, match=r"no training pixel of \['class 9'\]"):
        make(tmp_path, class_values=[1, 2, 9]).setup('fit')
    with pytest.raises(ValueError, match='each class once'):
        make(tmp_path, class_values=[1, 2, 1])
    with pytest.raises(ValueError, match='makes no map'):
        make(tmp_path).setup('predict')


def test_wrong_arguments(tmp_path: Path) -> None:
    module = make(tmp_path)
    image, labels = module.image, module.labels
    scene: Any = SyntheticScene(rows=30, cols=30, num_bands=20)
    for pair, name in (((scene, labels), 'image'), ((image, scene), 'labels')):
        with pytest.raises(TypeError, match=f'{name}: found SyntheticScene, expected'):
            LabelledPixelsDataModule(*pair)
    exchanged = LabelledPixelsDataModule(labels, LabelRaster(str(tmp_path / 'labels')))
    with pytest.raises(ValueError, match=r'gives .*mask, expected image among them'):
        exchanged.setup('fit')
    for number in ('batch_size', 'statistics_pixels'):
        with pytest.raises(ValueError, match=number):
            make(tmp_path, **{number: 0})


@pytest.mark.skipif(not _compat.HAS_TASKS, reason='torchgeo 0.8 stacks no times')
def test_series_of_times_is_no_image(tmp_path: Path) -> None:
    module = make(tmp_path)
    image: Any = module.image
    image.time_series = True
    with pytest.raises(ValueError, match=r'shape \(1, 6, .*without time_series=True'):
        module.setup('fit')

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of windows centred on labelled pixels of georeferenced datasets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import torch
from matplotlib.figure import Figure
from rasterio.transform import from_origin
from torch.utils.data import DataLoader
from torchgeo.datasets import EnMAP, IntersectionDataset, RasterDataset, stack_samples

from tests.data.enmap import data
from tests.data.geotiff.data import write
from torchgeo_ekgnet import _compat
from torchgeo_ekgnet.datasets import LabelRaster
from torchgeo_ekgnet.samplers import CentreLabel, LabelledPixelSampler

#: Bands that are used; the file has more.
BANDS = EnMAP.all_bands[:24]


class Labels(RasterDataset):
    """Label rasters of the kind that torchgeo users write."""

    filename_glob = 'LABELS_*.tif'
    filename_regex = r'LABELS_(?P<date>\d{8})'
    is_image = False


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data.make(tmp_path_factory.mktemp('enmap'))


@pytest.fixture
def dataset(root: Path) -> IntersectionDataset:
    image = EnMAP(root / 'image', bands=BANDS)
    both = image & Labels(root / 'labels')
    both.transforms = CentreLabel([1, 2])
    return both


def pixel_of(window: Any) -> tuple[int, int]:
    """Return row and column of the centre of a window."""
    x, y = window[0], window[1]
    col = ((x.start + x.stop) / 2 - data.TRANSFORM.c) / 30
    row = (data.TRANSFORM.f - (y.start + y.stop) / 2) / 30
    return int(np.floor(row)), int(np.floor(col))


class TestLabelledPixelSampler:
    def test_one_window_a_labelled_pixel(self, dataset: IntersectionDataset) -> None:
        sampler = LabelledPixelSampler(dataset, 5, shuffle=False)
        labels = data.labels_of()
        assert len(sampler) == (labels > 0).sum()
        found = [pixel_of(window) for window in sampler]
        assert len(set(found)) == len(found)
        assert set(found) == set(map(tuple, np.argwhere(labels > 0).tolist()))
        assert [labels[pixel] for pixel in found] == sampler.labels.tolist()

    def test_window_is_what_torchgeo_of_this_release_yields(
        self, dataset: IntersectionDataset
    ) -> None:
        window = next(iter(LabelledPixelSampler(dataset, 5)))
        assert len(window) == (2 if _compat.HAS_SPATIAL_SAMPLERS else 3)
        assert window[0].stop - window[0].start == pytest.approx(150)

    def test_patches_are_exact(self, dataset: IntersectionDataset) -> None:
        sampler = LabelledPixelSampler(dataset, 5, shuffle=False)
        labels = data.labels_of()
        cube = np.pad(data.cube_of()[: len(BANDS)], ((0, 0), (2, 2), (2, 2)))
        windows = list(sampler)
        for window in (windows[0], windows[7], windows[-1]):
            row, col = pixel_of(window)
            sample = dataset[window]
            patch = cube[:, row : row + 5, col : col + 5]
            assert sample['image'].shape == (len(BANDS), 5, 5)
            assert np.array_equal(sample['image'].numpy(), patch)
            assert int(sample['label']) == labels[row, col] - 1
            assert 'mask' not in sample

    @pytest.mark.parametrize('num_workers', [0, 1])
    def test_data_loader(self, dataset: IntersectionDataset, num_workers: int) -> None:
        west, south, _, north = dataset.datasets[0].index.total_bounds
        roi = shapely.box(west, south, west + 24 * 30, north)
        sampler = LabelledPixelSampler(dataset, 5, roi=roi)
        loader = DataLoader(
            dataset,
            batch_size=50,
            sampler=sampler,
            num_workers=num_workers,
            collate_fn=stack_samples,
        )
        batches = list(loader)
        assert sum(len(batch['label']) for batch in batches) == len(sampler)
        assert batches[0]['image'].shape == (50, len(BANDS), 5, 5)
        assert batches[0]['label'].dtype == torch.int64

    def test_roi(self, dataset: IntersectionDataset) -> None:
        left = data.TRANSFORM.c
        middle = left + 24 * 30
        bottom = data.TRANSFORM.f - data.ROWS * 30
        west = shapely.box(left, bottom, middle, data.TRANSFORM.f)
        east = shapely.box(middle, bottom, left + data.COLS * 30, data.TRANSFORM.f)
        parts = [LabelledPixelSampler(dataset, 5, roi=roi) for roi in (west, east)]
        assert [len(part) for part in parts] == [81, 121]
        assert set(parts[0].labels.tolist()) == {1}
        assert set(parts[1].labels.tolist()) == {2}

    def test_order(self, dataset: IntersectionDataset) -> None:
        def order(sampler: LabelledPixelSampler) -> list[tuple[int, int]]:
            return [pixel_of(window) for window in sampler]

        first = LabelledPixelSampler(dataset, 5, seed=1)
        second = LabelledPixelSampler(dataset, 5, seed=1)
        assert first.strategy == 'random'
        one, two = order(first), order(first)
        assert one != two and sorted(one) == sorted(two)
        assert order(second) == one
        second.set_epoch(0)
        assert order(second) == one
        still = LabelledPixelSampler(dataset, 5, shuffle=False)
        assert still.strategy == 'sequential'
        assert order(still) == order(still)

    def test_unlabelled_values(self, dataset: IntersectionDataset) -> None:
        sampler = LabelledPixelSampler(dataset, 5, unlabelled=(0, 2))
        assert set(sampler.labels.tolist()) == {1}
        with pytest.raises(ValueError, match='no labelled pixel'):
            LabelledPixelSampler(dataset, 5, unlabelled=(0, 1, 2))

    @pytest.mark.parametrize('size', [4, 0, -1])
    def test_wrong_size(self, dataset: IntersectionDataset, size: int) -> None:
        with pytest.raises(ValueError, match='size must be odd and positive'):
            LabelledPixelSampler(dataset, size)

    def test_no_mask(self, root: Path) -> None:
        with pytest.raises(ValueError, match='gives no mask'):
            LabelledPixelSampler(EnMAP(root / 'image', bands=BANDS), 5)

    def test_labels_on_a_shifted_grid_keep_the_image_unresampled(
        self, root: Path, tmp_path: Path
    ) -> None:
        (tmp_path / 'labels').mkdir()
        moved = from_origin(data.TRANSFORM.c + 10, data.TRANSFORM.f - 12, 30, 30)
        labels = data.labels_of()[:-2, :-2]
        path = tmp_path / 'labels' / data.LABELS_NAME
        write(path, labels[None], moved, data.CRS)
        image = EnMAP(root / 'image', bands=BANDS)
        both = image & Labels(tmp_path / 'labels')
        sampler = LabelledPixelSampler(both, 3, shuffle=False)
        cube = data.cube_of()[: len(BANDS)]
        inner = 0
        for window in sampler:
            row, col = pixel_of(window)
            if 1 <= row < data.ROWS - 1 and 1 <= col < data.COLS - 1:
                patch = cube[:, row - 1 : row + 2, col - 1 : col + 2]
                assert np.array_equal(image[window]['image'].numpy(), patch)
                inner += 1
                if inner == 5:
                    break
        assert inner == 5

    def test_overlapping_label_files_count_once(
        self, root: Path, tmp_path: Path
    ) -> None:
        (tmp_path / 'labels').mkdir()
        labels = data.labels_of()
        for part, rows in enumerate((slice(0, 25), slice(12, data.ROWS))):
            top = data.TRANSFORM.f - rows.start * 30
            write(
                tmp_path / 'labels' / f'LABELS_20220612_{part}.tif',
                labels[None, rows],
                from_origin(data.TRANSFORM.c, top, 30, 30),
                data.CRS,
            )
        image = EnMAP(root / 'image', bands=BANDS)
        both = image & Labels(tmp_path / 'labels')
        sampler = LabelledPixelSampler(both, 3, shuffle=False)
        pixels = {pixel_of(window) for window in sampler}
        assert pixels == set(map(tuple, np.argwhere(labels > 0).tolist()))
        if _compat.HAS_SPATIAL_SAMPLERS:
            assert len(sampler) == len(pixels)

    def test_labels_of_another_time(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / 'labels').mkdir()
        path = tmp_path / 'labels' / 'LABELS_20150101.tif'
        write(path, data.labels_of()[None], data.TRANSFORM, data.CRS)
        image = EnMAP(root / 'image', bands=BANDS)
        labels = Labels(tmp_path / 'labels')
        both = IntersectionDataset(image, labels, spatial_only=True)
        if _compat.HAS_SPATIAL_SAMPLERS:
            assert len(LabelledPixelSampler(both, 3)) == (data.labels_of() > 0).sum()
        else:
            with pytest.raises(ValueError, match='the dataset has no times'):
                LabelledPixelSampler(both, 3)


def test_label_raster(root: Path) -> None:
    labels = LabelRaster(str(root / 'labels'), class_names={1: 'crop'})
    assert labels.class_names == {1: 'crop'}
    bounds = labels.bounds
    sample = labels[bounds[0], bounds[1]]
    assert np.array_equal(sample['mask'].squeeze().numpy(), data.labels_of())
    assert isinstance(labels.plot(sample), Figure)
    dated = LabelRaster(
        [str(root / 'labels' / data.LABELS_NAME)],
        filename_regex=r'LABELS_(?P<date>\d{8})',
    )
    assert dated.index.index[0].left.year == 2022


class TestCentreLabel:
    def test_mask_shapes(self) -> None:
        mask = torch.tensor([[0, 0, 0], [0, 7, 0], [0, 0, 5]])
        for shape in (mask, mask[None]):
            sample = CentreLabel([5, 7])({'mask': shape, 'image': torch.zeros(1)})
            assert int(sample['label']) == 1
            assert 'mask' not in sample

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match='each class once'):
            CentreLabel([1, 1])
        with pytest.raises(ValueError, match='each class once'):
            CentreLabel([])
        with pytest.raises(ValueError, match='mask value 3, which is none of'):
            CentreLabel([1])({'mask': torch.full((3, 3), 3)})


def test_ekgnet_trains_on_enmap_and_labels(dataset: IntersectionDataset) -> None:
    import timm

    torch.manual_seed(0)
    sampler = LabelledPixelSampler(dataset, 5, seed=0)
    loader = DataLoader(dataset, 32, sampler=sampler, collate_fn=stack_samples)
    model = timm.create_model('ekgnet_tiny', in_chans=len(BANDS), num_classes=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for batch in loader:
        image = (batch['image'] - 1500) / 300
        loss = torch.nn.functional.cross_entropy(model(image), batch['label'])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]

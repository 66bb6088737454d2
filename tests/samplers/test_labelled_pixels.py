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
from torchgeo.datasets import (
    EnMAP,
    IntersectionDataset,
    RasterDataset,
    roi_split,
    stack_samples,
)

from tests.data.enmap import data
from tests.data.geotiff.data import write
from torchgeo_ekgnet import _compat
from torchgeo_ekgnet.datasets import LabelRaster
from torchgeo_ekgnet.samplers import CentreLabel, LabelledPixelSampler
from torchgeo_ekgnet.samplers.combined import missing

BANDS = EnMAP.all_bands[:24]


class Labels(RasterDataset):
    """Label rasters of the kind that torchgeo users write."""

    filename_glob = 'LABELS_*.tif'
    filename_regex = r'LABELS_(?P<date>\d{8})'
    is_image = False


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data.make(tmp_path_factory.mktemp('enmap'), bands=len(BANDS))


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
        cube = np.pad(
            data.cube_of()[: len(BANDS)],
            ((0, 0), (2, 2), (2, 2)),
            constant_values=data.NODATA,
        )
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

    def test_parts_of_any_shape_share_no_pixel(
        self, dataset: IntersectionDataset
    ) -> None:
        west, south, east, north = dataset.index.total_bounds
        # The diagonal meets no pixel centre.
        middle = [(west, south + 7), (east, north + 7)]
        shapes = [
            shapely.Polygon([*middle, (east, north + 60), (west, north + 60)]),
            shapely.Polygon([*middle, (east, south - 60), (west, south - 60)]),
        ]
        parts = [
            LabelledPixelSampler(part, 5, shuffle=False)
            for part in roi_split(dataset, shapes)
        ]
        found = [set(map(pixel_of, part)) for part in parts]
        assert all(found) and not found[0] & found[1]
        for part, shape in zip(parts, shapes, strict=True):
            assert shapely.contains_xy(shape, *part.positions.T).all()
        assert len(found[0] | found[1]) == (data.labels_of() > 0).sum()

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

    @pytest.mark.parametrize(
        ('resolution', 'left', 'top', 'crs'),
        [
            (1 / 3600, 10 - 1 / 7200, 50 + 1 / 7200, 'EPSG:4326'),
            (1e-4, 10 - 5e-5, 50 + 5e-5, 'EPSG:4326'),
            (1.3, 1.3 * 300_000 - 0.65, 1.3 * 4_000_000 + 0.65, 'EPSG:32632'),
        ],
    )
    def test_pixel_centres_at_multiples_of_the_resolution(
        self, tmp_path: Path, resolution: float, left: float, top: float, crs: str
    ) -> None:
        grid = from_origin(left, top, resolution, resolution)
        data.make(tmp_path, bands=2)
        write(tmp_path / 'image' / data.NAME, data.cube_of()[:2], grid, crs)
        labels = data.labels_of()
        write(tmp_path / 'labels' / data.LABELS_NAME, labels[None], grid, crs)
        image = EnMAP(tmp_path / 'image', bands=EnMAP.all_bands[:2])
        both = image & Labels(tmp_path / 'labels')
        sampler = LabelledPixelSampler(both, 5, shuffle=False)
        assert sampler.shape == labels.shape
        found = list(map(tuple, sampler.places.tolist()))
        assert sorted(found) == list(map(tuple, np.argwhere(labels > 0).tolist()))
        assert [labels[place] for place in found] == sampler.labels.tolist()

    @pytest.mark.parametrize('offset', [15.0, 30.0 * 5000])
    def test_images_side_by_side(self, tmp_path: Path, offset: float) -> None:
        """The second image begins between the pixels of the first, or far away."""
        for folder in ('image', 'labels'):
            (tmp_path / folder).mkdir()
        labels = np.ones((6, 8), dtype=np.uint8)
        cube = np.full((2, 6, 8), 5, dtype=np.int16)
        for number, left in enumerate((0, 8 * 30 + offset)):
            grid = from_origin(data.TRANSFORM.c + left, data.TRANSFORM.f, 30, 30)
            name = data.NAME.replace('_028_', f'_{number:03}_')
            write(tmp_path / 'image' / name, cube, grid, data.CRS)
            path = tmp_path / 'labels' / f'LABELS_20220612_{number}.tif'
            write(path, labels[None], grid, data.CRS)
        image = EnMAP(tmp_path / 'image', bands=EnMAP.all_bands[:2])
        both = image & Labels(tmp_path / 'labels')
        sampler = LabelledPixelSampler(both, 5, shuffle=False)
        assert len(set(map(tuple, sampler.places.tolist()))) == 2 * 48 == len(sampler)
        assert sampler.shape[0] == 6
        assert 16 <= sampler.shape[1] < 16 + 5
        if offset > 30:
            second = sampler.places[sampler.positions[:, 0] > data.TRANSFORM.c + 300]
            assert int(second[:, 1].min()) - 7 >= 5

    def test_pixels_without_image_data(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        data.make(tmp_path, bands=2)
        cube = data.cube_of()[:2]
        cube[1, 10:14] = data.NODATA
        path = tmp_path / 'image' / data.NAME
        write(path, cube, data.TRANSFORM, data.CRS, nodata=data.NODATA)
        image = EnMAP(tmp_path / 'image', bands=EnMAP.all_bands[:2])
        both = image & Labels(tmp_path / 'labels')
        sampler = LabelledPixelSampler(both, 5)
        assert len(sampler) == 202 - 40
        assert sampler.nodata == data.NODATA
        assert '40 labelled pixels are left out' in caplog.text
        assert len(LabelledPixelSampler(both, 5, nodata=None)) == 202
        assert len(LabelledPixelSampler(both, 5, nodata=-1)) == 202
        only_first = EnMAP(tmp_path / 'image', bands=['B1']) & both.datasets[1]
        assert len(LabelledPixelSampler(only_first, 5)) == 202

    def test_images_of_different_nodata(self, root: Path, tmp_path: Path) -> None:
        data.make(tmp_path, bands=2)
        name = data.NAME.replace('_028_', '_029_')
        cube = data.cube_of()[:2]
        write(tmp_path / 'image' / name, cube, data.TRANSFORM, data.CRS, nodata=0)
        image = EnMAP(tmp_path / 'image', bands=EnMAP.all_bands[:2])
        both = image & Labels(tmp_path / 'labels')
        with pytest.raises(ValueError, match='different nodata values'):
            LabelledPixelSampler(both, 5)
        assert len(LabelledPixelSampler(both, 5, nodata=data.NODATA)) == 202

    def test_nodata_of_the_labels(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / 'labels').mkdir()
        labels = np.where(data.labels_of() == 0, 255, data.labels_of())
        path = tmp_path / 'labels' / data.LABELS_NAME
        write(path, labels[None], data.TRANSFORM, data.CRS, nodata=255)
        both = EnMAP(root / 'image', bands=BANDS) & Labels(tmp_path / 'labels')
        assert set(LabelledPixelSampler(both, 5).labels.tolist()) == {1, 2}

    @pytest.mark.parametrize('right', [20, -20])
    @pytest.mark.parametrize('cut', [0, 2])
    def test_labels_on_a_shifted_grid_are_the_nearest(
        self, root: Path, tmp_path: Path, right: int, cut: int
    ) -> None:
        (tmp_path / 'labels').mkdir()
        labels = data.labels_of()[cut : data.ROWS - cut, cut : data.COLS - cut]
        left = data.TRANSFORM.c + 30 * cut + right
        top = data.TRANSFORM.f - 30 * cut - 12
        path = tmp_path / 'labels' / data.LABELS_NAME
        write(path, labels[None], from_origin(left, top, 30, 30), data.CRS)
        both = EnMAP(root / 'image', bands=BANDS[:2]) & Labels(tmp_path / 'labels')
        sampler = LabelledPixelSampler(both, 3, shuffle=False)
        x, y = sampler.positions.T
        row = np.floor((top - y) / 30).astype(int)
        col = np.floor((x - left) / 30).astype(int)
        assert sampler.labels.tolist() == labels[row, col].tolist()
        assert len(sampler) >= 200

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
        assert len(sampler) == len(pixels)

    @pytest.mark.parametrize('order', ['labels', 'both'])
    def test_labels_of_several_datasets(
        self, root: Path, tmp_path: Path, order: str
    ) -> None:
        labels = data.labels_of()
        parts = []
        for name, cols in (('west', slice(0, 22)), ('east', slice(22, data.COLS))):
            (tmp_path / name).mkdir()
            west = data.TRANSFORM.c + 30 * cols.start
            write(
                tmp_path / name / data.LABELS_NAME,
                labels[None, :, cols],
                from_origin(west, data.TRANSFORM.f, 30, 30),
                data.CRS,
            )
            parts.append(LabelRaster(str(tmp_path / name)))
        image = EnMAP(root / 'image', bands=BANDS[:2])
        west, east = parts
        both: Any = image & (west | east)
        if order == 'both':
            both = (image & west) | (image & east)
        both.transforms = CentreLabel([1, 2])
        sampler = LabelledPixelSampler(both, 3, shuffle=False)
        pixels = {pixel_of(window) for window in sampler}
        assert pixels == set(map(tuple, np.argwhere(labels > 0).tolist()))
        assert len(sampler) == len(pixels)
        assert int(both[list(sampler)[-1]]['label']) == 1

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
    titled = labels.plot(sample, show_titles=False, suptitle='fields')
    assert titled.get_suptitle() == 'fields' and not titled.axes[0].get_title()
    dated = LabelRaster(
        [str(root / 'labels' / data.LABELS_NAME)],
        filename_regex=r'LABELS_(?P<date>\d{8})',
    )
    assert dated.index.index[0].left.year == 2022


@pytest.mark.parametrize(('nodata', 'dtype'), [(-1, 'int16'), (255, 'uint8')])
def test_nodata_is_drawn_as_no_label(tmp_path: Path, nodata: int, dtype: str) -> None:
    values = np.array([[nodata, 0], [1, 2]], dtype=dtype)
    write(tmp_path / 'l.tif', values[None], data.TRANSFORM, data.CRS, nodata=nodata)
    labels = LabelRaster(str(tmp_path))
    (axes,) = labels.plot(labels[labels.bounds]).axes
    drawn = np.asarray(axes.images[0].get_array())
    assert not drawn[0].any()
    assert drawn[1].any(axis=1).all()


def test_missing() -> None:
    image = torch.ones(2, 1, 5)
    image[0, 0, 0] = -9
    image[1, 0, 1] = torch.nan
    image[0, 0, 2] = 0
    image[:, 0, 3] = 0
    assert missing(image, -9)[0, 0].tolist() == [True, True, False, True, False]
    assert missing(image, None)[0, 0].tolist() == [False, True, False, True, False]
    assert missing(image, float('nan'))[0, 0].tolist() == [
        False,
        True,
        False,
        True,
        False,
    ]
    lowest = float(np.finfo(np.float32).min)
    assert missing(torch.full((2, 3, 1, 1), lowest), lowest).shape == (2, 1, 1, 1)
    assert missing(torch.full((2, 3, 1, 1), lowest), lowest).all()


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
        absent = missing(batch['image'], data.NODATA)
        image = ((batch['image'] - 1500) / 300).masked_fill(absent, 0)
        loss = torch.nn.functional.cross_entropy(model(image), batch['label'])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


class TestLabelFiles:
    """Labels as other programs write them."""

    def sampler(self, root: Path, folder: Path) -> LabelledPixelSampler:
        image = EnMAP(root / 'image', bands=BANDS)
        return LabelledPixelSampler(image & LabelRaster(str(folder)), 5)

    def test_floats_with_nan_for_no_label(self, root: Path, tmp_path: Path) -> None:
        labels = data.labels_of().astype(np.float32)
        labels[labels == 0] = np.nan
        write(tmp_path / 'a.tif', labels[None], data.TRANSFORM, data.CRS, nodata=np.nan)
        found = self.sampler(root, tmp_path)
        assert sorted(set(found.labels.tolist())) == [1, 2]
        assert len(found) == int(np.isfinite(labels).sum())

    def test_nodata_that_is_no_class_number(self, root: Path, tmp_path: Path) -> None:
        labels = np.zeros((1, data.ROWS, data.COLS), np.float32)
        least = float(np.finfo(np.float32).min)
        write(tmp_path / 'a.tif', labels, data.TRANSFORM, data.CRS, nodata=least)
        with pytest.raises(
            ValueError, match=r'nodata -3\.40282e\+38, expected a whole'
        ):
            self.sampler(root, tmp_path)

    def test_first_of_several_bands(self, root: Path, tmp_path: Path) -> None:
        labels = data.labels_of()
        bands = np.stack([labels, labels * 50])
        write(tmp_path / 'a.tif', bands, data.TRANSFORM, data.CRS)
        found = self.sampler(root, tmp_path)
        assert sorted(set(found.labels.tolist())) == [1, 2]

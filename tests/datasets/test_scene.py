# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the scene: bands, labels, nodata, windows."""

import json
import math
import os
import tracemalloc
from pathlib import Path
from typing import Any

import kornia
import numpy as np
import pytest
import torch
from affine import Affine
from rasterio.crs import CRS

from torchgeo_ekgnet.datasets import BandSelection, HyperspectralScene
from torchgeo_ekgnet.datasets import scene as scene_module
from torchgeo_ekgnet.datasets.palette import class_palette
from torchgeo_ekgnet.datasets.sources import ArraySource


def cube(rows: int = 6, cols: int = 5, bands: int = 4) -> np.ndarray:
    return np.arange(rows * cols * bands, dtype=np.int16).reshape(rows, cols, bands)


def labels(rows: int = 6, cols: int = 5) -> np.ndarray:
    array = np.zeros((rows, cols), dtype=np.uint8)
    array[0, 0], array[1, 1], array[2] = 9, 4, 4
    return array


class Lazy(ArraySource):
    """A source that is not an array, as files are."""


class TestLabels:
    def test_contiguous_with_original_values(self) -> None:
        scene = HyperspectralScene(cube(), labels())
        assert scene.class_values == (4, 9)
        assert scene.class_names == ('class 4', 'class 9')
        assert scene.class_counts == (6, 1)
        assert scene.label_map[0, 0] == 2
        assert scene.label_map[5, 0] == 0
        assert scene.label_map.dtype == np.int8
        assert scene.label_map.min() == 0 and scene.label_map.max() == 2

    def test_type_holds_every_class(self) -> None:
        many = np.arange(30, dtype=np.uint16).reshape(6, 5)
        names = {value: str(value) for value in range(1, 129)}
        scene = HyperspectralScene(cube(), many, class_names=names)
        assert scene.label_map.dtype == np.int16
        assert np.array_equal(scene.label_map, many)

    def test_memory_is_a_few_bytes_a_pixel(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A label map costs its own size, no labels cost nothing."""
        monkeypatch.setattr('torchgeo_ekgnet.datasets.scene._BLOCK_VALUES', 1 << 14)
        rows, cols = 1000, 1000
        stored = np.broadcast_to(np.int16(1), (rows, cols, 4))
        lazy = Lazy(stored)
        labels = np.ones((rows, cols), dtype=np.uint8)
        found = []
        for given in (None, labels):
            tracemalloc.start()
            scene = HyperspectralScene(lazy, given, class_names={1: 'a'})
            assert sum(scene.class_counts) == (0 if given is None else rows * cols)
            scene.digest()
            found.append(tracemalloc.get_traced_memory()[1] / (rows * cols))
            tracemalloc.stop()
        assert found[0] < 2
        assert found[1] < 3

    def test_named_values_are_the_classes(self) -> None:
        names = {4: 'four', 7: 'seven', 9: 'nine'}
        scene = HyperspectralScene(cube(), labels(), class_names=names)
        assert scene.class_names == ('four', 'seven', 'nine')
        assert scene.class_counts == (6, 0, 1)
        assert scene.palette.shape == (3, 3)

    def test_other_unlabelled_values(self) -> None:
        scene = HyperspectralScene(cube(), labels(), unlabelled=(0, 9))
        assert scene.class_values == (4,)
        minus = labels().astype(np.int16)
        minus[minus == 0] = -1
        scene = HyperspectralScene(cube(), minus, unlabelled=(-1,))
        assert scene.class_values == (4, 9)

    def test_no_labels(self) -> None:
        scene = HyperspectralScene(cube(), None)
        assert scene.num_classes == 0
        assert not scene.label_map.any()

    def test_whole_floats_are_labels(self) -> None:
        scene = HyperspectralScene(cube(), labels().astype(np.float64))
        assert scene.class_values == (4, 9)

    @pytest.mark.filterwarnings('error')
    def test_half_precision_is_compared_without_a_warning(self) -> None:
        scene = HyperspectralScene(cube(), labels().astype(np.float16))
        assert scene.class_values == (4, 9)

    @pytest.mark.parametrize('value', [1.5, 2.0000002, math.nan, math.inf])
    def test_other_floats_are_not(self, value: float) -> None:
        wrong = labels().astype(np.float32)
        wrong[3, 3] = value
        match = rf'float32 and 1 values are not whole numbers \({value}\)'
        with pytest.raises(ValueError, match=match):
            HyperspectralScene(cube(), wrong)

    @pytest.mark.parametrize(
        ('changes', 'match'),
        [
            ({'labels': labels(5, 5)}, 'cube has 6 x 5 pixels, the label map has'),
            ({'class_names': ['one']}, '1 class names for 2 label values'),
            ({'class_names': ['one', 'one ']}, "class name 'one' 2 times, expected"),
            ({'class_names': ['one', '']}, "class name '' among .* a name for each"),
            ({'class_names': {4: 'a', 9: None}}, 'class name None among'),
            ({'class_names': {4.5: 'a', 9: 'b'}}, r"values '4.5', expected them for"),
            ({'class_names': {'4': 'a', 4: 'b'}}, r"values '4', '4', expected"),
            ({'class_names': {4: 'four'}}, r'values \[9\] that are neither classes'),
            ({'unlabelled': (4,)}, None),
            ({'labels': -labels().astype(int)}, 'negative label value -9'),
            ({'labels': labels().astype(complex)}, 'type complex128'),
            ({'palette': np.zeros((3, 3), np.uint8)}, 'palette has shape'),
        ],
    )
    def test_errors(self, changes: dict[str, Any], match: str | None) -> None:
        arguments: dict[str, Any] = {'labels': labels()} | changes
        if match is None:
            HyperspectralScene(cube(), **arguments)
            return
        with pytest.raises(ValueError, match=match):
            HyperspectralScene(cube(), **arguments)


class TestBands:
    wavelengths = (450.0, 550.0, 650.0, 1400.0)

    @pytest.mark.parametrize(
        ('bands', 'expected'),
        [
            (None, [0, 1, 2, 3]),
            ([2, 0], [2, 0]),
            (BandSelection(exclude=[1]), [0, 2, 3]),
            (BandSelection(exclude=[]), [0, 1, 2, 3]),
            (BandSelection(wavelengths=[(550, 650)]), [1, 2]),
            (BandSelection(exclude_wavelengths=[(1340, 1460)]), [0, 1, 2]),
            (
                BandSelection(wavelengths=[(400, 600), (1300, 1500)], exclude=[0]),
                [1, 3],
            ),
        ],
    )
    @pytest.mark.parametrize('lazy', [False, True])
    def test_selection(self, bands: Any, expected: list[int], lazy: bool) -> None:
        source = Lazy(cube()) if lazy else cube()
        scene = HyperspectralScene(
            source, labels(), bands=bands, wavelengths=self.wavelengths
        )
        assert scene.in_memory is not lazy
        assert scene.band_indices.tolist() == expected
        assert scene.wavelengths is not None
        assert scene.wavelengths.tolist() == [self.wavelengths[b] for b in expected]
        window = scene.read(1, 4, 2, 5)
        assert window.dtype == np.float32
        assert np.array_equal(window, cube()[1:4, 2:5][:, :, expected])
        thin = scene.read_bands([0], step=2)
        assert np.array_equal(thin[:, :, 0], cube()[::2, ::2, expected[0]])

    def test_bad_bands_of_the_file(self) -> None:
        bad = np.array([False, True, False, True])
        scene = HyperspectralScene(cube(), labels(), bad_bands=bad)
        assert scene.band_indices.tolist() == [0, 2]
        scene = HyperspectralScene(cube(), labels(), bad_bands=bad, bands=[1, 2])
        assert scene.band_indices.tolist() == [1, 2]
        keep = BandSelection(drop_bad=False)
        scene = HyperspectralScene(cube(), labels(), bad_bands=bad, bands=keep)
        assert scene.num_bands == 4

    @pytest.mark.parametrize(
        ('bands', 'match'),
        [
            ([0, 2, 0], r'lists bands more than once: \[0\]'),
            ([4], 'names band 4, but the cube has 4 bands, numbered 0..3'),
            ([-1], 'names band -1'),
            ([0.5], 'must be a list of whole numbers'),
            ([], 'keeps none of the 4 bands'),
            (BandSelection(exclude=[1, 1]), 'exclude lists bands more than once'),
            (BandSelection(wavelengths=[(2000, 2100)]), 'keeps none'),
            (BandSelection(wavelengths=[(700, 400)]), 'expects pairs'),
            (BandSelection(wavelengths=[400, 700]), 'expects pairs .*, got 400'),  # type: ignore[list-item]
            (BandSelection(indices=[0], wavelengths=[(400, 500)]), 'not both'),
        ],
    )
    def test_errors(self, bands: Any, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            HyperspectralScene(
                cube(), labels(), bands=bands, wavelengths=self.wavelengths
            )

    def test_range_without_wavelengths(self) -> None:
        with pytest.raises(ValueError, match='needs wavelengths'):
            HyperspectralScene(
                cube(), labels(), bands=BandSelection(wavelengths=[(400, 500)])
            )
        with pytest.raises(ValueError, match=r'keeps none .* \(wavelengths unknown'):
            HyperspectralScene(cube(), labels(), bands=[])

    @pytest.mark.parametrize(
        ('wavelengths', 'match'),
        [
            ([400, 500], '2 wavelengths for 4 bands'),
            ([0.4, 0.5, 0.6, 0.7], 'looks like micrometres'),
            ([4e5, 5e5, 6e5, 7e5], 'unit is probably wrong'),
            ([400, 500, math.nan, 700], 'positive and finite'),
        ],
    )
    def test_wrong_wavelengths(self, wavelengths: list[float], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            HyperspectralScene(cube(), labels(), wavelengths=wavelengths)

    def test_rgb(self) -> None:
        scene = HyperspectralScene(cube(), labels(), wavelengths=self.wavelengths)
        assert scene.rgb_bands == (2, 1, 0)
        assert HyperspectralScene(cube(), labels(), rgb_bands=(3, 0, 1)).rgb_bands == (
            3,
            0,
            1,
        )
        chosen = HyperspectralScene(cube(), labels(), bands=[3, 0], rgb_bands=(3, 0, 0))
        assert chosen.rgb_bands == (0, 1, 1)


class TestValid:
    @pytest.mark.parametrize('lazy', [False, True])
    def test_nodata_is_masked_and_never_labelled(self, lazy: bool) -> None:
        values = cube()
        values[2, 0] = -99
        values[4, 4, 1] = -99
        source = Lazy(values) if lazy else values
        scene = HyperspectralScene(source, labels(), nodata=-99)
        assert scene.valid.sum() == 28
        assert not scene.valid[2, 0] and not scene.valid[4, 4]
        assert scene.label_map[2, 0] == 0
        assert scene.num_masked_labels == 1

    @pytest.mark.parametrize('lazy', [False, True])
    @pytest.mark.parametrize('value', [math.nan, math.inf])
    def test_not_finite(self, value: float, lazy: bool) -> None:
        values = cube().astype(np.float32)
        values[3, 2, 1] = value
        source = Lazy(values) if lazy else values
        with pytest.raises(
            ValueError, match=r'1 values are NaN or infinite, in 1 of 4 .*\[1\]'
        ):
            HyperspectralScene(source, labels())
        assert HyperspectralScene(source, labels(), bands=[0, 2]).valid.all()
        masked = HyperspectralScene(source, labels(), nodata=math.nan)
        assert (~masked.valid).sum() == 1 and not masked.valid[3, 2]

    def test_nodata_everywhere_in_a_band(self) -> None:
        values = cube()
        values[:, :, 2] = -1
        with pytest.raises(ValueError, match=r'no pixel has data .*\[2\]'):
            HyperspectralScene(values, labels(), nodata=-1)

    def test_nodata_that_the_type_cannot_hold(self) -> None:
        values = cube().astype(np.uint8)
        assert HyperspectralScene(values, labels(), nodata=-9999).valid.all()
        assert HyperspectralScene(values, labels(), nodata=0.5).valid.all()

    def test_given_mask(self) -> None:
        valid = np.ones((6, 5), dtype=bool)
        valid[2] = False
        scene = HyperspectralScene(cube(), labels(), valid=valid)
        assert scene.class_counts == (1, 1)
        with pytest.raises(ValueError, match='valid mask has shape'):
            HyperspectralScene(cube(), labels(), valid=valid[:3])


class TestScene:
    @pytest.mark.parametrize(
        ('values', 'match'),
        [
            (np.zeros((6, 5)), 'three axes'),
            (np.zeros((6, 5, 0)), 'no empty one'),
            (np.zeros((6, 5, 4), dtype=complex), 'complex128'),
        ],
    )
    def test_wrong_cube(self, values: np.ndarray, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            HyperspectralScene(values, labels())

    @pytest.mark.parametrize('window', [(-1, 2, 0, 2), (0, 7, 0, 2), (0, 2, 3, 2)])
    def test_window_outside(self, window: tuple[int, int, int, int]) -> None:
        with pytest.raises(ValueError, match='is not inside 6 x 5 pixels'):
            HyperspectralScene(cube(), labels()).read(*window)

    def test_cube_of_a_lazy_scene(self) -> None:
        scene = HyperspectralScene(Lazy(cube()), labels())
        with pytest.raises(ValueError, match='read lazily'):
            _ = scene.cube
        assert np.array_equal(HyperspectralScene(cube(), None).cube, cube())

    def test_blocks_cover_every_row_once(self) -> None:
        scene = HyperspectralScene(np.zeros((50, 400, 300), np.uint8), None)
        blocks = list(scene.iter_blocks())
        assert len(blocks) > 1
        assert [row for start, stop in blocks for row in range(start, stop)] == list(
            range(50)
        )

    @pytest.mark.parametrize('lazy', [False, True])
    def test_digest_is_that_of_the_values(self, lazy: bool) -> None:
        values = cube(40, 50).astype(np.int16)

        def digest(array: np.ndarray, **options: Any) -> str:
            stored = ArraySource(array) if lazy else array
            return HyperspectralScene(stored, None, **options).digest()

        plain = digest(values)
        assert digest(values.copy(), name='other') == plain
        for row, col in ((0, 0), (39, 49), (20, 25), (0, 49)):
            other = values.copy()
            other[row, col, -1] += 1
            assert digest(other) != plain
        assert digest(values[:5, :7]) != plain
        assert digest(values, bands=[0, 1]) != plain

    def test_stamps_of_files(self, tmp_path: Path) -> None:
        path = tmp_path / 'cube.npy'
        np.save(path, cube(4, 5))
        lazy = HyperspectralScene(np.load(path, mmap_mode='r'), None)
        stamps = lazy.file_stamps()
        assert stamps[0][0] == path.stat().st_size
        os.utime(path, ns=(0, 0))
        assert lazy.file_stamps() == [[stamps[0][0], 0]]
        assert HyperspectralScene(cube(4, 5), None).file_stamps() == []

    def test_facts_are_json(self) -> None:
        scene = HyperspectralScene(
            cube(),
            labels(),
            name='here',
            wavelengths=[450, 550, 650, 850],
            crs=CRS.from_epsg(32632),
            transform=Affine(30, 0, 500000, 0, -30, 5000000),
            nodata=math.nan,
            synthetic=True,
            source='a test',
        )
        facts = json.loads(json.dumps(scene.metadata()))
        assert facts['shape'] == [6, 5, 4]
        assert facts['class_names'] == ['class 4', 'class 9']
        assert facts['class_values'] == [4, 9]
        assert facts['transform'] == [30, 0, 500000, 0, -30, 5000000]
        assert 'UTM zone 32N' in facts['crs']
        assert facts['synthetic'] is True
        assert facts['nodata'] == 'nan'
        assert facts['cube'] == scene.digest()
        assert repr(scene).startswith("HyperspectralScene('here', synthetic, 6 x 5")

    def test_digest_of_a_large_cube(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a very large cube some rows tell, in memory and lazily the same."""
        monkeypatch.setattr(scene_module, '_DIGEST_VALUES', 2 * 5 * 4)
        other = cube().copy()
        other[-1, -1, -1] += 1
        digest = HyperspectralScene(cube(), labels()).digest()
        assert HyperspectralScene(other, labels()).digest() == digest
        assert HyperspectralScene(Lazy(cube()), labels()).digest() == digest
        assert HyperspectralScene(cube() + 1, labels()).digest() != digest


def test_palette_has_distinct_colours() -> None:
    palette = class_palette(40)
    assert palette.shape == (40, 3)
    assert len({tuple(colour) for colour in palette.tolist()}) == 40
    assert (palette.sum(axis=1) > 0).all()
    rgb = torch.from_numpy(class_palette(32) / 255.0).T[None, :, :, None]
    seen = kornia.color.rgb_to_lab(rgb)[0, :, :, 0].T
    assert torch.pdist(seen).min() > 15  # for the eye
    assert class_palette(0).shape == (0, 3)

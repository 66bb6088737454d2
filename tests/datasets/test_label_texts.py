# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of label files whose classes are texts, or numbers written as such."""

from pathlib import Path

import geopandas
import numpy as np
import pytest

from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet.datasets import open_scene

from .label_scene import COLS, LEFT, NAMES, ROWS, TOP, TRUTH


class TestTexts:
    @pytest.mark.parametrize('values', [['1', '2', '10'], ['1.0', '2.0', ' 10 ']])
    @pytest.mark.parametrize('kind', ['geojson', 'gpkg', 'csv'])
    def test_numbers_as_texts(self, cube: Path, values: list[str], kind: str) -> None:
        path = cube.with_name(f'l.{kind}')
        xs = [LEFT + 15, LEFT + 35, LEFT + 55]
        if kind == 'csv':
            lines = [f'{x},{TOP - 15},"{v}"' for x, v in zip(xs, values, strict=True)]
            path.write_text('\n'.join(['x,y,class', *lines]))
        else:
            points = geopandas.points_from_xy(xs, [TOP - 15] * 3)
            frame = geopandas.GeoDataFrame(
                {'class': values}, geometry=points, crs=32632
            )
            frame.to_crs('OGC:CRS84').to_file(path)
        scene = open_scene(cube, path)
        assert scene.class_values == (1, 2, 10)
        assert scene.label_map[1, [1, 3, 5]].tolist() == [1, 2, 3]
        listed = open_scene(cube, path, class_names=['a', 'b', 'c'])
        assert dict(zip(listed.class_values, listed.class_names, strict=True)) == {
            1: 'a',
            2: 'b',
            10: 'c',
        }

    def test_texts_in_arrays(self, plain: Path) -> None:
        path = plain.with_name('gt.npy')
        np.save(path, np.array(['', *NAMES])[TRUTH])
        assert open_scene(plain, path).class_names == NAMES
        np.save(path, TRUTH.astype('U3'))
        scene = open_scene(plain, path)
        assert np.array_equal(scene.label_map, TRUTH)
        np.save(path, np.array(['nan', '2', '10', '1.0'])[TRUTH])
        assert open_scene(plain, path).class_values == (1, 2, 10)

    def test_numbers_that_are_written_in_two_ways(
        self, plain: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = plain.with_name('gt.npy')
        np.save(path, np.array(['', '01', '1', '2'])[TRUTH])
        assert open_scene(plain, path).class_values == (1, 2)
        assert "'01' and '1', which all count as the number 1" in caplog.text

    def test_numbers_of_tables_keep_how_they_are_written(
        self, plain: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = plain.with_name('l.csv')
        path.write_text('col,row,class\n0,0,01\n1,0,1\n2,0,2\n3,0,\n')
        assert open_scene(plain, path).class_values == (1, 2)
        assert "'01' and '1', which all count as the number 1" in caplog.text
        path.write_text('col;row;class\n0;0;4,0\n1;0;5,0\n')
        assert open_scene(plain, path).class_values == (4, 5)
        path.write_text('col;row;class\n0;0;1,000\n1;0;1\n')
        assert open_scene(plain, path).class_names == ('1', '1,000')  # not one class
        path.write_text('col,row,class\n0,0,True\n1,0,False\n')
        assert open_scene(plain, path).class_names == ('False', 'True')

    def test_nan_as_a_text_is_no_class(self, cube: Path) -> None:
        points = geopandas.points_from_xy([LEFT + 15, LEFT + 35], [TOP - 15] * 2)
        for values in (['nan', 'a'], ['NaN', '3']):
            frame = geopandas.GeoDataFrame({'c': values}, geometry=points, crs=32632)
            frame.to_file(cube.with_name('l.gpkg'))
            assert open_scene(cube, cube.with_name('l.gpkg')).num_classes == 1

    @pytest.mark.parametrize(
        'alike', ['Wh\xe9at', 'wh\xe9at ', 'WH\xc9AT', 'whe\u0301at', 'wh \xe9at']
    )
    def test_names_that_are_alike(
        self, cube: Path, alike: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = cube.with_name('l.csv')
        path.write_text(
            f'x,y,crop\n{LEFT + 15},{TOP - 15},wh\xe9at\n'
            f'{LEFT + 35},{TOP - 15},"{alike}"\n',
            encoding='utf-8',
        )
        scene = open_scene(cube, path)
        questioned = 'accents are stored; are they one class?' in caplog.text
        assert questioned is (alike.strip() != 'wh\xe9at' and ' ' not in alike)
        assert scene.num_classes == (1 if alike.strip() == 'wh\xe9at' else 2)

    def test_names_that_are_alike_in_arrays(
        self, plain: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        np.save(plain.with_name('gt.npy'), np.array(['', 'oak', 'Oak', 'x'])[TRUTH])
        assert open_scene(plain, plain.with_name('gt.npy')).num_classes == 3
        assert "holds 'Oak' and 'oak', which differ only in case" in caplog.text

    def test_empty_text_is_no_class(self, cube: Path) -> None:
        points = geopandas.points_from_xy([LEFT + 15, LEFT + 35], [TOP - 15] * 2)
        frame = geopandas.GeoDataFrame({'c': [' ', 'a']}, geometry=points, crs=32632)
        frame.to_file(cube.with_name('l.gpkg'))
        scene = open_scene(cube, cube.with_name('l.gpkg'))
        assert scene.class_names == ('a',)

    def test_number_without_a_given_name(self, cube: Path) -> None:
        cube.with_name('l.csv').write_text(
            f'x,y,c\n{LEFT + 15},{TOP - 15},3\n{LEFT + 35},{TOP - 15},7\n'
        )
        with pytest.raises(FileError, match=r"'c' holds \[7\], which are neither"):
            open_scene(cube, cube.with_name('l.csv'), class_names={3: 'a'})
        scene = open_scene(
            cube, cube.with_name('l.csv'), class_names={3: 'a'}, unlabelled=[0, 7]
        )
        assert scene.class_names == ('a',)

    @pytest.mark.parametrize('values', [[1.5], [-1.0], [1e30], [float('inf')]])
    def test_no_class_numbers(self, cube: Path, values: list[float]) -> None:
        points = geopandas.points_from_xy([LEFT + 15], [TOP - 15])
        frame = geopandas.GeoDataFrame({'c': values}, geometry=points, crs=32632)
        frame.to_file(cube.with_name('l.gpkg'))
        with pytest.raises(FileError, match='expected whole class numbers from 0'):
            open_scene(cube, cube.with_name('l.gpkg'))

    def test_wrong_number_of_names(self, cube: Path) -> None:
        cube.with_name('l.csv').write_text(f'x,y,c\n{LEFT + 15},{TOP - 15},7\n')
        with pytest.raises(
            FileError, match='2 class names for the 1 values of attribute'
        ):
            open_scene(cube, cube.with_name('l.csv'), class_names=['a', 'b'])

    @pytest.mark.parametrize('value', [2**60, 2**53, 1e17, -(2.0**60)])
    def test_numbers_that_doubles_do_not_hold(self, plain: Path, value: float) -> None:
        labels = np.zeros((ROWS, COLS), 'f8')
        labels[0, 0] = value
        np.save(plain.with_name('gt.npy'), labels)
        with pytest.raises(ValueError, match='expected class numbers below'):
            open_scene(plain, plain.with_name('gt.npy'))

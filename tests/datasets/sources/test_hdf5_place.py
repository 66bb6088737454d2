# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the places that products in HDF5 tell; those of NetCDF are label places."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from torchgeo_ekgnet.datasets import open_scene

CUBE = np.random.default_rng(2).integers(1, 3000, (12, 14, 5)).astype('uint16')


class TestPrisma:
    @pytest.mark.parametrize('inner', [0, 1, 5])
    def test_place(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, inner: int
    ) -> None:
        """Corners are outer ones, or centres; of none of both nothing is made."""
        half = 15.0 * inner
        path = tmp_path / 'a.he5'
        start = 'HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields/'
        corners = {
            'Epsg_Code': 32633,
            'Product_ULcorner_easting': 500000 + half,
            'Product_ULcorner_northing': 5500000 - half,
            'Product_LRcorner_easting': 500000 + 14 * 30 - half,
            'Product_LRcorner_northing': 5500000
            - 12 * 30
            - half
            + 2 * half * (inner < 5),
        }
        with h5py.File(path, 'w') as file:
            file[f'{start}VNIR_Cube'] = CUBE[:, :, :3].transpose(0, 2, 1)
            file[f'{start}SWIR_Cube'] = CUBE[:, :, 3:].transpose(0, 2, 1)
            file.attrs.update(corners)
        scene = open_scene(path)
        if inner == 5:
            assert scene.transform is None
            assert (
                'its place is left out: found corners 270 x 360 m apart' in caplog.text
            )
            return
        assert scene.crs is not None
        assert scene.transform is not None
        assert scene.crs.to_epsg() == 32633
        assert tuple(scene.transform)[:6] == (30, 0, 500000, 0, -30, 5500000)


class TestNeon:
    MAP = 'UTM,  1.000,  1.000, 257000.000, 4112000.000, 1.0, 1.0, 11, North, WGS-84'

    @pytest.mark.parametrize(
        ('place', 'code', 'told'),
        [
            (MAP, '32611', None),
            (MAP.replace('1.000', '3.000'), '32611', None),
            (f'{MAP}, rotation=30.0', '32611', 'its place is left out'),
            (MAP, None, 'EPSG code None'),
            ('Arbitrary', '32611', "Map_Info 'Arbitrary'"),
        ],
    )
    def test_place(
        self,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        place: str,
        code: str | None,
        told: str | None,
    ) -> None:
        path = tmp_path / 'a.h5'
        with h5py.File(path, 'w') as file:
            file['SJER/Reflectance/Reflectance_Data'] = CUBE
            group = file.create_group('SJER/Reflectance/Metadata/Coordinate_System')
            group['Map_Info'] = np.bytes_(place)
            if code is not None:
                group['EPSG Code'] = np.bytes_(code)
        scene = open_scene(path)
        if told is not None:
            assert scene.transform is None
            assert told in caplog.text
            return
        off = 2 * ('3.000' in place)
        assert scene.crs is not None
        assert scene.transform is not None
        assert scene.crs.to_epsg() == 32611
        expected = (1, 0, 257000 - off, 0, -1, 4112000 + off)
        assert tuple(scene.transform)[:6] == expected

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What single files can be: cube, labels, or neither."""

from pathlib import Path

import geopandas
import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
import shapely

from tests.data.geotiff import data as geotiff
from torchgeo_ekgnet.intake import find_scene

from .conftest import BANDS, COLS, ROWS, own_cube, own_labels
from .test_discovery import GRID


def test_bands_in_arrays_of_their_own(tmp_path: Path) -> None:
    """As GDAL writes NetCDF."""
    cube = own_cube()
    bands = {f'Band{n + 1}': cube[:, :, n] for n in range(BANDS)}
    with h5py.File(tmp_path / 'a.nc', 'w') as file:
        file['truth'] = own_labels()
        for name, values in bands.items():
            file[name] = values.astype('int32')
    found = find_scene([tmp_path / 'a.nc'], {'cube_variable': 'Band*'})
    np.testing.assert_array_equal(found.scene.cube, cube.astype('int32'))
    assert found.options == {'cube_variable': 'Band*', 'labels_variable': 'truth'}
    with pytest.raises(ValueError, match='found no cubes'):
        find_scene([tmp_path / 'a.nc'], {'cube_variable': 'X*'})


def test_maps_of_a_product_are_no_question_without_training(tmp_path: Path) -> None:
    with h5py.File(tmp_path / 'a.h5', 'w') as file:
        file['cube'], file['clouds'], file['slope'] = own_cube(), *[own_labels()] * 2
    found = find_scene([tmp_path / 'a.h5'])
    assert found.labels is None
    assert 'found 2 label files or variables' in found.warnings[-1]
    with pytest.raises(ValueError, match=r'found 2 label files.*--labels_variable'):
        find_scene([tmp_path / 'a.h5'], need_labels=True)


@pytest.mark.parametrize('kind', ['sparse.mat', 'one.npy', 'one.jml'])
def test_other_forms_of_labels(tmp_path: Path, kind: str) -> None:
    labels, path = own_labels(), tmp_path / kind
    bands = own_cube().transpose(2, 0, 1).astype(np.float32)
    cube: Path = geotiff.write(tmp_path / 'cube.tif', bands, **GRID)
    if kind == 'sparse.mat':
        scipy.io.savemat(path, {'truth': scipy.sparse.csc_array(labels * 1.0)})
    elif kind == 'one.npy':
        np.save(path, labels[..., None])
    else:
        lefts = [300000 + 30 * col for col in (0, 6, 12)]
        shapes = [shapely.box(x, 5799730, x + 150, 5799940) for x in lefts]
        fields = {'class': ['a', 'b', 'b']}
        geopandas.GeoDataFrame(fields, geometry=shapes, crs='EPSG:32633').to_file(
            path, driver='JML'
        )
    found = find_scene([cube, path])
    assert found.labels == kind
    if kind == 'one.jml':
        assert found.scene.class_counts == (35, 70)
    else:
        assert np.array_equal(found.scene.label_map > 0, labels > 0)


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_headers_that_gdal_does_not_read(tmp_path: Path, encoding: str) -> None:
    """As some editors save them."""
    cube = own_cube().astype('<i2')
    text = f'ENVI\nlines = {ROWS}\nsamples = {COLS}\nbands = {BANDS}\n'
    text += 'data type = 2\ninterleave = bip\nbyte order = 0\n'
    (tmp_path / 'a.hdr').write_bytes(text.encode(encoding))
    cube.tofile(tmp_path / 'a.img')
    found = find_scene([tmp_path / 'a.hdr'])
    np.testing.assert_array_equal(found.scene.cube, cube)
    assert 'is not read by GDAL' in found.warnings[0]


@pytest.mark.parametrize(
    ('name', 'text', 'told'),
    [
        ('a.hdr', 'BYTEORDER I', "not an ENVI header: its first line is 'BYTEORDER I'"),
        ('a.hdr', 'ENVI\nfile type = ENVI Spectral Library', 'ENVI Spectral Library'),
        ('a.xml', '<RegionsOfInterest/>', 'found 0 geometries'),
        ('https://example.org/a.tif', None, 'are not read: download'),
    ],
)
def test_what_is_named_and_no_scene(
    tmp_path: Path, name: str, text: str | None, told: str
) -> None:
    path: Path | str = name
    if text is not None:
        path = tmp_path / name
        path.write_text(text)
        (tmp_path / 'a.img').write_bytes(b'0')
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        find_scene([path])

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Cube, labels, variables, axes and attributes are found among files."""

import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import geopandas
import h5py
import numpy as np
import pytest
import scipy.io
import shapely
import shapely.affinity
from affine import Affine

from tests.data.geotiff import data as geotiff
from tests.data.public_scenes.data import save_mat
from tests.processes import needs_posix
from torchgeo_ekgnet.intake import find_scene

from .conftest import BANDS, COLS, ROWS, VALUES, own_cube, own_labels

GRID: dict[str, Any] = {
    'crs': 'EPSG:32633',
    'transform': Affine(30, 0, 300000, 0, -30, 5800000),
}


@pytest.mark.parametrize('turned', [False, True])
def test_pair_of_mat_files(mat_files: tuple[Path, Path], turned: bool) -> None:
    found = find_scene(mat_files[::-1] if turned else mat_files)
    assert (found.cube, found.labels) == ('fields.mat', 'fields_gt.mat')
    assert found.options == {'cube_variable': 'reflectance', 'labels_variable': 'truth'}
    assert found.scene.class_values == VALUES
    assert found.scene.shape == (ROWS, COLS, BANDS)


def test_folder_is_searched(mat_files: tuple[Path, Path]) -> None:
    Path('notes.md').write_text('not a scene', encoding='utf-8')
    found = find_scene(['.'])
    assert (found.cube, found.labels) == ('fields.mat', 'fields_gt.mat')
    assert found.root == Path.cwd()


@pytest.mark.parametrize('axes', ['byx', 'ybx', 'xyb', 'bxy'])
def test_axes_follow_the_labels(axes: str, tmp_path: Path) -> None:
    order = ['yxb'.index(axis) for axis in axes]
    np.savez(tmp_path / 'all.npz', cube=own_cube().transpose(order), truth=own_labels())
    found = find_scene([tmp_path / 'all.npz'])
    assert found.options['axes'] == axes
    assert found.cube == found.labels == 'all.npz'
    np.testing.assert_array_equal(found.scene.cube, own_cube())


@pytest.mark.parametrize('axes', ['byx', 'bxy'])
def test_axes_that_the_file_tells(axes: str, tmp_path: Path) -> None:
    """Nothing is written of them: an argument would overrule the file."""
    order = ['yxb'.index(axis) for axis in axes]
    with h5py.File(tmp_path / 'all.nc', 'w') as file:
        cube = file.create_dataset('cube', data=own_cube().transpose(order))
        truth = file.create_dataset('truth', data=own_labels().T)
        for data, letters in ((cube, axes), (truth, 'xy')):
            for number, axis in enumerate(letters):
                data.dims[number].label = axis
    found = find_scene([tmp_path / 'all.nc'])
    assert 'axes' not in {**found.options, **found.notes}
    np.testing.assert_array_equal(found.scene.cube, own_cube())
    values = np.array([0, *found.scene.class_values])[found.scene.label_map]
    np.testing.assert_array_equal(values, own_labels())


def test_bands_first_without_labels_is_a_guess(tmp_path: Path) -> None:
    np.save(tmp_path / 'cube.npy', np.ones((7, 20, 20), dtype=np.float32))
    found = find_scene([tmp_path / 'cube.npy'])
    assert found.labels is None
    assert found.options == {'axes': 'byx'}
    assert 'guess' in found.notes['axes']


def test_two_cubes_are_a_question(mat_files: tuple[Path, Path]) -> None:
    with h5py.File('two.h5', 'w') as file:
        file['before'] = own_cube()
        file['after'] = own_cube() + 1
    with pytest.raises(ValueError, match=r'found 2 cubes .*after.*before.*--cube'):
        find_scene(['two.h5', 'fields_gt.mat'])
    given = {'cube_variable': 'after'}
    found = find_scene(['two.h5', 'fields_gt.mat'], given)
    np.testing.assert_array_equal(found.scene.cube, own_cube() + 1)


def test_two_label_maps_are_a_question(mat_files: tuple[Path, Path]) -> None:
    save_mat(Path('other_gt.mat'), '5', other=own_labels())
    with pytest.raises(ValueError, match=r'found 2 label files.*--labels'):
        find_scene(['.'])
    assert find_scene(['.'], {'labels': 'other_gt.mat'}).labels == 'other_gt.mat'


def test_labels_of_another_size_are_not_taken(mat_files: tuple[Path, Path]) -> None:
    save_mat(Path('fields_gt.mat'), '5', truth=own_labels()[:-1])
    found = find_scene(['.'])
    assert found.labels is None
    rows, cols = own_labels().shape
    told = rf'fields_gt\.mat, variable truth \({rows - 1} x {cols}\) does not have its rows'
    assert len(found.warnings) == 1 and re.search(told, found.warnings[0])
    with pytest.raises(
        ValueError, match=rf'found the cube fields\.mat.*no labels.*{told}'
    ):
        find_scene(['.'], need_labels=True)


def test_what_is_named_as_labels_is_no_cube(tmp_path: Path) -> None:
    np.save(tmp_path / 'cube.npy', own_cube())
    np.save(tmp_path / 'one_hot.npy', np.eye(len(VALUES) + 1)[own_labels() % 2])
    files = [tmp_path / 'cube.npy', tmp_path / 'one_hot.npy']
    with pytest.raises(ValueError, match=r'no label map .* in \S+one_hot\.npy'):
        find_scene(files, {'labels': files[1]})


def test_nan_is_declared_missing(tmp_path: Path) -> None:
    cube = own_cube()
    cube[0, 0] = np.nan
    # An array of fractions is no label map.
    arrays: dict[str, Any] = {
        'cube': cube,
        'truth': own_labels(),
        'height': own_labels() / 2,
    }
    np.savez(tmp_path / 'all.npz', **arrays)
    found = find_scene([tmp_path / 'all.npz'])
    assert np.isnan(found.options['nodata'])
    assert int((~found.scene.valid).sum()) == 1
    with pytest.raises(ValueError, match='NaN'):
        find_scene([tmp_path / 'all.npz'], {'nodata': 0})


@pytest.mark.parametrize(('bands', 'other'), [(8, 5), (4, 3)])
def test_neither_of_two_cubes_is_a_picture(
    tmp_path: Path, bands: int, other: int
) -> None:
    arrays: dict[str, Any] = {
        str(number): own_cube()[:, :, :number] for number in (bands, other)
    }
    np.savez(tmp_path / 'all.npz', **arrays)
    with pytest.raises(ValueError, match='found 2 cubes'):
        find_scene([tmp_path / 'all.npz'])


def test_raster_and_polygons(tmp_path: Path) -> None:
    cube = geotiff.write(
        tmp_path / 'flight.tif',
        own_cube().transpose(2, 0, 1).astype(np.float32),
        **GRID,
    )
    left, right = (
        shapely.box(300000 + 30 * first, 5799400, 300000 + 30 * (first + 6), 5800000)
        for first in (0, 12)
    )
    frame = geopandas.GeoDataFrame(
        {'fid_2': [7, 8, 9], 'crop': ['maize', 'rye', 'rye'], 'area': [1.5, 2.5, 3.5]},
        geometry=[left, right, shapely.affinity.translate(right, 300)],
        crs='EPSG:32633',
    )
    frame.to_file(tmp_path / 'fields.gpkg')
    found = find_scene([tmp_path / 'fields.gpkg', cube])
    assert (found.cube, found.labels) == ('flight.tif', 'fields.gpkg')
    assert found.options == {'attribute': 'crop'}
    assert found.scene.class_names == ('maize', 'rye')
    # Texts are likelier than numbers, and what differs everywhere is the least likely.
    plain = frame[['geometry']].assign(a=[7, 8, 8], b=['maize', 'rye', 'rye'])
    plain = plain.assign(class_of='one', name=['x', 'y', 'z'])
    plain.to_file(tmp_path / 'plain.gpkg')
    found = find_scene([tmp_path / 'plain.gpkg', cube])
    assert found.options == {'attribute': 'b'}
    assert found.notes['attribute'] == '2 values; others: a, name'
    # One polygon a class.
    one = frame[['geometry']].assign(note=['x', 'y', 'y'], label=['rye', 'oat', 'pea'])
    one.to_file(tmp_path / 'one.gpkg')
    found = find_scene([tmp_path / 'one.gpkg', cube])
    assert found.options == {'attribute': 'label'}
    # Classes may lie in files of their own.
    frame[:1].to_file(tmp_path / 'part_0.gpkg')
    frame[1:].to_file(tmp_path / 'part_1.gpkg')
    found = find_scene([tmp_path / 'part_*.gpkg', cube])
    assert (found.labels, found.options) == ('part_*.gpkg', {'attribute': 'crop'})
    assert found.scene.class_names == ('maize', 'rye')


def test_raster_and_label_raster(tmp_path: Path) -> None:
    values = own_cube().transpose(2, 0, 1).astype(np.float32)
    geotiff.write(tmp_path / 'flight.tif', values, **GRID)
    geotiff.write(tmp_path / 'classes.tif', own_labels()[None], **GRID)
    found = find_scene([tmp_path])
    assert (found.cube, found.labels) == ('flight.tif', 'classes.tif')
    assert found.options == {}
    assert found.scene.class_values == VALUES


def test_pattern_is_one_of_the_files(tmp_path: Path) -> None:
    values = own_cube().transpose(2, 0, 1).astype(np.float32)
    for number, band in enumerate(values):
        geotiff.write(tmp_path / f'band_{number:02}.tif', band[None], **GRID)
    geotiff.write(tmp_path / 'classes.tif', own_labels()[None], **GRID)
    found = find_scene([tmp_path / 'band_*.tif', tmp_path / 'classes.tif'])
    assert (found.cube, found.labels) == ('band_*.tif', 'classes.tif')
    np.testing.assert_array_equal(found.scene.cube, own_cube().astype(np.float32))
    for number, bands in enumerate(np.split(own_cube(), 2, axis=2)):
        np.save(tmp_path / f'part_{number}.npy', bands)
    np.save(tmp_path / 'classes.npy', own_labels())
    found = find_scene([tmp_path / 'part_*.npy', tmp_path / 'classes.npy'])
    assert (found.cube, found.labels) == ('part_*.npy', 'classes.npy')
    np.testing.assert_array_equal(found.scene.cube, own_cube())


def test_tiles_in_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, values in (
        ('images', own_cube().transpose(2, 0, 1).astype(np.float32)),
        ('labels', own_labels()[None]),
    ):
        Path(folder).mkdir()
        for number in range(6):
            rows = slice(number * 5, number * 5 + 5)
            north = 5800000 - 30 * rows.start
            place = {**GRID, 'transform': Affine(30, 0, 300000, 0, -30, north)}
            geotiff.write(Path(folder, f'{number}.tif'), values[:, rows], **place)
    with pytest.raises(
        ValueError, match=r'found 6 label .*4\.tif .* and 1 more\), .*folder'
    ):
        find_scene(['images', 'labels'])
    found = find_scene(['.'], {'cube': 'images', 'labels': 'labels'})
    assert (len(found.cube), found.labels) == (6, 'labels')
    np.testing.assert_array_equal(found.scene.label_map > 0, own_labels() > 0)


def test_wavelengths_from_a_text_file(mat_files: tuple[Path, Path]) -> None:
    centres = np.linspace(450, 900, BANDS)
    np.savetxt('centres.txt', centres)
    found = find_scene(['.'])
    assert found.options['wavelengths'] == 'centres.txt'
    assert found.scene.wavelengths is not None
    np.testing.assert_allclose(found.scene.wavelengths, centres)


def test_files_on_several_drives(
    mat_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Any) -> str:
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr(os.path, 'commonpath', refuse)
    monkeypatch.setattr(os.path, 'relpath', refuse)
    found = find_scene(list(mat_files))
    assert found.root == mat_files[0].absolute().parent
    assert found.labels == mat_files[1].absolute().as_posix()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'found no file .*nowhere\.mat'):
        find_scene([tmp_path / 'nowhere.mat'])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match=r'no file of a scene in .*empty: name'):
        find_scene([str(tmp_path / 'empty')])
    with pytest.raises(FileNotFoundError, match=r'no file that matches'):
        find_scene([str(tmp_path / '*.tif')])


def test_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'broken.mat'
    path.write_bytes(b'no MATLAB file at all')
    with pytest.raises(
        ValueError, match=r'broken\.mat .*cannot be read as a \.mat file'
    ):
        find_scene([path])


def test_bands_in_files_of_their_own(tmp_path: Path) -> None:
    for number in range(BANDS):
        band = own_cube().transpose(2, 0, 1)[[number]].astype(np.float32)
        geotiff.write(tmp_path / f'L8_B{number + 1}_T2.tif', band, None, None)
    np.save(tmp_path / 'truth.npy', own_labels())
    pattern = str(tmp_path / 'L8_B*_T2.tif')
    with pytest.raises(ValueError, match=r'a pattern names them: --cube ') as caught:
        find_scene([tmp_path])
    assert f"'{pattern}'" in str(caught.value)
    found = find_scene([tmp_path], {'cube': pattern})  # none of them are labels
    assert (found.cube, found.labels) == ('L8_B*_T2.tif', 'truth.npy')
    np.testing.assert_array_equal(found.scene.cube, own_cube().astype(np.float32))


@needs_posix
def test_pages_and_pipes_are_named(tmp_path: Path) -> None:
    """A pipe would be waited for, a page be called a pickle that may be trusted."""
    (tmp_path / 'page.npy').write_text('<!doctype html>')
    with pytest.raises(ValueError, match='it is a web page') as caught:
        find_scene([tmp_path / 'page.npy'])
    assert 'pickle' not in str(caught.value)
    os.mkfifo(tmp_path / 'pipe.mat')
    with pytest.raises(FileNotFoundError, match='is a pipe or a device'):
        find_scene([tmp_path / 'pipe.mat'])
    for ending in ('csv', 'hdr', 'dat'):
        name = tmp_path / f'none.{ending}'
        name.symlink_to(os.devnull)
        for given in (name, tmp_path / f'n*.{ending}'):
            with pytest.raises(FileNotFoundError, match='is a pipe or a device'):
                find_scene([given])


def test_labels_that_are_called_as_the_header(tmp_path: Path) -> None:
    own_cube().transpose(2, 0, 1).astype('<f4').tofile(tmp_path / 'area.dat')
    (tmp_path / 'area.hdr').write_text(
        f'ENVI\nlines = {ROWS}\nsamples = {COLS}\nbands = {BANDS}\n'
        'data type = 4\ninterleave = bsq\n'
    )
    geotiff.write(tmp_path / 'area.tif', own_labels()[None], None, None)
    names = [tmp_path / f'area.{ending}' for ending in ('hdr', 'dat', 'tif')]
    for files in (names, [tmp_path], names[::2]):
        found = find_scene(files)
        assert (found.cube, found.labels) == ('area.hdr', 'area.tif')
    named = find_scene(names[:1], {'labels': str(names[2])})
    assert named.labels == 'area.tif'


CENTRES = np.linspace(450, 900, BANDS)


def write_cube(folder: Path) -> Path:
    values = own_cube().transpose(2, 0, 1).astype(np.float32)
    return geotiff.write(folder / 'flight.tif', values, **GRID)


def write_fields(path: Path, **options: str) -> Path:
    """Write two fields of each class as polygons."""
    lefts = [300000 + 180 * number for number in range(6)]
    fields = [shapely.box(left, 5799130, left + 150, 5799970) for left in lefts]
    crops = ['maize', 'rye', 'wood'] * 2
    frame = geopandas.GeoDataFrame({'crop': crops}, geometry=fields, crs=GRID['crs'])
    frame.to_file(path, **options)
    return path


@pytest.mark.parametrize('named', [False, True])
def test_table_of_points(tmp_path: Path, named: bool) -> None:
    cube, table = write_cube(tmp_path), tmp_path / 'points.csv'
    rows = [f'{col},{row},{1.5 + col},rye\n' for col, row in ((1, 2), (2, 2), (7, 3))]
    table.write_text('col,row,height,crop\n' + ''.join(rows).replace('rye', 'oak', 1))
    np.savetxt(tmp_path / 'centres.txt', CENTRES)
    (tmp_path / 'readme.txt').write_text('Flown in May.')
    found = find_scene([cube], {'labels': table}) if named else find_scene([tmp_path])
    assert (found.cube, found.labels) == ('flight.tif', 'points.csv')
    assert found.options['attribute'] == 'crop'
    assert ('wavelengths' in found.options) is not named
    assert found.scene.class_counts == (1, 2)


def test_text_that_is_nothing(tmp_path: Path) -> None:
    (tmp_path / 'readme.txt').write_text('Flown in May.')
    with pytest.raises(ValueError, match=r'readme\.txt: found neither band centres'):
        find_scene([write_cube(tmp_path), tmp_path / 'readme.txt'])


def test_regions_of_interest(tmp_path: Path) -> None:
    head = [f'; File Dimension: {COLS} x {ROWS}']
    for name in ('rye', 'oak'):
        head += [f'; ROI name: {name}', '; ROI rgb value: {0, 9, 0}', '; ROI npts: 1']
    points = ['; ID X Y', ' 1 3 4', ' 1 10 11']
    text = '\n'.join(['; ENVI Output of ROIs (5.3)', *head, *points])
    (tmp_path / 'areas.txt').write_text(text)
    write_cube(tmp_path)
    found = find_scene([tmp_path])
    assert found.labels == 'areas.txt'
    assert found.scene.class_names == ('oak', 'rye')
    regions = ''.join(
        f'<Region name="{name}"><GeometryDef><CoordSysStr>none</CoordSysStr><Point>'
        f'<Coordinates>{place}</Coordinates></Point></GeometryDef></Region>'
        for name, place in (('rye', '3.5 4.5'), ('oak', '10.5 11.5'))
    )
    xml = tmp_path / 'areas.xml'
    xml.write_text(f'<RegionsOfInterest>{regions}</RegionsOfInterest>')
    found = find_scene([tmp_path / 'flight.tif', xml])
    assert found.labels == 'areas.xml'
    assert found.scene.class_names == ('oak', 'rye')


@pytest.mark.parametrize(
    ('name', 'driver'),
    [
        ('fields.sqlite', 'SQLite'),
        ('fields.tab', 'MapInfo File'),
        ('fields.geojsonl', 'GeoJSONSeq'),
        ('fields.gml', 'GML'),
    ],
)
def test_vector_files_beside_their_companions(
    tmp_path: Path, name: str, driver: str
) -> None:
    write_cube(tmp_path)
    write_fields(tmp_path / name, driver=driver)
    found = find_scene([tmp_path])
    assert found.labels == name
    assert found.scene.class_names == ('maize', 'rye', 'wood')


def test_zipped_shapefile(tmp_path: Path) -> None:
    cube, folder = write_cube(tmp_path), tmp_path / 'parts'
    folder.mkdir()
    write_fields(folder / 'fields.shp')
    shutil.make_archive(str(tmp_path / 'fields'), 'zip', folder)
    found = find_scene([cube, tmp_path / 'fields.zip'])
    assert found.labels == 'fields.zip'
    assert found.options == {'attribute': 'crop'}


def test_pictures(tmp_path: Path) -> None:
    cube = write_cube(tmp_path)
    colours = np.random.default_rng(0).integers(0, 255, (10, 3)).astype(np.uint8)
    colours[0] = 0
    picture = colours[own_labels()].transpose(2, 0, 1)
    geotiff.write(tmp_path / 'colours.png', picture, None, None)
    geotiff.write(tmp_path / 'grey.png', own_labels()[None], None, None)
    # In a folder a picture is taken for a preview.
    assert find_scene([tmp_path]).labels is None
    assert find_scene([cube, tmp_path / 'grey.png']).scene.class_values == VALUES
    named = find_scene([cube], {'labels': tmp_path / 'colours.png'})
    counts = np.bincount(own_labels().ravel())[list(VALUES)]
    assert sorted(named.scene.class_counts) == sorted(counts)


def test_files_of_a_folder_that_are_nothing(tmp_path: Path) -> None:
    geotiff.write(tmp_path / 'classes.tif', own_labels()[None], **GRID)
    (tmp_path / 'Thumbs.db').write_bytes(b'x')
    (tmp_path / 'library.hdr').write_text(
        'ENVI\nlines = 2\nsamples = 3\nbands = 1\ndata type = 4\ninterleave = bsq\n'
        'file type = ENVI Spectral Library\n'
    )
    np.zeros((2, 3), '<f4').tofile(tmp_path / 'library.sli')
    (tmp_path / 'a folder').mkdir()
    with pytest.raises(
        ValueError, match=r'; \S*Thumbs\.db, \S*library\.hdr, which cannot be read'
    ):
        find_scene([tmp_path])
    write_cube(tmp_path)
    assert find_scene([tmp_path]).labels == 'classes.tif'
    with pytest.raises(ValueError, match=r'Thumbs\.db: found no raster'):
        find_scene([tmp_path / 'flight.tif', tmp_path / 'Thumbs.db'])
    with zipfile.ZipFile(tmp_path / 'all.zip', 'w') as archive:
        archive.write(tmp_path / 'flight.tif', 'flight.tif')
    with pytest.raises(
        ValueError, match=r'all\.zip: found an archive.*unpack it first'
    ):
        find_scene([tmp_path / 'all.zip'])


def test_struct(tmp_path: Path) -> None:
    scene = {'data': own_cube(), 'truth': own_labels().astype(float)}
    scipy.io.savemat(tmp_path / 'all.mat', {'scene': scene})
    found = find_scene([tmp_path / 'all.mat'])
    assert found.options == {
        'cube_variable': 'scene/data',
        'labels_variable': 'scene/truth',
    }
    assert found.scene.class_values == VALUES


def test_prisma(tmp_path: Path) -> None:
    start = 'HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields/'
    cube = own_cube().transpose(0, 2, 1)
    with h5py.File(tmp_path / 'prisma.he5', 'w') as file:
        file[f'{start}VNIR_Cube'], file[f'{start}SWIR_Cube'] = cube[:, :3], cube[:, 3:]
        file.attrs['List_Cw_Vnir'] = CENTRES[:3]
        file.attrs['List_Cw_Swir'] = CENTRES[3:]
    np.save(tmp_path / 'truth.npy', own_labels())
    found = find_scene([tmp_path])
    assert (found.cube, found.labels) == ('prisma.he5', 'truth.npy')
    assert found.options == {}
    np.testing.assert_array_equal(found.scene.cube, own_cube())


@pytest.mark.parametrize('name', ['', 'E-METADATA.XML', 'E-SPECTRAL_IMAGE_SWIR.TIF'])
def test_enmap(tmp_path: Path, name: str) -> None:
    values = own_cube().transpose(2, 0, 1).astype(np.float32)
    geotiff.write(tmp_path / 'E-SPECTRAL_IMAGE_VNIR.TIF', values[:3], **GRID)
    geotiff.write(tmp_path / 'E-SPECTRAL_IMAGE_SWIR.TIF', values[3:], **GRID)
    geotiff.write(tmp_path / 'E-QL_PIXELMASK.TIF', own_labels()[None], **GRID)
    tag = 'wavelengthCenterOfBand'
    bands = ''.join(f'<{tag}>{centre}</{tag}>' for centre in CENTRES)
    (tmp_path / 'E-METADATA.XML').write_text(f'<bands>{bands}</bands>')
    labels = geotiff.write(tmp_path / 'truth.tif', own_labels()[None], **GRID)
    found = find_scene([tmp_path / name, labels] if name else [tmp_path])
    assert (found.cube, found.labels) == ('E-METADATA.XML', 'truth.tif')
    assert found.scene.num_bands == BANDS
    if name:
        chosen = find_scene([labels], {'cube': tmp_path / name})
        assert chosen.cube == 'E-METADATA.XML'

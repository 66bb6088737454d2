# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the public scenes, on small fake files of the real formats."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torchgeo.datasets import DatasetNotFoundError

from tests.data.public_scenes import data
from torchgeo_ekgnet import datasets
from torchgeo_ekgnet.datasets import (
    KSC,
    BandSelection,
    Houston2013,
    IndianPines,
    MatSceneDataset,
    PaviaUniversity,
    SalinasA,
)
from torchgeo_ekgnet.datasets.base import read_patch

NAMES = sorted(data.FAKES)


def dataset_class(name: str) -> type[MatSceneDataset]:
    found: type[MatSceneDataset] = getattr(datasets, name)
    assert issubclass(found, MatSceneDataset)
    return found


@pytest.fixture(scope='module', params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    return data.make(tmp_path_factory.mktemp(name), name)


class TestEveryScene:
    def test_getitem(self, root: Path, name: str) -> None:
        dataset = dataset_class(name)(root, patch_size=5)
        labels = data.labels_of(name)
        values = np.array(data.FAKES[name].values)
        assert len(dataset) == (labels > 0).sum() == len(dataset.positions)
        for index in (0, len(dataset) // 2, len(dataset) - 1):
            sample = dataset[index]
            row, col = sample['row_col'].tolist()
            image = sample['image']
            assert image.shape == (data.FAKES[name].bands, 5, 5)
            assert image.dtype == torch.float32 and image.is_contiguous()
            assert sample['label'].dtype == torch.int64
            assert values[int(sample['label'])] == labels[row, col]
            expected = data.cube_of(name)[row, col].astype(np.int16)
            assert np.array_equal(image[:, 2, 2].numpy(), expected)
        with pytest.raises(IndexError):
            dataset[len(dataset)]

    def test_facts(self, root: Path, name: str) -> None:
        scene = dataset_class(name)(root).scene
        assert scene.class_values == data.FAKES[name].values
        assert len(set(scene.class_names)) == scene.num_classes
        assert scene.wavelengths is not None
        assert len(scene.wavelengths) == scene.num_bands
        assert 350 < scene.wavelengths.min() and scene.wavelengths.max() < 2600
        red, green, blue = (scene.wavelengths[band] for band in scene.rgb_bands)
        assert 600 < red < 700 and 500 < green < 580 and 440 < blue < 500
        assert not scene.synthetic

    def test_matlab_73(self, tmp_path: Path, root: Path, name: str) -> None:
        first = dataset_class(name)(root).scene
        data.make(tmp_path, name, version='7.3')
        second = dataset_class(name)(tmp_path).scene
        assert np.array_equal(first.cube, second.cube)
        assert np.array_equal(first.label_map, second.label_map)

    def test_folder_of_folders(self, tmp_path: Path, name: str) -> None:
        found = dataset_class(name)
        data.make(tmp_path / found.directory, name)
        assert len(found(tmp_path)) > 0

    def test_missing_file(self, tmp_path: Path, name: str) -> None:
        found = dataset_class(name)
        with pytest.raises(DatasetNotFoundError, match='Dataset not found') as info:
            found(tmp_path)
        assert found.cube_file.name in str(info.value)
        file = tmp_path / 'file.mat'
        file.touch()
        with pytest.raises(
            NotADirectoryError, match=r'^root: found the file .*file\.mat'
        ):
            found(file, download=True)
        data.make(tmp_path, name)
        (tmp_path / found.labels_file.name).unlink()
        with pytest.raises(FileNotFoundError) as other:
            found(tmp_path)
        assert found.labels_file.name in str(other.value)
        assert found.cube_file.name not in str(other.value)

    def test_plots(self, root: Path, name: str) -> None:
        dataset = dataset_class(name)(root)
        sample = dataset[0]
        sample['prediction'] = torch.tensor(1)
        figure = dataset.plot(sample, suptitle='one')
        assert isinstance(figure, Figure)
        assert f'Prediction: {dataset.classes[1]}' in figure.axes[0].get_title()
        assert isinstance(dataset.plot_scene(), Figure)
        assert isinstance(dataset.plot_spectra(), Figure)

    def test_checksum(self, root: Path, name: str) -> None:
        found = dataset_class(name)
        if not found.cube_file.checkable:
            found(root, checksum=True)
            return
        with pytest.raises(ValueError, match='is not the public file'):
            found(root, checksum=True)
        assert 'not the public file' in found(root).scene.source


class TestArguments:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return data.make(tmp_path, 'PaviaUniversity')

    def test_bands(self, root: Path) -> None:
        dataset = PaviaUniversity(root, bands=[5, 3])
        assert dataset[0]['image'].shape == (2, 11, 11)
        cube = data.cube_of('PaviaUniversity')
        assert np.array_equal(dataset.scene.cube, cube[:, :, [5, 3]])
        narrow = PaviaUniversity(root, bands=BandSelection(wavelengths=[(500, 600)]))
        assert narrow.wavelengths is not None
        assert narrow.wavelengths.min() >= 500 and narrow.wavelengths.max() <= 600

    @pytest.mark.parametrize('padding_mode', ['zeros', 'reflect'])
    def test_padding_keeps_borders(self, root: Path, padding_mode: str) -> None:
        dataset = PaviaUniversity(root, 7, padding_mode=padding_mode)  # type: ignore[arg-type]
        cube = dataset.scene.cube.astype(np.float32)
        mode = {'zeros': 'constant', 'reflect': 'reflect'}[padding_mode]
        padded = np.pad(cube, ((3, 3), (3, 3), (0, 0)), mode=mode)  # type: ignore[call-overload]
        for row in range(0, data.ROWS, 4):
            for col in (0, 1, data.COLS // 2, data.COLS - 2, data.COLS - 1):
                patch = read_patch(dataset.scene, row, col, 7, padding_mode)
                assert np.array_equal(patch, padded[row : row + 7, col : col + 7])

    def test_patch_as_large_as_the_scene(self, root: Path) -> None:
        dataset = PaviaUniversity(root, data.ROWS, padding_mode='reflect')
        assert dataset[0]['image'].shape[1:] == (data.ROWS, data.ROWS)

    @pytest.mark.parametrize(
        ('patch_size', 'match'),
        [
            (23, 'expected at most 21: the scene Pavia'),
            (8, 'patch_size is 8, expected a positive odd'),
            (0, 'patch_size is 0, expected a positive odd'),
            (True, 'patch_size is True, expected a positive odd'),
            (3.5, r'patch_size is 3\.5, expected a positive odd'),
            ('3', "patch_size is '3', expected a positive odd"),
            (-3, 'patch_size is -3, expected a positive odd'),
        ],
    )
    def test_patch_size(self, root: Path, patch_size: int, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            PaviaUniversity(root, patch_size)

    def test_padding_mode(self, root: Path) -> None:
        with pytest.raises(ValueError, match='padding_mode is'):
            PaviaUniversity(root, padding_mode='wrap')  # type: ignore[arg-type]

    def test_transforms(self, root: Path) -> None:
        def negate(sample: dict[str, object]) -> dict[str, object]:
            image = sample['image']
            assert isinstance(image, torch.Tensor)
            return sample | {'image': -image}

        plain = PaviaUniversity(root)[0]['image']
        assert torch.equal(PaviaUniversity(root, transforms=negate)[0]['image'], -plain)

    def test_str(self, root: Path) -> None:
        assert "'Pavia University', 21 x 24 pixels, 103 bands" in str(
            PaviaUniversity(root)
        )


class TestDamagedFiles:
    def test_truncated(self, tmp_path: Path) -> None:
        path = data.make(tmp_path, 'IndianPines') / 'Indian_pines_corrected.mat'
        path.write_bytes(path.read_bytes()[:5000])
        with pytest.raises(ValueError, match=r'corrected.mat \(5000 bytes\) cannot be'):
            IndianPines(tmp_path)

    def test_wrong_variable(self, tmp_path: Path) -> None:
        path = data.make(tmp_path, 'IndianPines') / 'Indian_pines_corrected.mat'
        data.save_mat(path, '5', cube=data.cube_of('IndianPines'))
        with pytest.raises(ValueError, match=r"no variable 'indian_pines_corrected'"):
            IndianPines(tmp_path)

    def test_sizes_differ(self, tmp_path: Path) -> None:
        path = data.make(tmp_path, 'IndianPines') / 'Indian_pines_gt.mat'
        data.save_mat(path, '5', indian_pines_gt=data.labels_of('IndianPines')[1:])
        with pytest.raises(ValueError, match='cube and labels differ in size'):
            IndianPines(tmp_path)

    @pytest.mark.parametrize('value', [np.nan, np.inf])
    def test_not_finite(self, tmp_path: Path, value: float) -> None:
        path = data.make(tmp_path, 'IndianPines') / 'Indian_pines_corrected.mat'
        cube = data.cube_of('IndianPines').astype(np.float32)
        cube[:, :, 17] = value
        data.save_mat(path, '5', indian_pines_corrected=cube)
        with pytest.raises(ValueError, match=r'NaN or infinite, in 1 of 200 .*\[17\]'):
            IndianPines(tmp_path)
        chosen = IndianPines(tmp_path, bands=BandSelection(exclude=[17]))
        assert chosen.scene.num_bands == 199

    def test_unknown_class(self, tmp_path: Path) -> None:
        path = data.make(tmp_path, 'SalinasA') / 'SalinasA_gt.mat'
        labels = data.labels_of('SalinasA')
        labels[0, 0] = 2
        data.save_mat(path, '5', salinasA_gt=labels)
        with pytest.raises(ValueError, match=r'values \[2\] that are neither classes'):
            SalinasA(tmp_path)

    def test_other_number_of_bands(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = data.make(tmp_path, 'SalinasA') / 'SalinasA_corrected.mat'
        data.save_mat(path, '5', salinasA_corrected=data.cube_of('SalinasA')[:, :, :9])
        assert SalinasA(tmp_path).wavelengths is None
        assert 'wavelengths are left out' in caplog.text


class TestKSC:
    def test_wrapped_values_are_repaired(self, tmp_path: Path) -> None:
        data.make(tmp_path, 'KSC')
        stored = data.cube_of('KSC')
        assert stored.max() > 60000
        repaired = KSC(tmp_path).scene
        assert repaired.cube.dtype == np.int16
        assert repaired.cube.min() == -20
        assert np.array_equal(repaired.cube, stored.view(np.int16))
        assert 'read as negative' in repaired.source
        plain = KSC(tmp_path, repair=False).scene
        assert np.array_equal(plain.cube, stored)
        assert 'values as stored' in plain.source

    def test_signed_file_is_left_alone(self, tmp_path: Path) -> None:
        data.make(tmp_path, 'KSC')
        signed = data.cube_of('KSC').view(np.int16)
        data.save_mat(tmp_path / 'KSC.mat', '5', KSC=signed)
        assert np.array_equal(KSC(tmp_path).scene.cube, signed)
        wide = data.cube_of('KSC').astype(np.float64)
        data.save_mat(tmp_path / 'KSC.mat', '5', KSC=wide)
        assert np.array_equal(KSC(tmp_path).scene.cube, signed)


class TestHouston2013:
    def test_official_masks(self, tmp_path: Path) -> None:
        dataset = Houston2013(data.make(tmp_path, 'Houston2013'))
        train, test = dataset.official_masks()
        assert not ((train > 0) & (test > 0)).any()
        assert np.array_equal(train + test, dataset.scene.label_map)
        assert (train > 0).any() and (test > 0).any()

    def test_masks_must_not_overlap(self, tmp_path: Path) -> None:
        data.make(tmp_path, 'Houston2013')
        labels = data.labels_of('Houston2013')
        data.save_mat(tmp_path / 'TSLabel.mat', '5', TSLabel=labels)
        with pytest.raises(ValueError, match=r'share .* pixels'):
            Houston2013(tmp_path)
        data.save_mat(tmp_path / 'TSLabel.mat', '5', TSLabel=labels[1:])
        with pytest.raises(ValueError, match='expected the same'):
            Houston2013(tmp_path)


class TestRealFiles:
    def test_salinas_a(self, real_data_dir: Path) -> None:
        dataset = SalinasA(real_data_dir / 'salinas_a', checksum=True)
        assert dataset.scene.shape == (83, 86, 204)
        assert dataset.scene.class_values == (1, 10, 11, 12, 13, 14)
        assert dataset.scene.class_counts == (391, 1343, 616, 1525, 674, 799)
        assert 'the public file' in dataset.scene.source

    def test_indian_pines_8_bit(self, real_data_dir: Path) -> None:
        dataset = IndianPines(real_data_dir / 'indian_pines')
        assert len(dataset) == 10249
        assert dataset.scene.class_counts[:4] == (46, 1428, 830, 237)
        assert 'not the public file: an 8-bit re-quantisation' in dataset.scene.source
        with pytest.raises(ValueError, match='checksum=False'):
            IndianPines(real_data_dir / 'indian_pines', checksum=True)

    @pytest.mark.parametrize(
        ('found', 'folder'), [(PaviaUniversity, 'pavia_university'), (KSC, 'ksc')]
    )
    def test_label_maps_are_the_public_ones(
        self, real_data_dir: Path, found: type[MatSceneDataset], folder: str
    ) -> None:
        path = real_data_dir / folder / found.labels_file.name
        assert found.labels_file.mismatch(path) is None

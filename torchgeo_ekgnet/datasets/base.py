# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Indexable datasets over a hyperspectral scene."""

import abc
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torchgeo.datasets import DatasetNotFoundError, NonGeoDataset

from .._files import file_digest
from .._patch import PaddingMode, check_padding_mode, check_patch_size, padded_index
from . import plotting
from .bands import Bands
from .download import SceneFile, download_file
from .scene import HyperspectralScene
from .sources.matlab import read_mat

logger = logging.getLogger(__name__)


def check_folder(root: str | os.PathLike[str]) -> None:
    """Refuse a file where the folder that holds it is expected."""
    if os.path.isfile(root):
        raise NotADirectoryError(
            f'root: found the file {root}, expected the folder that holds it'
        )


#: Sample as torchgeo's datasets return it.
Sample = dict[str, Any]


def read_patch(
    scene: HyperspectralScene, row: int, col: int, size: int, padding_mode: str
) -> NDArray[np.float32]:
    """Read the patch around a pixel; beyond the scene it is padded.

    Args:
        scene: Scene to read.
        row: Row of the centre pixel.
        col: Column of the centre pixel.
        size: Rows and columns of the patch (odd).
        padding_mode: ``'zeros'`` or ``'reflect'``.

    Returns:
        Stored values, float32 (size, size, bands).
    """
    half = size // 2
    rows, cols = (
        padded_index(centre - half, centre + half + 1, length, padding_mode)
        for centre, length in zip((row, col), scene.shape, strict=False)
    )
    inside_rows, inside_cols = rows[rows >= 0], cols[cols >= 0]
    top, left = int(inside_rows.min()), int(inside_cols.min())
    bottom, right = int(inside_rows.max()) + 1, int(inside_cols.max()) + 1
    window = scene.read(top, bottom, left, right)
    patch = np.zeros((size, size, scene.num_bands), dtype=np.float32)
    patch[np.ix_(rows >= 0, cols >= 0)] = window[
        np.ix_(inside_rows - top, inside_cols - left)
    ]
    return patch


class SceneDataset(NonGeoDataset, abc.ABC):
    """A scene as a torchgeo dataset with one sample a labelled pixel.

    A sample is the patch around the pixel. Subclasses say where the scene comes from.

    Attributes:
        scene: The whole scene.
        positions: int64 (N, 2), row and column of each labelled pixel, row-major.
        wavelengths: Band centres in nm, or None.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] = 'data',
        patch_size: int = 11,
        bands: Bands = None,
        padding_mode: PaddingMode = 'zeros',
        transforms: Callable[[Sample], Sample] | None = None,
        download: bool = False,
        checksum: bool = False,
    ) -> None:
        """Initialize a new SceneDataset instance.

        Args:
            root: Folder with the files.
            patch_size: Rows and columns of a patch, odd.
            bands: Bands to use: None, zero-based numbers or a
                :class:`~torchgeo_ekgnet.datasets.BandSelection`.
            padding_mode: What lies beyond the scene's edge: ``'zeros'`` (the paper) or
                ``'reflect'``. No labelled pixel is lost either way.
            transforms: Takes and returns a sample.
            download: Download missing files.
            checksum: Refuse files that are not the public ones.

        Raises:
            DatasetNotFoundError: If files are missing and *download* is False.
            TypeError: If *root* names no folder.
            ValueError: If an argument does not fit the scene.
        """
        check_padding_mode(padding_mode)
        if not isinstance(root, str | os.PathLike):
            raise TypeError(f'root: found {root!r}, expected the folder of the files')
        self.root = os.path.expanduser(root)
        self.patch_size = patch_size
        self.bands = bands
        self.padding_mode = padding_mode
        self.transforms = transforms
        self.download = download
        self.checksum = checksum
        self.scene = self._load_scene()
        rows, cols, _ = self.scene.shape
        check_patch_size(patch_size, rows, cols, self.scene.name)
        self.wavelengths = self.scene.wavelengths
        self.positions = np.argwhere(self.scene.label_map > 0).astype(np.int64)

    @abc.abstractmethod
    def _load_scene(self) -> HyperspectralScene:
        """Read the scene."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels."""
        return self.scene.class_names

    def __len__(self) -> int:
        """Return the number of labelled pixels."""
        return len(self.positions)

    def __getitem__(self, index: int) -> Sample:
        """Return the patch around one labelled pixel.

        Args:
            index: Number of the labelled pixel.

        Returns:
            ``image`` float32 (bands, patch_size, patch_size) as stored, ``label`` int64
            scalar from 0, ``row_col`` int64 (2,).

        Raises:
            IndexError: If the index is out of range.
        """
        row, col = self.positions[index].tolist()
        patch = read_patch(self.scene, row, col, self.patch_size, self.padding_mode)
        sample: Sample = {
            'image': torch.from_numpy(patch).permute(2, 0, 1).contiguous(),
            'label': torch.tensor(int(self.scene.label_map[row, col]) - 1),
            'row_col': torch.tensor([row, col]),
        }
        if self.transforms is not None:
            sample = self.transforms(sample)
        return sample

    def __str__(self) -> str:
        """Return the informal string representation."""
        return (
            f'{type(self).__name__} Dataset\n    type: NonGeoDataset\n'
            f'    size: {len(self)}\n    scene: {self.scene!r}'
        )

    def __repr__(self) -> str:
        """Return class, scene and number of labelled pixels."""
        return (
            f'{type(self).__name__}({len(self):,} patches of {self.patch_size} x '
            f'{self.patch_size}, {self.scene!r})'
        )

    def _repr_html_(self) -> str:
        """Show the scene in a notebook."""
        size = f'{self.patch_size} x {self.patch_size}'
        facts = {'patches': f'{len(self):,} of {size}'}
        return self.scene.html(type(self).__name__, facts)

    def plot(
        self, sample: Sample, show_titles: bool = True, suptitle: str | None = None
    ) -> Figure:
        """Plot one sample: false colour and the spectrum of the centre pixel.

        Args:
            sample: A sample returned by :meth:`__getitem__`, with a ``prediction`` if
                there is one.
            show_titles: Show label and prediction above the patch.
            suptitle: Title of the figure.

        Returns:
            The figure.
        """
        return plotting.plot_sample(
            self.scene, sample, show_titles, suptitle, managed=True
        )

    def plot_scene(
        self,
        show_titles: bool = True,
        suptitle: str | None = None,
        rgb_wavelengths: tuple[float, float, float] | None = None,
    ) -> Figure:
        """Plot the false colour image beside the label map with its legend.

        Args:
            show_titles: Show a title above each image.
            suptitle: Title of the figure.
            rgb_wavelengths: Wavelengths in nm shown as red, green and blue; the scene's
                own choice if None.

        Returns:
            The figure.
        """
        return plotting.plot_scene(
            self.scene, show_titles, suptitle, rgb_wavelengths, managed=True
        )

    def plot_spectra(self, suptitle: str | None = None) -> Figure:
        """Plot mean and spread of the spectra of each class.

        Args:
            suptitle: Title of the figure.

        Returns:
            The figure.
        """
        return plotting.plot_spectra(self.scene, suptitle, managed=True)


class MatSceneDataset(SceneDataset):
    """A public scene that is published as MATLAB files: facts and nothing else.

    Subclasses fill in the class attributes.
    """

    scene_name: ClassVar[str]
    #: Folder that is searched inside *root* besides *root* itself.
    directory: ClassVar[str]
    cube_file: ClassVar[SceneFile]
    labels_file: ClassVar[SceneFile]
    #: Names by the value in the label file.
    class_names: ClassVar[Mapping[int, str]]
    #: Type and shape of the public cube.
    stored_dtype: ClassVar[str]
    stored_shape: ClassVar[tuple[int, int, int]]
    #: Wavelength of each band in nm.
    centres: ClassVar[NDArray[np.float64]]
    #: Zero-based bands of the false colour image, None: by wavelength.
    false_colour_bands: ClassVar[tuple[int, int, int] | None] = None

    @classmethod
    def band_centres(cls) -> NDArray[np.float64]:
        """Return the wavelength of each band in nm."""
        return cls.centres.copy()

    @property
    def files(self) -> tuple[SceneFile, ...]:
        """All files of the scene."""
        return (self.cube_file, self.labels_file)

    def _load_scene(self) -> HyperspectralScene:
        """Read the scene."""
        paths = self._verify()
        cube = read_mat(paths[self.cube_file.name], self.cube_file.variable)
        labels = self._read_labels(paths)
        source = self._describe(paths[self.cube_file.name], cube)
        return HyperspectralScene(
            self._repair(cube),
            labels,
            name=self.scene_name,
            class_names=self.class_names,
            wavelengths=self._centres_for(cube),
            bands=self.bands,
            rgb_bands=self.false_colour_bands,
            source=source,
        )

    def _read_labels(self, paths: Mapping[str, Path]) -> NDArray[Any]:
        """Read the label map."""
        path = paths[self.labels_file.name]
        return read_mat(path, self.labels_file.variable, ndim=2)

    def _repair(self, cube: NDArray[Any]) -> NDArray[Any]:
        """Undo known defects of the published cube."""
        return cube

    def _centres_for(self, cube: NDArray[Any]) -> NDArray[np.float64] | None:
        """Give the band centres, None for a cube of other bands."""
        centres = self.band_centres()
        if cube.shape[2] == len(centres):
            return centres
        logger.warning(
            '%s: the cube has %d bands, the public file %d; wavelengths are left out',
            self.scene_name,
            cube.shape[2],
            len(centres),
        )
        return None

    def _describe(self, path: Path, cube: NDArray[Any]) -> str:
        """Say what the file of the cube is, and whether it is the public one."""
        name = self.cube_file.name
        found = file_digest(path, 'md5')
        if not self.cube_file.checkable:
            return f'{name}, md5 {found}; no checksum of the public file is known'
        if self.cube_file.mismatch(path) is None:
            return f'{name}, md5 {found}, the public file'
        text = f'{name}, md5 {found}, not the public file'
        if cube.dtype.itemsize == 1 and np.dtype(self.stored_dtype).itemsize > 1:
            text += ': an 8-bit re-quantisation (uint8)'
        logger.warning('%s: %s', self.scene_name, text)
        return text

    def _find(self, file: SceneFile) -> Path | None:
        """Find a file of the scene; None if there is none."""
        for folder in (Path(self.root), Path(self.root) / self.directory):
            if (folder / file.name).is_file():
                return folder / file.name
        return None

    def _verify(self) -> dict[str, Path]:
        """Find the files of the scene by name, after downloading those that lack."""
        check_folder(self.root)
        paths: dict[str, Path] = {}
        missing: list[SceneFile] = []
        for file in self.files:
            path = self._find(file)
            if path is None:
                missing.append(file)
            else:
                paths[file.name] = path
        if missing and not self.download:
            error = DatasetNotFoundError(self)
            names = ', '.join(file.name for file in missing)
            message = (
                f'{error.args[0]} Missing: {names} (looked in {self.root} and '
                f'{Path(self.root) / self.directory}).'
            )
            error.args = (message,)
            raise error
        for file in missing:
            paths[file.name] = download_file(file, self.root, self._content_check(file))
        if self.checksum:
            for file in self.files:
                self._require_public(file, paths[file.name])
        return paths

    def _content_check(self, file: SceneFile) -> Callable[[Path], str | None]:
        """Make what says why a file is not the public one, None if it is."""

        def check(path: Path) -> str | None:
            if file.checkable:
                return file.mismatch(path)
            ndim = 3 if file is self.cube_file else 2
            try:
                shape = read_mat(path, file.variable, ndim).shape
            except ValueError as error:
                return str(error)
            if shape != self.stored_shape[:ndim]:
                return f'shape is {shape}, the public file has {self.stored_shape}'
            return None

        return check

    def _require_public(self, file: SceneFile, path: Path) -> None:
        """Refuse a file that is not the public one."""
        if not file.checkable:
            logger.warning('%s: no checksum of this file is published', file.name)
            return
        problem = file.mismatch(path)
        if problem is not None:
            raise ValueError(
                f'{path} is not the public file: {problem}; delete it and use '
                'download=True, or accept it with checksum=False'
            )

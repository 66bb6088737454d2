# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Kennedy Space Center dataset."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._patch import PaddingMode
from .bands import Bands
from .base import MatSceneDataset, Sample
from .download import DGCNET, SSTN, SceneFile
from .wavelengths import aviris, without

logger = logging.getLogger(__name__)

_GIC = 'http://www.ehu.es/ccwintco/uploads'


class KSC(MatSceneDataset):
    """Kennedy Space Center (KSC) dataset.

    Dataset features:

    * Kennedy Space Center, Florida, USA, 23 March 1996; AVIRIS, 18 m pixels
    * 512 x 614 pixels, 176 bands (of 224; channels 1-4, 102-116, 151-172 and 218-224
      removed), 405 to 2427 nm (nominal centres of a later calibration)

    Dataset format:

    * two MATLAB files: ``KSC.mat`` (``KSC``, uint16) and ``KSC_gt.mat`` (``KSC_gt``,
      uint8)
    * nobody has published a checksum of ``KSC.mat``; a download is compared with the
      object id under which several public repositories keep the file
    * the values are signed, but the file says unsigned: small negative values appear as
      numbers near 65,535 in many bands and would dominate mean and variance. They are
      read as signed unless ``repair=False``

    Dataset classes: 13, 5,211 labelled pixels.

    If you use this dataset in your research, please cite the following paper:

    * https://doi.org/10.1109/TGRS.2004.842481
    """

    scene_name = 'Kennedy Space Center'
    directory = 'ksc'
    stored_dtype = 'uint16'
    stored_shape = (512, 614, 176)
    false_colour_bands = (27, 14, 5)
    centres = without(aviris(), [(1, 4), (102, 116), (151, 172), (218, 224)])
    cube_file = SceneFile(
        name='KSC.mat',
        variable='KSC',
        git_blob='6cbb7742851216118ddeff9011482fff5aca3698',
        manual=(
            'download it with a browser from one of these addresses (nobody has '
            'published a checksum; its git object id is '
            '6cbb7742851216118ddeff9011482fff5aca3698, see "git hash-object KSC.mat")'
        ),
        urls=(f'{_GIC}/2/26/', f'{SSTN}/KSC/', f'{DGCNET}/KSC/'),
    )
    labels_file = SceneFile(
        name='KSC_gt.mat',
        variable='KSC_gt',
        md5='9800bae3b8c1e795df7b7b415d54ad02',
        git_blob='8efeec7529b8789152aecf4d3a8197e94daeb363',
        urls=(f'{_GIC}/a/a6/', f'{SSTN}/KSC/', f'{DGCNET}/KSC/'),
    )
    class_names = {
        1: 'Scrub',
        2: 'Willow swamp',
        3: 'Cabbage palm hammock',
        4: 'Cabbage palm/oak hammock',
        5: 'Slash pine',
        6: 'Oak/broadleaf hammock',
        7: 'Hardwood swamp',
        8: 'Graminoid marsh',
        9: 'Spartina marsh',
        10: 'Cattail marsh',
        11: 'Salt marsh',
        12: 'Mud flats',
        13: 'Water',
    }

    def __init__(
        self,
        root: str | os.PathLike[str] = 'data',
        patch_size: int = 11,
        bands: Bands = None,
        padding_mode: PaddingMode = 'zeros',
        transforms: Callable[[Sample], Sample] | None = None,
        download: bool = False,
        checksum: bool = False,
        repair: bool = True,
    ) -> None:
        """Initialize a new KSC instance.

        Args:
            root: Folder with the files.
            patch_size: Rows and columns of a patch, odd.
            bands: Bands to use, see :class:`SceneDataset`.
            padding_mode: What lies beyond the scene's edge, see :class:`SceneDataset`.
            transforms: Takes and returns a sample.
            download: Download missing files.
            checksum: Refuse files that are not the public ones.
            repair: Read wrapped values as the negative numbers they are.

        Raises:
            DatasetNotFoundError: If files are missing and *download* is False.
            ValueError: If an argument does not fit the scene.
        """
        self.repair = repair
        super().__init__(
            root, patch_size, bands, padding_mode, transforms, download, checksum
        )

    def _repair(self, cube: NDArray[Any]) -> NDArray[Any]:
        """Undo the wrap of negative values."""
        if not self.repair:
            return cube
        if cube.dtype.kind == 'i' and cube.dtype.itemsize == 2:
            return cube
        wrapped = cube > np.iinfo(np.int16).max
        if not wrapped.any():
            return cube
        logger.info(
            'KSC: %d values in %d bands are read as negative (repair=True)',
            int(wrapped.sum()),
            int(wrapped.any(axis=(0, 1)).sum()),
        )
        if cube.dtype == np.uint16:
            return cube.view(np.int16)
        return np.where(wrapped, cube.astype(np.int64) - 65536, cube).astype(np.int16)

    def _describe(self, path: Path, cube: NDArray[Any]) -> str:
        """Say where the values come from."""
        text = super()._describe(path, cube)
        return text + (
            '; wrapped values read as negative' if self.repair else '; values as stored'
        )

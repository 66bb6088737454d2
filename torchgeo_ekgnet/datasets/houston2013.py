# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Houston 2013 dataset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import MatSceneDataset
from .download import SceneFile
from .sources.matlab import read_mat
from .wavelengths import casi_houston

_MANUAL = (
    'ask for the 2013 IEEE GRSS Data Fusion Contest data at '
    'https://machinelearning.ee.uh.edu/?page_id=459 (or take the MATLAB version that '
    'multimodal remote sensing toolkits pass on)'
)


class Houston2013(MatSceneDataset):
    """Houston 2013 dataset, the hyperspectral part of the 2013 Data Fusion Contest.

    Dataset features:

    * University of Houston campus and its surroundings, Texas, USA, 23 June 2012;
      CASI-1500, 2.5 m pixels
    * 349 x 1905 pixels, 144 bands, 364 to 1046 nm

    Dataset format:

    * three MATLAB files as the community passes them on: ``HSI.mat`` (``HSI``) and the
      contest's official masks ``TRLabel.mat`` (``TRLabel``, 2,832 training pixels) and
      ``TSLabel.mat`` (``TSLabel``, 12,197 test pixels)
    * the label map of the scene is the union of both masks; :meth:`official_masks`
      gives them one by one, and the mask split takes the two files as they are

    Dataset classes: 15, 15,029 labelled pixels.

    If you use this dataset in your research, please cite the following paper:

    * https://doi.org/10.1109/JSTARS.2014.2305441
    """

    scene_name = 'Houston 2013'
    directory = 'houston2013'
    stored_dtype = 'uint16'
    stored_shape = (349, 1905, 144)
    centres = casi_houston()
    cube_file = SceneFile(
        name='HSI.mat',
        variable='HSI',
        sha256='6a0edba3c224df411623ed5774fc34e91929ab341709859b2f56cc38dbb3c6fd',
        manual=_MANUAL,
    )
    labels_file = SceneFile(
        name='TRLabel.mat',
        variable='TRLabel',
        sha256='96ce863eaf4dc548c3140a480dee33c812d46194ae5ed345fed6e71a3d72b527',
        manual=_MANUAL,
    )
    test_labels_file = SceneFile(
        name='TSLabel.mat',
        variable='TSLabel',
        sha256='46bd849d556c80ed67b33f23dd288eafa7ac9f97a847390be373b702b0bf5a45',
        manual=_MANUAL,
    )
    class_names = {
        1: 'Healthy grass',
        2: 'Stressed grass',
        3: 'Synthetic grass',
        4: 'Trees',
        5: 'Soil',
        6: 'Water',
        7: 'Residential',
        8: 'Commercial',
        9: 'Road',
        10: 'Highway',
        11: 'Railway',
        12: 'Parking lot 1',
        13: 'Parking lot 2',
        14: 'Tennis court',
        15: 'Running track',
    }

    @property
    def files(self) -> tuple[SceneFile, ...]:
        """All files of the scene."""
        return (self.cube_file, self.labels_file, self.test_labels_file)

    def official_masks(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the contest's training and test pixels.

        Returns:
            Two label maps (rows, cols), 0 where a mask has no pixel.
        """
        labels = self.scene.label_map.astype(np.int64)
        train = np.where(self._train_mask, labels, 0)
        return train, np.where(self._train_mask, 0, labels)

    def _read_labels(self, paths: Mapping[str, Path]) -> NDArray[Any]:
        """Read both masks and join them."""
        train, test = (
            read_mat(paths[file.name], file.variable, ndim=2)
            for file in (self.labels_file, self.test_labels_file)
        )
        if train.shape != test.shape:
            raise ValueError(
                f'{self.labels_file.name} has shape {train.shape}, '
                f'{self.test_labels_file.name} {test.shape}; expected the same'
            )
        shared = (train != 0) & (test != 0)
        if shared.any():
            raise ValueError(
                f'{self.labels_file.name} and {self.test_labels_file.name} share '
                f'{int(shared.sum())} pixels; the official masks share none'
            )
        self._train_mask = train != 0
        return np.where(self._train_mask, train, test)

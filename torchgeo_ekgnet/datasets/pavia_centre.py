# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Pavia Centre dataset."""

from .base import MatSceneDataset
from .download import GIC, SceneFile
from .wavelengths import rosis


class PaviaCentre(MatSceneDataset):
    """Pavia Centre dataset.

    Dataset features:

    * centre of Pavia, Italy; ROSIS-03, 1.3 m pixels
    * 1096 x 715 pixels (two strips joined; the published cube leaves out the gap
      between them), 102 bands, 430 to 850 nm (nominal)

    Dataset format:

    * two MATLAB files: ``Pavia.mat`` (``pavia``, uint16) and ``Pavia_gt.mat``
      (``pavia_gt``, uint8)

    Dataset classes: 9, 148,152 labelled pixels.

    If you use this dataset in your research, please credit Paolo Gamba,
    Telecommunications and Remote Sensing Laboratory, University of Pavia:

    * http://www.ehu.eus/ccwintco/index.php/Hyperspectral_Remote_Sensing_Scenes
    """

    scene_name = 'Pavia Centre'
    directory = 'pavia_centre'
    stored_dtype = 'uint16'
    stored_shape = (1096, 715, 102)
    false_colour_bands = (52, 29, 12)
    centres = rosis(102)
    cube_file = SceneFile(name='Pavia.mat', variable='pavia', urls=(f'{GIC}/e/e3/',))
    labels_file = SceneFile(
        name='Pavia_gt.mat', variable='pavia_gt', urls=(f'{GIC}/5/53/',)
    )
    class_names = {
        1: 'Water',
        2: 'Trees',
        3: 'Asphalt',
        4: 'Self-blocking bricks',
        5: 'Bitumen',
        6: 'Tiles',
        7: 'Shadows',
        8: 'Meadows',
        9: 'Bare soil',
    }

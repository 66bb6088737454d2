# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Pavia University dataset."""

from .base import MatSceneDataset
from .download import DGCNET, GIC, HYBRIDSN, SSTN, SceneFile
from .wavelengths import rosis


class PaviaUniversity(MatSceneDataset):
    """Pavia University dataset.

    Dataset features:

    * campus of the University of Pavia, Italy, 2001 or 2002; ROSIS-03, 1.3 m pixels
    * 610 x 340 pixels, 103 bands (of 115), 430 to 850 nm (nominal)

    Dataset format:

    * two MATLAB files: ``PaviaU.mat`` (``paviaU``, uint16) and ``PaviaU_gt.mat``
      (``paviaU_gt``, uint8)

    Dataset classes: 9, 42,776 labelled pixels.

    If you use this dataset in your research, please credit Paolo Gamba,
    Telecommunications and Remote Sensing Laboratory, University of Pavia:

    * http://www.ehu.eus/ccwintco/index.php/Hyperspectral_Remote_Sensing_Scenes
    """

    scene_name = 'Pavia University'
    directory = 'pavia_university'
    stored_dtype = 'uint16'
    stored_shape = (610, 340, 103)
    false_colour_bands = (52, 29, 12)
    centres = rosis(103)
    cube_file = SceneFile(
        name='PaviaU.mat',
        variable='paviaU',
        md5='165a3c7488995f54a19add47c7eed4cd',
        git_blob='6eecc933bedec1130bb046483dd12e25cf091b24',
        urls=(f'{GIC}/e/ee/', f'{HYBRIDSN}/', f'{SSTN}/UP/', f'{DGCNET}/UP/'),
    )
    labels_file = SceneFile(
        name='PaviaU_gt.mat',
        variable='paviaU_gt',
        md5='b8c3ba44b077c26e24220463aa855bd3',
        git_blob='85d57a7f2fec6fc2b05a810b31808b88f9357dc6',
        urls=(f'{GIC}/5/50/', f'{HYBRIDSN}/', f'{SSTN}/UP/', f'{DGCNET}/UP/'),
    )
    class_names = {
        1: 'Asphalt',
        2: 'Meadows',
        3: 'Gravel',
        4: 'Trees',
        5: 'Painted metal sheets',
        6: 'Bare soil',
        7: 'Bitumen',
        8: 'Self-blocking bricks',
        9: 'Shadows',
    }

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Botswana dataset."""

from .base import MatSceneDataset
from .download import SceneFile
from .wavelengths import hyperion, without

_GIC = 'http://www.ehu.es/ccwintco/uploads'


class Botswana(MatSceneDataset):
    """Botswana dataset.

    Dataset features:

    * Okavango Delta, Botswana, 31 May 2001; Hyperion on EO-1, 30 m pixels
    * 1476 x 256 pixels, 145 bands (of 242; channels 10-55, 82-97, 102-119, 134-164 and
      187-220 kept), 447 to 2355 nm

    Dataset format:

    * two MATLAB files: ``Botswana.mat`` (``Botswana``, uint16) and
      ``Botswana_gt.mat`` (``Botswana_gt``, uint8)

    Dataset classes: 14, 3,248 labelled pixels.

    If you use this dataset in your research, please cite its publisher, the
    Computational Intelligence Group of the University of the Basque Country:

    * http://www.ehu.eus/ccwintco/index.php/Hyperspectral_Remote_Sensing_Scenes
    """

    scene_name = 'Botswana'
    directory = 'botswana'
    stored_dtype = 'uint16'
    stored_shape = (1476, 256, 145)
    centres = without(
        hyperion(), [(1, 9), (56, 81), (98, 101), (120, 133), (165, 186), (221, 242)]
    )
    cube_file = SceneFile(
        name='Botswana.mat', variable='Botswana', urls=(f'{_GIC}/7/72/',)
    )
    labels_file = SceneFile(
        name='Botswana_gt.mat', variable='Botswana_gt', urls=(f'{_GIC}/5/58/',)
    )
    class_names = {
        1: 'Water',
        2: 'Hippo grass',
        3: 'Floodplain grasses 1',
        4: 'Floodplain grasses 2',
        5: 'Reeds',
        6: 'Riparian',
        7: 'Firescar',
        8: 'Island interior',
        9: 'Acacia woodlands',
        10: 'Acacia shrublands',
        11: 'Acacia grasslands',
        12: 'Short mopane',
        13: 'Mixed mopane',
        14: 'Exposed soils',
    }

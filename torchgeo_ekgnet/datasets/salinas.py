# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Salinas and SalinasA datasets."""

from .base import MatSceneDataset
from .download import GIC, HYBRIDSN, SceneFile
from .wavelengths import aviris, without


class Salinas(MatSceneDataset):
    """Salinas dataset.

    Dataset features:

    * Salinas Valley, California, USA, 9 October 1998; AVIRIS, 3.7 m pixels
    * 512 x 217 pixels, 204 bands (of 224; water vapour bands 108-112, 154-167 and 224
      removed), 366 to 2486 nm (nominal centres of a later calibration)
    * at-sensor radiance

    Dataset format:

    * two MATLAB files: ``Salinas_corrected.mat`` (``salinas_corrected``, int16) and
      ``Salinas_gt.mat`` (``salinas_gt``, uint8)

    Dataset classes: 16, 54,129 labelled pixels.

    If you use this dataset in your research, please cite its publisher, the
    Computational Intelligence Group of the University of the Basque Country:

    * http://www.ehu.eus/ccwintco/index.php/Hyperspectral_Remote_Sensing_Scenes
    """

    scene_name = 'Salinas'
    directory = 'salinas'
    stored_dtype = 'int16'
    stored_shape = (512, 217, 204)
    centres = without(aviris(), [(108, 112), (154, 167), (224, 224)])
    cube_file = SceneFile(
        name='Salinas_corrected.mat',
        variable='salinas_corrected',
        urls=(f'{GIC}/a/a3/', f'{HYBRIDSN}/'),
    )
    labels_file = SceneFile(
        name='Salinas_gt.mat',
        variable='salinas_gt',
        urls=(f'{GIC}/f/fa/', f'{HYBRIDSN}/'),
    )
    class_names = {
        1: 'Broccoli green weeds 1',
        2: 'Broccoli green weeds 2',
        3: 'Fallow',
        4: 'Fallow rough plow',
        5: 'Fallow smooth',
        6: 'Stubble',
        7: 'Celery',
        8: 'Grapes untrained',
        9: 'Soil vineyard develop',
        10: 'Corn senesced green weeds',
        11: 'Lettuce romaine 4wk',
        12: 'Lettuce romaine 5wk',
        13: 'Lettuce romaine 6wk',
        14: 'Lettuce romaine 7wk',
        15: 'Vineyard untrained',
        16: 'Vineyard vertical trellis',
    }


class SalinasA(Salinas):
    """SalinasA dataset, a small part of :class:`Salinas`.

    Dataset features:

    * rows 591-676 and columns 158-240 of the flight line; AVIRIS, 3.7 m pixels
    * 83 x 86 pixels, the same 204 bands

    Dataset format:

    * two MATLAB files: ``SalinasA_corrected.mat`` (``salinasA_corrected``, int16) and
      ``SalinasA_gt.mat`` (``salinasA_gt``, uint8)

    Dataset classes: 6 of Salinas' classes under their values 1 and 10 to 14, 5,348
    labelled pixels.

    If you use this dataset in your research, please cite its publisher, the
    Computational Intelligence Group of the University of the Basque Country:

    * http://www.ehu.eus/ccwintco/index.php/Hyperspectral_Remote_Sensing_Scenes
    """

    scene_name = 'SalinasA'
    directory = 'salinas_a'
    stored_shape = (83, 86, 204)
    cube_file = SceneFile(
        name='SalinasA_corrected.mat',
        variable='salinasA_corrected',
        md5='4852da09661d629f5033ca1d23b908ae',
        urls=(f'{GIC}/1/1a/',),
    )
    labels_file = SceneFile(
        name='SalinasA_gt.mat',
        variable='salinasA_gt',
        md5='d5c82204f36f9e10c9081e4e68ece1c3',
        urls=(f'{GIC}/a/aa/',),
    )
    class_names = {
        value: Salinas.class_names[value] for value in (1, 10, 11, 12, 13, 14)
    }

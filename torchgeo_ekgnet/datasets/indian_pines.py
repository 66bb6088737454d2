# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Indian Pines dataset."""

from .base import MatSceneDataset
from .download import DGCNET, GIC, HYBRIDSN, SSTN, SceneFile
from .wavelengths import aviris_indian_pines, without


class IndianPines(MatSceneDataset):
    """Indian Pines dataset.

    Dataset features:

    * north-western Indiana, USA, 12 June 1992; AVIRIS, 20 m pixels
    * 145 x 145 pixels, 200 bands (of 220; water vapour bands 104-108, 150-163 and 220
      removed), 400 to 2489 nm
    * digital numbers: 500 x radiance + 1000

    Dataset format:

    * two MATLAB files: ``Indian_pines_corrected.mat`` (``indian_pines_corrected``,
      uint16) and ``Indian_pines_gt.mat`` (``indian_pines_gt``, uint8)

    Dataset classes: 16, 10,249 labelled pixels.

    If you use this dataset in your research, please cite the following publication:

    * https://doi.org/10.4231/R7RX991C
    """

    scene_name = 'Indian Pines'
    directory = 'indian_pines'
    stored_dtype = 'uint16'
    stored_shape = (145, 145, 200)
    false_colour_bands = (28, 15, 9)
    centres = without(aviris_indian_pines(), [(104, 108), (150, 163), (220, 220)])
    cube_file = SceneFile(
        name='Indian_pines_corrected.mat',
        variable='indian_pines_corrected',
        md5='66dbc9f4a9b7c9b1445f60a87b505101',
        git_blob='75b6d6e7df046fce91eda23e7559e274c92da711',
        urls=(f'{GIC}/6/67/', f'{HYBRIDSN}/', f'{SSTN}/IN/', f'{DGCNET}/IN/'),
    )
    labels_file = SceneFile(
        name='Indian_pines_gt.mat',
        variable='indian_pines_gt',
        md5='9414943dac1d80faaa9165c8b460510c',
        git_blob='8e308e6d2ad7cbb81dc1cd7849a2b7b768f4be6d',
        urls=(f'{GIC}/c/c4/', f'{HYBRIDSN}/', f'{SSTN}/IN/', f'{DGCNET}/IN/'),
    )
    class_names = {
        1: 'Alfalfa',
        2: 'Corn-notill',
        3: 'Corn-mintill',
        4: 'Corn',
        5: 'Grass-pasture',
        6: 'Grass-trees',
        7: 'Grass-pasture-mowed',
        8: 'Hay-windrowed',
        9: 'Oats',
        10: 'Soybean-notill',
        11: 'Soybean-mintill',
        12: 'Soybean-clean',
        13: 'Wheat',
        14: 'Woods',
        15: 'Buildings-Grass-Trees-Drives',
        16: 'Stone-Steel-Towers',
    }

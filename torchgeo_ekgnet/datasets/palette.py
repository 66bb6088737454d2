# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Class colours."""

import colorsys

import numpy as np
from numpy.typing import NDArray

#: Sixteen well-separated colours (red, green, blue), 0..255, in the order in which
#: the field's classification maps use them.
BASE_COLOURS: tuple[tuple[int, int, int], ...] = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
    (0, 255, 255),
    (255, 0, 255),
    (192, 192, 192),
    (128, 128, 128),
    (128, 0, 0),
    (128, 128, 0),
    (0, 128, 0),
    (128, 0, 128),
    (0, 128, 128),
    (0, 0, 128),
    (255, 165, 0),
    (255, 215, 0),
)

#: Saturation and value of further colours, in turn: of a few hundred choices the one
#: whose 24 to 60 colours lie farthest apart for the eye (CIELAB).
_SHADES = ((0.45, 0.6), (0.6, 0.75), (0.6, 0.9), (0.8, 0.75), (0.3, 1.0))


def class_palette(num_classes: int) -> NDArray[np.uint8]:
    """Return one colour a class; black is left to unlabelled pixels.

    Args:
        num_classes: Number of classes.

    Returns:
        Array of shape (num_classes, 3), 0..255. The first sixteen rows are
        :data:`BASE_COLOURS`, further ones walk round the hue circle.
    """
    colours = list(BASE_COLOURS[:num_classes])
    for index in range(num_classes - len(colours)):
        hue = (0.97 + 0.618033988749895 * index) % 1.0
        red, green, blue = colorsys.hsv_to_rgb(hue, *_SHADES[index % len(_SHADES)])
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return np.array(colours, dtype=np.uint8).reshape(num_classes, 3)

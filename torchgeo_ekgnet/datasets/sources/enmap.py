# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""EnMAP products: one or two images (VNIR, SWIR), and METADATA.XML with the bands."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from ..._reading import FileError, reading
from ..units import nanometres
from . import raster
from .base import Request, Source
from .stack import StackSource

#: The archive of DLR hands out images that are optimised for the cloud.
_IMAGE = re.compile(
    r'(.*-)SPECTRAL_IMAGE(?:_VNIR|_SWIR)?(?:_COG)?\.TIFF?$', re.IGNORECASE
)
_METADATA = re.compile(r'(.*-)METADATA\.XML$', re.IGNORECASE)


def claims(path: Path) -> bool:
    """Tell whether a path is the metadata or an image of an EnMAP product."""
    return metadata_of(path) is not None


def is_metadata(path: Path) -> bool:
    """Tell whether a path is the metadata of an EnMAP product."""
    return bool(_METADATA.match(path.name)) and path.is_file()


def metadata_of(path: Path) -> Path | None:
    """Return the metadata of the EnMAP product that a file belongs to, None for others."""
    if _METADATA.match(path.name):
        return path if is_metadata(path) else None
    image = _IMAGE.match(path.name)
    return None if image is None else _sibling(path, image[1] + 'METADATA.XML')


def _sibling(path: Path, name: str) -> Path | None:
    """Return the file of a name beside another, whatever its case."""
    wanted = name.lower()
    return next(
        (file for file in path.parent.iterdir() if file.name.lower() == wanted), None
    )


def open_source(path: Path, request: Request) -> Source:
    """Open a product from its metadata or one of its images; both images are joined.

    Raises:
        FileNotFoundError: If it has no image.
        FileError: If a file is damaged, or metadata and images differ.
    """
    metadata = metadata_of(path)
    assert metadata is not None
    start = metadata.name[: -len('METADATA.XML')]
    names = [f'{start}SPECTRAL_IMAGE{part}' for part in ('', '_VNIR', '_SWIR')]
    endings = ('.TIF', '.TIFF', '_COG.TIF', '_COG.TIFF')
    found = [
        [_sibling(metadata, name + ending) for ending in endings] for name in names
    ]
    # Of one image in several files the first is taken.
    whole, *parts = [next(filter(None, images), None) for images in found]
    images = [whole] if whole else list(filter(None, parts))
    if not images:
        raise FileNotFoundError(
            f'{metadata} describes an EnMAP product, but there is no image beside it, '
            f'expected {names[0]}.TIF, or {names[1]}.TIF and {names[2]}.TIF'
        )
    return EnmapSource(metadata, images)


class EnmapSource(StackSource):
    """The images of an EnMAP product with the band centres of its metadata.

    Args:
        metadata: METADATA.XML.
        images: The images, VNIR first.
    """

    def __init__(self, metadata: Path, images: list[Path]) -> None:
        """Initialize a new EnmapSource instance."""
        super().__init__([raster.RasterSource(image) for image in images])
        self._metadata = metadata

    def wavelengths(self, unit: str | None = None) -> NDArray[np.float64] | None:
        """Return the band centres in nm.

        Raises:
            FileError: If the metadata cannot be read or list another number of bands.
        """
        path = self._metadata
        with reading(path, 'metadata of EnMAP'):
            root = ElementTree.parse(path).getroot()
            texts = [
                (element.text or '').strip()
                for element in root.iter()
                if element.tag.rpartition('}')[2] == 'wavelengthCenterOfBand'
            ]
            centres = np.array([float(text) for text in texts])
        if len(centres) != self.shape[2]:
            raise FileError(
                f'{path}: found {len(centres)} band centres, expected {self.shape[2]}, '
                f'as {self.where} and its siblings have bands; give wavelengths='
            )
        return nanometres(centres, unit or 'nm', str(path))

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Images, labels and missing data in a combination of torchgeo's datasets."""

from collections.abc import Sequence
from typing import Literal

import rasterio
import torch
from torch import Tensor
from torchgeo.datasets import GeoDataset, RasterDataset


def label_dataset(dataset: GeoDataset) -> GeoDataset:
    """Find the dataset with the labels inside a combination such as ``EnMAP & labels``.

    Args:
        dataset: A dataset or a combination of datasets.

    Returns:
        The first part that holds a mask and no image, else the dataset itself.
    """
    if isinstance(dataset, RasterDataset) and not dataset.is_image:
        return dataset
    for part in getattr(dataset, 'datasets', ()):
        found = label_dataset(part)
        if isinstance(found, RasterDataset) and not found.is_image:
            return found
    return dataset


def image_dataset(dataset: GeoDataset) -> GeoDataset:
    """Find the dataset with the images inside a combination such as ``EnMAP & labels``.

    Args:
        dataset: A dataset or a combination of datasets.

    Returns:
        The first part that holds no mask, else the dataset itself.
    """
    parts: Sequence[GeoDataset] = getattr(dataset, 'datasets', ())
    for part in parts:
        found = label_dataset(part)
        if not isinstance(found, RasterDataset) or found.is_image:
            return part
    return dataset


def declared_nodata(dataset: GeoDataset) -> list[float]:
    """Read which values stand for missing data in the files of a dataset.

    Args:
        dataset: A dataset or a combination of datasets.

    Returns:
        The different values, none if no file declares one.
    """
    parts = getattr(dataset, 'datasets', None)
    found: dict[str, float] = {}  # by their text, because NaN does not equal NaN
    if parts is not None:
        for part in parts:
            found.update({str(value): value for value in declared_nodata(part)})
    elif isinstance(dataset, RasterDataset):
        # From torchgeo 0.10 on a dataset may overrule its files.
        given: float | None = getattr(dataset, 'nodata', None)
        if given is not None:
            return [float(given)]
        for path in dataset.index['filepath']:
            with rasterio.open(path) as file:
                values = [float(v) for v in file.nodatavals if v is not None]
            found.update({str(value): value for value in values})
    return list(found.values())


def image_nodata(
    image: GeoDataset, nodata: float | Literal['file'] | None
) -> float | None:
    """Find the value that stands for missing data in images.

    Args:
        image: The images.
        nodata: The value, 'file' for the one that the image files declare, or None.

    Returns:
        The value, None if there is none.

    Raises:
        ValueError: If the files declare different values.
    """
    if nodata != 'file':
        return nodata
    found = declared_nodata(image)
    if len(found) > 1:
        raise ValueError(
            f'the images of {type(image).__name__} declare different nodata values '
            f'({sorted(map(str, found))}); name one with nodata='
        )
    return found[0] if found else None


def missing(image: Tensor, nodata: float | None) -> Tensor:
    """Tell which pixels have no data.

    One band without data is enough, as in
    :class:`~torchgeo_ekgnet.datasets.HyperspectralScene`. A pixel that is 0 in every band
    has none either: with zeros torchgeo fills what lies beyond images whose files declare
    no nodata value.

    Args:
        image: Values as torchgeo gives them, float32 (..., bands, rows, cols).
        nodata: Value that stands for missing data, None if there is none. Values that
            are not finite never are data.

    Returns:
        bool (..., 1, rows, cols).
    """
    absent = ~image.isfinite()
    if nodata is not None:
        # The value as the image has it: float32.
        absent |= image == torch.tensor(nodata, dtype=image.dtype)
    empty = (image == 0).all(dim=-3, keepdim=True)
    return absent.any(dim=-3, keepdim=True) | empty

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Images, labels and missing data in a combination of torchgeo's datasets."""

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Literal

import rasterio
import torch
from torch import Tensor
from torchgeo.datasets import (
    GeoDataset,
    IntersectionDataset,
    RasterDataset,
    VectorDataset,
)


def leaves(dataset: GeoDataset) -> Iterator[GeoDataset]:
    """List the datasets that a combination was made of.

    Args:
        dataset: A dataset or a combination of datasets.

    Yields:
        Each of them; the dataset itself if it is none of several.
    """
    parts = getattr(dataset, 'datasets', None)
    if parts is None:
        yield dataset
    else:
        for part in parts:
            yield from leaves(part)


def _is_mask(dataset: GeoDataset) -> bool:
    """Whether a dataset is a raster of labels."""
    return isinstance(dataset, RasterDataset) and not dataset.is_image


def _is_image(dataset: GeoDataset) -> bool:
    """Whether a dataset is neither labels nor geometries."""
    return not (_is_mask(dataset) or isinstance(dataset, VectorDataset))


def _joined(
    dataset: GeoDataset, kind: Callable[[GeoDataset], bool]
) -> GeoDataset | None:
    """Join all parts of a combination that hold one kind; None if there is none."""
    if all(kind(leaf) for leaf in leaves(dataset)):
        return dataset
    found: list[GeoDataset] = []
    for part in getattr(dataset, 'datasets', ()):
        joined = _joined(part, kind)
        if joined is not None and not any(joined is other for other in found):
            found.append(joined)
    return functools.reduce(operator.or_, found) if found else None


def label_dataset(dataset: GeoDataset) -> GeoDataset:
    """Find the labels inside a combination such as ``EnMAP & (spring | autumn)``.

    Args:
        dataset: A dataset or a combination of datasets.

    Returns:
        All parts that hold a mask and no image, else the dataset itself.
    """
    found = _joined(dataset, _is_mask)
    return dataset if found is None else found


def image_dataset(dataset: GeoDataset) -> GeoDataset:
    """Find the images inside a combination such as ``EnMAP & labels``.

    Args:
        dataset: A dataset or a combination of datasets.

    Returns:
        All parts that hold no mask, else the dataset itself.
    """
    found = _joined(dataset, _is_image)
    if found is dataset and isinstance(dataset, IntersectionDataset):
        # Nobody knows which of them gives the mask; images come first.
        first: GeoDataset = dataset.datasets[0]
        return first
    return dataset if found is None else found


def declared_nodata(dataset: GeoDataset) -> list[float]:
    """Read which values stand for missing data in the files of a dataset.

    Args:
        dataset: A dataset or a combination of datasets.

    Returns:
        The different values, none if no file declares one.
    """
    found: dict[str, float] = {}  # by their text, because NaN does not equal NaN
    for leaf in leaves(dataset):
        if not isinstance(leaf, RasterDataset):
            continue
        # From torchgeo 0.10 on a dataset may overrule its files.
        given: float | None = getattr(leaf, 'nodata', None)
        if given is not None:
            found[str(float(given))] = float(given)
            continue
        for path in leaf.index['filepath']:
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

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Areas of classes, corrected by what a test says of the map.

Counting pixels of a map is biased: a class that is mapped too often is counted too large.
The estimator of Olofsson et al. 2014, "Good practices for estimating area and assessing
accuracy of land change" (doi:10.1016/j.rse.2014.02.015, equations 9 to 11), weighs the
confusion matrix with the shares of the mapped classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..datasets.raster import Grid
from ..datasets.scene import HyperspectralScene

__all__ = ('ClassAreas', 'estimate_areas', 'pixel_area')

#: From which share on the area of a pixel differs from that on the ground. Projections
#: of countries stay below.
_DISTORTED = 0.02
#: Half-widths of a 95 % interval in standard errors.
_HALF_WIDTH = 1.96


@dataclass(frozen=True, eq=False)
class ClassAreas:
    """Areas of the classes of a map, in the unit of the pixel's area.

    Attributes:
        mapped: Area of the pixels of each class in the map, (classes,).
        estimated: Area of each class, corrected for the errors of the map, (classes,).
        half_width: Half the width of its 95 % confidence interval, (classes,).
        unknown: Numbers of mapped classes, from 0, without two test pixels that were
            given the class: nothing is known of their errors, and all estimates are
            NaN if they take up any area.
        untested: Numbers of classes, from 0, that no test pixel is of: their estimates
            are 0 however much of them there is.
    """

    mapped: NDArray[np.float64]
    estimated: NDArray[np.float64]
    half_width: NDArray[np.float64]
    unknown: tuple[int, ...]
    untested: tuple[int, ...] = ()

    def rows(self, names: Sequence[str]) -> list[tuple[str | None, ...]]:
        """Write the areas as rows of a table.

        Args:
            names: Name of each class.

        Returns:
            Name, mapped and estimated area and interval of each class; None for what
            the test does not tell.
        """
        columns = self.mapped, self.estimated, self.half_width
        return [
            (name, f'{mapped:,.2f}', None, None)
            if number in self.untested
            else (name, f'{mapped:,.2f}', f'{estimated:,.2f}', f'± {width:,.2f}')
            for number, (name, mapped, estimated, width) in enumerate(
                zip(names, *columns, strict=True)
            )
        ]


def estimate_areas(
    confusion: ArrayLike, pixels: Sequence[int], area: float
) -> ClassAreas:
    """Estimate the area of each class, with 95 % confidence intervals.

    The estimate is unbiased if the test pixels are a random sample of the pixels of each
    mapped class. Pixels that were chosen by hand, such as labelled fields, are none.

    Args:
        confusion: Counts of test pixels, (classes, classes), true class in rows and
            mapped class in columns.
        pixels: Pixels of each class in the map.
        area: Area of a pixel.

    Returns:
        The areas.

    Raises:
        ValueError: If the shapes differ, or an area is not positive.
    """
    counts = np.asarray(confusion, dtype=np.float64).T
    mapped = np.asarray(pixels, dtype=np.float64)
    if counts.shape != (len(mapped), len(mapped)):
        raise ValueError(
            f'confusion: found shape {counts.shape}, expected {len(mapped)} classes as '
            'in pixels'
        )
    if not area > 0 or not mapped.sum() > 0:
        raise ValueError(
            f'area: found {area} and {int(mapped.sum())} pixels, expected positive '
            'numbers'
        )
    shares = mapped / mapped.sum()
    tested = counts.sum(axis=1)
    unknown = tuple(int(i) for i in np.flatnonzero((mapped > 0) & (tested < 2)))
    untested = tuple(int(i) for i in np.flatnonzero(counts.sum(axis=0) == 0))
    total = float(mapped.sum()) * area
    if unknown:
        nothing = np.full(len(mapped), np.nan)
        return ClassAreas(mapped * area, nothing, nothing, unknown, untested)
    known = tested > 1
    within = counts[known] / tested[known, None]
    weights = shares[known, None]
    estimated = (weights * within).sum(axis=0)
    variance = weights**2 * within * (1 - within) / (tested[known, None] - 1)
    error = np.sqrt(variance.sum(axis=0))
    return ClassAreas(
        mapped * area, estimated * total, _HALF_WIDTH * error * total, unknown, untested
    )


def pixel_area(scene: HyperspectralScene) -> float | None:
    """Give the area of a scene's pixels in square metres.

    Args:
        scene: The scene.

    Returns:
        The area; None without transform or projected reference system, where a pixel
        has no area, and where that of the map is not that of the ground (Web Mercator).
    """
    if scene.transform is None or scene.crs is None or not scene.crs.is_projected:
        return None
    metres = float(scene.crs.linear_units_factor[1])
    area = abs(scene.transform.determinant) * metres**2
    if not area > 0 or not np.isfinite(area):
        return None
    true = _ground_area(scene)
    return None if true is not None and abs(area / true - 1) > _DISTORTED else area


def _ground_area(scene: HyperspectralScene) -> float | None:
    """Give the area of the middle pixel on the ellipsoid, None if it has no place there."""
    from pyproj import CRS, Transformer
    from pyproj.exceptions import ProjError

    assert scene.crs is not None and scene.transform is not None
    row, col = scene.shape[0] // 2, scene.shape[1] // 2
    whole = Grid(*scene.shape[:2], scene.crs, scene.transform)
    pixel = whole.part(slice(row, row + 1), slice(col, col + 1)).corners()
    x, y = zip(*(pixel[corner] for corner in (0, 1, 3, 2)), strict=True)
    try:
        crs = CRS.from_wkt(scene.crs.to_wkt())
        geodetic, ellipsoid = crs.geodetic_crs, crs.get_geod()
        if geodetic is None or ellipsoid is None:
            return None
        places = Transformer.from_crs(crs, geodetic, always_xy=True).transform(x, y)
        area = abs(ellipsoid.polygon_area_perimeter(*places)[0])
    except ProjError:
        return None
    # Outside the projection it is NaN.
    return area if area > 0 else None

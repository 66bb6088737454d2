# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What every file format delivers: values, and what the file says about them."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..._reading import FileError
from ..labels import LabelLegend
from ..raster import Grid
from ..units import nanometres

#: Zero-based bands in the wanted order, None for all of them.
Chosen = NDArray[np.int64] | None


class CubeSource(Protocol):
    """What a scene needs from the storage of its cube.

    A source in files names them in ``files``, paths, so that a change is noticed.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and bands."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""

    def read(self, rows: slice, cols: slice, bands: Chosen = None) -> NDArray[Any]:
        """Read one window.

        Args:
            rows: Its rows; start and stop are named.
            cols: Its columns.
            bands: See :data:`Chosen`.

        Returns:
            Values of shape (rows, cols, bands) in their stored type.
        """


@dataclass(frozen=True)
class Request:
    """What is wanted of a file.

    Args:
        variable: Name of the array in files that hold several, None for the only one
            that can be meant.
        axes: Order of the array's axes: ``y`` rows, ``x`` columns, ``b`` bands, pixels
            on one axis in brackets; None for what the file tells, else rows, columns,
            bands.
        size: Rows and columns of pixels that lie on one axis.
        labels: A label map is wanted: one band, two axes.
        check_memory: Refuse to read what does not fit into the free memory.
        argument: Argument that names the variable, for messages; None for that of the
            scene.
    """

    variable: str | None = None
    axes: str | None = None
    size: tuple[int, int] | None = None
    labels: bool = False
    check_memory: bool = True
    argument: str | None = None

    @property
    def named_by(self) -> str:
        """The argument that names the variable."""
        return self.argument or f'{"labels" if self.labels else "cube"}_variable'

    @property
    def ndim(self) -> int:
        """Axes of the wanted array."""
        return 2 if self.labels or '(' in (self.axes or '') else 3

    def expect_no_variable(self, path: Path) -> None:
        """Refuse a name where there is nothing to choose from.

        Raises:
            FileError: If one was given.
        """
        if self.variable is not None:
            raise FileError(
                f'{path}: found {self.named_by}={self.variable!r}, expected none: the file '
                'holds one array'
            )


class BandFacts(NamedTuple):
    """What a file says about the bands of a cube, in its own units.

    Attributes:
        centres: A wavelength a band.
        unit: Their unit.
        bad: True for bands that are marked as bad.
        misfit: Length of a list of wavelengths that is not one a band.
    """

    centres: NDArray[np.float64] | None = None
    unit: str | None = None
    bad: NDArray[np.bool_] | None = None
    misfit: int | None = None


class Source(abc.ABC):
    """A file: its values, read by window, and its metadata.

    A format sets what it finds when it opens a file (``_grid``, ``_facts``, ...). What
    may be impossible to read it gives when that is asked for, so that an argument which
    overrules the file is never stopped by it. For the rest the file does not say. Labels
    are sources of one band.

    Args:
        files: The files that are read.
        shape: Rows, columns and bands.
        dtype: Type of the values, in the byte order of this machine.
    """

    #: Order of the axes of an array that the ``axes`` argument can change, else None.
    axes: str | None = None
    _facts = BandFacts()
    _grid: Grid | None = None
    _legend: LabelLegend | None = None
    _scaling: tuple[tuple[float, float], ...] = ()

    def __init__(
        self, files: Sequence[Path], shape: Sequence[int], dtype: np.dtype[Any]
    ) -> None:
        """Initialize a new Source instance."""
        rows, cols, bands = (int(size) for size in shape)
        self.files = tuple(files)
        self.shape = (rows, cols, bands)
        self.dtype = np.dtype(dtype).newbyteorder('=')

    @abc.abstractmethod
    def read(self, rows: slice, cols: slice, bands: Chosen = None) -> NDArray[Any]:
        """Read one window, see :class:`CubeSource`."""

    @property
    def storage(self) -> CubeSource:
        """The values without what else is known; it travels to other processes."""
        return self

    @property
    def where(self) -> str:
        """The first file, for errors."""
        return str(self.files[0]) if self.files else 'array'

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""
        return self._grid or Grid(*self.shape[:2])

    @property
    def nodata(self) -> float | None:
        """Value that the file declares for missing data."""
        return None

    @property
    def scaling(self) -> tuple[tuple[float, float], ...]:
        """Factors and offsets of the stored values that the file declares, a band each.

        Values are read as they are stored; the scales tell whether files agree.
        """
        return self._scaling

    @property
    def misfit(self) -> int | None:
        """Length of a list of wavelengths in the file that is not one a band."""
        return self._facts.misfit

    def wavelengths(self, unit: str | None = None) -> NDArray[np.float64] | None:
        """Return the band centres in nm.

        Args:
            unit: Unit that overrules the file's.
        """
        centres, own = self._facts.centres, self._facts.unit
        return None if centres is None else nanometres(centres, unit or own, self.where)

    def bad_bands(self) -> NDArray[np.bool_] | None:
        """Return True for the bands that the file marks as bad."""
        return self._facts.bad

    def mask(self) -> NDArray[np.bool_] | None:
        """Return the file's mask (rows, cols), False where there is no data."""
        return None

    def legend(self) -> LabelLegend | None:
        """Return names and colours of label values."""
        return self._legend

    def band_names(self) -> tuple[str, ...]:
        """Return a name a band, nothing where the file does not name all."""
        return ()

    def read_all(self) -> NDArray[Any]:
        """Read the whole, (rows, cols, bands)."""
        rows, cols, _ = self.shape
        return self.read(slice(0, rows), slice(0, cols))


class ArraySource(Source):
    """A cube that lies in memory or in a memory map.

    Args:
        array: Values of shape (rows, cols, bands).
        path: File that it was read from.
        axes: Order of the axes in the file, see :class:`Source`.
        facts: What the file says about the bands.
        legend: What it says about the classes.
    """

    def __init__(
        self,
        array: NDArray[Any],
        path: Path | None = None,
        axes: str | None = None,
        facts: BandFacts | None = None,
        legend: LabelLegend | None = None,
    ) -> None:
        """Initialize a new ArraySource instance."""
        self.array, self.axes, self._legend = array, axes, legend
        self._facts = facts or BandFacts()
        name = path or getattr(array, 'filename', None)
        files = () if name is None else (Path(name),)
        super().__init__(files, array.shape, array.dtype)

    def read(self, rows: slice, cols: slice, bands: Chosen = None) -> NDArray[Any]:
        """Read one window, see :class:`CubeSource`."""
        window: NDArray[Any] = self.array[rows, cols]
        return window if bands is None else window[:, :, bands]

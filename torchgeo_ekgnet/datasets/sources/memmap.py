# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Raw binary cubes, mapped into memory."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..._reading import reading
from .axes import reorder
from .base import Chosen, Source


class Layout(NamedTuple):
    """How an array lies in a file.

    Args:
        dtype: Type of a value, byte order included.
        offset: Bytes before the first frame.
        shape: Sizes of the axes as stored, the slowest first.
        axes: Their letters, see :func:`~.base.check_axes`.
        major: Bytes before and after every step of the first axis.
        minor: Bytes before and after every step of the second axis.
        fortran: The first axis varies fastest instead of the last.
    """

    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    axes: str
    major: tuple[int, int] = (0, 0)
    minor: tuple[int, int] = (0, 0)
    fortran: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes from the start of the file to the end of the last frame."""
        if self.fortran or len(self.shape) != 3:
            return self.offset + math.prod(self.shape) * self.dtype.itemsize
        outer, middle, inner = self.shape
        frame = inner * self.dtype.itemsize + sum(self.minor)
        return self.offset + outer * (middle * frame + sum(self.major))


class MemmapSource(Source):
    """A cube in a binary file, mapped into memory.

    Only what is read comes into memory, and the system can drop it again. Copies that
    travel to other processes open the map anew.

    Args:
        path: The file.
        layout: How the values lie in it.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        """Initialize a new MemmapSource instance."""
        self._file = (path, layout)
        self._cube = self._open()
        super().__init__((path,), self._cube.shape, layout.dtype.newbyteorder('='))

    def read(self, rows: slice, cols: slice, bands: Chosen = None) -> NDArray[Any]:
        """Read one window, see :class:`~.base.CubeSource`."""
        window = self._cube[rows, cols]
        if bands is not None:
            window = window[:, :, bands]
        return np.array(window, dtype=self.dtype, order='C')

    def _open(self) -> NDArray[Any]:
        """Map the file."""
        path, layout = self._file
        with reading(path, 'a raw binary array'):
            if not any(layout.major + layout.minor):
                stored: NDArray[Any] = np.memmap(
                    path,
                    dtype=layout.dtype,
                    mode='r',
                    offset=layout.offset,
                    shape=layout.shape,
                    order='F' if layout.fortran else 'C',
                )
            else:
                _, middle, inner = layout.shape
                step = layout.dtype.itemsize
                frame = inner * step + sum(layout.minor)
                stored = np.ndarray(
                    layout.shape,
                    layout.dtype,
                    np.memmap(path, dtype=np.uint8, mode='r'),
                    layout.offset + layout.major[0] + layout.minor[0],
                    (middle * frame + sum(layout.major), frame, step),
                )
            return reorder(stored, layout.axes)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the map."""
        state = self.__dict__.copy()
        del state['_cube']
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state and open the map."""
        self.__dict__.update(state)
        self._cube = self._open()

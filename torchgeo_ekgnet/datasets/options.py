# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The options of one's own scene, once for everything that opens one."""

import functools
import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from numbers import Integral
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from .._options import known_word
from .nodata import NodataIn
from .units import WavelengthUnit

Return = TypeVar('Return')

#: A file; several files, or a pattern, too. Options have no ``os.PathLike``: the command
#: line would look for structure in the name of a file. They accept it all the same.
Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

#: How nodata is found: the file's own value, none, or a number (NaN included, also as
#: the text that JSON and YAML files hold instead).
Nodata = float | Literal['file', 'nan', 'inf', '-inf'] | None


@dataclass(frozen=True)
class SceneOptions:
    """How the files of one's own scene are read.

    :func:`open_scene`, :class:`CustomScene` and the data module
    ``CustomSceneDataModule`` take each of these as a keyword argument, and as a key in
    YAML.

    Args:
        labels: The label file; several files or a pattern for tiles; None for a scene
            that is only mapped.
        labels_crs: CRS of labels whose file names none, or a wrong one.
        cube_variable: Variable of the cube in MATLAB, ``.npz``, HDF5 and NetCDF files,
            None for the only array with three axes. HDF5 and NetCDF files may declare
            nodata (``_FillValue``, ``missing_value``) and name band centres
            (``wavelength``, ``wavelengths``), even coordinates of pixels and, through
            ``grid_mapping``, their CRS.
        labels_variable: The same for labels, two axes.
        axes: Order of the axes in array files: ``y`` rows, ``x`` columns, ``b`` bands.
            Pixels on one axis stand in brackets: ``'b(yx)'``, or ``'b(xy)'`` where
            columns follow each other, as in MATLAB. None for what the file tells, else
            rows, columns, bands.
        size: Rows and columns of pixels that lie on one axis.
        attribute: Class attribute of vector labels.
        layer: Layer of vector labels.
        all_touched: Label every pixel that a geometry touches, not only those whose
            centre it covers.
        class_names: Names by label value, or in the order of the values.
        unlabelled: Label values that mean "no label".
        wavelengths: Band centres, or a file of them: numbers alone, a table with a column
            of wavelengths or an ENVI header; overrules the file's own.
        wavelength_unit: Unit of the wavelengths where the file does not tell or is
            wrong.
        nodata: ``'file'`` for the value that the file declares, None for none, or a
            value. NaN, also as the text ``'nan'``, masks all values that are not
            finite; where the file declares a number, this one too, and the reverse.
        nodata_in: Whether nodata in ``'any'`` used band or only in ``'all'`` of them
            leaves a pixel out.
        crs: CRS of an array file, in any form that PROJ reads, such as ``EPSG:32632``.
        transform: Affine transform of an array file: a, b, c, d, e, f as rasterio
            orders them.
        lazy: Read windows on demand; None does so above 1 GiB.
        check_memory: Refuse to read a cube that is larger than the free memory.
        name: Name of the scene, by default that of the file.
    """

    labels: str | Sequence[str] | None = None
    _: KW_ONLY
    labels_crs: str | None = None
    cube_variable: str | None = None
    labels_variable: str | None = None
    axes: str | None = None
    size: Sequence[int] | None = None
    attribute: str | None = None
    layer: str | None = None
    all_touched: bool = False
    class_names: Mapping[int, str] | Sequence[str] | None = None
    unlabelled: Sequence[int] = (0,)
    wavelengths: str | Sequence[float] | None = None
    wavelength_unit: WavelengthUnit | None = None
    nodata: Nodata = 'file'
    nodata_in: NodataIn = 'any'
    crs: str | None = None
    transform: Sequence[float] | None = None
    lazy: bool | None = None
    check_memory: bool = True
    name: str | None = None

    def __post_init__(self) -> None:
        """Check what would be read as something else.

        Raises:
            ValueError: If *unlabelled* is no list of whole numbers, or a word is not
                known.
        """
        known_word('nodata_in', self.nodata_in, get_args(NodataIn))
        units = (None, *get_args(WavelengthUnit))
        known_word('wavelength_unit', self.wavelength_unit, units)
        given = self.unlabelled
        listed = isinstance(given, Sequence | np.ndarray) and not isinstance(given, str)
        if not listed or not all(isinstance(value, Integral) for value in given):
            raise ValueError(
                f'unlabelled is {given!r}, expected a list of whole numbers, such as '
                '[0, 255]'
            )

    @property
    def shape(self) -> tuple[int, int] | None:
        """Rows and columns of pixels that lie on one axis."""
        if self.size is None:
            return None
        if len(self.size) != 2 or not all(float(n).is_integer() for n in self.size):
            raise ValueError(f'size is {self.size!r}, expected [rows, columns]')
        return int(self.size[0]), int(self.size[1])


def flat_options(function: Callable[..., Return]) -> Callable[..., Return]:
    """Let a function take every option as an argument of its own.

    The function has an argument ``options``, a :class:`SceneOptions`. In its place the
    decorated one has the fields and their descriptions, which ``help()``,
    ``inspect.signature`` and the command line (jsonargparse) see. ``options`` itself is
    taken too.

    Args:
        function: The function or constructor.

    Returns:
        The function with flat arguments.
    """
    own = inspect.signature(function)
    flat: list[inspect.Parameter] = []
    for parameter in own.parameters.values():
        if parameter.name != 'options':
            flat.append(parameter)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            flat += [
                option.replace(kind=parameter.KEYWORD_ONLY)
                for option in _OPTIONS.values()
            ]
        else:
            flat += _OPTIONS.values()
    signature = own.replace(parameters=flat)

    @functools.wraps(function)
    def wrapper(*args: Any, options: SceneOptions | None = None, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        given: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                given.update(value)
            else:
                given[name] = value
        chosen = {name: given.pop(name) for name in _OPTIONS if name in given}
        return function(**given, options=replace(options or SceneOptions(), **chosen))

    wrapper.__signature__ = signature  # type: ignore[attr-defined]
    wrapper.__annotations__ = {
        name: parameter.annotation for name, parameter in signature.parameters.items()
    } | {'return': own.return_annotation}
    wrapper.__doc__ = _documented(function.__doc__ or '')
    return wrapper


def _documented(text: str) -> str:
    """Describe every field where a docstring describes ``options``, for the help."""
    fields = inspect.cleandoc(SceneOptions.__doc__ or '').partition('Args:\n')[2]
    return re.sub(
        r'^    options: .*\n(?: {5,}.*\n)*',
        lambda _: f'{fields}\n',
        f'{inspect.cleandoc(text)}\n',
        flags=re.MULTILINE,
    )


_OPTIONS = inspect.signature(SceneOptions).parameters

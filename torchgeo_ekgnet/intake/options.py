# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What ``inspect`` and ``init`` can be told about the files of a scene."""

import argparse
from typing import Any

#: Options that are arguments of ``open_scene`` under the same name.
_SCENE_OPTIONS = (
    ('cube', 'FILE', 'which of the files is the cube'),
    ('labels', 'FILE', 'which of the files holds the labels'),
    ('cube_variable', 'NAME', 'variable of the cube in an array file'),
    ('labels_variable', 'NAME', 'variable of the labels in an array file'),
    ('axes', 'yxb', 'order of the axes of an array: y rows, x columns, b bands'),
    ('attribute', 'NAME', 'attribute of vector labels that holds the class'),
    ('layer', 'NAME', 'layer of vector labels'),
    ('wavelength_unit', 'nm|um', 'unit of the wavelengths where the file is silent'),
    ('crs', 'CRS', 'coordinate reference system of an array file'),
)


class _Once(argparse.Action):
    """Refuse an option that is given twice: argparse would forget the first value."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Keep the value."""
        first = getattr(namespace, self.dest)
        if first is not None:
            raise argparse.ArgumentError(
                self,
                f'found {first} and {values}, expected one; several files are a '
                'pattern in quotes or a folder',
            )
        setattr(namespace, self.dest, values)


def add_scene_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about a scene's files to a command."""
    group = parser.add_argument_group('where the files leave it open')
    for name, metavar, text in _SCENE_OPTIONS:
        group.add_argument(f'--{name}', action=_Once, metavar=metavar, help=text)
    group.add_argument(
        '--nodata', help='value that means "no data", nan too; default: the file\'s'
    )
    group.add_argument(
        '--unlabelled',
        type=int,
        nargs='+',
        metavar='VALUE',
        help='label values that mean "no label" (default: 0)',
    )


def scene_options(options: argparse.Namespace) -> dict[str, Any]:
    """Collect what was said about a scene's files.

    Args:
        options: Parsed command line.

    Returns:
        Arguments of ``open_scene`` that were given.

    Raises:
        ValueError: If ``--nodata`` is no number.
    """
    known = {name: getattr(options, name) for name, *_ in _SCENE_OPTIONS}
    known['unlabelled'] = options.unlabelled
    if options.nodata is not None:
        try:
            known['nodata'] = float(options.nodata)
        except ValueError:
            raise ValueError(
                f'--nodata: found {options.nodata!r}, expected a number or nan'
            ) from None
    return {name: value for name, value in known.items() if value is not None}

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""``torchgeo-ekgnet inspect``: look at a scene before anything is trained."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from torchgeo.datamodules import BaseDataModule

from .._configurations import check_yaml
from .._files import check_output_file, named_path
from .._terminal import brief
from ..cli import built_data
from ..commands import CommandParser, did_you_mean, resolve_config, shipped_configs
from ..datamodules import HyperspectralDataModule
from ..maps import Page
from .advice import advised_patch
from .discovery import find_scene
from .options import add_scene_options, scene_options
from .overview import Overview
from .page import write_overview


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        args: Command-line arguments; None for those of the process.
    """
    parser = CommandParser(
        prog='torchgeo-ekgnet inspect',
        description='Show what a scene holds: facts, bands, classes, splits, and, on '
        'a page, pictures and spectra.',
    )
    parser.add_argument(
        'files',
        nargs='+',
        metavar='FILE',
        help='cube and labels in any order, a folder, a pattern, or a configuration '
        f'(a .yaml file, or one of {", ".join(shipped_configs())})',
    )
    parser.add_argument('--root', help="folder of a configuration's scene")
    parser.add_argument(
        '--patch_size',
        type=int,
        help='patch that splits are judged by (default: that of init)',
    )
    parser.add_argument(
        '--output',
        type=named_path,
        metavar='PAGE.html',
        help='page to write (default: NAME.html)',
    )
    parser.add_argument('--no_page', action='store_true', help='write no page')
    add_scene_options(parser)
    options = parser.parse_args(args)
    overview = _overview(options)
    name = overview.scene.name.replace('/', '_').replace(' ', '_').lower()
    page = options.output or Path(f'{name}.html')
    if not options.no_page:
        check_output_file(page, ('.html', '.htm'))
        if options.output is None and page.exists() and not Page.wrote(page):
            raise FileExistsError(
                f'{page}: found a file that this command has not written, expected none; '
                'name another page with --output, or write none with --no_page'
            )
    sys.stdout.write(overview.text())
    if not options.no_page:
        write_overview(overview, page)
        sys.stdout.write(f'\npage: {page}\n')


def _overview(options: argparse.Namespace) -> Overview:
    """Open what was named: files, or the scene of a configuration."""
    first, given = options.files[0], options.patch_size
    is_config = Path(first).suffix in ('.yaml', '.yml') or (
        first in shipped_configs() and not Path(first).exists()
    )
    if not is_config:
        hint = did_you_mean(first, shipped_configs())
        if hint and first.isidentifier() and not Path(first).exists():
            raise FileNotFoundError(f'found no file {first}{hint}')
        found = find_scene(options.files, scene_options(options))
        size = advised_patch(found.scene) if given is None else given
        return Overview(found.scene, size, found.warnings)
    datamodule = _datamodule(resolve_config(first), options.root)
    with brief():
        # The overview tells classes and split itself; doubts about them are warnings.
        datamodule.setup('fit' if _labelled(datamodule) else 'predict')
    return Overview(
        datamodule.scene,
        datamodule.patch_size if given is None else given,
        split=datamodule.split,
    )


def _labelled(datamodule: Any) -> bool:
    """Tell whether a data module names labels; those of public scenes always do."""
    options = datamodule.kwargs
    return 'labels' not in options or options['labels'] is not None


def _datamodule(path: str, root: str | None) -> Any:
    """Make the data module of a configuration."""
    check_yaml(path)
    content = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    if not isinstance(content, dict) or 'data' not in content:
        raise ValueError(f'{path}: found no entry data:, expected a configuration')
    datamodule = built_data(content['data'], BaseDataModule, root)
    if not isinstance(datamodule, HyperspectralDataModule):
        raise TypeError(
            f'{path}: found {type(datamodule).__name__}, expected a data module of one '
            'scene'
        )
    return datamodule

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""``torchgeo-ekgnet init``: a configuration for the files of a scene."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from .._files import check_output_file, named_path, write_text
from ..commands import CommandParser
from ..tasks.networks import check_model
from .advice import Advice, advise
from .configuration import commands, write_configuration
from .discovery import SceneFiles, find_scene
from .options import add_scene_options, scene_options


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        args: Command-line arguments; None for those of the process.

    Raises:
        FileExistsError: If the configuration exists already.
    """
    parser = CommandParser(
        prog='torchgeo-ekgnet init',
        description='Write a complete configuration for your files: cube and labels '
        'are found, network, recipe and split are proposed.',
    )
    parser.add_argument(
        'files',
        nargs='*',
        default=['.'],
        metavar='FILE',
        help='cube and labels in any order, a pattern in quotes, or a folder '
        '(default: the current one)',
    )
    parser.add_argument('--name', help='name of the run (default: that of the cube)')
    parser.add_argument(
        '--output',
        type=named_path,
        metavar='FILE.yaml',
        help='file to write (default: NAME.yaml)',
    )
    parser.add_argument('--force', action='store_true', help='replace an older file')
    parser.add_argument('--model', help='network (default: as advised)')
    parser.add_argument('--patch_size', type=int, help='rows and columns of a patch')
    parser.add_argument(
        '--split', choices=('disjoint', 'random'), help='default: disjoint if possible'
    )
    add_scene_options(parser)
    options = parser.parse_args(args)
    if options.model is not None:
        check_model(options.model)
    found = find_scene(options.files, scene_options(options), need_labels=True)
    name = _plain(options.name or found.scene.name)
    path = options.output or Path(f'{name}.yaml')
    check_output_file(path, ('.yaml', '.yml'))
    if path.exists() and not options.force:
        raise FileExistsError(
            f'{path} exists already; name another with --output, or replace it with '
            '--force'
        )
    advice = advise(found.scene, options.model, options.patch_size, options.split)
    write_text(path, write_configuration(found, advice, name, path))
    for text in found.warnings:
        sys.stdout.write(f'note: {text}\n')
    sys.stdout.write(_summary(found, advice, path, name))


def _plain(name: str) -> str:
    """Make a name that is safe as a folder and on a command line."""
    return re.sub(r'[^\w.-]+', '_', name).strip('._-').lower() or 'scene'


def _summary(found: SceneFiles, advice: Advice, path: Path, name: str) -> str:
    """Say what was found and advised, and what to type next."""
    cube = found.cube
    if not isinstance(cube, str):
        cube = f'{len(cube)} files, {cube[0]} to {cube[-1]}'
    reason = advice.reasons.get('model')
    lines = [
        f'cube     {cube}',
        f'labels   {found.labels}',
        f'network  {advice.model}{f": {reason}" if reason else ""}',
        f'split    {advice.split.protocol}: {advice.reasons["split"]}',
        f'wrote    {path}',
        '',
        'next:',
    ]
    lines += [f'  {command}' for command in commands(name, path)]
    return '\n'.join(lines) + '\n'

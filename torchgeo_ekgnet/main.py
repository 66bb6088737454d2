# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The command line: torchgeo's own with this package imported, and our commands.

``fit``, ``validate``, ``test`` and ``predict`` go to :func:`torchgeo.main.main`. Since
the package is imported first, short names of its classes and the names of its models
resolve, and ``--config NAME`` finds a configuration that ships with the package. Every
other command belongs to the room that does the work and is imported when it is called.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from ._version import __version__
from .layers import keep_freed_memory


class Command(NamedTuple):
    """A command of this package.

    Attributes:
        module: Module that holds its function, relative to the package.
        function: Function that is called with the remaining arguments.
        summary: One line for the help text.
    """

    module: str
    function: str
    summary: str


TORCHGEO_COMMANDS = {
    'fit': 'train: best weights, logs and split go to runs/NAME/version_N',
    'validate': 'score the validation pixels with a checkpoint',
    'test': 'score the test pixels: table, test.json beside the checkpoint',
    'predict': 'classify every pixel: map, confidence and report beside the checkpoint',
}

COMMANDS = {
    'inspect': Command('intake.inspect', 'main', 'look at a scene before any training'),
    'init': Command('intake.init', 'main', 'write a configuration for your own files'),
    'export': Command('export', 'main', 'write a trained network as ONNX or pt2'),
    'demo': Command(
        'demo', 'main', 'train on the built-in synthetic scene and compare with an SVM'
    ),
    'repeat': Command(
        'reproduce', 'main_repeat', 'repeat a run over seeds: mean and deviation'
    ),
    'reproduce': Command(
        'reproduce', 'main_reproduce', "the paper's tables and figures"
    ),
    'bench': Command('bench', 'main', 'speed and memory of layers and models'),
}

_DEBUG = 'TORCHGEO_EKGNET_DEBUG'
_ROOMS = ('callbacks', 'datamodules', 'datasets', 'samplers', 'tasks', 'transforms')


def shipped_configs() -> dict[str, Path]:
    """List the configurations that ship with the package.

    Returns:
        Paths by name, sorted.
    """
    folder = Path(str(files(__package__).joinpath('configs')))
    return {path.stem: path for path in sorted(folder.glob('*.yaml'))}


def resolve_config(name: str) -> str:
    """Find a configuration by path or by name.

    Args:
        name: Path of a file, or name of a shipped configuration.

    Returns:
        Path of the file.

    Raises:
        FileNotFoundError: If there is neither; the message lists the shipped ones.
    """
    if os.path.isfile(name):
        return name
    shipped = shipped_configs()
    stem = name.removesuffix('.yaml')
    if stem in shipped:
        return str(shipped[stem])
    raise FileNotFoundError(
        f'--config: no file {name!r}, and no shipped configuration of that name; '
        f'there are {", ".join(shipped)}{_did_you_mean(stem, shipped)}'
    )


def _did_you_mean(name: str, known: Sequence[str] | dict[str, Path]) -> str:
    """Suggest the known name closest to an unknown one."""
    close = get_close_matches(name, list(known), n=1)
    return f'; did you mean {close[0]!r}?' if close else ''


def resolve_args(args: Sequence[str]) -> list[str]:
    """Replace names of shipped configurations by their paths.

    Args:
        args: Command-line arguments.

    Returns:
        Arguments for torchgeo.
    """
    resolved: list[str] = []
    for index, arg in enumerate(args):
        if index and args[index - 1] in ('--config', '-c'):
            resolved.append(resolve_config(arg))
        elif arg.startswith('--config='):
            resolved.append('--config=' + resolve_config(arg.split('=', 1)[1]))
        else:
            resolved.append(arg)
    return resolved


def help_text() -> str:
    """Write the help text, which lists every command.

    Returns:
        Text for the terminal.
    """
    summaries = {**TORCHGEO_COMMANDS}
    summaries.update({name: item.summary for name, item in COMMANDS.items()})
    width = max(len(name) for name in summaries)
    lines = [
        'usage: torchgeo-ekgnet COMMAND [OPTIONS]',
        '',
        'Hyperspectral image classification with EKGNet.',
        '',
        "commands (torchgeo's own take --config FILE_OR_NAME; all take --help):",
        *(f'  {name:<{width}}  {summary}' for name, summary in summaries.items()),
        '',
        'shipped configurations for --config:',
        '  ' + ', '.join(shipped_configs()),
        '',
        'options:',
        '  -h, --help     this text',
        '  --version      versions of this package and torchgeo',
        '',
        'examples:',
        '  torchgeo-ekgnet demo',
        '  torchgeo-ekgnet fit --config salinas_a --data.root DIR',
        '  torchgeo-ekgnet test --config salinas_a --data.root DIR \\',
        '      --ckpt_path runs/salinas_a/version_0/checkpoints/best.ckpt',
        '',
        f'{_DEBUG}=1 shows where in the program an error was raised.',
    ]
    return '\n'.join(lines) + '\n'


def run(args: Sequence[str]) -> None:
    """Run a command; errors are raised as they are.

    Args:
        args: Command and options, without the name of the program.

    Raises:
        SystemExit: If the command is unknown, or after help.
    """
    if not args or args[0] in ('-h', '--help', 'help'):
        sys.stdout.write(help_text())
        return
    if args[0] == '--version':
        from importlib.metadata import version

        torchgeo_version = version('torchgeo')
        sys.stdout.write(
            f'torchgeo_ekgnet {__version__} (torchgeo {torchgeo_version})\n'
        )
        return
    name, rest = args[0], args[1:]
    keep_freed_memory()
    if name in COMMANDS:
        command = COMMANDS[name]
        module = importlib.import_module(f'{__package__}.{command.module}')
        getattr(module, command.function)(list(rest))
        return
    if not name.startswith('-') and name not in TORCHGEO_COMMANDS:
        known = [*TORCHGEO_COMMANDS, *COMMANDS]
        raise SystemExit(
            f'torchgeo-ekgnet: unknown command {name!r}{_did_you_mean(name, known)}\n'
            f'commands: {", ".join(known)} (torchgeo-ekgnet --help tells more)'
        )
    resolved = resolve_args(args)
    for room in _ROOMS:
        importlib.import_module(f'{__package__}.{room}')
    from torchgeo.main import main as torchgeo_main

    # Lightning warns about arguments that differ from those of the process.
    process_args = sys.argv
    sys.argv = [process_args[0], *resolved]
    try:
        torchgeo_main()
    finally:
        sys.argv = process_args


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: Command and options; None for those of the process. With None, an error
            that this package raises about its input ends the process with one line
            instead of a traceback.

    Raises:
        SystemExit: On errors in the command line.
    """
    if args is not None:
        run(args)
        return
    try:
        run(sys.argv[1:])
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        own = _own_error(error)
        if os.environ.get(_DEBUG) or own is None:
            raise
        raise SystemExit(f'torchgeo-ekgnet: {type(own).__name__}: {own}') from None


def _own_error(error: BaseException | None) -> BaseException | None:
    """Find what this package raised on purpose in a chain of errors.

    The command line wraps errors of a constructor into its own, which list every value.

    Args:
        error: The last error of the chain.

    Returns:
        The latest error that this package raised; None if there is none.
    """
    while error is not None and not _raised_here(error):
        hidden = error.__suppress_context__
        error = error.__cause__ or (None if hidden else error.__context__)
    return error


def _raised_here(error: BaseException) -> bool:
    """Tell whether an error was raised by this package on purpose.

    Args:
        error: The error.

    Returns:
        Whether its innermost frame is a ``raise`` in this package.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    last = frames[-1]
    inside = Path(last.filename).is_relative_to(Path(__file__).parent)
    return inside and (last.line or '').lstrip().startswith('raise ')

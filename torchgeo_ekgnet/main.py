# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The command line: torchgeo's own with this package imported, and our commands.

``fit``, ``validate``, ``test`` and ``predict`` go to :func:`torchgeo.main.main`. Since
the package is imported first, short names of its classes and the names of its models
resolve, and ``--config NAME`` finds a configuration that ships with the package. Every
other command belongs to the subpackage that does the work and is imported when it is
called.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from ._terminal import quiet
from .commands import COMMANDS, DEBUG, answer, resolve_config

_SUBPACKAGES = (
    'callbacks',
    'datamodules',
    'datasets',
    'samplers',
    'tasks',
    'transforms',
)


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


@quiet()
def run(args: Sequence[str]) -> None:
    """Run a command; errors are raised as they are.

    Args:
        args: Command and options, without the name of the program.

    Raises:
        SystemExit: If the command is unknown, or after help.
    """
    text = answer(args)
    if text is not None:
        sys.stdout.write(text)
        return
    name, rest = args[0], args[1:]
    from . import models  # noqa: F401  (registers the networks)
    from .layers import keep_freed_memory

    keep_freed_memory()
    if name in COMMANDS:
        command = COMMANDS[name]
        module = importlib.import_module(f'{__package__}.{command.module}')
        getattr(module, command.function)(list(rest))
        return
    resolved = resolve_args(args)
    for name in _SUBPACKAGES:
        importlib.import_module(f'{__package__}.{name}')
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
        if os.environ.get(DEBUG) or own is None:
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

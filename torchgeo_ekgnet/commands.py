# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Names of commands and configurations, help and version: what needs no torch."""

import argparse
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, NoReturn

__all__ = (
    'COMMANDS',
    'DEBUG',
    'TORCHGEO_COMMANDS',
    'Command',
    'CommandParser',
    'answer',
    'did_you_mean',
    'help_text',
    'resolve_config',
    'shipped_configs',
)

DEBUG = 'TORCHGEO_EKGNET_DEBUG'
"""Environment variable that asks for tracebacks."""


class Command(NamedTuple):
    """A command of the package.

    Attributes:
        module: Module that holds its function, relative to the package.
        function: Function that is called with the remaining arguments.
        summary: One line for the help text.
    """

    module: str
    function: str
    summary: str


class CommandParser(argparse.ArgumentParser):
    """A parser of a command whose errors are one line, without its usage."""

    def error(self, message: str) -> NoReturn:
        """End the process.

        Args:
            message: What is wrong.

        Raises:
            SystemExit: Always, with the status of :mod:`argparse`.
        """
        self.exit(2, f'{self.prog}: {message} ({self.prog} --help tells more)\n')


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
    'compare': Command(
        'reproduce',
        'main_compare',
        'several networks and baselines on one scene: what may be concluded',
    ),
    'reproduce': Command(
        'reproduce', 'main_reproduce', "the paper's tables and figures"
    ),
    'bench': Command('bench', 'main', 'speed and memory of layers and models'),
}


def shipped_configs() -> dict[str, Path]:
    """List the configurations that ship with the package."""
    folder = Path(__file__).with_name('configs')
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
    if Path(name).is_file():
        return name
    shipped = shipped_configs()
    stem = name.removesuffix('.yaml')
    if stem in shipped:
        return str(shipped[stem])
    if Path(name).exists():
        raise FileNotFoundError(
            f'--config: {name} is a folder, a pipe or a device, expected a file'
        )
    raise FileNotFoundError(
        f'--config: no file {name!r}, and no shipped configuration of that name; '
        f'there are {", ".join(shipped)}{did_you_mean(stem, shipped)}'
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the known name closest to an unknown one, '' if none is close."""
    names = list(known)
    # Else the one that begins so: random is a RandomSplit.
    close = get_close_matches(name, names, n=1) or [
        item
        for item in names
        if len(name) > 2 and item.lower().startswith(name.lower())
    ]
    return f'; did you mean {close[0]!r}?' if close else ''


def help_text() -> str:
    """Write the help text, which lists every command."""
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
        '  torchgeo-ekgnet test --name salinas_a',
        '  torchgeo-ekgnet predict --name salinas_a',
        '',
        f'{DEBUG}=1 shows where in the program an error was raised.',
    ]
    return '\n'.join(lines) + '\n'


def answer(args: Sequence[str]) -> str | None:
    """Answer what needs no command.

    Args:
        args: Command and options, without the name of the program.

    Returns:
        Help or version for the terminal; None if a command is called.

    Raises:
        SystemExit: If the command is unknown.
    """
    if not args or args[0] in ('-h', '--help', 'help'):
        return help_text()
    if args[0] == '--version':
        ours, theirs = metadata.version('torchgeo_ekgnet'), metadata.version('torchgeo')
        return f'torchgeo_ekgnet {ours} (torchgeo {theirs})\n'
    name, known = args[0], [*TORCHGEO_COMMANDS, *COMMANDS]
    if not name.startswith('-') and name not in known:
        raise SystemExit(
            f'torchgeo-ekgnet: unknown command {name!r}{did_you_mean(name, known)}\n'
            f'commands: {", ".join(known)} (torchgeo-ekgnet --help tells more)'
        )
    return None

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What the command line's parser says, in one line that a user can act on."""

import inspect
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

from .commands import did_you_mean, shipped_configs

__all__ = ('essence', 'imported')

_NOISE = (
    'does not validate against any of the union subtypes',
    'subtypes:',
    'errors:',
    "- expected a <class 'nonetype'>",
    'given value type:',
    'not a valid subclass of',
    'subclass types expect one of:',
    '- a class path (str)',
    '- a dict with',
    'given value: {',
    'given value: [',
    'given value: namespace(',
)
"""Beginnings of lines of the parser's messages that tell a user nothing."""

_PARTS = {
    'data': 'torchgeo_ekgnet.datamodules.CustomSceneDataModule',
    'model': 'torchgeo_ekgnet.tasks.HyperspectralClassificationTask',
    'trainer': 'lightning.pytorch.Trainer',
}
"""Parts of a configuration, and a class of each: for who types an option without them."""


def imported(name: str) -> Any:
    """Give what a path of names means among the modules that are imported."""
    module, _, attribute = name.rpartition('.')
    return getattr(sys.modules.get(module), attribute, None)


def essence(message: str, classes: Sequence[str]) -> str:
    """Give the parser's message in one line, without the configuration in it.

    Args:
        message: What the parser says.
        classes: Names of classes that may be short, for who mistypes one.
    """
    lines = [line.strip() for line in str(message).splitlines()]
    kept = [
        line.removeprefix('- ')
        for line in lines
        if line and not line.lower().startswith(_NOISE)
    ]
    text = re.sub(r'<(?:class|enum) \'([^\']*)\'>', r'\1', ' '.join(kept))
    text = text.replace('collections.abc.Sequence', 'list')
    text = text.replace('collections.abc.Mapping', 'mapping')
    text = re.sub(r'a typing\.Literal\[(.*?)\]', r'one of \1', text)
    text = re.sub(r'\.? (?:Got|Given) value:$', ", found ''", text)
    text = re.sub(r'\.? (?:Got|Given) value: ', ', found ', text)
    # The parser's own packing of an option that was just named.
    text = re.sub(
        r", found (?:Given value: )?NestedArg\(.*val=''\)$", ", found ''", text
    )
    text = re.sub(r', found NestedArg\(.*?\)$', '', text)
    # A number that is written as a text: with quotes or without, it looks like one.
    text = re.sub(
        r'Expected an? (int|float), found ([\d.e+-]+)(?:, found .*)?$',
        r"expected a number (\1), found the text '\2'",
        text,
    )
    # How the parser looked for a class that is none.
    text = re.sub(
        r'Expected a (?:path but .*?Expected a )?dot import path string: ([^\s,]+).*$',
        lambda no: f'found {no[1]}, expected a class{did_you_mean(no[1], classes)}',
        text,
    )
    text = re.sub(r'Parser key "([^"]*)":', r'--\1:', text)
    text = text.replace(' is not accepted Expected a str', ' is not accepted')
    text = re.sub(r"Problem with given class_path '([^']*)':", r'\1:', text)
    text = re.sub(
        r'^the following arguments are required: (\w+)\.(\w+)(?:, \1\.(\w+))?$',
        lambda no: _no_configuration(no[1], no[2], no[3]),
        text,
    )
    # An option of a part whose class nothing names.
    text = re.sub(
        r"^--(data|model): (?:torchgeo\.[\w.]+: Option '\w+' is not accepted|Expected an "
        r'instantiatable class, but torchgeo\.[\w.]+ is abstract)$',
        lambda no: (
            f'--{no[1]}: found an option and no class that takes it, expected one, as in '
            f'{_config()}'
        ),
        text,
    )
    # The command line's model is the task; a network is one of its arguments.
    text = re.sub(
        r'^--model: found (\w+), expected a class$',
        r'\g<0> (a network is named by --model.model \1)',
        text,
    )
    return text + _closest(text)


def _no_configuration(stage: str, part: str, other: str | None) -> str:
    """Say what a stage expects that was not told one part or two."""
    # Who names one part means another scene or network, of which no run knows.
    run = '--ckpt_path RUN/checkpoints/best.ckpt or ' * (stage != 'fit' and bool(other))
    found = f'no {part}' if other is None else f'neither {part} nor {other}'
    return f'{stage}: found {found}, expected {run}{_config()}'


def _config() -> str:
    """Say which configurations there are."""
    return (
        f'--config FILE_OR_NAME (shipped are {", ".join(shipped_configs())}; '
        'torchgeo-ekgnet init writes one for your own files)'
    )


def _closest(text: str) -> str:
    """Suggest the argument that was meant, where the message names class and typo."""
    whole = re.match(r'(?:unrecognized arguments|ambiguous option): --([\w-]+)', text)
    if whole is not None:
        # Of an argument that several parts have, the first part's.
        parts = {
            name: part
            for part, path in reversed(_PARTS.items())
            for name in _arguments(path)
        }
        word = whole[1].replace('-', '_')
        for part in _PARTS:
            word = word.removeprefix(f'{part}_')
        close = [word] if word in parts else get_close_matches(word, parts, n=2)
        meant = ' or '.join(f'--{parts[name]}.{name}' for name in close)
        return f'; did you mean {meant}?' if meant else ''
    bare = re.match(r'unrecognized arguments: ([^\s-]\S*)', text)
    if bare and (bare[1] in shipped_configs() or bare[1].endswith('.yaml')):
        return f'; did you mean --config {bare[1]}?'
    typo = re.search(r"'([\w.]+)' is not accepted", text)
    classes = re.findall(r'((?:\w+\.)+\w+):', text)
    if typo is None or not classes:
        return ''
    # The parser has imported it.
    return did_you_mean(typo[1], sorted(_arguments(classes[-1])))


def _arguments(name: str) -> set[str]:
    """Give the names of what a class and its bases take, if it is imported."""
    found, known = imported(name), set[str]()
    for base in inspect.getmro(found) if inspect.isclass(found) else ():
        with suppress(TypeError, ValueError):
            known.update(inspect.signature(base).parameters)
    return known - {'self', 'args', 'kwargs'}

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What the command line's parser says, in one line that a user can act on."""

import inspect
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
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
        r'^the following arguments are required: (\w+)\.data, \1\.model$',
        lambda no: _no_configuration(no[1]),
        text,
    )
    return text + _closest(text)


def _no_configuration(stage: str) -> str:
    """Say what a stage expects that was told neither data nor model."""
    run = '' if stage == 'fit' else '--ckpt_path RUN/checkpoints/best.ckpt or '
    return (
        f'{stage}: found neither data nor model, expected {run}--config FILE_OR_NAME '
        f'(shipped are {", ".join(shipped_configs())}; torchgeo-ekgnet init writes one '
        'for your own files)'
    )


def _closest(text: str) -> str:
    """Suggest the argument that was meant, where the message names class and typo."""
    whole = re.match(r'(?:unrecognized arguments|ambiguous option): --(\w+)', text)
    for part, name in _PARTS.items():
        if whole is not None and whole[1] in _arguments(name):
            return f'; did you mean --{part}.{whole[1]}?'
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

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What a configuration may be: YAML that ends, and no classes but a training's.

Whoever types ``--config FILE`` may name any class. A configuration that was found beside
a checkpoint may have come with it from anywhere: it names known packages only, and of
these nothing that starts programs.
"""

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from ._messages import imported
from ._reading import FileError
from ._runs import HARMLESS, is_harmless

__all__ = ('UsageError', 'check_classes', 'check_yaml', 'only_known')

_KNOWN = frozenset(
    ('kornia', 'lightning', 'timm', 'torch', 'torchgeo', 'torchgeo_ekgnet')
)
"""Packages that are imported for a configuration that nobody has typed."""

_MOST = 200_000
"""Most values of a configuration."""

_NUMBERS = ('tag:yaml.org,2002:int', 'tag:yaml.org,2002:float')
"""What YAML calls numbers."""


class UsageError(ValueError):
    """An argument or a configuration that the parser does not accept."""


class _OnlyKnown(MetaPathFinder):
    """Imports nothing that the parser read in a configuration, known packages apart."""

    refused: str | None = None

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Leave every other import to other finders."""
        frame = inspect.currentframe()
        while frame is not None and (
            frame.f_code is _OnlyKnown.find_spec.__code__
            or frame.f_code.co_filename.startswith('<frozen importlib')
        ):
            frame = frame.f_back
        # How the parser imports a name that it read; what it needs itself it imports
        # elsewhere.
        if (
            fullname.partition('.')[0] not in _KNOWN
            and frame is not None
            and frame.f_code.co_name == 'import_object'
            and str(frame.f_globals.get('__name__')).startswith('jsonargparse.')
        ):
            self.refused = self.refused or fullname
            raise ModuleNotFoundError(f'{fullname} is not imported', name=fullname)


@contextmanager
def only_known(config: str) -> Iterator[None]:
    """Let the parser import known packages only, for a configuration that was found.

    Args:
        config: The configuration, for messages.

    Yields:
        Nothing.

    Raises:
        FileError: If it names a class of another package.
    """
    guard = _OnlyKnown()
    sys.meta_path.insert(0, guard)
    try:
        yield
    except Exception as error:
        if guard.refused is not None:
            raise _stranger(config, guard.refused) from error
        raise
    finally:
        sys.meta_path.remove(guard)


def _stranger(config: str, name: str) -> FileError:
    """Make the error of a configuration that names what is not imported for it."""
    return FileError(
        f'{config}: found {name}, expected classes of {", ".join(HARMLESS)}: a '
        'configuration that is found beside a checkpoint names no others; if you trust '
        f'it, pass it with --config'
    )


def check_classes(config: str, value: Any) -> None:
    """Refuse parsed values that are, or name, what may do more than a training needs.

    A class that the program has imported itself is known if it builds on one that is.

    Args:
        config: The configuration, for messages.
        value: What the parser made of it, or a part of that.

    Raises:
        FileError: If there is one.
    """
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        name = value.get('class_path')
        if isinstance(name, str) and not _is_known(imported(name), name):
            raise _stranger(config, name)
        for item in value.values():
            check_classes(config, item)
    elif isinstance(value, list | tuple):
        for item in value:
            check_classes(config, item)
    elif (inspect.isroutine(value) or inspect.isclass(value)) and not _is_known(
        value, str(value.__module__)
    ):
        raise _stranger(config, f'{value.__module__}.{value.__qualname__}')


def _is_known(found: Any, name: str) -> bool:
    """Tell whether a class, by its own path or that of a base, is known as harmless."""
    names = [name]
    if inspect.isclass(found):
        names = [base.__module__ for base in inspect.getmro(found)]
    return any(map(is_harmless, names))


def check_yaml(path: str) -> None:
    """Refuse a configuration that is no YAML of keys and values.

    Args:
        path: The file.

    Raises:
        UsageError: If it is not; names file and line.
    """
    try:
        text = Path(path).read_text(encoding='utf-8')
        _check_keys(path, yaml.compose(text, yaml.SafeLoader))
        found = yaml.safe_load(text)
    except RecursionError:
        raise UsageError(
            f'{path}: found values within values without end, expected a configuration'
        ) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, 'problem_mark', None)
        where = '' if mark is None else f', line {mark.line + 1}'
        problem = str(getattr(error, 'problem', None) or error).removeprefix('found ')
        raise UsageError(f'{path}{where}: found {problem}, expected YAML') from None
    if not isinstance(found, dict):
        kind = 'nothing' if found is None else f'a {type(found).__name__}'
        raise UsageError(
            f'{path}: found {kind}, expected keys such as model, data and trainer'
        )


def _check_keys(path: str, root: yaml.Node | None) -> None:
    """Refuse keys given twice, of which YAML would take the last, loops, and odd numbers.

    Numbers that begin with 0 are octal in YAML, and 1:30 is 90.
    """
    waiting: list[tuple[yaml.Node | None, tuple[yaml.Node, ...]]] = [(root, ())]
    known: set[int] = set()  # aliases of aliases have more paths than nodes
    while waiting:
        node, above = waiting.pop()
        if any(node is item for item in above):
            raise UsageError(
                f'{path}, line {above[-1].start_mark.line + 1}: found an alias of what '
                'it is part of, expected values that end'
            )
        if id(node) in known:
            continue
        known.add(id(node))
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.ScalarNode):
            _check_number(path, node)
        if isinstance(node, yaml.SequenceNode):
            inside = node.value
        elif isinstance(node, yaml.MappingNode):
            inside = [value for _, value in node.value]
            seen: set[Any] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    _check_number(path, key)
                if isinstance(key.value, str) and key.value in seen:
                    raise UsageError(
                        f'{path}, line {key.start_mark.line + 1}: found the key '
                        f'{key.value} a second time, expected it once'
                    )
                seen.add(key.value if isinstance(key.value, str) else None)
        waiting += [(item, (*above, node)) for item in inside if node is not None]
    if (number := _count(root, {})) > _MOST:
        raise UsageError(
            f'{path}: found {number:,} values, each alias counted with what it stands '
            f'for, expected at most {_MOST:,}'
        )


def _check_number(path: str, node: yaml.ScalarNode) -> None:
    """Refuse a number that YAML reads in another base than ten."""
    text = node.value.replace('_', '')
    if node.tag not in _NUMBERS or not re.fullmatch(r'[-+]?0\d+|.*:.*', text):
        return
    read = yaml.safe_load(node.value)
    if ':' in text or read != int(text):
        raise UsageError(
            f'{path}, line {node.start_mark.line + 1}: found {node.value}, which YAML '
            f'reads as {read}, expected a number without leading 0 or colon, or a text '
            'in quotes'
        )


def _count(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Count values as the parser copies them: aliases of aliases grow without end."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        pairs = isinstance(node, yaml.MappingNode)
        inside = [pair[1] for pair in node.value] if pairs else node.value
        known[id(node)] = 1 + sum(_count(item, known) for item in inside)
    return known[id(node)]

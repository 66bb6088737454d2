# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""``python -m tests.sizes``: what is long, and how much of the package is docstring."""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FILE_LINES = 500
FUNCTION_LINES = 80

_APART = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT),
    *(tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER),
}


class Long(NamedTuple):
    """A file, or a function of a file, that is over its limit."""

    place: str
    lines: int


class Count(NamedTuple):
    """Lines of Python; what is neither code nor docstring is blank or comment."""

    lines: int
    code: int
    docstring: int


def docstrings(node: ast.AST) -> set[int]:
    """Number the lines of docstrings in a module, class or function."""
    found: set[int] = set()
    for part in ast.walk(node):
        match part:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef():
                if ast.get_docstring(part, clean=False) is None:
                    continue
                text = part.body[0]
                found.update(range(text.lineno, (text.end_lineno or 0) + 1))
    return found


def count(text: str) -> Count:
    """Count the lines of a module."""
    apart = docstrings(ast.parse(text))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _APART:
            code.update(range(token.start[0], token.end[0] + 1))
    return Count(len(text.splitlines()), len(code - apart), len(apart))


def long_places(text: str, path: str) -> Iterator[Long]:
    """Find out whether a module is long, and which of its functions are."""
    lines = len(text.splitlines())
    if lines > FILE_LINES:
        yield Long(path, lines)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > FUNCTION_LINES:  # few are: their docstrings are counted then
                lines -= len(docstrings(node))
            if lines > FUNCTION_LINES:
                yield Long(f'{path}::{node.name}', lines)


def modules(*folders: str) -> Iterator[tuple[str, str]]:
    """Give every module of some folders: its path below the root, and its text."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob('*.py')):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding='utf-8')


def main() -> None:
    """Print what is long, then what the package and its tests consist of."""
    for path, text in modules('torchgeo_ekgnet', 'tests', 'docs', 'benchmarks'):
        for place, lines in long_places(text, path):
            print(f'{lines:6}  {place}')
    for folder in ('torchgeo_ekgnet', 'tests'):
        counts = [count(text) for _, text in modules(folder)]
        total = Count(*(sum(column) for column in zip(*counts, strict=True)))
        print(
            f'{folder}: {total.lines:,} lines, of them {total.code:,} code and '
            f'{total.docstring:,} docstring'
        )


if __name__ == '__main__':
    main()

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What is long is listed in CONTRIBUTING with its reason; every function says what it does."""

import ast
import re

from .sizes import ROOT, Count, Long, count, long_places, modules


def test_long_files_and_functions_have_a_reason() -> None:
    text = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    _, _, section = text.partition('## What is long')
    listed = re.findall(r'^\| `([^`]+)` \| \S', section, re.MULTILINE)
    found = [
        place.place
        for path, text in modules('torchgeo_ekgnet', 'tests', 'docs', 'benchmarks')
        for place in long_places(text, path)
    ]
    assert sorted(found) == sorted(listed)


def test_every_function_says_what_it_does() -> None:
    silent = [
        f'{path}::{item.name}'
        for path, text in modules('torchgeo_ekgnet')
        for part in ast.walk(ast.parse(text))
        if isinstance(part, ast.Module | ast.ClassDef)
        for item in part.body
        if isinstance(item, ast.FunctionDef) and not ast.get_docstring(item)
        if item.name != 'forward' and not item.name.startswith('__')
    ]
    assert not silent


def test_docstrings_comments_and_blank_lines_are_no_code() -> None:
    text = '"""A module.\n\nOf two\n"""\n\n# why\nx = (\n    1\n)\n'
    assert count(text) == Count(lines=9, code=3, docstring=4)


def test_a_docstring_makes_no_function_long() -> None:
    body = ''.join(f'    x = {n}\n' for n in range(79))
    assert not list(long_places(f'def f():\n    """One\n    two."""\n{body}', 'a.py'))
    long = f'def f():\n    """One."""\n{body}    return x\n'
    assert list(long_places(long, 'a.py')) == [Long('a.py::f', 81)]

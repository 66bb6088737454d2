# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The long form of all campaigns: ``python -m tests.robustness``.

Prints a table of counts; the exit status is 1 if anything was seen that should not be.
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from . import LONG, good
from .commands import mutated_configurations
from .contents import mutated_contents
from .files import mutated_files
from .stops import deaths, kills, resumes

CAMPAIGNS: dict[str, Callable[[int, Path, int], dict[str, int]]] = {
    'files': mutated_files,
    'configurations': mutated_configurations,
    'contents': mutated_contents,
    'kills': kills,
    'resumes': resumes,
    'deaths': lambda count, place, seed: deaths(count, place),
}


def main() -> None:
    """Run the campaigns."""
    parser = argparse.ArgumentParser(prog='python -m tests.robustness')
    parser.add_argument('campaign', nargs='*', help=f'some of {", ".join(LONG)}')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--share', type=float, default=1.0, help='of the long form')
    options = parser.parse_args()
    unknown = set(options.campaign) - set(LONG)
    if unknown:
        parser.error(f'found {", ".join(unknown)}, expected some of {", ".join(LONG)}')
    warnings.simplefilter('ignore')
    bad = 0
    for name in options.campaign or LONG:
        count = max(1, round(options.share * LONG[name]))
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            seen = CAMPAIGNS[name](count, Path(folder), options.seed)
        seconds = time.perf_counter() - began
        total = sum(seen.values())
        sys.stdout.write(f'\n{name}: {total} trials in {seconds:.0f} s\n\n')
        sys.stdout.write('| what | how it ended | times |\n| --- | --- | --- |\n')
        for key, times in sorted(seen.items()):
            what, _, end = key.partition(': ') if ': ' in key else ('', '', key)
            mark = '' if good(key) else ' **FAULT**'
            bad += 0 if good(key) else times
            sys.stdout.write(f'| {what} | {end}{mark} | {times} |\n')
        sys.stdout.flush()
    sys.stdout.write(f'\nfaults: {bad}\n')
    raise SystemExit(bool(bad))


if __name__ == '__main__':
    main()

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What people's files, configurations and machines may do to the package."""

LONG = {
    'files': 10_000,
    'configurations': 500,
    'contents': 500,
    'kills': 60,
    'resumes': 8,
    'deaths': 39,
}
"""Trials of the long form of each campaign."""

_GOOD = (
    'same',
    'refused',
    "refused in a library's words",
    'other values',
    'runs',
    'finished',
)


def good(name: str) -> bool:
    """Tell whether an end of a trial is none of the faults that are looked for.

    Args:
        name: ``'end'``, or ``'what: end'``.

    Returns:
        Whether nothing escaped, hung, died, was lost or changed in silence.
    """
    return name.partition(': ')[2] in _GOOD or name in _GOOD

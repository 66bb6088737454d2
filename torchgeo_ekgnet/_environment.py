# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What a result was made with: versions of the packages, and the machine."""

import functools
import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path

from ._version import __version__

PACKAGES = ('torch', 'torchgeo', 'timm', 'lightning', 'numpy', 'scikit-learn')
"""Packages that a result may depend on, beside Python and this one."""


def versions() -> dict[str, str]:
    """List the versions that a result depends on.

    Returns:
        Versions by package, those that are installed; Python's among them.
    """
    found = {'torchgeo_ekgnet': __version__, 'python': platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def code_digest() -> str:
    """Identify the code of this package, whatever version it calls itself.

    Returns:
        The first 12 hexadecimal digits of the SHA-256 of all its modules.
    """
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(p for p in folder.rglob('*') if p.suffix in ('.py', '.c', '.h')):
        digest.update(f'{path.relative_to(folder).as_posix()}\n'.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def machine() -> dict[str, str]:
    """Describe the machine and how much of it PyTorch uses.

    Returns:
        ``platform`` (the operating system), ``processor``, ``cores``, ``threads`` (of
        PyTorch's operations) and ``accelerator`` (``CPU`` where there is no other).
    """
    # Versions alone do not need torch, whose import takes seconds.
    import torch

    cuda = torch.cuda.is_available()
    return {
        'platform': platform.system(),
        'processor': _processor(),
        'cores': str(os.cpu_count() or 1),
        'threads': str(torch.get_num_threads()),
        'accelerator': torch.cuda.get_device_name() if cuda else 'CPU',
    }


def _processor() -> str:
    """Name of the processor, as far as the system tells."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(':', 1)[1] for line in lines if line.startswith('model name')]
    return names[0].strip() if names else platform.processor() or platform.machine()

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Keep freed memory in the process, where the next layer can use it.

glibc asks the kernel for every buffer above 32 MiB anew and gives it back when it is
freed. The maps of a batch are that large, so each layer pays for page faults again:
up to half of the time of a step. The commands of this package raise the two thresholds
of glibc's ``malloc`` before they work. Memory that was used stays with the process until
it ends; the peak is the same.

``TORCHGEO_EKGNET_MALLOC=0`` in the environment leaves the allocator alone. So do
settings that the user has made (``MALLOC_MMAP_THRESHOLD_`` and its siblings,
``GLIBC_TUNABLES``). Other allocators and C libraries are not affected.
"""

import ctypes
import os
import platform

__all__ = ['keep_freed_memory']

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_USER_SETTINGS = (
    'MALLOC_MMAP_MAX_',
    'MALLOC_MMAP_THRESHOLD_',
    'MALLOC_TOP_PAD_',
    'MALLOC_TRIM_THRESHOLD_',
)


def keep_freed_memory() -> bool:
    """Make glibc keep large freed buffers for later requests.

    Returns:
        Whether the allocator took the settings.
    """
    if os.environ.get('TORCHGEO_EKGNET_MALLOC', '1') == '0':
        return False
    if platform.libc_ver()[0] != 'glibc':
        return False
    if 'glibc.malloc' in os.environ.get('GLIBC_TUNABLES', ''):
        return False
    if any(name in os.environ for name in _USER_SETTINGS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    # Buffers up to 1 GiB come from the heap; 2 GiB may lie free at its end.
    taken = bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30))
    return bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)) and taken

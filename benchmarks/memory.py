# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Anonymous memory of a process and its peak (RssAnon, Linux)."""

import threading
import time
from pathlib import Path


def anonymous_mib() -> float:
    """Return the anonymous memory of this process in MiB."""
    for line in Path('/proc/self/status').read_text(encoding='utf-8').splitlines():
        if line.startswith('RssAnon'):
            return int(line.split()[1]) / 1024
    raise RuntimeError('this system does not tell anonymous memory (RssAnon)')


class Peak(threading.Thread):
    """Watches the anonymous memory."""

    def __init__(self) -> None:
        """Start watching."""
        super().__init__(daemon=True)
        self.mib = 0.0
        self.start()

    def run(self) -> None:
        """Remember the largest value, twenty times a second."""
        while True:
            self.mib = max(self.mib, anonymous_mib())
            time.sleep(0.05)

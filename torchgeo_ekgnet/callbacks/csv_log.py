# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The log of a run as a table."""

from pathlib import Path

from lightning.pytorch.loggers import CSVLogger

from .._files import NO_ROOM, no_room


class CSVLog(CSVLogger):
    """Lightning's, which names its file where the disk has no room for it."""

    def save(self) -> None:
        """Write what was logged.

        Raises:
            OSError: If there is no room.
        """
        try:
            super().save()
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            path = Path(self.experiment.metrics_file_path)
            raise no_room(path, error.strerror or str(error)) from error

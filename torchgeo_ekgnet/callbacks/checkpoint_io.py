# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Checkpoints that are whole whenever they have their name."""

import io
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import Trainer

from .._files import replaced

__all__ = ('WholeCheckpointIO', 'write_whole')


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its name and moves it there.

    Lightning writes it in the temporary folder. If that is on another file system, the
    move is a copy, and a kill or a full disk leaves half a checkpoint under its name.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None
    ) -> None:
        """Write a checkpoint to a local file as a whole or not at all."""
        if storage_options is not None or '://' in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # In memory first: torch turns an error of the disk into one of its own.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with replaced(path) as part:
            # No getbuffer(): a view that an error keeps alive crashed Python 3.12.1.
            part.write_bytes(content.getvalue())


def write_whole(trainer: Trainer) -> None:
    """Let checkpoints be whole or absent, unless something else is to write them."""
    found: Any = trainer.strategy.checkpoint_io
    if type(found) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpointIO()
    elif type(getattr(found, 'writer', None)) is TorchCheckpointIO:
        found.writer = WholeCheckpointIO()

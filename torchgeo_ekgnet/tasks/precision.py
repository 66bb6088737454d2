# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""How products and convolutions of float32 are rounded on a GPU."""

import torch


class MatmulPrecision:
    """PyTorch's settings for the time in which a task runs."""

    def __init__(self) -> None:
        """Change nothing yet."""
        self._before: tuple[str, bool] | None = None

    def set(self, precision: str | None) -> None:
        """Choose a precision; None leaves PyTorch's settings."""
        if precision is None:
            return
        self._before = self._before or (
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
        )
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != 'highest'

    def restore(self) -> None:
        """Give the settings back that were found."""
        if self._before is not None:
            torch.set_float32_matmul_precision(self._before[0])
            torch.backends.cudnn.allow_tf32 = self._before[1]
            self._before = None

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Augmentation of patches: exact flips and turns, gain and noise of bands."""

from typing import Any

import torch
from torch import Tensor, nn

#: Orientations are numbered 0 to 7: quarter turns (counter-clockwise) modulo 4, after
#: a left-right flip from 4 on.
NUM_ORIENTATIONS = 8


def orient(patches: Tensor, orientation: int) -> Tensor:
    """Flip and turn patches exactly.

    Args:
        patches: Square patches, shape (..., P, P).
        orientation: 0 to 7; a left-right flip if at least 4, then
            ``orientation % 4`` quarter turns counter-clockwise.

    Returns:
        Patches of the same shape.
    """
    if orientation >= 4:
        patches = patches.flip(-1)
    return torch.rot90(patches, orientation % 4, (-2, -1))


class RandomOrientation:
    """Draw an orientation for every patch of a batch, on the batch's device."""

    def __init__(self, flips: bool = False, quarter_turns: bool = False) -> None:
        """Initialize a new drawing.

        Args:
            flips: Whether patches are flipped left-right and up-down, each with
                probability one half.
            quarter_turns: Whether patches are turned by 0, 90, 180 or 270 degrees with
                equal probability.
        """
        self.flips = flips
        self.quarter_turns = quarter_turns
        match flips, quarter_turns:
            case True, True:
                allowed = list(range(NUM_ORIENTATIONS))
            case True, False:
                # Turning by 180 degrees after a left-right flip is an up-down flip.
                allowed = [0, 2, 4, 6]
            case False, True:
                allowed = [0, 1, 2, 3]
            case _:
                allowed = [0]
        self.allowed = torch.tensor(allowed)
        self._on_device: dict[torch.device, Tensor] = {}

    @property
    def active(self) -> bool:
        """Whether there is more than one orientation to draw from."""
        return self.allowed.numel() > 1

    def __call__(self, batch_size: int, device: torch.device) -> Tensor | None:
        """Draw orientations without waiting for the device.

        Args:
            batch_size: Number of patches.
            device: Where the patches are gathered.

        Returns:
            Orientations 0 to 7, shape (batch_size,), or None if nothing is drawn.
        """
        if not self.active:
            return None
        allowed = self._on_device.get(device)
        if allowed is None:
            allowed = self._on_device[device] = self.allowed.to(device)
        drawn = torch.randint(allowed.numel(), (batch_size,), device=device)
        return allowed[drawn]


class SpectralJitter(nn.Module):
    """Random gain per band, offset per patch and noise per value.

    With standard deviations ``g``, ``o`` and ``n``, and independent standard normal
    draws e, a value x of band b in patch i becomes
    ``x * (1 + g * e[i, b]) + o * e[i] + n * e[i, b, row, col]``. Values are in
    normalised units.
    """

    def __init__(
        self, gain: float = 0.0, offset: float = 0.0, noise: float = 0.0
    ) -> None:
        """Initialize a new augmentation.

        Args:
            gain: Standard deviation of the gain of a band.
            offset: Standard deviation of the offset of a whole patch.
            noise: Standard deviation of the noise of a value.

        Raises:
            ValueError: If a standard deviation is negative.
        """
        super().__init__()
        for name, value in (('gain', gain), ('offset', offset), ('noise', noise)):
            if value < 0:
                raise ValueError(
                    f'spectral {name} is {value}, expected a standard deviation >= 0'
                )
        self.gain = gain
        self.offset = offset
        self.noise = noise

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Augment the images of a batch.

        Args:
            batch: A batch with 'image' of shape (B, bands, P, P).

        Returns:
            The batch with another 'image'.
        """
        image: Tensor = batch['image']
        size, bands = image.shape[:2]
        if self.gain:
            gain = torch.randn(
                size, bands, 1, 1, device=image.device, dtype=image.dtype
            )
            image = image * (1 + self.gain * gain)
        if self.offset:
            offset = torch.randn(size, 1, 1, 1, device=image.device, dtype=image.dtype)
            image = image + self.offset * offset
        if self.noise:
            image = image + self.noise * torch.randn_like(image)
        return {**batch, 'image': image}

    def extra_repr(self) -> str:
        """Write the arguments.

        Returns:
            The standard deviations.
        """
        return f'gain={self.gain}, offset={self.offset}, noise={self.noise}'

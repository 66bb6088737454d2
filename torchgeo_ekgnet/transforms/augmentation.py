# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Augmentation of patches: exact flips and turns, and changes of the spectra."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from .._options import real_number

#: Orientations are numbered 0 to 7: quarter turns (counter-clockwise) modulo 4, after
#: a left-right flip from 4 on.
NUM_ORIENTATIONS = 8

#: Cosines that a smooth offset is made of.
_NUM_CURVES = 6


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


def random_crop(patches: Tensor, size: int) -> Tensor:
    """Cut a part out of every patch, anywhere in it with equal probability.

    Args:
        patches: Patches, shape (B, bands, P, P).
        size: Rows and columns of the part.

    Returns:
        Parts, shape (B, bands, size, size).

    Raises:
        ValueError: If the part is larger than the patches.
    """
    batch, _, rows, cols = patches.shape
    if size > min(rows, cols):
        raise ValueError(f'crop is {size}, expected at most the patch size, {rows}')
    device = patches.device
    steps = torch.arange(size, device=device)
    row = torch.randint(rows - size + 1, (batch, 1), device=device) + steps
    col = torch.randint(cols - size + 1, (batch, 1), device=device) + steps
    sample = torch.arange(batch, device=device)[:, None, None]
    parts = patches[sample, :, row[:, :, None], col[:, None, :]]
    return parts.permute(0, 3, 1, 2).contiguous()


class PatchAugmentation(nn.Module):
    """Flip, turn and disturb training patches at random, on the batch's device.

    Flips and turns are drawn by :meth:`draw_orientations` and happen where the patches
    are gathered. Then, with independent standard normal draws e, a value x of band b in
    patch i becomes

    ``x * (1 + gain * e[i]) * (1 + band_gain * e[i, b]) + offset * e[i]
    + smooth_offset * c[i, b] + noise * e[i, b, row, col]``,

    where c[i] is a random curve over the bands of about unit variance: the sum of the
    first six cosines with normal weights. Values are in normalised units. What is 0
    draws no random number.

    With ``crop`` the network is shown a random part of each patch while it trains, and
    whole patches when it is scored: networks that take patches of any size only. Crops
    of one pixel teach it spectra instead of surroundings, which it could memorise.
    ``crop_within`` keeps crops in the middle of a patch: far pixels may be of another
    class than the centre, whose label they are shown with.
    """

    def __init__(
        self,
        flips: bool = False,
        turns: bool = False,
        gain: float = 0.0,
        band_gain: float = 0.0,
        offset: float = 0.0,
        smooth_offset: float = 0.0,
        noise: float = 0.0,
        crop: int | None = None,
        crop_within: int | None = None,
    ) -> None:
        """Initialize a new augmentation.

        Args:
            flips: Whether patches are flipped left-right and up-down, each with
                probability one half.
            turns: Whether patches are turned by 0, 90, 180 or 270 degrees with equal
                probability.
            gain: Standard deviation of a factor per patch.
            band_gain: Standard deviation of a factor per band of a patch.
            offset: Standard deviation of an offset per patch.
            smooth_offset: Standard deviation of an offset that changes smoothly over
                the bands of a patch.
            noise: Standard deviation of noise per value.
            crop: Rows and columns of the part that is cut out of a patch.
            crop_within: Rows and columns, odd, of the middle of a patch that the part is
                cut out of; the whole patch by default or where it is smaller.

        Raises:
            ValueError: If a standard deviation is negative, NaN or infinite, or a crop
                has no pixel or no place.
        """
        super().__init__()
        self.flips = flips
        self.turns = turns
        self.gain = _checked('gain', gain)
        self.band_gain = _checked('band_gain', band_gain)
        self.offset = _checked('offset', offset)
        self.smooth_offset = _checked('smooth_offset', smooth_offset)
        self.noise = _checked('noise', noise)
        if crop is not None and crop < 1:
            raise ValueError(f'crop is {crop}, expected at least 1 pixel')
        if crop_within is not None and (
            crop is None or crop_within < crop or crop_within % 2 == 0
        ):
            raise ValueError(
                f'crop_within is {crop_within} with crop {crop}, expected an odd number '
                'that is at least the crop'
            )
        self.crop = crop
        self.crop_within = crop_within

    def draw_orientations(self, batch_size: int, device: torch.device) -> Tensor | None:
        """Draw a flip and turn of every patch, without waiting for the device.

        Args:
            batch_size: Number of patches.
            device: Where the patches are gathered.

        Returns:
            Orientations 0 to 7, shape (batch_size,), or None if nothing is drawn.
        """
        if not (self.flips or self.turns):
            return None
        count = NUM_ORIENTATIONS if self.flips and self.turns else 4
        drawn = torch.randint(count, (batch_size,), device=device)
        # An up-down flip is a left-right flip with half a turn: 0, 2, 4 and 6.
        return drawn if self.turns else 2 * drawn

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Disturb the spectra of a batch.

        Args:
            batch: A batch with 'image' of shape (B, bands, P, P).

        Returns:
            The batch with another 'image', (B, bands, crop, crop) if there is a crop.

        Raises:
            ValueError: If the crop is larger than the patches.
        """
        image: Tensor = batch['image']
        if self.crop is not None:
            image = random_crop(_middle(image, self.crop_within), self.crop)
        size, bands = image.shape[:2]
        if self.gain:
            image = image * (1 + self.gain * image.new_empty(size, 1, 1, 1).normal_())
        if self.band_gain:
            gain = image.new_empty(size, bands, 1, 1).normal_()
            image = image * (1 + self.band_gain * gain)
        if self.offset:
            image = image + self.offset * image.new_empty(size, 1, 1, 1).normal_()
        if self.smooth_offset:
            weights = image.new_empty(size, _NUM_CURVES).normal_()
            curves = weights @ _cosines(bands, image)
            image = image + self.smooth_offset * curves[:, :, None, None]
        if self.noise:
            image = image + self.noise * torch.randn_like(image)
        return {**batch, 'image': image}

    def extra_repr(self) -> str:
        """Write the arguments."""
        return (
            f'flips={self.flips}, turns={self.turns}, gain={self.gain}, '
            f'band_gain={self.band_gain}, offset={self.offset}, '
            f'smooth_offset={self.smooth_offset}, noise={self.noise}, crop={self.crop}, '
            f'crop_within={self.crop_within}'
        )


def _middle(patches: Tensor, size: int | None) -> Tensor:
    """Cut the middle out of patches, shape (B, bands, P, P), of which P is odd."""
    edge = 0 if size is None else max(0, (patches.shape[-1] - size) // 2)
    return patches[:, :, edge : patches.shape[2] - edge, edge : patches.shape[3] - edge]


def _checked(name: str, value: float) -> float:
    """Refuse what is no standard deviation."""
    return real_number(f'augmentation: {name}', value, 0.0)


def _cosines(bands: int, like: Tensor) -> Tensor:
    """The slowest cosines over the bands, shape (_NUM_CURVES, bands), power 1 in all."""
    order = torch.arange(_NUM_CURVES, device=like.device)
    place = torch.arange(bands, device=like.device) + 0.5
    curves = torch.cos(math.pi / bands * order[:, None] * place)
    power = torch.where(order > 0, 2.0, 1.0) / _NUM_CURVES
    return (curves * power.sqrt()[:, None]).to(like.dtype)

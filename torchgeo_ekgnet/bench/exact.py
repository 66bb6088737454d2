# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""How far a network on a device is from float64 on the CPU."""

import torch
from torch import Tensor, nn

from .arms import Setting, random_batch
from .count import create_model
from .graphs import graphed_inference

__all__ = ('compare', 'compare_captured')


def _gap(found: Tensor, expected: Tensor) -> float:
    """Give the largest difference, as a share of the largest expected value."""
    difference = (found.detach().double().cpu() - expected.detach().cpu()).abs().max()
    return float(difference / expected.detach().abs().max().cpu().clamp_min(1e-30))


def compare(network: nn.Module, x: Tensor, device: torch.device) -> dict[str, float]:
    """Compare outputs, with and without gradients, and gradients with float64 on the CPU.

    Args:
        network: The network, on the CPU; left on the device.
        x: A batch on the CPU.
        device: Where it is compared, in float32.

    Returns:
        Largest differences of ``outputs`` and of ``gradients`` of parameters, each as a
        share of the largest value; NaN if there is one.
    """
    exact = network.double()
    expected = exact(x.double())
    seen = torch.randn_like(expected)
    parameters = [p for p in exact.parameters() if p.requires_grad]
    reference = torch.autograd.grad(expected, parameters, seen, allow_unused=True)
    ours = network.float().to(device)
    y = ours(x.to(device))
    parameters = [p for p in ours.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(
        y, parameters, seen.float().to(device), allow_unused=True
    )
    with torch.no_grad():
        alone = ours(x.to(device))
    scale = max(float(g.abs().max()) for g in reference if g is not None)
    gaps = [
        (g.double().cpu() - r).abs().max() / scale
        for g, r in zip(gradients, reference, strict=True)
        if g is not None and r is not None
    ]
    worst = float(torch.stack(gaps).max())
    outputs = _gap(torch.stack([y, alone]), torch.stack([expected, expected]))
    return {'outputs': outputs, 'gradients': worst}


def compare_captured(
    setting: Setting, patch: int, bands: int, batch: int
) -> dict[str, float | None]:
    """Compare the outputs of a graph with those of an eager run, in evaluation.

    Args:
        setting: Network, precision and device.
        patch: Rows and columns of a patch.
        bands: Number of bands.
        batch: Patches in a batch.

    Returns:
        Largest difference of ``outputs``, as for :func:`compare`; no ``gradients``.
    """
    x, _ = random_batch(setting, patch, bands, batch)
    network = create_model(setting.options.model, patch, bands).to(setting.device)
    captured = graphed_inference(setting, network, x)()
    with torch.no_grad(), setting.autocast():
        expected = network(x).double()
    return {'outputs': _gap(captured, expected), 'gradients': None}

# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The arm of the released program computes what the released program computes."""

import timm
import torch

from torchgeo_ekgnet.bench.released import ReleasedNet


def test_its_checkpoint_gives_our_network_its_outputs() -> None:
    torch.manual_seed(0)
    theirs = ReleasedNet(5)
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    ours = timm.create_model('ekgnet_base_reference', in_chans=24, num_classes=5)
    ours.load_state_dict(theirs.state_dict())
    theirs, ours = theirs.double(), ours.double()
    x = torch.randn(3, 24, 7, 7, dtype=torch.float64)
    for training in (True, False):  # the first pass moves the running statistics
        with torch.no_grad():
            expected = theirs.train(training)(x)
            torch.testing.assert_close(ours.train(training)(x), expected)
    numbers = [sum(p.numel() for p in net.parameters()) for net in (theirs, ours)]
    assert numbers[0] == numbers[1]

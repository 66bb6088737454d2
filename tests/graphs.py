# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A backend of ``torch.compile`` for tests that need no compiler."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class CountingBackend:
    """Run the captured graphs as they are and count them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(
        self, graph: torch.fx.GraphModule, inputs: list[Tensor]
    ) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward

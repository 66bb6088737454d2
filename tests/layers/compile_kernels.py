# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Compile every kernel for a GPU that need not be there, and say what it takes.

    python -m tests.layers.compile_kernels

Launches of the three blocks of EKGNet-base (batch 80, patch 15, 200 bands), of odd sizes
and of mapping networks are recorded, and compiled to machine code of compute capability
9.0. It takes two minutes or three. Registers, spilled bytes, shared memory and numbers of
instructions of each are printed.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from torchgeo_ekgnet.layers import kernels, trial

TYPES = {
    torch.float32: 'fp32',
    torch.bfloat16: 'bf16',
    torch.float16: 'fp16',
    torch.int64: 'i64',
}
#: Channels of the bottleneck, growth, channels of the input, size of the maps.
BLOCKS = [
    (32, 8, 24, (8, 100, 8)),
    (64, 16, 64, (4, 50, 4)),
    (128, 32, 176, (2, 25, 2)),
    (33, 3, 5, (7, 1, 3)),
]


class Recorder:
    """Stands in for a kernel: launches are written down."""

    def __init__(self, kernel: Any, launches: dict[str, tuple[Any, ...]]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: Any) -> Any:
        def launch(*args: Any, **named: Any) -> None:
            names = self.kernel.arg_names
            options = {
                k: named.pop(k) for k in ('num_warps', 'num_stages') if k in named
            }
            values = dict(zip(names, args, strict=False)) | named
            fixed = {p.name for p in self.kernel.params if p.is_constexpr}
            free = {p.name for p in self.kernel.params if p.do_not_specialize}
            signature, attributes = {}, {}
            for place, name in enumerate(names):
                value = values[name]
                divides = isinstance(value, Tensor)
                if name in fixed:
                    kind = 'constexpr'
                elif isinstance(value, Tensor):
                    kind = f'*{TYPES[value.dtype]}'
                elif isinstance(value, float):
                    kind = 'fp32'
                else:
                    kind = 'i64' if abs(value) >= 1 << 31 else 'i32'
                    divides = name not in free and value % 16 == 0
                signature[name] = kind
                if divides:
                    attributes[(place,)] = [['tt.divisibility', 16]]
            constants = {(names.index(n),): values[n] for n in fixed}
            source = ASTSource(self.kernel, signature, constants, attributes)
            key = f'{self.kernel.__name__} {signature} {constants} {attributes}'
            self.launches[key] = (
                source,
                options,
                {n: values[n] for n in sorted(fixed)},
            )

        return launch


def launch_all(dtype: torch.dtype) -> None:
    """Call every launcher on empty memory."""
    for width, growth, channels, size in BLOCKS:
        x = torch.empty(80, width, *size, dtype=dtype)
        vector, matrix = torch.empty(width), torch.empty(80, width, dtype=dtype)
        for relu in (True, False):
            statistics = vector, vector, torch.empty((), dtype=torch.int64)
            kernels.norm_forward(x, vector, vector, statistics, 0.1, 1e-5, relu)
            kernels.norm_backward(x, x, vector, vector, vector, vector, relu)
            maps = torch.empty(80, channels, *size, dtype=dtype)
            mixed = torch.empty(80, width, channels, dtype=dtype)
            kernels.products(maps, mixed, matrix, relu)
        groups = 4 if width % 4 == 0 else 3
        weight = torch.empty(growth, width // groups, 3, 3, 3, dtype=dtype)
        grad = torch.empty(80, growth, *size, dtype=dtype)
        kernels.conv_forward(x, weight, groups)
        kernels.conv_forward(grad, weight, groups, turned=True)
        kernels.conv_weight_gradient(grad, x, groups)


def launch_mapping(channels: int) -> None:
    """Call every launcher of mapping networks on empty memory."""
    h, logits, vector = (
        torch.empty(80, channels),
        torch.empty(80, 4),
        torch.empty(channels),
    )
    tracked, raw = torch.empty((), dtype=torch.int64), torch.empty(())
    for block in (True, False):
        statistics = vector, vector, tracked
        kernels.context_norm(h, vector, vector, statistics, 0.1, 1e-5, block)
        known = h, h, vector, vector, vector, vector
        parts = (h, vector) if block else ()
        kernels.context_norm_gradient(*known, *parts)
    kernels.residual_gradient(h, h, raw)
    kernels.shares(logits, raw, 0.01)
    kernels.shares_gradient(logits, logits, logits, raw, 0.01)


def _told(binary: bytes, option: str) -> str:
    """Ask the compiler's tool about a kernel."""
    tool = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin' / 'cuobjdump'
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(binary)
        file.flush()
        command = [str(tool), option, file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        return told.stdout


def usage(binary: bytes) -> str:
    """Say what a kernel takes: registers, memory, instructions, and those of its loops."""
    lines = [line for line in _told(binary, '-res-usage').splitlines() if 'REG' in line]
    places = {}
    for line in _told(binary, '-sass').splitlines():
        if found := re.match(r'\s*/\*([0-9a-f]{4,})\*/\s+(\S.*);', line):
            places[int(found[1], 16)] = found[2]
    loops = []
    for place, text in places.items():
        target = re.search(r'\bBRA\b.* (0x[0-9a-f]+)', text)
        if target and int(target[1], 16) < place:
            loops.append(sum(int(target[1], 16) <= at <= place for at in places))
    taken = ' '.join(lines[0].split()[:3]) if lines else 'unknown'
    return f'{taken}, {len(places)} instructions, loops of {loops}'


def main() -> None:
    """Compile, and fail where a kernel does not."""
    launches: dict[str, tuple[Any, ...]] = {}
    compiled_ones = {
        name: kernel
        for name, kernel in vars(kernels).items()
        if isinstance(kernel, triton.JITFunction)
    }
    for name, kernel in compiled_ones.items():
        setattr(kernels, name, Recorder(kernel, launches))
    for rounded in (True, False):
        trial.rounds = lambda rounded=rounded: (rounded, rounded)  # type: ignore[misc]
        for dtype in (torch.bfloat16, torch.float32):
            launch_all(dtype)
    for channels in (16, 24, 368):
        launch_mapping(channels)
    for name, kernel in compiled_ones.items():
        setattr(kernels, name, kernel)
    for source, options, fixed in launches.values():
        compiled = triton.compile(source, GPUTarget('cuda', 90, 32), options)
        types = sorted({t for t in source.signature.values() if t.startswith('*')})
        sys.stdout.write(
            f'{source.fn.__name__} {" ".join(types)} {fixed}: '
            f'{usage(compiled.asm["cubin"])}, shared {compiled.metadata.shared}\n'
        )
    sys.stdout.write(f'{len(launches)} kernels compiled\n')


if __name__ == '__main__':
    main()

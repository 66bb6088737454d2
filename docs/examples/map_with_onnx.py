"""Map a scene with an exported network: onnxruntime and numpy, nothing else.

python map_with_onnx.py network.onnx cube.npy map.npy
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

network, cube_file, map_file = sys.argv[1:]
facts = json.loads(Path(network).with_suffix('.json').read_text(encoding='utf-8'))
cube = np.load(cube_file)[:, :, facts['bands']].astype(np.float32)
if facts['nodata'] is not None:
    cube[(cube == float(facts['nodata'])).any(axis=2)] = np.nan

# NaN is what has no data or lies beyond the border.
size, around = facts['patch_size'], facts['patch_size'] // 2
padding = {'mode': 'reflect'} if facts['padding_mode'] == 'reflect' else {}
padding = padding or {'constant_values': np.nan}
padded = np.pad(cube, ((around, around), (around, around), (0, 0)), **padding)
patches = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (0, 1))

session = onnxruntime.InferenceSession(network, providers=['CPUExecutionProvider'])
values = np.array([item['value'] for item in facts['classes']])
classes = np.zeros(cube.shape[:2], dtype=np.int32)
for row, line in enumerate(patches):  # (columns, bands, size, size)
    batch = {facts['input']: np.ascontiguousarray(line)}
    (probabilities,) = session.run([facts['output']], batch)
    classes[row] = values[probabilities.argmax(axis=1)]
classes[np.isnan(cube).any(axis=2)] = 0
np.save(map_file, classes)

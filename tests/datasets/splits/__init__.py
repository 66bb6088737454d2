# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

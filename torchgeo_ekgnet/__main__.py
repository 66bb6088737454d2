# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""``python -m torchgeo_ekgnet``: the command line as a module."""

from .main import main

if __name__ == '__main__':
    main()

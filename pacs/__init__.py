"""A DICOM Query/Retrieve server: C-STORE, C-FIND, C-MOVE, C-GET and C-CANCEL over an SQL index and a file store."""

import sys

from pacs._moved import MovedModules

__version__ = "0.1.0"

sys.meta_path.insert(0, MovedModules())  # first: the path finder would load a moved submodule a second time

"""``python -m oneticket``."""

import os
import sys

# Python puts the current folder first, so that a file named like a library would run in its place.
if __name__ == "__main__" and sys.path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

from oneticket.cli import main

if __name__ == "__main__":
    main()

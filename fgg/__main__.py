"""``python -m fgg`` is the command ``fgg``."""

import sys

from fgg.cli import main

if __name__ == "__main__":
    sys.exit(main())

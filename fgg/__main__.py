"""``python -m fgg`` is the command ``fgg``."""

from fgg.cli import main
from fgg.errors import leave

if __name__ == "__main__":
    leave(main())

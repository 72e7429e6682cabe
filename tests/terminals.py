"""A terminal and a clock that a test can read and set."""

import io


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """Seconds that pass when told."""

    now = 100.0

    def __call__(self):
        return self.now

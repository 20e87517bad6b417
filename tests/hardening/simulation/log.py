"""All that the library logs, and what the loop complains of."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator


class Log(logging.Handler):
    """Keeps the lines of `asyncclients`, and the `complaints` of asyncio."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.complaints: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep *record*."""
        if record.name != "asyncio":
            self.lines.append(self.format(record))
        elif record.levelno >= logging.ERROR:
            self.complaints.append(self.format(record))

    @contextlib.contextmanager
    def heard(self) -> Generator[None]:
        """Listen inside the block."""
        logger, loop = logging.getLogger("asyncclients"), logging.getLogger("asyncio")
        level = logger.level
        logger.addHandler(self)
        loop.addHandler(self)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(self)
            loop.removeHandler(self)
            logger.setLevel(level)
            logger.propagate = True

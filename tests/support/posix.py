"""A mark for tests of what Windows does not have."""

from __future__ import annotations

import sys
from typing import Final

import pytest

posix: Final = pytest.mark.skipif(
    sys.platform == "win32",
    reason="Windows has no pipes with names, terminals and signals to others",
)

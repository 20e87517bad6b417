"""What several processes share: the limit store and the job database.

Their addresses may hold passwords, which a command line shows to every user of
the machine, so both can come from the environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from asyncclients.errors import ConfigurationError
from asyncclients.stores import FileLimits

LIMITS = "ASYNCCLIENTS_LIMITS"
DATABASE_URL = "ASYNCCLIENTS_DATABASE_URL"


def from_environment(given: str, variable: str) -> str:
    """*given*, an option's value, or *variable* of the environment where it is empty."""
    return given or os.environ.get(variable, "")


def limits_store(address: str) -> Any:
    """The store at *address*, a Redis URL or the path of a file; None for no address.

    Raises:
        ConfigurationError: it cannot be used, or its extra is not installed.
    """
    if not address:
        return None
    if "://" not in address:
        if not Path(address).parent.is_dir():
            raise ConfigurationError(
                f"the limit store {address} is in a directory that does not exist",
                advice=f"Create it, or set {LIMITS} or --limits to another file",
            )
        return FileLimits(address)
    try:
        from asyncclients.stores import RedisLimits
    except ImportError:
        raise ConfigurationError(
            "sharing quotas through Redis needs redis-py, which is not installed",
            advice="pip install 'asyncclients[redis]', or give a file as --limits",
        ) from None
    return RedisLimits(address)

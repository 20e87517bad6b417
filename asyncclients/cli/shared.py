"""The pool of a command, and the options --limits and --database-url of shared stores.

Their URLs may contain passwords, and a command line is visible to every user of the machine,
so both can be set in the environment, and the proxy only there.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from asyncclients.core.pool import SessionPool
from asyncclients.errors import ConfigurationError
from asyncclients.secret import Secret
from asyncclients.stores import FileLimits

LIMITS = "ASYNCCLIENTS_LIMITS"
DATABASE_URL = "ASYNCCLIENTS_DATABASE_URL"
PROXY = "ASYNCCLIENTS_PROXY"


def open_pool(limits: Any) -> SessionPool:
    """Return a pool with the store *limits* and the proxy in ASYNCCLIENTS_PROXY, if any."""
    proxy = Secret(os.environ[PROXY]) if os.environ.get(PROXY) else None
    try:
        return SessionPool(limits=limits, proxy=proxy)
    except ConfigurationError as error:
        problem = error.message
    raise ConfigurationError(
        f"{PROXY}: {problem}", advice="Set it to http://user:password@proxy.example.com:3128"
    )


def from_environment(given: str, variable: str) -> str:
    """Return the option's value *given*, or the environment's *variable* if it is empty."""
    return given or os.environ.get(variable, "")


def limits_store(address: str) -> Any:
    """Return the limit store at *address*, a Redis URL or file; None if *address* is empty."""
    if not address:
        return None
    if "://" not in address:
        if re.fullmatch(r"[\w.-]+:[0-9]+", address):
            raise ConfigurationError(
                f"the limit store {address} is neither a URL nor the path of a file",
                advice=f"Write redis://{address}, or ./{address} for a file of this name",
            )
        if Path(address).is_dir():
            raise ConfigurationError(
                f"the limit store {address} is a directory", advice="Give a file in it"
            )
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
            advice="pip install 'asyncclients[redis]', or use a file: --limits FILE",
        ) from None
    return RedisLimits(address)

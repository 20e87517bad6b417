"""Quotas, tokens and state shared between processes.

Each store is loaded when it is first named: those on Redis need the extra `redis`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncclients.stores.file_tokens import FileTokens
    from asyncclients.stores.redis import RedisLimits
    from asyncclients.stores.redis_tokens import RedisTokens
    from asyncclients.stores.sqlite import FileLimits

_LAZY = {
    "FileLimits": "asyncclients.stores.sqlite",
    "FileTokens": "asyncclients.stores.file_tokens",
    "RedisLimits": "asyncclients.stores.redis",
    "RedisTokens": "asyncclients.stores.redis_tokens",
}

__all__ = ["FileLimits", "FileTokens", "RedisLimits", "RedisTokens"]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(module), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)

"""Quotas, tokens and state shared between processes.

Each store is loaded when it is first named: those on Redis need the extra `redis`.
"""

from typing import TYPE_CHECKING

from asyncclients.lazy import lazy

if TYPE_CHECKING:
    from asyncclients.stores.control import LimitsControl
    from asyncclients.stores.file_tokens import FileTokens
    from asyncclients.stores.redis import RedisLimits
    from asyncclients.stores.redis_tokens import RedisTokens
    from asyncclients.stores.sqlite import FileLimits

_LAZY = {
    "FileLimits": "asyncclients.stores.sqlite",
    "FileTokens": "asyncclients.stores.file_tokens",
    "LimitsControl": "asyncclients.stores.control",
    "RedisLimits": "asyncclients.stores.redis",
    "RedisTokens": "asyncclients.stores.redis_tokens",
}

__all__ = ["FileLimits", "FileTokens", "LimitsControl", "RedisLimits", "RedisTokens"]

__getattr__, __dir__ = lazy(__name__, _LAZY)

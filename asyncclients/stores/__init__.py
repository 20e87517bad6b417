"""Quotas, tokens and state shared between processes.

Each store is loaded when it is first named: those on Redis need the extra `redis`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncclients.stores.control import LimitsControl as LimitsControl
    from asyncclients.stores.file_tokens import FileTokens as FileTokens
    from asyncclients.stores.redis import RedisLimits as RedisLimits
    from asyncclients.stores.redis_tokens import RedisTokens as RedisTokens
    from asyncclients.stores.sqlite import FileLimits as FileLimits
else:
    from asyncclients.lazy import lazy

    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "control": "LimitsControl",
            "file_tokens": "FileTokens",
            "redis": "RedisLimits",
            "redis_tokens": "RedisTokens",
            "sqlite": "FileLimits",
        },
    )

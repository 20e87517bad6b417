"""redis-py, tamed: nothing is repeated, nothing takes longer than its bound.

redis-py repeats commands by default, and a repeated script counts twice. After
a timeout or a cancelled command it closes the connection, so that no answer
reaches the wrong question.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from asyncclients.core.events import logger
from asyncclients.errors import ConfigurationError
from asyncclients.secret import Secret
from asyncclients.stores.config import StoreUnavailableError

try:
    import redis.asyncio as redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import (
        AuthenticationError,
        AuthorizationError,
        InvalidResponse,
        NoScriptError,
        RedisError,
        ResponseError,
    )
    from redis.exceptions import TimeoutError as RedisTimeoutError
except ImportError as missing:  # pragma: no cover - the test group has it
    raise ImportError(
        "asyncclients.stores.redis needs redis-py: install asyncclients[redis]"
    ) from missing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

TIMEOUT = 0.5
"""Seconds for one command, connecting included."""
_OLDEST = (6, 2)
COMMANDS = (
    *("INFO", "EVALSHA", "EVAL", "TIME"),
    *("DEL", "EXISTS", "GET", "SET", "INCR", "PEXPIRE"),
    *("HDEL", "HGET", "HGETALL", "HMGET", "HSET"),
    *("ZADD", "ZCARD", "ZREM", "ZREMRANGEBYSCORE", "ZREVRANGE"),
)
"""Every command that is used, inside the scripts or outside of them."""
NEEDED = ", ".join(COMMANDS)
ACL_RIGHTS = " ".join(f"+{command.lower()}" for command in COMMANDS) + " ~PREFIX:* (asyncclients:*)"
"""For ACL SETUSER."""


def display_url(url: Secret) -> str:
    """Where *url* points, without user, password and query."""
    if not _is_text(url):
        return "at an unreadable address"
    try:
        parts = urlsplit(url.reveal())
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "at an unreadable address"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def connector(url: str | Secret) -> Callable[[], redis.Redis]:
    """Makes clients for *url* that repeat nothing and wait for nothing without bound.

    Raises:
        ConfigurationError: if *url* is none that redis-py understands.
    """
    url = Secret(url)
    if not _is_redis_url(url):
        raise ConfigurationError(
            "the address of the shared store is no redis://, rediss:// or unix:// URL",
            advice="Give it as redis://host:6379/0, or rediss:// for TLS",
        )

    def connect() -> redis.Redis:
        return redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            url.reveal(),
            retry=Retry(NoBackoff(), 0),
            retry_on_timeout=False,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            health_check_interval=0,
        )

    if not _is_connectable(connect):
        raise ConfigurationError(
            f"the address of the shared store {display_url(url)} has a query that redis-py cannot use",
            advice="Leave out what follows the question mark, or see redis-py's `from_url`",
        )
    return connect


def _is_connectable(connect: Callable[[], redis.Redis]) -> bool:
    """Can a connection be made, not opened? An unknown option in the query shows only then."""
    try:
        connect().connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError, RedisError):
        return False
    return True


def _is_redis_url(url: Secret) -> bool:
    """Is *url* of a form that leads somewhere? redis-py takes a name for database 0."""
    if not _is_text(url):
        return False
    try:
        parts = urlsplit(url.reveal())
        _ = parts.port
    except ValueError:
        return False
    if parts.scheme == "unix":
        return bool(parts.path)
    number = parts.path.strip("/")
    return (
        parts.scheme in {"redis", "rediss"}
        and bool(parts.hostname or number)
        and (not number or number.isdecimal())
    )


def _is_text(url: Secret) -> bool:
    value: Any = url.reveal()
    return isinstance(value, str)


async def with_timeout(store: str, command: Callable[[], Awaitable[Any]]) -> Any:
    """The answer to *command*, within the bound.

    Raises:
        StoreSilentError: none came, or none that helps.
        ConfigurationError: the store refuses us.
    """
    try:
        async with asyncio.timeout(TIMEOUT):
            return await command()
    except (RedisError, OSError, TimeoutError) as failure:
        raise explain(store, failure) from None


class Script:
    """A Lua script, run by its digest; sent in full if the server does not have it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: redis.Redis, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Return the script's result."""
        try:
            return await client.evalsha(self._digest, len(keys), *keys, *args)
        except NoScriptError:
            return await client.eval(self._text, len(keys), *keys, *args)


async def check_server(client: redis.Redis, store: str) -> None:
    """Look at the server once, if it allows INFO.

    Raises:
        ConfigurationError: if it is too old.
    """
    facts: dict[str, Any]
    try:
        facts = await client.info("server", "memory")  # pyright: ignore[reportUnknownMemberType]
    except ResponseError as failure:
        if isinstance(explain(store, failure), ConfigurationError):
            return  # no permission, or renamed: what is needed shows with the first script
        raise
    version = str(facts.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < _OLDEST:
        raise too_old(store, version)
    policy = str(facts.get("maxmemory_policy", "noeviction"))
    if facts.get("maxmemory", 0) and policy != "noeviction":
        logger.warning(
            "the shared store %s may evict keys (maxmemory-policy %s): a quota whose log is "
            "evicted pauses for a whole period; set noeviction or give it a server of its own",
            store,
            policy,
        )


# --- What the server's errors mean ------------------------------------------------------


class _Meaning(NamedTuple):
    """What an error code says of the store, and the next step."""

    says: str
    advice: str
    lasting: bool
    """True if it ends only when somebody changes the configuration."""


_LOGIN = "Correct user and password in its URL"
_ONE_SERVER = "Give the address of a single server, or of one that takes all keys for the cluster"
_MEANINGS = {
    "NOAUTH": _Meaning("refuses the login: it wants a password", _LOGIN, True),
    "WRONGPASS": _Meaning("refuses the login: wrong user or password", _LOGIN, True),
    "NOPERM": _Meaning("refuses a command", "", True),
    "DENIED": _Meaning(
        "runs in protected mode and refuses connections from other hosts",
        "Set a password on the server, or protected-mode no in a trusted network",
        True,
    ),
    "READONLY": _Meaning(
        "is a read-only replica", "Give the address of the primary, or wait for the failover", True
    ),
    "MOVED": _Meaning(
        "is one node of a cluster, and has a part of the keys only", _ONE_SERVER, True
    ),
    "CLUSTERDOWN": _Meaning("is a node of a cluster that is down", _ONE_SERVER, False),
    "OOM": _Meaning("is out of memory", "Raise maxmemory, or give it a server of its own", False),
    "LOADING": _Meaning("is loading its data", "Wait until it has started", False),
    "MISCONF": _Meaning("cannot save to its disk", "Free disk space on the server", False),
    "NOREPLICAS": _Meaning("has too few replicas", "Start its replicas", False),
    "MASTERDOWN": _Meaning("is a replica without a primary", "Start the primary", False),
    "BUSY": _Meaning("is busy with a script", "Run SCRIPT KILL, or wait", False),
    "WRONGTYPE": _Meaning(
        "holds other data under the same keys", "Choose another prefix=, or another database", True
    ),
}
_UNKNOWN = re.compile(r"unknown command[ `'\"]*(\w*)", re.IGNORECASE)


def explain(store: str, failure: Exception) -> ConfigurationError | StoreUnavailableError:
    """Return what *failure* means: configuration to be changed, or an outage."""
    text = re.sub(r"[,.;] *$", "", re.sub(r",? (script: |with args ).*", "", str(failure)))[:160]
    code = getattr(failure, "status_code", None) or text.partition(" ")[0]
    if isinstance(failure, AuthenticationError) and code not in _MEANINGS:
        code = "NOAUTH" if "without" not in text else "WRONGPASS"
    if isinstance(failure, AuthorizationError):
        code = "NOPERM"
    if isinstance(failure, ResponseError) and (unknown := _UNKNOWN.search(text)):
        return _lacks(store, unknown[1].upper())
    if isinstance(failure, ResponseError) and text.startswith(("ACL failure", "The user exec")):
        code = "NOPERM"  # inside the script; the code of the error is ERR
    meaning = _MEANINGS.get(code)
    if meaning is None:
        return _of_the_connection(store, failure, text)
    said = "" if isinstance(failure, AuthenticationError) else f" ({text})"
    if meaning.lasting:
        advice = meaning.advice or f"Give the user of its URL these rights: {ACL_RIGHTS}"
        return ConfigurationError(f"the shared store {store} {meaning.says}{said}", advice=advice)
    return StoreUnavailableError(f"{type(failure).__name__}: it {meaning.says}", meaning.advice)


def _of_the_connection(
    store: str, failure: Exception, text: str
) -> ConfigurationError | StoreUnavailableError:
    tls = next((each for each in _chain(failure) if isinstance(each, ssl.SSLError)), None)
    if tls is not None:
        return ConfigurationError(
            f"the shared store {store} cannot be reached over TLS ({tls.reason or tls})",
            advice="Check its certificate (ssl_ca_certs= in the URL's query), or use redis:// "
            "for a server without TLS",
        )
    if isinstance(failure, InvalidResponse):
        return ConfigurationError(
            f"the server at {store} does not speak the Redis protocol",
            advice="Correct host and port; use rediss:// if the port expects TLS",
        )
    says = type(failure).__name__
    if isinstance(failure, RedisError) and not isinstance(failure, RedisTimeoutError):
        says += f": {text}"
    advice = (
        "Start it or correct its address; a port with TLS needs rediss://, one without redis://"
    )
    return StoreUnavailableError(says, advice)


def _chain(failure: BaseException | None) -> Iterator[BaseException]:
    while failure is not None:
        yield failure
        failure = failure.__cause__ or failure.__context__


def _lacks(store: str, command: str) -> ConfigurationError:
    if command in {"", "HELLO"}:
        return too_old(store, "5 or older, or has HELLO disabled")
    which = "a command that the script calls" if command == "CALLED" else command
    return ConfigurationError(
        f"the shared store {store} lacks {which}: it is disabled or renamed there",
        advice=f"Enable it; the store needs {NEEDED}",
    )


def too_old(store: str, version: str) -> ConfigurationError:
    """The server does not know what is needed."""
    return ConfigurationError(
        f"the shared store {store} is version {version}, which is too old",
        advice="Use Redis 6.2 or later, or Valkey",
    )

"""Connect to Redis without retries and with a timeout for every command; explain its errors.

redis-py retries commands by default, and a script that runs twice would count twice. After a
timeout or a cancelled command it closes the connection, so that no reply reaches the wrong
command.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from asyncclients.core.events import logger
from asyncclients.errors import ConfigurationError
from asyncclients.secret import Secret
from asyncclients.stores.protocol import StoreUnavailableError

try:
    import redis.asyncio as redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import (
        AuthenticationError,
        AuthorizationError,
        InvalidResponse,
        NoPermissionError,
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
"""Seconds for one command, including the connection."""
_MIN_VERSION = (6, 2)
COMMANDS = (
    *("INFO", "EVALSHA", "EVAL", "TIME"),
    *("DEL", "EXISTS", "GET", "SET", "INCR", "PEXPIRE"),
    *("HDEL", "HGET", "HGETALL", "HMGET", "HSET"),
    *("ZADD", "ZCARD", "ZREM", "ZREMRANGEBYSCORE", "ZREVRANGE", "ZSCORE"),
)
"""The commands in use, inside and outside of the scripts."""
ACL_RIGHTS = " ".join(f"+{command.lower()}" for command in COMMANDS) + " ~PREFIX:* (asyncclients:*)"
"""Arguments of ACL SETUSER for a user of the store."""


def display_url(url: Secret) -> str:
    """Return *url* without user, password and query."""
    parts = _split(url)
    if parts is None:
        return "at an unreadable address"
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def connector(url: str | Secret) -> Callable[[], redis.Redis]:
    """Return a function that creates clients for *url*, without retries and with timeouts.

    Raises:
        ConfigurationError: redis-py does not accept *url*.
    """
    url = Secret(url)
    if not _is_redis_url(url):
        raise ConfigurationError(
            "the address of the shared store is not a redis://, rediss:// or unix:// URL",
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
            advice="Remove the part after the question mark, or see redis-py's `from_url`",
        )
    return connect


def _is_connectable(connect: Callable[[], redis.Redis]) -> bool:
    """Return whether a connection object can be created; it raises for an unknown option."""
    try:
        connect().connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError, RedisError):
        return False
    return True


def _is_redis_url(url: Secret) -> bool:
    """Return whether *url* is complete; redis-py would read a database name as database 0."""
    parts = _split(url)
    if parts is None:
        return False
    if parts.scheme == "unix":
        return bool(parts.path)
    database = parts.path.strip("/")
    return (
        parts.scheme in {"redis", "rediss"}
        and bool(parts.hostname or database)
        and (not database or database.isdecimal())
    )


def _split(url: Secret) -> SplitResult | None:
    """Return the parts of *url*; None if they cannot be read."""
    text: Any = url.reveal()
    try:
        parts = urlsplit(text) if isinstance(text, str) else None
        _ = parts and parts.port
    except ValueError:
        return None
    return parts


async def with_timeout(store: str, command: Callable[[], Awaitable[Any]]) -> Any:
    """Return the reply to *command*.

    Raises:
        StoreUnavailableError: there was no usable reply within `TIMEOUT`.
        ConfigurationError: the store rejects the login or the command.
    """
    try:
        async with asyncio.timeout(TIMEOUT):
            return await command()
    except (RedisError, OSError, TimeoutError) as error:
        raise explain(store, error) from None


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


class ServerFacts(NamedTuple):
    """What a server reports about itself.

    Attributes:
        server: Redis or Valkey.
        version: its own version.
        is_too_old: it lacks commands that the store needs.
        policy: its maxmemory-policy.
        max_memory: bytes; 0 for no limit.
    """

    server: str
    version: str
    is_too_old: bool
    policy: str
    max_memory: int

    @property
    def may_evict(self) -> bool:
        """True if it deletes keys when its memory is full."""
        return self.max_memory > 0 and self.policy != "noeviction"


async def read_facts(client: redis.Redis, store: str) -> ServerFacts | None:
    """Return what the server reports; None if it does not permit INFO."""
    info: dict[str, Any]
    try:
        info = await client.info("server", "memory")  # pyright: ignore[reportUnknownMemberType]
    except ResponseError as error:
        if isinstance(explain(store, error), ConfigurationError):
            return None
        raise
    version = str(info.get("redis_version", ""))  # Valkey reports the one that it is equal to
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    return ServerFacts(
        server="Valkey" if "valkey_version" in info else "Redis",
        version=str(info.get("valkey_version", version)),
        is_too_old=bool(numbers) and numbers < _MIN_VERSION,
        policy=str(info.get("maxmemory_policy", "noeviction")),
        max_memory=int(info.get("maxmemory", 0)),
    )


async def check_server(client: redis.Redis, store: str) -> None:
    """Check the server's version and eviction policy, if it permits INFO.

    Raises:
        ConfigurationError: the server is too old.
    """
    facts = await read_facts(client, store)
    if facts is not None and facts.is_too_old:
        raise _too_old(store, facts.version)
    if facts is not None and facts.may_evict:
        logger.warning(
            "limit store %s may evict keys (maxmemory-policy %s, maxmemory %d bytes): if a quota "
            "log is evicted, its calls pause for a whole period. Set noeviction or use a server "
            "without other data",
            *(store, facts.policy, facts.max_memory),
        )


# --- What the server's errors mean ------------------------------------------------------


class _Meaning(NamedTuple):
    """The meaning of an error code, with the store as the subject, and the next step."""

    text: str
    advice: str
    is_configuration: bool
    """True if it ends only when the configuration is changed."""


_LOGIN = "Correct user and password in its URL"
_ONE_SERVER = "Give the address of a single server, or of one that takes all keys for the cluster"
_MEANINGS = {
    "NOAUTH": _Meaning("rejects the login: it requires a password", _LOGIN, True),
    "WRONGPASS": _Meaning("rejects the login: wrong user or password", _LOGIN, True),
    "NOPERM": _Meaning("rejects a command", "", True),
    "DENIED": _Meaning(
        "runs in protected mode and rejects connections from other hosts",
        "Set a password on the server, or protected-mode no in a trusted network",
        True,
    ),
    "READONLY": _Meaning(
        "is a read-only replica", "Give the address of the primary, or wait for the failover", True
    ),
    "MOVED": _Meaning("is one node of a cluster and has only some of the keys", _ONE_SERVER, True),
    "CLUSTERDOWN": _Meaning("is a node of a cluster that is down", _ONE_SERVER, False),
    "OOM": _Meaning(
        "is out of memory", "Raise maxmemory, or use a server without other data", False
    ),
    "LOADING": _Meaning("is loading its data", "Wait until it has started", False),
    "MISCONF": _Meaning("cannot save to its disk", "Free disk space on the server", False),
    "NOREPLICAS": _Meaning("has too few replicas", "Start its replicas", False),
    "MASTERDOWN": _Meaning("is a replica without a primary", "Start the primary", False),
    "BUSY": _Meaning("is busy with a script", "Run SCRIPT KILL, or wait", False),
    "WRONGTYPE": _Meaning(
        "holds other data under the same keys", "Choose another prefix=, or another database", True
    ),
}
_UNKNOWN_COMMAND = re.compile(r"unknown command[ `'\"]*(\w*)", re.IGNORECASE)


def explain(store: str, error: Exception) -> ConfigurationError | StoreUnavailableError:
    """Return *error* as an error of configuration or an outage.

    The code at the start of a server's error reply is part of the Redis protocol. An unknown code
    is an outage.
    """
    text = re.sub(r"[,.;] *$", "", re.sub(r",? (script: |with args ).*", "", str(error)))[:160]
    code = getattr(error, "status_code", None) or text.partition(" ")[0]
    if isinstance(error, AuthenticationError) and code not in _MEANINGS:
        code = "NOAUTH" if "without" not in text else "WRONGPASS"
    if isinstance(error, AuthorizationError):
        code = "NOPERM"
    if isinstance(error, ResponseError) and (unknown := _UNKNOWN_COMMAND.search(text)):
        return _lacks_command(store, unknown[1].upper())
    if isinstance(error, ResponseError) and text.startswith(("ACL failure", "The user exec")):
        code = "NOPERM"  # inside a script, where the code is ERR
    meaning = _MEANINGS.get(code)
    if meaning is None:
        return _connection_error(store, error, text)
    detail = "" if isinstance(error, AuthenticationError) else f" ({text})"
    if meaning.is_configuration:
        advice = meaning.advice or f"Give the user of its URL these rights: {ACL_RIGHTS}"
        return ConfigurationError(f"the shared store {store} {meaning.text}{detail}", advice=advice)
    return StoreUnavailableError(f"{type(error).__name__}: it {meaning.text}", meaning.advice)


def is_denied(error: Exception) -> bool:
    """True if the server rejects the command as such: no permission, disabled or renamed."""
    if isinstance(error, (NoPermissionError, AuthorizationError)):
        return True
    return isinstance(error, ResponseError) and bool(_UNKNOWN_COMMAND.search(str(error)))


def _connection_error(
    store: str, error: Exception, text: str
) -> ConfigurationError | StoreUnavailableError:
    tls = next((each for each in _chain(error) if isinstance(each, ssl.SSLError)), None)
    if tls is not None:
        return ConfigurationError(
            f"the shared store {store} cannot be reached over TLS ({tls.reason or tls})",
            advice="Check its certificate (ssl_ca_certs= in the URL's query), or use redis:// "
            "for a server without TLS",
        )
    if isinstance(error, InvalidResponse):
        return ConfigurationError(
            f"the server at {store} does not speak the Redis protocol",
            advice="Correct host and port; use rediss:// if the port expects TLS",
        )
    reason = type(error).__name__
    if isinstance(error, (TimeoutError, RedisTimeoutError)):
        reason += f": no reply within {TIMEOUT:g} s"
    elif isinstance(error, RedisError):
        reason += f": {text}"
    advice = (
        "Start it or correct its address; a port with TLS needs rediss://, one without redis://"
    )
    return StoreUnavailableError(reason, advice)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _lacks_command(store: str, command: str) -> ConfigurationError:
    if command in {"", "HELLO"}:
        return _too_old(store, "5 or older, or has HELLO disabled")
    name = "a command that the script calls" if command == "CALLED" else command
    return ConfigurationError(
        f"the shared store {store} lacks {name}: it is disabled or renamed there",
        advice=f"Enable it; the store needs {', '.join(COMMANDS)}",
    )


def _too_old(store: str, version: str) -> ConfigurationError:
    """Return the error for a server without the required commands."""
    return ConfigurationError(
        f"the shared store {store} is version {version}, which is too old",
        advice="Use Redis 6.2 or later, or Valkey",
    )

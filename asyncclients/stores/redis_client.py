"""Connect to Redis without retries and with a timeout for every command; explain its errors.

redis-py retries commands by default, and a script that runs twice would count twice. After a
timeout or a cancelled command it closes the connection, so that no reply reaches the wrong
command.

A store is one server, the primary that Sentinel names, or a cluster. redis-py asks Sentinel for
the primary at each new connection, and follows the redirections of a cluster. After a failed
command it reads the addresses of all nodes again, from any node that responds.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from asyncclients.core.events import logger
from asyncclients.errors import ConfigurationError
from asyncclients.secret import Secret
from asyncclients.stores.protocol import StoreUnavailableError

try:
    import redis.asyncio as redis
    from redis.asyncio.cluster import ClusterNode
    from redis.asyncio.connection import parse_url
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
    from redis.backoff import NoBackoff
    from redis.exceptions import (
        AuthenticationError,
        AuthorizationError,
        InvalidResponse,
        NoPermissionError,
        NoScriptError,
        RedisClusterException,
        RedisError,
        ResponseError,
        SlotNotCoveredError,
    )
    from redis.exceptions import TimeoutError as RedisTimeoutError
except ImportError as missing:  # pragma: no cover - the test group has it
    raise ImportError(
        "asyncclients.stores.redis needs redis-py: install asyncclients[redis]"
    ) from missing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

RedisClient = redis.Redis | redis.RedisCluster

TIMEOUT = 0.5
"""Seconds for one command to a single server, including the connection."""
NODES_TIMEOUT = 1.0
"""Seconds for one command to a cluster or through Sentinel, where nodes may have to be found first."""
_CONNECT_TIMEOUT = 0.2
"""Seconds to connect to one of several nodes, so that the next one can be tried in time."""
_MIN_VERSION = (6, 2)
COMMANDS = (
    *("INFO", "EVALSHA", "EVAL", "TIME"),
    *("DEL", "EXISTS", "GET", "SET", "INCR", "PEXPIRE"),
    *("HDEL", "HGET", "HGETALL", "HMGET", "HSET"),
    *("ZADD", "ZCARD", "ZREM", "ZREMRANGEBYSCORE", "ZREVRANGE", "ZSCORE"),
)
"""The commands in use, inside and outside of the scripts."""
ACL_RIGHTS = (
    " ".join(f"+{command.lower()}" for command in COMMANDS) + " ~PREFIX:* (asyncclients:*); "
    "in a cluster also +cluster|slots +asking"
)
"""Arguments of ACL SETUSER for a user of the store."""


class Address(NamedTuple):
    """The parts of a store's URL; see `RedisLimits`."""

    scheme: str
    login: Secret
    hosts: tuple[tuple[str, int | None], ...]
    path: str
    query: Secret

    @property
    def is_sentinel(self) -> bool:
        """True if the hosts are Sentinels and the path is the name of the primary."""
        return self.scheme.endswith("+sentinel")

    def server_url(self) -> str:
        """Return the URL of the first host as redis-py reads it."""
        host, port = self.hosts[0]
        path = "" if self.is_sentinel else self.path
        return (
            f"{self.scheme.removesuffix('+sentinel')}://{self.login.reveal()}{_bracketed(host)}"
            f"{f':{port}' if port else ''}{path}?{self.query.reveal()}"
        )

    def is_complete(self, *, cluster: bool) -> bool:
        """Return whether the parts suffice; redis-py would read a database name as database 0."""
        name = self.path.strip("/")
        has_hosts = all(host for host, _ in self.hosts)
        if cluster:
            return self.scheme in {"redis", "rediss"} and has_hosts and name in {"", "0"}
        if self.scheme == "unix":
            return bool(name)
        if self.is_sentinel:
            return self.scheme.startswith(("redis+", "rediss+")) and has_hosts and bool(name)
        return (
            self.scheme in {"redis", "rediss"}
            and len(self.hosts) == 1
            and (has_hosts or bool(name))
            and (not name or name.isdecimal())
        )


def parse_address(url: Secret) -> Address | None:
    """Return the parts of *url*; None if they cannot be read."""
    text: Any = url.reveal()
    if not isinstance(text, str):
        return None
    try:
        parts = urlsplit(text)
        login, at, hosts = parts.netloc.rpartition("@")
        split = [urlsplit(f"//{host.strip()}") for host in hosts.split(",")]
        pairs = tuple((each.hostname or "", each.port) for each in split)
        return Address(parts.scheme, Secret(login + at), pairs, parts.path, Secret(parts.query))
    except ValueError:
        return None


def display_url(url: Secret) -> str:
    """Return *url* without user, password and query."""
    address = parse_address(url)
    if address is None:
        return "at an unreadable address"
    hosts = (f"{_bracketed(host)}{f':{port}' if port else ''}" for host, port in address.hosts)
    return f"{address.scheme}://{','.join(hosts)}{address.path}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def command_timeout(url: Secret, *, cluster: bool) -> float:
    """Return the seconds after which a command to the store at *url* has failed."""
    address = parse_address(url)
    has_nodes = cluster or (address is not None and address.is_sentinel)
    return NODES_TIMEOUT if has_nodes else TIMEOUT


def connector(url: str | Secret, *, cluster: bool = False) -> Callable[[], RedisClient]:
    """Return a function that creates clients for *url*, without retries and with timeouts.

    Raises:
        ConfigurationError: redis-py does not accept *url*.
    """
    url = Secret(url)
    address = parse_address(url)
    if address is None or not address.is_complete(cluster=cluster):
        if cluster:
            raise ConfigurationError(
                "the address of the shared store is not a redis:// or rediss:// URL of a cluster",
                advice="Give it as redis://host:6379, or redis://host1,host2 to start from any of "
                "several nodes; a cluster has no numbered databases",
            )
        raise ConfigurationError(
            "the address of the shared store is not a redis://, rediss://, redis+sentinel:// or "
            "unix:// URL",
            advice="Give it as redis://host:6379/0, rediss:// for TLS, or "
            "redis+sentinel://host1:26379,host2:26379/PRIMARY with the name that Sentinel uses",
        )
    if not _is_connectable(address, cluster=cluster):
        raise ConfigurationError(
            f"the address of the shared store {display_url(url)} has a query that redis-py cannot use",
            advice="Remove the part after the question mark, or see redis-py's `from_url`",
        )
    return partial(_connect, address, cluster=cluster)


def _is_connectable(address: Address, *, cluster: bool) -> bool:
    """Return whether a connection object can be created; it raises for an unknown option."""
    try:
        client = _connect(address, cluster=cluster)
        if isinstance(client, redis.RedisCluster):
            client.startup_nodes[0].acquire_connection()
        else:
            client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError, RedisError, RedisClusterException):
        return False
    return True


def _connect(address: Address, *, cluster: bool) -> RedisClient:
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "health_check_interval": 0,
    }
    if not cluster and not address.is_sentinel:
        return redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            address.server_url(), retry_on_timeout=False, **options
        )
    options["socket_connect_timeout"] = _CONNECT_TIMEOUT
    options.update(parse_url(address.server_url()))
    options["ssl"] = options.pop("connection_class", None) is not None
    del options["host"]
    options.pop("port", None)
    if cluster:
        client = redis.RedisCluster(
            startup_nodes=[ClusterNode(host, port or 6379) for host, port in address.hosts],
            require_full_coverage=False,
            reinitialize_steps=0,  # while slots are moved, it would close all connections often
            **options,
        )
        client.commands_parser = _NoCommands()  # type: ignore[assignment]
        return client
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        [(host, port or 26379) for host, port in address.hosts],
        sentinel_kwargs={name: value for name, value in options.items() if name != "db"},
        **options,
    )
    primary: redis.Redis = sentinel.master_for(address.path.strip("/"))
    return primary


class _NoCommands:
    """No table of commands: scripts name their keys.

    redis-py reads the table again after each failed command, and blocks the event loop for some
    50 ms with it.
    """

    async def initialize(self, node: ClusterNode | None = None) -> None:
        """Do nothing."""


async def close(client: RedisClient) -> None:
    """Close all connections of *client*."""
    await client.aclose()
    if isinstance(client, redis.RedisCluster):
        for nodes in ("nodes_cache", "startup_nodes"):  # `aclose` skips them after a failure
            with suppress(RedisError, OSError):
                await client.nodes_manager.aclose(nodes)
    elif isinstance(client.connection_pool, SentinelConnectionPool):
        sentinel: Any = client.connection_pool
        await sentinel.sentinel_manager.aclose()


def node_name(client: RedisClient, key: str) -> str:
    """Return the node of a cluster that holds *key*, as far as is known; else ""."""
    if not isinstance(client, redis.RedisCluster):
        return ""
    try:
        node = client.get_node_from_key(key)
    except SlotNotCoveredError:
        return ""
    return node.name if node is not None else ""


async def with_timeout(
    store: str, command: Callable[[], Awaitable[Any]], timeout: float = TIMEOUT
) -> Any:
    """Return the reply to *command*.

    Raises:
        StoreUnavailableError: there was no usable reply within *timeout* seconds.
        ConfigurationError: the store rejects the login or the command.
    """
    try:
        async with asyncio.timeout(timeout):
            return await command()
    except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
        raise explain(store, error) from None


class Script:
    """A Lua script, run by its digest; sent in full if the server does not have it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: RedisClient, keys: Sequence[str], args: Sequence[Any]) -> Any:
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


async def read_facts(client: RedisClient, store: str) -> ServerFacts | None:
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


async def check_server(client: RedisClient, store: str) -> None:
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
_CLUSTER = "Pass cluster=True, or give the address of a server that takes all keys for the cluster"
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
    "MOVED": _Meaning("is one node of a cluster and has only some of the keys", _CLUSTER, True),
    "CLUSTERDOWN": _Meaning(
        "is a cluster without some of its nodes",
        "Wait for the failover, or start the missing nodes",
        False,
    ),
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
    if isinstance(error, RedisClusterException):
        return _cluster_error(store, error)
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


def _cluster_error(
    store: str, error: RedisClusterException
) -> ConfigurationError | StoreUnavailableError:
    """Explain by what the first nodes of a cluster have replied: redis-py wraps it."""
    cause = next((each for each in _chain(error) if isinstance(each, (RedisError, OSError))), None)
    if cause is None:
        return StoreUnavailableError(
            "its nodes do not serve all slots", _MEANINGS["CLUSTERDOWN"][1]
        )
    explained = explain(store, cause)
    if isinstance(explained, ConfigurationError) or not isinstance(cause, ResponseError):
        return explained
    return ConfigurationError(
        f"the shared store {store} is not a cluster ({cause})", advice="Leave out cluster=True"
    )


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

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
    from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
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

FAILURES = (RedisError, RedisClusterException, OSError, TimeoutError)
"""What a command raises if it fails; redis-py's error of a cluster is not a `RedisError`."""

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
    *("HDEL", "HGET", "HMGET", "HSET"),
    *("SCAN", "ZADD", "ZREM", "ZREMRANGEBYSCORE", "ZREVRANGE", "ZSCORE"),
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
    kind: str  # "cluster", "sentinel" or "" for a single server
    login: Secret
    hosts: tuple[tuple[str, int | None], ...]
    path: str
    query: Secret

    @property
    def name(self) -> str:
        """The number of the database, or the name that Sentinel knows the primary by."""
        return self.path.strip("/")

    @property
    def timeout(self) -> float:
        """Seconds after which a command has failed."""
        return NODES_TIMEOUT if self.kind else TIMEOUT

    def __str__(self) -> str:
        """Return the URL without user, password and query."""
        scheme = f"{self.scheme}+{self.kind}" if self.kind else self.scheme
        hosts = ",".join(_location(host, port) for host, port in self.hosts)
        return f"{scheme}://{hosts}{self.path}"

    def server_url(self) -> str:
        """Return the URL of the first host as redis-py reads it."""
        path = "" if self.kind == "sentinel" else self.path
        location = f"{self.login.reveal()}{_location(*self.hosts[0])}"
        return f"{self.scheme}://{location}{path}?{self.query.reveal()}"

    @property
    def is_complete(self) -> bool:
        """Whether the parts suffice; redis-py would read a database name as database 0."""
        name, has_hosts = self.name, all(host for host, _ in self.hosts)
        if self.scheme == "unix":
            return bool(name) and not self.kind
        if self.scheme not in {"redis", "rediss"}:
            return False
        if self.kind == "sentinel":
            return has_hosts and bool(name)
        if self.kind == "cluster":
            return has_hosts and name in {"", "0"}
        return len(self.hosts) == 1 and (name.isdecimal() or (has_hosts and not name))


def _location(host: str, port: int | None) -> str:
    return (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")


def _split(url: Secret, *, cluster: bool) -> Address | None:
    """Return the parts of *url*; None if they cannot be read."""
    text: Any = url.reveal()
    if not isinstance(text, str):
        return None
    try:
        parts = urlsplit(text)
        scheme, _, kind = parts.scheme.partition("+")
        login, at, hosts = parts.netloc.rpartition("@")
        split = [urlsplit(f"//{host.strip()}") for host in hosts.split(",")]
        pairs = tuple((each.hostname or "", each.port) for each in split)
    except ValueError:
        return None
    if kind not in ({"", "cluster"} if cluster else {"", "cluster", "sentinel"}):
        return None
    kind = "cluster" if cluster else kind
    return Address(scheme, kind, Secret(login + at), pairs, parts.path, Secret(parts.query))


def parse_address(url: str | Secret, *, cluster: bool = False) -> Address:
    """Return the parts of *url*.

    Raises:
        ConfigurationError: it is incomplete, or redis-py does not accept it. The error for an
            incomplete address shows no part of it: any may be of a password.
    """
    address = _split(Secret(url), cluster=cluster)
    if address is None or not address.is_complete:
        raise _incomplete(address, "cluster" if cluster else address.kind if address else "")
    if not _is_connectable(address):
        raise ConfigurationError(
            f"the address of the shared store {address} has a query that redis-py cannot use",
            advice="Remove the part after the question mark, or see redis-py's `from_url`",
        )
    return address


def _incomplete(address: Address | None, kind: str) -> ConfigurationError:
    """Return the error for an incomplete address. It shows no part: any may be of a password."""
    name = address.name if address is not None else ""
    if kind == "cluster" and name.isdecimal():
        problem = "ends with the number of a database, and a cluster has no database number"
        advice = "Remove the number, as in redis+cluster://host1:6379,host2:6379"
    elif kind == "cluster":
        problem = "is not a redis:// or rediss:// URL of a cluster"
        advice = "Give it as redis+cluster://host1:6379,host2:6379 to start from any of these nodes"
    elif kind == "sentinel" and not name:
        problem = "is not complete: the name of the primary is missing"
        advice = "Add it, as in redis+sentinel://host1:26379,host2:26379/NAME"
    else:
        problem = "is not a redis://, rediss://, redis+cluster://, redis+sentinel:// or unix:// URL"
        advice = (
            "Give it as redis://host:6379/0, rediss:// for TLS, or "
            "redis+sentinel://host1:26379,host2:26379/NAME with the name that Sentinel uses"
        )
    return ConfigurationError(f"the address of the shared store {problem}", advice=advice)


def _is_connectable(address: Address) -> bool:
    """Return whether a connection object can be created; it raises for an unknown option."""
    try:
        client = create_client(address)
        if isinstance(client, redis.RedisCluster):
            client.startup_nodes[0].acquire_connection()
        else:
            client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError, RedisError, RedisClusterException):
        return False
    return True


def create_client(address: Address) -> RedisClient:
    """Return a client without retries and with timeouts, which is not connected yet."""
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "health_check_interval": 0,
    }
    if not address.kind:
        return redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            address.server_url(), retry_on_timeout=False, **options
        )
    options["socket_connect_timeout"] = _CONNECT_TIMEOUT
    options.update(parse_url(address.server_url()))
    options["ssl"] = options.pop("connection_class", None) is not None
    del options["host"]
    options.pop("port", None)
    if address.kind == "cluster":
        client = redis.RedisCluster(
            startup_nodes=[ClusterNode(host, port or 6379) for host, port in address.hosts],
            require_full_coverage=False,
            reinitialize_steps=0,  # while slots are moved, it would close all connections often
            **options,
        )
        client.commands_parser = _FirstKey()  # type: ignore[assignment]
        return client
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        [(host, port or 26379) for host, port in address.hosts],
        sentinel_kwargs={name: value for name, value in options.items() if name != "db"},
        **options,
    )
    primary: redis.Redis = sentinel.master_for(address.name)
    return primary


class _FirstKey:
    """Finds the keys of a command without the server's table of commands.

    All keys of one command share a hash tag, so the first one suffices. redis-py would read the
    table again after each failed command, which blocks the event loop for some 50 ms.
    """

    async def initialize(self, _node: ClusterNode | None = None) -> None:
        """Do nothing: no table is needed."""

    async def get_keys(self, *words: Any) -> tuple[Any, ...]:
        """Return the first key of a command."""
        return words[1:2]


async def close(client: RedisClient) -> None:
    """Close all connections of *client*."""
    await client.aclose()
    if isinstance(client, redis.RedisCluster):
        for nodes in ("nodes_cache", "startup_nodes"):  # `aclose` skips them after a failure
            with suppress(*FAILURES):
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
    address: Address, command: Callable[[], Awaitable[Any]], timeout: float | None = None
) -> Any:
    """Return the reply of the store at *address* to *command*.

    Raises:
        StoreUnavailableError: there was no usable reply within *timeout* seconds, by default
            those of the address.
        ConfigurationError: the store rejects the login or the command.
    """
    try:
        async with asyncio.timeout(address.timeout if timeout is None else timeout):
            return await command()
    except FAILURES as error:
        raise explain(str(address), error) from None


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
    """What a server reports about itself."""

    server: str  # Redis or Valkey
    version: str
    is_too_old: bool  # it lacks commands that the store needs
    policy: str  # its maxmemory-policy
    max_memory: int  # bytes; 0 for no limit

    @property
    def may_evict(self) -> bool:
        """True if it deletes keys when its memory is full."""
        return self.max_memory > 0 and self.policy != "noeviction"


async def read_facts(client: RedisClient) -> ServerFacts | None:
    """Return what the server reports; None if it does not permit INFO."""
    info: dict[str, Any]
    try:
        info = await client.info("server", "memory")  # pyright: ignore[reportUnknownMemberType]
    except ResponseError as error:
        if is_denied(error):
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
    facts = await read_facts(client)
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


_LOGIN = "Correct user and password in its URL"
_CONFIGURATION = {
    "NOAUTH": ("rejects the login: it requires a password", _LOGIN),
    "WRONGPASS": ("rejects the login: wrong user or password", _LOGIN),
    "NOPERM": ("rejects a command", f"Give the user of its URL these rights: {ACL_RIGHTS}"),
    "DENIED": (
        "runs in protected mode and rejects connections from other hosts",
        "Set a password on the server, or protected-mode no in a trusted network",
    ),
    "READONLY": (
        "is a read-only replica",
        "Give the address of the primary, or wait for the failover",
    ),
    "MOVED": (
        "is one node of a cluster and has only some of the keys",
        "Write redis+cluster://, pass cluster=True, or name a server that takes all keys",
    ),
    "WRONGTYPE": (
        "holds other data under the same keys",
        "Choose another prefix=, or another database",
    ),
}
"""Error codes that end only when the configuration is changed: the meaning, and the next step."""
_OUTAGES = {
    "CLUSTERDOWN": (
        "is a cluster without some of its nodes",
        "Wait for the failover, or start the missing nodes",
    ),
    "OOM": ("is out of memory", "Raise maxmemory, or use a server without other data"),
    "LOADING": ("is loading its data", "Wait until it has started"),
    "MISCONF": ("cannot save to its disk", "Free disk space on the server"),
    "NOREPLICAS": ("has too few replicas", "Start its replicas"),
    "MASTERDOWN": ("is a replica without a primary", "Start the primary"),
    "BUSY": ("is busy with a script", "Run SCRIPT KILL, or wait"),
}
_UNKNOWN_COMMAND = re.compile(r"unknown command[ `'\"]*(\w*)", re.IGNORECASE)


def explain(store: str, error: Exception) -> ConfigurationError | StoreUnavailableError:
    """Return *error* as an error of configuration or an outage.

    The code at the start of a server's error reply is part of the Redis protocol. An unknown code
    is an outage.
    """
    if isinstance(error, RedisClusterException):
        return _cluster_error(store, error)
    if isinstance(error, MasterNotFoundError):  # it does not tell what each Sentinel has replied
        hosts, _, name = store.partition("://")[2].partition("/")
        return StoreUnavailableError(
            f"no Sentinel of {hosts} knows the primary {name} and reaches it",
            "Check the name and the login, and that the Sentinels and the primary run; with TLS "
            "write rediss+sentinel://, without it redis+sentinel://",
        )
    text = re.sub(
        r"[,.;] *$", "", re.sub(r",? (script: [0-9a-f]{40}|with args ).*", "", str(error))
    )[:160]
    code = getattr(error, "status_code", None) or text.partition(" ")[0]
    if isinstance(error, AuthenticationError) and code not in _CONFIGURATION:
        code = "NOAUTH" if "without" not in text else "WRONGPASS"
    if isinstance(error, AuthorizationError):
        code = "NOPERM"
    if isinstance(error, ResponseError) and (unknown := _UNKNOWN_COMMAND.search(text)):
        return _lacks_command(store, unknown[1].upper())
    if isinstance(error, ResponseError) and text.startswith(("ACL failure", "The user exec")):
        code = "NOPERM"  # inside a script, where the code is ERR
    if code in _CONFIGURATION:
        meaning, advice = _CONFIGURATION[code]
        detail = "" if isinstance(error, AuthenticationError) else f" ({text})"
        return ConfigurationError(f"the shared store {store} {meaning}{detail}", advice=advice)
    if code in _OUTAGES:
        meaning, advice = _OUTAGES[code]
        return StoreUnavailableError(f"{type(error).__name__}: it {meaning}", advice)
    return _connection_error(store, error, text)


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
        return StoreUnavailableError("its nodes do not serve all slots", _OUTAGES["CLUSTERDOWN"][1])
    explained = explain(store, cause)
    if isinstance(explained, ConfigurationError) or not isinstance(cause, ResponseError):
        return explained
    return ConfigurationError(
        f"the shared store {store} is not a cluster ({cause})",
        advice="Write redis:// instead of redis+cluster://, and leave out cluster=True",
    )


def _connection_error(
    store: str, error: Exception, text: str
) -> ConfigurationError | StoreUnavailableError:
    kind = "".join(store.partition("://")[0].partition("+")[1:])
    with_tls, without = f"rediss{kind}://", f"redis{kind}://"
    tls = next((each for each in _chain(error) if isinstance(each, ssl.SSLError)), None)
    if tls is not None:
        return ConfigurationError(
            f"the shared store {store} cannot be reached over TLS ({tls.reason or tls})",
            advice=f"Check its certificate (ssl_ca_certs= in the URL's query), or use {without} "
            "for a server without TLS",
        )
    if isinstance(error, InvalidResponse):
        return ConfigurationError(
            f"the server at {store} does not speak the Redis protocol",
            advice=f"Correct host and port; use {with_tls} if the port expects TLS",
        )
    reason = type(error).__name__
    if isinstance(error, (TimeoutError, RedisTimeoutError)):
        reason += ": no reply in time"
    elif isinstance(error, RedisError):
        reason += f": {text}"
    return StoreUnavailableError(
        reason,
        f"Start it or correct its address; a port with TLS needs {with_tls}, one without {without}",
    )


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
    return ConfigurationError(
        f"the shared store {store} is version {version}, which is too old",
        advice="Use Redis 6.2 or later, or Valkey",
    )

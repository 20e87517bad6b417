"""The identity of a job, derived from the arguments of `pull` or `push`.

Priorities, timeouts and quotas are not part of it: they only change how a job runs. A `map`
or `key` that is a function is not part of it either, so it may be corrected between two runs.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, cast

import msgspec
from yarl import URL

from asyncclients.backfill.rows import Renaming, unbound
from asyncclients.core.call import ClientConfig, config_of
from asyncclients.core.endpoint import endpoint_of
from asyncclients.errors import StateMismatchError
from asyncclients.paging import Paginator
from asyncclients.secret import Secret

_LONGEST = 200
"""Maximum length of an argument that is stored as text; a longer one is stored as a hash."""
_FUNCTION = "function"
"""Stored as `key` if the key is a function of the user."""


class JobIdentity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The identity of the job that a state file belongs to. JSON leaves out empty fields.

    Attributes:
        kind: `pull`, `push` or `sync`.
        source: name of the input file, or the list operation.
        target: the operation or function that is called, or the file that is written.
        row_type: the struct of a row.
        origin: scheme, host, port and base path of the vendor.
        account: name of the account, for vendors with one in the URL (Emma, Intempt).
        credential: for other vendors, a slow one-way hash of the credential.
        headers: a slow one-way hash of the headers added by the client's options.
        arguments: arguments bound to the operation; for a function of the user, a slow hash.
        key: the field that identifies an item or a row, or `function`.
        map: the names that a mapping gives to columns.
    """

    kind: str
    source: str
    target: str
    row_type: str = ""
    origin: str = ""
    account: str = ""
    credential: str = ""
    headers: str = ""
    arguments: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    key: str = ""
    map: str = ""

    def check(
        self, found: JobIdentity, path: str, *, new_credential: bool, new_map: bool = False
    ) -> None:
        """Raise `StateMismatchError` if *found*, the job of the state *path*, is another job."""
        for field in self.__struct_fields__:
            theirs, ours = getattr(found, field), getattr(self, field)
            may_differ = {
                "key": _FUNCTION in (theirs, ours),
                "credential": bool(theirs and ours and new_credential),
                "map": new_map,
            }
            if theirs != ours and not may_differ.get(field, False):
                raise StateMismatchError(
                    f"{path} belongs to another job: {_difference(field, theirs, ours)}",
                    file=path,
                    advice=f"Use a separate state file for each job{_ADVICE.get(field, '')}",
                )


_ADVICE = {
    "credential": ". If this is a new credential of the same account, pass new_credential=True "
    "(command line: --new-credential)",
    "map": ". To send the failed rows again through a corrected map, pass retry_failed=True "
    "(command line: --retry-failed)",
}


def _difference(field: str, theirs: Any, ours: Any) -> str:
    if field == "credential":
        return "its credential differs"
    if field == "headers":
        return "its headers differ"
    if field != "arguments":
        return f"its {field.replace('_', ' ')} is {theirs!r}, not {ours!r}"
    name = min(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
    if "hash of" in name:
        return f"bound arguments have changed ({name.removeprefix('hash of ')})"
    was, now = theirs.get(name, "not given"), ours.get(name, "not given")
    return f"its argument {name} is {was}, now {now}"


def push_job(
    source: str,
    target: Callable[..., Any],
    row_type: str,
    map: Any,  # noqa: A002 - as the argument of push
) -> JobIdentity:
    """Return the identity of a push. Blocks for about 0.1 s: call it in a thread."""
    endpoint = endpoint_of(target)
    function, given = _bound(target)
    config = _config_among([getattr(function, "__self__", None), *given.values()])
    return JobIdentity(
        kind="push",
        source=source,
        target=name_of(target),
        row_type=row_type,
        arguments=_arguments(given, shown=endpoint is not None),
        map=_map_text(map),
        **_account(config),
    )


def sync_job(
    target: object,
    name: str,
    row_type: str,
    key: str,
    map: Any,  # noqa: A002 - as the argument of sync
) -> JobIdentity:
    """Return the identity of a sync with *target*. Blocks for about 0.1 s: call it in a thread.

    The name of the input is not part of it: the file of each day may have another one.
    """
    owners = [target, *getattr(target, "__dict__", {}).values()]
    return JobIdentity(
        kind="sync",
        source="",
        target=name,
        row_type=row_type,
        arguments={},
        key=key,
        map=_map_text(map),
        **_account(_config_among(owners)),
    )


def pull_job(source: Any, target: str, key: Any) -> JobIdentity:
    """Return the identity of a pull. Blocks for about 0.1 s: call it in a thread."""
    operation, owner, given = _list_of(source)
    return JobIdentity(
        kind="pull",
        source=operation,
        target=target,
        arguments=_arguments(given, shown=True),
        key=key if isinstance(key, str) else "" if key is None else _FUNCTION,
        **_account(_config_among([owner])),
    )


def name_of(target: Callable[..., Any]) -> str:
    """Return the name of *target* in the state file: its operation, or its qualified name."""
    endpoint = endpoint_of(target)
    target = unbound(target)
    return _name(target) if endpoint is None else f"{target.__module__}.{endpoint.operation}"


def _list_of(source: Any) -> tuple[str, object, Mapping[str, Any]]:
    """Return the list operation of *source*, its resource, and its arguments."""
    if inspect.iscoroutine(source) and source.cr_frame is not None:
        given = dict(source.cr_frame.f_locals)
        owner = given.pop("self", None)
        method: Any = getattr(owner, source.cr_code.co_name, None)
        endpoint = endpoint_of(method)
        if endpoint is not None:
            return endpoint.operation, owner, given
    if inspect.isasyncgen(source) and source.ag_frame is not None:
        source = source.ag_frame.f_locals.get("self", source)
    if isinstance(source, Paginator):
        given = {**(source.query or {}), "page": source.start}
        shown = {name: value for name, value in given.items() if value is not None}
        return source.operation or "paginator", source.owner, shown
    return "iterable", None, {}


def _bound(target: Any) -> tuple[Any, dict[str, Any]]:
    """Return the function inside the `partial`s of *target*, and the bound arguments by name."""
    positional: tuple[Any, ...] = ()
    named: dict[str, Any] = {}
    while isinstance(target, partial):
        positional = (*target.args, *positional)
        named = {**target.keywords, **named}
        target = target.func
    if positional:
        try:
            named = inspect.signature(target).bind_partial(*positional, **named).arguments
        except (TypeError, ValueError):
            named = {str(place): value for place, value in enumerate(positional)} | named
    return target, named


def _arguments(given: Mapping[str, Any], *, shown: bool) -> dict[str, str]:
    texts = {name: _text(value) for name, value in given.items()}
    if not texts or shown:
        return {
            name: text if len(text) <= _LONGEST else _hash(Secret(text), name)
            for name, text in texts.items()
        }
    # Arguments of a function of the user may contain a credential.
    return {f"hash of {', '.join(sorted(texts))}": _hash(Secret(_text(texts)), "arguments")}


def _config_among(candidates: list[Any]) -> ClientConfig | None:
    for candidate in candidates:
        found = config_of(candidate) or config_of(getattr(candidate, "__self__", None))
        if found is not None:
            return found
    return None


def _account(config: ClientConfig | None) -> dict[str, str]:
    """Return origin, account, credential and headers of the client's calls."""
    if config is None:
        return {}
    url = URL(config.base_url)
    origin = f"{url.scheme}://{url.host}:{url.port}{url.raw_path}"
    found = {"origin": origin, "account": config.account}
    login = config.login
    if login is not None and not config.account:
        found["credential"] = _hash(login.value, config.vendor.name)
    if config.options.headers:
        headers = {name.lower(): value for name, value in config.options.headers.items()}
        found["headers"] = _hash(Secret(_text(headers)), "headers")
    return found


def _map_text(map: Any) -> str:  # noqa: A002 - as the argument of push
    """Return the columns and fields of a map by names as text; "" for a function or no map."""
    map = getattr(map, "renaming", map)  # noqa: A001
    if isinstance(map, Renaming):
        return _text((map.columns, map.fixed))
    return _text([dict(cast("Mapping[str, str]", map)), {}]) if isinstance(map, Mapping) else ""


@lru_cache(256)
def _hash(secret: Secret, context: str) -> str:
    return secret.slow_fingerprint(f"asyncclients state: {context}")


def _text(value: Any) -> str:
    """Return *value* as text that does not depend on the process."""
    try:
        plain = msgspec.to_builtins(value, str_keys=True, order="sorted", enc_hook=_plain)
        return json.dumps(plain, sort_keys=True)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return json.dumps(_name(type(value)))


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(cast("os.PathLike[str]", value))
    if isinstance(value, Secret):
        return _hash(value, "argument")
    return _name(value if callable(value) else type(value))


def _name(value: Any) -> str:
    name = getattr(value, "__qualname__", None) or type(value).__qualname__
    return f"{getattr(value, '__module__', '')}.{name}"

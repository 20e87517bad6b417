"""Access tokens in one small file, so that they outlive a process.

* Only its owner can read the file (mode 0600). It is replaced as a whole, so a reader sees the
  old content or the new. If two processes write at the same time the last one wins, and the
  other's token is requested again.
* Keys are one-way names of credentials. The tokens are stored in the clear: everyone who can
  read the file can use them until they expire.
* Times on disk are wall-clock seconds; in memory they are the loop's.
* A file that is missing, truncated, of another program or of a newer version counts as empty.
  A failure to read or write is logged once until it works again, and makes no call fail.
* The event loop's thread does not access the file.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from asyncclients.arguments import check_type
from asyncclients.core.auth import Token, bearer, token_text
from asyncclients.core.events import logger
from asyncclients.own_files import target_of
from asyncclients.stores.config import token_scope

_VERSION = 1
_MAX_SIZE = 2**20
"""Bytes; a larger file was not written by this class."""


class _StoredToken(msgspec.Struct, frozen=True, kw_only=True):
    """One token on disk; times are wall-clock seconds."""

    token: str
    expires_at: float
    saved_at: float = 0.0

    def __repr__(self) -> str:
        return "<token>"


class _TokenFile(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    version: int = _VERSION
    tokens: dict[str, _StoredToken] = msgspec.field(default_factory=dict[str, _StoredToken])


def _is_ours(path: Path) -> bool:
    """True unless *path* has content that this class did not write."""
    try:
        with path.open("rb") as file:
            start = file.read(4096).strip(b" \t\r\n\0")
    except OSError:
        return True  # missing, or writing will raise the reason
    return start in (b"", b"{}") or start.startswith((b'{"version":', b'{"tokens":'))


class FileTokens:
    """Keeps access tokens in the file *path*: `SessionPool(tokens=FileTokens(path))`.

    A missing folder is created. *clock* returns wall-clock seconds.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time
    ) -> None:
        check_type("path", path, (str, os.PathLike), "FileTokens('tokens.json')")
        self._path = Path(path)
        self._clock = clock
        self._lock = threading.Lock()
        self._undropped: set[str] = set()
        self._warned: set[str] = set()

    async def load(self, key: str, now: float) -> Token | None:
        """Return the token stored under *key*, if it is valid at loop instant *now*."""
        stored = await asyncio.to_thread(self._find, key)
        value = token_text(stored.token) if stored is not None else None
        if stored is None or value is None:
            return None
        # If the wall clock was set back, the token must not outlive its lifetime.
        left = stored.expires_at - max(stored.saved_at, self._clock())
        return bearer(value, now + left) if left > 0 else None

    async def save(self, key: str, token: Token, now: float) -> None:
        """Store *token* under *key* until it expires."""
        saved_at = self._clock()
        expires_at = saved_at + token.expires_at - now
        stored = _StoredToken(token=token.value.reveal(), expires_at=expires_at, saved_at=saved_at)
        await asyncio.to_thread(self._change, key, lambda tokens: tokens.update({key: stored}))

    async def drop(self, key: str, token: Token) -> None:
        """Delete *token* if it is the one stored under *key*."""

        def delete(tokens: dict[str, _StoredToken]) -> None:
            if key in tokens and tokens[key].token == token.value.reveal():
                self._undropped.add(tokens[key].token)  # until the file is written
                del tokens[key]

        await asyncio.to_thread(self._change, key, delete)

    async def release(self, key: str) -> None:
        """Do nothing: no process waits for another's token."""

    # --- In a thread ----------------------------------------------------------------

    def _find(self, key: str) -> _StoredToken | None:
        with self._lock:
            found = self._read(key).get(key)
            return found if found is None or found.token not in self._undropped else None

    def _change(self, key: str, change: Callable[[dict[str, _StoredToken]], None]) -> None:
        with self._lock:
            before = self._read(key)
            after, wall = dict(before), self._clock()
            change(after)
            after = {key: stored for key, stored in after.items() if stored.expires_at > wall}
            if after != before:
                self._write(key, after)

    def _read(self, key: str) -> dict[str, _StoredToken]:
        try:
            with self._path.open("rb") as file:
                stored = msgspec.json.decode(file.read(_MAX_SIZE), type=_TokenFile)
        except FileNotFoundError:
            return {}
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            if _is_ours(self._path):
                self._warn(key, "read from", "it is damaged, and counts as empty")
            else:
                self._warn(key, "kept in", "it belongs to another program")
            return {}
        except OSError as failure:
            self._warn(key, "read from", failure.strerror or type(failure).__name__)
            return {}
        self._warned.discard("read from")
        return stored.tokens if stored.version == _VERSION else {}

    def _write(self, key: str, tokens: dict[str, _StoredToken]) -> None:
        name: str | None = None
        path = target_of(self._path)
        if not _is_ours(path):
            return  # `_read` has logged it
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # mkstemp creates with mode 0600, whatever the umask.
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(_TokenFile(tokens=tokens)))
            os.replace(name, path)  # noqa: PTH105 - mkstemp returns a name
            self._undropped.clear()
            self._warned.discard("kept in")
        except OSError as failure:
            self._warn(key, "kept in", failure.strerror or type(failure).__name__)
            if name is not None:
                with suppress(OSError):
                    os.unlink(name)  # noqa: PTH108

    def _warn(self, key: str, what: str, reason: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            logger.warning(
                "%s: tokens cannot be %s %s: %s. Each process requests tokens alone. "
                "Name a file that this user may read and write",
                *(token_scope(key), what, self._path, reason),
            )

    def __repr__(self) -> str:
        return f"<FileTokens {vars(self).get('_path', 'at an unusable path')}>"

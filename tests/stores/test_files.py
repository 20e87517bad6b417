"""Tokens in a file: whose it is, what survives, and that nothing stops a call."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
from pathlib import Path

import pytest

from asyncclients import DigitalOnboardingClient, SessionPool
from asyncclients.core.auth import bearer
from asyncclients.sandbox import Sandbox
from asyncclients.secret import Secret
from asyncclients.stores import FileTokens
from asyncclients.stores.file_tokens import FileTokens as Direct

CANARY = "canary-token-5d1f"


class Wall:
    """A settable wall clock."""

    def __init__(self, seconds: float = 1_700_000_000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "tokens.json"


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def tokens(path: Path, wall: Wall) -> FileTokens:
    return FileTokens(path, clock=wall)


def test_file_tokens_is_exported() -> None:
    """`FileTokens` is the same object in `asyncclients.stores` and in its own module."""
    assert FileTokens is Direct


async def test_token_is_kept_across_instances(path: Path, wall: Wall) -> None:
    """A token saved by one instance is loaded by another, with its remaining lifetime."""
    await FileTokens(path, clock=wall).save("key", bearer(Secret("t"), 600.0), 100.0)
    wall.seconds += 200
    # Another process: its loop's clock began elsewhere.
    found = await FileTokens(path, clock=wall).load("key", 5000.0)
    assert found is not None
    assert found.value.reveal() == "t"
    assert found.authorization.reveal() == "Bearer t"
    assert found.expires_at == pytest.approx(5000.0 + 300.0)


async def test_expired_token_is_not_loaded(tokens: FileTokens, wall: Wall) -> None:
    """An expired token is not returned, and the next save deletes it from the disk."""
    await tokens.save("old", bearer(Secret(CANARY), 100.0), 0.0)
    wall.seconds += 100
    assert await tokens.load("old", 0.0) is None
    await tokens.save("new", bearer(Secret("t"), 100.0), 0.0)
    assert await tokens.load("new", 0.0) is not None


async def test_expired_tokens_are_deleted_by_the_next_save(
    tokens: FileTokens, path: Path, wall: Wall
) -> None:
    """A save deletes expired tokens."""
    await tokens.save("old", bearer(Secret(CANARY), 100.0), 0.0)
    assert CANARY in path.read_text()
    wall.seconds += 100
    await tokens.save("new", bearer(Secret("t"), 100.0), 0.0)
    assert CANARY not in path.read_text()


async def test_clock_set_back_does_not_extend_a_token(tokens: FileTokens, wall: Wall) -> None:
    """A wall clock that is set back by a year gives a token no more than its original lifetime."""
    await tokens.save("key", bearer(Secret("t"), 600.0), 0.0)
    wall.seconds -= 365 * 86_400
    found = await tokens.load("key", 0.0)
    assert found is not None
    assert found.expires_at == 600.0


async def test_keys_are_separate(tokens: FileTokens) -> None:
    """Each key has its own token, and an unknown key has none."""
    await tokens.save("a", bearer(Secret("ta"), 100.0), 0.0)
    await tokens.save("b", bearer(Secret("tb"), 100.0), 0.0)
    found = [await tokens.load(key, 0.0) for key in ("a", "b", "c")]
    assert [token and token.value.reveal() for token in found] == ["ta", "tb", None]


async def test_drop_deletes_only_the_given_token(tokens: FileTokens) -> None:
    """Dropping the old token leaves the new one; dropping the new one leaves none."""
    old, new = bearer(Secret("old"), 100.0), bearer(Secret("new"), 100.0)
    await tokens.save("key", new, 0.0)
    await tokens.drop("key", old)
    assert await tokens.load("key", 0.0) is not None
    await tokens.drop("key", new)
    assert await tokens.load("key", 0.0) is None
    await tokens.drop("key", new)


@pytest.mark.parametrize("umask", [0o000, 0o022])
async def test_token_file_is_readable_by_its_owner_only(
    path: Path, tokens: FileTokens, umask: int
) -> None:
    """Mode 0600 from the first byte on, whatever the umask, also over a file that was open."""
    path.parent.mkdir()
    path.write_text("{}")
    path.chmod(0o644)
    before = os.umask(umask)
    try:
        await tokens.save("key", bearer(Secret("t"), 100.0), 0.0)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_token_file_contains_no_credential(path: Path) -> None:
    """Client id and secret are not on disk: keys are one-way names."""
    async with Sandbox() as sandbox, SessionPool(tokens=FileTokens(path)) as pool:
        client = DigitalOnboardingClient.from_env(pool, sandbox.environ)
        await client.templates.list()
        text = path.read_text()
        token = next(iter(sandbox.state("digital_onboarding").tokens))
        names = ("CLIENT_ID", "CLIENT_SECRET")
        secrets = [sandbox.environ[f"DIGITAL_ONBOARDING_{name}"] for name in names]
    assert token in text
    assert not any(secret in text for secret in secrets)
    assert list(json.loads(text)["tokens"]) == [f"digital_onboarding:{pool.stats()[0].scope}"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(4096),
        b'{"version": 1, "tokens": {"key": 7}}',
        b'{"version": 1, "tokens": {"key": {"token": "t"}}}',
        b'{"version": 1, "tokens": {"key": {"token": "t", "expires_at": "soon"}}}',
        b'{"version": 1, "tokens": {"key": {"token": "", "expires_at": 9e99}}}',
        b'{"version": 1, "tokens": {"key": {"token": "a\\nb", "expires_at": 9e99}}}',
        b'{"version": 99, "tokens": {"key": {"token": "t", "expires_at": 9e99}}}',
        b'{"version": 1, "tokens": {"key": {"token": "t", "expi',
        b" " * 2**21 + b"{}",
    ],
    ids=lambda content: repr(content[:60]),
)
async def test_invalid_token_file_counts_as_empty(
    path: Path, tokens: FileTokens, content: bytes
) -> None:
    """Missing, truncated, too large or newer: no token, no error, and the next save works."""
    assert await tokens.load("key", 0.0) is None
    path.parent.mkdir()
    path.write_bytes(content)
    assert await tokens.load("key", 0.0) is None
    await tokens.drop("key", bearer(Secret("t"), 100.0))
    await tokens.save("key", bearer(Secret("good"), 100.0), 0.0)
    found = await tokens.load("key", 0.0)
    assert found is not None
    assert found.value.reveal() == "good"


@pytest.mark.parametrize("content", [b"garbage", b"\xff\xfe\x00", b"[]", b"null", b"[" * 100_000])
async def test_file_of_another_program_is_not_overwritten(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A file with other content keeps it; tokens are not stored, which is logged once."""
    path = tmp_path / "notes"
    path.write_bytes(content)
    tokens = FileTokens(path)
    await tokens.save("key", bearer(Secret("good"), 100.0), 0.0)
    assert await tokens.load("key", 0.0) is None
    assert path.read_bytes() == content
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"tokens cannot be kept in {path}: it belongs to another program. " in line


async def test_token_file_may_be_a_symlink(tmp_path: Path) -> None:
    """If the path is a symbolic link its target is written, readable by its owner only."""
    link, real = tmp_path / "link", tmp_path / "real"
    link.symlink_to(real)
    tokens = FileTokens(link)
    await tokens.save("key", bearer(Secret("good"), 100.0), 0.0)
    assert (link.is_symlink(), real.stat().st_mode & 0o777) == (True, 0o600)
    assert await tokens.load("key", 0.0) is not None


async def test_unusable_token_path_fails_no_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder in the file's place, or a file in the folder's: logged, without the token."""
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file" / "tokens.json"):
        tokens = FileTokens(path)
        token = bearer(Secret(CANARY), 100.0)
        await tokens.save("emma:abcdef", token, 0.0)
        assert await tokens.load("emma:abcdef", 0.0) is None
        await tokens.drop("emma:abcdef", token)
    assert "emma (scope abcd): tokens cannot be kept in" in caplog.text
    assert CANARY not in caplog.text
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


async def test_concurrent_saves_lose_nothing_within_a_process(tokens: FileTokens) -> None:
    """50 concurrent saves under 50 keys are all stored."""
    saves = [tokens.save(str(n), bearer(Secret(f"t{n}"), 100.0), 0.0) for n in range(50)]
    await asyncio.gather(*saves)
    found = [await tokens.load(str(n), 0.0) for n in range(50)]
    assert [token and token.value.reveal() for token in found] == [f"t{n}" for n in range(50)]


async def test_slow_disk_does_not_block_the_loop(tmp_path: Path) -> None:
    """A file that is slow to open delays the call that needs it, and nothing else."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    waiting = asyncio.create_task(FileTokens(pipe).load("key", 0.0))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not waiting.done()
    await asyncio.to_thread(pipe.write_bytes, b"{}")
    assert await waiting is None


async def test_token_outlives_its_pool(path: Path) -> None:
    """A second pool on the same file requests no token; a revoked one is replaced in the file."""
    async with Sandbox() as sandbox:
        state = sandbox.state("digital_onboarding")
        for _ in range(2):
            async with SessionPool(tokens=FileTokens(path)) as pool:
                await DigitalOnboardingClient.from_env(pool, sandbox.environ).templates.list()
        assert state.token_requests == 1
        state.revoke_tokens()
        for _ in range(2):
            async with SessionPool(tokens=FileTokens(path)) as pool:
                await DigitalOnboardingClient.from_env(pool, sandbox.environ).templates.list()
        assert state.token_requests == 2


async def test_repr_shows_no_token(tokens: FileTokens) -> None:
    """Neither the store's repr nor that of a stored token contains it."""
    await tokens.save("key", bearer(Secret(CANARY), 100.0), 0.0)
    assert CANARY not in repr(tokens) + repr(await tokens.load("key", 0.0))


async def test_unwritable_token_file_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that cannot be written is logged once until it can; a rejected token stays dropped."""
    path = tmp_path / "tokens.json"
    tokens = FileTokens(path)
    now = asyncio.get_running_loop().time()
    old, new = (bearer(Secret(f"canary-{number}"), now + 50) for number in (1, 2))
    await tokens.save("scope", old, now)
    kept = path.read_bytes()
    replace = os.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", _disk_full)
        await tokens.drop("scope", old)
        for _ in range(3):
            await tokens.save("scope", new, now)
    assert path.read_bytes() == kept
    assert os.replace is replace
    assert await tokens.load("scope", now) is None
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "No space left on device" in warning
    assert "requests tokens alone" in warning
    assert str(path) in warning
    assert [each.name for each in tmp_path.iterdir()] == ["tokens.json"]
    await tokens.save("scope", new, now)
    assert await tokens.load("scope", now)
    path.unlink()
    path.mkdir()
    for _ in range(3):
        assert await tokens.load("scope", now) is None
    assert len(caplog.records) == 2
    assert "canary" not in caplog.text


def _disk_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

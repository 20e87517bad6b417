"""Waiting for a vendor that does not answer.

One call that fails says little, so it waits a moment and is tried again. Five
in a row, with no success between, say that the vendor is away: then everything
stops but one probe at a time, with growing pauses, until one succeeds. Rows
are not used up by an outage, and a vendor that comes back is not met by all at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from random import random

from asyncclients.errors import BackfillStoppedError, error_text

_STREAK = 5
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_AT_ONCE = nullcontext()


class Outage:
    """Knows whether the vendor answers.

    Args:
        patience: seconds without any success after which `turn` and `pause` raise.
    """

    def __init__(self, patience: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._patience = patience
        self._streak = self._failed_probes = 0
        self._since: float | None = None
        self._last = ""
        self._probing = asyncio.Lock()
        self.successes = 0

    @property
    def seconds(self) -> float:
        """For how long nothing has succeeded; 0 while the vendor is not away."""
        if self._since is None or self._streak < _STREAK:
            return 0.0
        return self._loop.time() - self._since

    @property
    def is_away(self) -> bool:
        """So many calls have failed, with no success between, that `turn` has to be waited for."""
        return self._streak >= _STREAK

    def succeeded(self) -> None:
        """A call was answered: with success, or with a no that means the row."""
        self.successes += 1
        self._streak = self._failed_probes = 0
        self._since = None

    def failed(self, error: BaseException) -> None:
        """A call got no answer that says anything about its rows."""
        self._streak += 1
        self._last = error_text(error)
        if self._since is None:
            self._since = self._loop.time()

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Send inside the block: at once, or when the vendor is away, as its next probe.

        Raises:
            BackfillStoppedError: it has been away for longer than the patience.
        """
        return _AT_ONCE if self._streak < _STREAK else self._probe()

    @asynccontextmanager
    async def _probe(self) -> AsyncGenerator[None]:
        while self._streak >= _STREAK:
            async with self._probing:
                if self._streak < _STREAK:
                    break
                # The failed calls that were in flight together say no more than one of them.
                await self.pause(self._failed_probes + 1)
                self._failed_probes += 1  # unless it succeeds
                yield
                return
        yield

    async def pause(self, tries: int) -> None:
        """Wait before try number *tries* + 1.

        Raises:
            BackfillStoppedError: it would end after the patience.
        """
        seconds = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(tries - 1, 10))
        seconds *= 0.5 + random() / 2  # noqa: S311 - jitter
        since = self._since
        if since is not None and self._loop.time() + seconds - since > self._patience:
            raise BackfillStoppedError(
                f"the vendor has given no usable answer for {self._loop.time() - since:.0f} s; "
                f"the last words: {self._last}",
                advice="The state is saved: run again when the vendor is back, "
                "or allow more patience=",
            )
        await asyncio.sleep(seconds)

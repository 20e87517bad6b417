"""Writes the page of hazards from the table beside the tests that show them.

`python docs/generate_hazards.py` brings the page up to date; a test fails when it is not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "hazards.md"
_HEAD = """\
# What can go wrong

What is known to go wrong for clients of HTTP APIs, what this library promises about each,
and the tests that show it. The page is made from `tests/hardening/hazards.py`; a test that
is named here and does not exist fails the suite.
"""
_SIMULATION = """
## Worlds of trouble

`tests/hardening/test_simulation.py` lives through whole worlds, each made from one seed: web processes with
several flows and credentials, backfills (`push` of rows that must not be repeated and of rows that may, `pull`), one to
three of the five pretend vendors with their limits, over real sockets in virtual time; threads are in it, too. For
twenty seconds there goes wrong what the seed has drawn: answers are lost before or after the work, cut, late, refused,
or pages of markup; calls are cancelled, access tokens revoked; a backfill is killed at an instant, or at the n-th step
on the disk or the wire, and goes on with nothing but what its files held then, or is cancelled in good order; the
store that processes share is silent, or comes back empty; the loop stands still for up to 30 s, and the wall
clock is set by up to a day. After each world:

1. no vendor saw more than its limit in any window;
2. every row that may be repeated is there once;
3. no other row is there twice; one that is done is there; one of which the error, or the file of failed rows, says
   that it was not carried out is not;
4. all permits, slots of the store, sockets, files and tasks are given back;
5. all is done within 400 s of the end of the trouble;
6. no credential is in a log line, an error, its traceback with locals, or a file.

A seed that fails is named in the failure, and repeats to the last request:
`ASYNCCLIENTS_SEEDS=123-123 nox -s sweep -- tests/hardening/test_simulation.py`. `ASYNCCLIENTS_SEEDS=10000` asks for
that many; by itself `nox -s sweep` lives through 2,000, and the default run through six. A world costs 0.15 s of one
core.

Bugs are planted to see that it finds them, each by seeds that find nothing without it:

| planted | found by seeds |
| --- | --- |
"""
_RECORD = """
In November 2026 the seeds 0 to 9,999 were lived through, with 5,773 kills and 1,466 orderly ends of backfills,
2,507 losses of a shared store in 2,469 worlds that have one, 3,996 pauses of the loop, 3,438 settings of the wall
clock, 36,034 cancelled calls and 115,146 errors that callers saw. Five of them found something. In seed 1438 a push
that was cancelled as it ended left its input file to the garbage collector; it is mended. In seeds 7598, 9464 and
9790 pages of markup came three times in the place of a page of a list, which was then set aside whole, as a `pull`
says that it does: there the check asked too much, and now counts what is told. In seed 9269 a process that was
started a third of a second after an outage of the store was given a slot before another had told what it had sent
meanwhile: three calls of two. It is mended: a store that missed the signs of life of those who were alive grants
nothing until they have spoken, as told in [many processes](many-processes.md). With all of that
mended the seeds 0 to 9,999 were lived through once more, on one tree: nothing was found.

What these worlds have found so far, each with a test of its own now:

| found | mended |
| --- | --- |
| Inserts and deletions of Intempt took a page of markup with status 200 for done: rows were lost | `DecodeError`, as everywhere |
| An idle process that was the first to meet an emptied store took its window for empty: 22 calls of 20 | Who has spoken to the store before knows that it has forgotten |
| A push that was cancelled while its input file was opened, or closed, left it open; so did an upload | Opening and closing are brought to their end |
| A sandbox logged an error where a client had left before half of an answer was sent | It sends to nobody |

It does not replace the tests with real processes: a kill falls between two calls of SQLite, not inside one
(`tests/backfill/test_crash.py` does that, with SIGKILL); all processes have one clock; and where a store is shared, the
loop does not stand still, because that would hold up what is on the wire for longer than a store keeps the slots of
a killed process.
"""


def renewed() -> str:
    """The page as it should be."""
    return "".join([_HEAD, *_sections(), _SIMULATION, *_planted(), _RECORD])


def _sections() -> Iterator[str]:
    sys.path.insert(0, str(ROOT))
    from tests.hardening.hazards import SECTIONS

    for title, hazards in SECTIONS.items():
        yield f"\n## {title}\n\n| | hazard | promise | shown by |\n| --- | --- | --- | --- |\n"
        for hazard in hazards:
            shown = "<br>".join(f"`{test}`" for test in hazard.tests) or "—"
            yield f"| H{hazard.number} | {hazard.title} | {hazard.promise} | {shown} |\n"


def _planted() -> Iterator[str]:
    from tests.hardening.test_simulation import PLANTED

    for plant, seeds, _ in PLANTED:
        yield f"| {(plant.__doc__ or '').strip()} | {', '.join(map(str, seeds))} |\n"


def main() -> None:
    """Bring the page up to date."""
    PAGE.write_text(renewed())


if __name__ == "__main__":
    main()

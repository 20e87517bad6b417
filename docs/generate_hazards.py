"""Write the page of hazards from the table beside the tests that cover them.

`python docs/generate_hazards.py` updates the page; a test fails if it is outdated.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "hazards.md"
_TESTS = "https://github.com/asyncclients/asyncclients/blob/main/tests/"
_HEAD = """\
# What can go wrong, and what is tested?

Known failures of clients of HTTP APIs, what this library guarantees in each case, and the tests that check it.
The page is generated from `tests/hardening/hazards.py`. Each link leads to a file of tests, and has the names of the
tests as its title. A test that is listed here and does not exist fails the suite.
"""
_SIMULATION = """
## Simulation of whole systems

`tests/hardening/test_simulation.py` runs randomly generated systems, each from one seed. A system has web processes with
several flows and credentials, backfills (`push` of rows of idempotent and other operations, `pull`), threads, and one to
three of the five mock vendors with their limits, over real sockets in virtual time.

For twenty seconds the faults that the seed selects occur:

* responses are lost before or after the work, truncated, late, rejected, or pages of HTML;
* calls are cancelled, and access tokens revoked;
* a backfill is killed at some time, or at its n-th step on disk or on the wire, and resumes with only the contents of its
  files; or it is cancelled in an orderly way;
* the shared store is unreachable, or comes back empty;
* the event loop stands still for up to 30 s, and the wall clock is set by up to a day.

After each run:

1. no vendor received more than its limit in any window;
2. every row of an idempotent operation is at the vendor once;
3. no other row is there twice; a row that is reported as done is there; a row that the error or the file of failed rows
   reports as not carried out is not there;
4. all permits, slots of the store, sockets, files and tasks have been returned;
5. everything is done within 400 s after the last fault;
6. no credential is in a log line, an error, its traceback with locals, or a file.

A failure names its seed, and can be repeated exactly:
`ASYNCCLIENTS_SEEDS=123-123 nox -s sweep -- tests/hardening/test_simulation.py`. `ASYNCCLIENTS_SEEDS=10000` sets the number
of seeds. By default `nox -s sweep` runs 2,000, and the default test run six. A run takes 0.15 s of one core.

To check the simulation itself, bugs are planted. Each is found by seeds that find nothing without it:

| planted bug | found by seeds |
| --- | --- |
"""
_RECORD = """
In November 2026 the seeds 0 to 9,999 were run, with 5,773 kills and 1,466 orderly ends of backfills, 2,507 outages of a
shared store in 2,469 systems that have one, 3,996 pauses of the loop, 3,438 changes of the wall clock, 36,034 cancelled
calls and 115,146 errors that callers received. Five seeds found something:

* 1438: a push that was cancelled at its end left its input file to the garbage collector. Fixed.
* 7598, 9464 and 9790: a page of HTML was received three times instead of a page of a list, which was then set aside as a
  whole, as `pull` documents. The check was too strict, and now counts what the report contains.
* 9269: a process that started a third of a second after an outage of the store was granted a slot before another process
  had reported what it had sent during the outage: three calls of two. Fixed: a store that missed heartbeats of running
  processes grants nothing until they have reported; see [store outages](store-outages.md).

After these fixes the seeds 0 to 9,999 were run again, on one tree, and found nothing.

The simulation has found these bugs so far, and each has a test of its own:

| bug | fix |
| --- | --- |
| Inserts and deletions of Intempt accepted a page of HTML with status 200 as success: rows were lost | `DecodeError`, as everywhere |
| An idle process that was the first to reach an emptied store assumed an empty window: 22 calls of 20 | A process that has used the store before detects that it was emptied |
| A push that was cancelled while its input file was opened or closed left it open, and so did an upload | Opening and closing are completed before the cancellation |
| A sandbox logged an error if a client disconnected before half of a response was sent | The response is discarded |

It does not replace the tests with real processes. A kill happens between two calls of SQLite, not inside one
(`tests/backfill/test_crash.py` kills inside, with SIGKILL). All processes have one clock. With a shared store the loop does
not stand still, because that would delay requests on the wire for longer than a store keeps the slots of a killed process.
"""


def renewed() -> str:
    """Return the up-to-date page."""
    return "".join([_HEAD, *_sections(), _SIMULATION, *_planted(), _RECORD])


def _sections() -> Iterator[str]:
    sys.path.insert(0, str(ROOT))
    from tests.hardening.hazards import SECTIONS

    for title, hazards in SECTIONS.items():
        yield f"\n## {title}\n\n| | hazard | promise | shown by |\n| --- | --- | --- | --- |\n"
        for hazard in hazards:
            shown = ", ".join(_links(hazard.tests)) or "—"
            yield f"| H{hazard.number} | {hazard.title} | {hazard.promise} | {shown} |\n"


def _links(tests: Iterable[str]) -> Iterator[str]:
    """Yield a short link to each file of *tests*, with the names of its tests as title."""
    names: dict[str, list[str]] = {}
    for test in tests:
        file, _, name = test.partition("::")
        names.setdefault(file, []).append(name)
    for file, found in names.items():
        text = Path(file).stem.removeprefix("test_").replace("_", " ")
        yield f'[{text}]({_TESTS}{file} "{", ".join(found)}")'


def _planted() -> Iterator[str]:
    from tests.hardening.test_simulation import PLANTED

    for plant, seeds, _ in PLANTED:
        yield f"| {(plant.__doc__ or '').strip()} | {', '.join(map(str, seeds))} |\n"


def main() -> None:
    """Update the page."""
    PAGE.write_text(renewed())


if __name__ == "__main__":
    main()

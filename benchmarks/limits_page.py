"""Turn the figures of `limits.py` and `limits_sockets.py` into the page `limits.md`.

cd benchmarks && python limits_page.py results/limits.json results/limits-sockets.json > limits.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

INTRO = """# Staying inside a rate limit, measured

    pip install asyncclients --group benchmarks   # the peers
    python benchmarks/limits.py --json benchmarks/results/limits.json
    python benchmarks/limits_sockets.py --json benchmarks/results/limits-sockets.json
    cd benchmarks && python limits_page.py results/limits.json results/limits-sockets.json > limits.md

Everything here is virtual time, drawn from seeds: the same command gives the same figures on any machine (pyrate-limiter's
vary a little, since a thread of its own goes by the real clock), in about twenty minutes, and fifteen over sockets. A backlog with 50 workers sends for {hours}, {seeds} seeds, before six kinds of server. The servers are
`asyncclients/sandbox/limits.py`, written from the definitions, and share no line with the client; the client learns of
them by their answers alone. The networks are `asyncclients/simulator/latency.py`:

* *fast*: round trip 40 ms + exponential(20 ms), work 20 ms + exponential(30 ms)
* *wan*: round trip 80 ms + log-normal(median 30 ms, σ 0.8), the same work
* *slow*: *fast*'s route, work 200 ms + exponential(400 ms)

The floor of the round trip is split between the directions in one random proportion per run, the excess in a new one per
call. Refusals carry `Retry-After` in whole seconds and come back without having been worked on.

**Use** is the mean fill of the rolling window of admitted calls, as a share of the limit, after the first minute or two
windows. **Refused** is 429s of all calls, from the first; before a two-counter server *after learning*, which is the last
four fifths (from the first call on it is 1.3 % at 2 per 1 s). Targets were set before the limiter was written.

What these figures do not say. The limiter's constants were chosen on these models and on the first dozen of these seeds;
all targets of 2 per 1 s are met as well on ten seeds that were never looked at before (1000 to 1009). Where each call
splits its *whole* round trip at random between the directions, no client that trusts a floor can do this well: there
ours has 0.4 % (*fast*) and 0.5 % (*wan*) refused before a sliding log at 2 per 1 s, and uses 92 % and 88 %. Before
buckets of N and fixed windows a client that just spaces its sends needs no learning and uses 98 % from the start; ours
gets there after 1,500 calls, and not with fixed windows, because it must not harm a log that it cannot tell from them.

How to doubt it: `asyncclients simulate` draws any single run. A client that obeys nothing is in the tests
(`tests/simulator/test_simulate.py`): the servers do refuse. The oracle's bound is derived in `docs/theory-of-limits.md`; where
*slow* is above it, the slot was given again while its call was still in flight.
"""


SOCKETS = """
## The same over real sockets

    python benchmarks/limits_sockets.py --json benchmarks/results/limits-sockets.json

The tables above are the limiter's alone. Here is all of the library before the same servers: a `SessionPool`, a client,
aiohttp on both ends of TCP connections on 127.0.0.1, in one event loop whose time is virtual. The latencies are slept
through at the client's end of the wire, the work at the server (`tests/simulator/sockets.py`). {seeds} seeds at 2 per
1 s, {long_seeds} at the other quotas, {hours} each; {exact_seeds} seeds of two and six minutes for `exact`:
{calls:.1f} million calls in {minutes:.0f} minutes of one core.

*Simulated* is what the simulator has for the same seeds. {agree} of {runs} runs agree with it in every arrival, to the
millisecond. The others are before two-counter servers, and one before a small bucket. There the pace changes with each
answer, and how often the limiter asks its bucket between two calls shifts a send by microseconds; sooner or later that
has another call refused, and what follows is another draw of the same lot. {late} of these calls took virtual time in the
kernel.
"""


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def main(path: Path, sockets: Path) -> None:
    result: dict[str, Any] = json.loads(path.read_text())
    adaptive = result["adaptive"]
    hours = f"{result['seconds'] / 3600:g} h"
    print(INTRO.format(hours=hours, seeds=adaptive[0]["seeds"]))
    print('## Ours, `admission="adaptive"` (the default)\n')
    print("| quota | server | network | use | target | refused | target | |")
    print("|---|---|---|---|---|---|---|---|")
    for row in adaptive:
        print(
            f"| {row['quota']} | {row['server']} | {row['latency']}"
            f" | {percent(row['use'], 2)} | ≥ {percent(row['target_use'])}"
            f" | {percent(row['refused'], 3)} | ≤ {percent(row['target_refused'], 2)}"
            f" | {'met' if row['met'] else '**missed**'} |"
        )
    show_exact(result["exact"])
    show_peers(adaptive, result["peers"])
    show_waits(result["interactive"])
    show_sockets(json.loads(sockets.read_text()))


def show_exact(rows: list[dict[str, Any]]) -> None:
    print('\n## Ours, `admission="exact"`\n')
    print(f"{rows[0]['seeds']:,} seeds in every cell, runs of two and six minutes.\n")
    print("| quota | server | network | use | refused | most in a window |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['quota']} | {row['server']} | {row['latency']} | {percent(row['use'])}"
            f" | {'0' if row['refused'] == 0 else percent(row['refused'], 4)}"
            f" | {row['most_in_window']} |"
        )


def show_peers(ours: list[dict[str, Any]], peers: list[dict[str, Any]]) -> None:
    print("\n## The others, before the same servers\n")
    print(
        f"{peers[0]['seeds']} seeds, runs of five minutes (2 per 1 s) and fifteen. Each caller obeys its own"
    )
    print("`Retry-After`. How each is used: `limits_peers.py`. A cell is *use / refused*.\n")
    names = list(dict.fromkeys(row["client"] for row in peers))
    servers = list(dict.fromkeys(row["server"] for row in peers))
    for quota in dict.fromkeys(row["quota"] for row in peers):
        for latency in ("fast", "wan", "slow"):
            print(f"\n### {quota}, *{latency}*\n")
            print(f"| client | {' | '.join(servers)} |")
            print(f"|---|{'---|' * len(servers)}")
            for name in ["**asyncclients**", *names]:
                rows = ours if name == "**asyncclients**" else peers
                found = {
                    row["server"]: f"{percent(row['use'])} / {percent(row['refused'], 2)}"
                    for row in rows
                    if row["quota"] == quota
                    and row["latency"] == latency
                    and row["client"] in (name, "asyncclients adaptive")
                }
                print(f"| {name} | {' | '.join(found[server] for server in servers)} |")


def show_waits(rows: list[dict[str, Any]]) -> None:
    print("\n## An interactive call beside the backlog\n")
    print(
        "One every ten seconds, the mean over the seeds. What 99 of 100 wait for their permit, before a sliding log; *use* is"
    )
    print(
        "backlog and interactive calls together. The others serve first come, first served, with 50 workers waiting.\n"
    )
    peers = list(rows[0]["peers"])
    print(f"| quota | network | ours | target | | use | {' | '.join(peers)} |")
    print(f"|---|---|---|---|---|---|{'---|' * len(peers)}")
    for row in rows:
        others = " | ".join(f"{row['peers'][peer]:.1f} s" for peer in peers)
        print(
            f"| {row['quota']} | {row['latency']} | {row['p99']:.3f} s | ≤ {row['target']:.2f} s"
            f" | {'met' if row['met'] else '**missed**'} | {percent(row['use'])} | {others} |"
        )


def show_sockets(result: dict[str, Any]) -> None:
    adaptive, exact = result["adaptive"], result["exact"]
    print(
        SOCKETS.format(
            seeds=adaptive[0]["seeds"],
            long_seeds=adaptive[-1]["seeds"],
            exact_seeds=exact[0]["seeds"],
            hours=f"{result['seconds'] / 3600:g} h",
            minutes=result["took"] / 60,
            calls=result["calls"] / 1e6,
            **{name: result[name] for name in ("runs", "agree", "late")},
        )
    )
    print(
        "| quota | server | network | use | simulated | target | refused | simulated | target | |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in adaptive:
        print(
            f"| {row['quota']} | {row['server']} | {row['latency']}"
            f" | {percent(row['use'], 2)} | {percent(row['simulated_use'], 2)}"
            f" | ≥ {percent(row['target_use'])} | {percent(row['refused'], 3)}"
            f" | {percent(row['simulated_refused'], 3)} | ≤ {percent(row['target_refused'], 2)}"
            f" | {'met' if row['met'] else '**missed**'} |"
        )
    print('\n`admission="exact"`, use of the quota; in each cell the refusals are in brackets.\n')
    servers = list(dict.fromkeys(row["server"] for row in exact))
    print(f"| quota | network | {' | '.join(servers)} |")
    print(f"|---|---|{'---|' * len(servers)}")
    for quota in dict.fromkeys(row["quota"] for row in exact):
        for latency in ("fast", "wan", "slow"):
            found = {
                row["server"]: f"{percent(row['use'])} ({100 * row['refused']:g} %)"
                for row in exact
                if row["quota"] == quota and row["latency"] == latency
            }
            cells = " | ".join(found[server] for server in servers)
            print(f"| {quota} | {latency} | {cells} |")
    print("\nAn interactive call beside the backlog, as above:\n")
    print("| quota | network | 99 of 100 wait at most | simulated | target | | use |")
    print("|---|---|---|---|---|---|---|")
    for row in result["interactive"]:
        print(
            f"| {row['quota']} | {row['latency']} | {row['p99']:.3f} s"
            f" | {row['simulated_p99']:.3f} s | ≤ {row['target']:.2f} s"
            f" | {'met' if row['met'] else '**missed**'} | {percent(row['use'])} |"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Search for credentials in errors: their texts, pickles, tracebacks and frames."""

from __future__ import annotations

import dataclasses
import pickle
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

TESTS = str(Path(__file__).parents[1])
"""The folder of the tests' own frames; an environment may be called `tests` as well."""
CANARY = "ii_Canary/Secret+4711=="
"""A credential with every character that some encoding changes."""


def leaks(error: BaseException, *secrets: str) -> list[str]:
    """Return the places that show one of *secrets*: texts, pickle, or locals of frames."""
    texts: list[tuple[str, str]] = []
    for link in chain(error):
        texts += [("repr", repr(link)), ("str", str(link)), ("args", repr(link.args))]
        texts += [("attributes", repr(vars(link)))]
        texts.append(("traceback", traceback_of(link)))
        texts += [(f"local {name}", text) for name, text in locals_of(link)]
    found = {place for place, text in texts for secret in secrets if secret in text}
    try:
        pickled = pickle.dumps(error).decode("latin-1")
    except TypeError:
        return sorted({*found, "no pickle"})
    return sorted(found | {"pickle" for secret in secrets if secret in pickled})


def traceback_of(error: BaseException) -> str:
    """Return the printed traceback of *error* with locals, without the tests' own frames."""
    printed = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [frame for frame in printed.stack if not frame.filename.startswith(TESTS)]
    printed.stack = traceback.StackSummary.from_list(frames)
    return "".join(printed.format(chain=False))


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield *error*, its causes and its contexts."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        link = todo.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            yield link
            todo += [link.__cause__, link.__context__]


def locals_of(error: BaseException) -> Iterator[tuple[str, str]]:
    """Yield the locals of all frames except the tests' own, as crash reporters show them."""
    trace = error.__traceback__
    while trace is not None:
        frame: FrameType = trace.tb_frame
        trace = trace.tb_next
        if not frame.f_code.co_filename.startswith(TESTS):
            for name, value in frame.f_locals.items():
                yield from ((f"{frame.f_code.co_name}.{name}", text) for text in _look(value, 4))


def _look(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, (str, bytes)):
        yield value if isinstance(value, str) else value.decode("latin-1")
        return
    yield _repr(value)
    if depth == 0:
        return
    for part in _parts(value):
        yield from _look(part, depth - 1)


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception as broken:  # noqa: BLE001 - a repr may raise anything
        return f"<unprintable: {type(broken).__name__}>"


def _parts(value: object) -> list[Any]:
    whole: Any = value
    if isinstance(value, Mapping):
        return [*whole.keys(), *whole.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [*whole]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    if hasattr(value, "__rich_repr__") and not isinstance(value, type):
        return list(whole.__rich_repr__())
    return []

"""The script `quota_log.lua` and the keys that it works on."""

from __future__ import annotations

from importlib.resources import files

KEYS = ("log", "state", "members", "interactive", "background")


def keys(prefix: str, scope: str) -> list[str]:
    """Return the keys of *scope*, in the order in which the script takes them."""
    return [f"{prefix}:v2:{{{scope}}}:{name}" for name in KEYS]


def load_script() -> str:
    """Return the source of the script."""
    return files(__package__).joinpath("quota_log.lua").read_text("utf-8")

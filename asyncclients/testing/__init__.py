"""Helpers for the tests of programs that use this library.

pytest finds these fixtures without configuration, and loads only those in use:

* `sandbox`: the five mock vendors on loopback. `sandbox.environ` has the variables that
  `from_env` reads; `sandbox.fail("intouch", "drop")` injects a fault by name.
  `@pytest.mark.sandbox(quotas={"intouch": (200, 1.0)})` passes arguments to it.
* `virtual_time`: the running loop's clock jumps over every wait, so an hour of quota takes a
  second. `virtual_time.elapsed` is the virtual time so far, in seconds.
* `no_vendor_network`: looking up a real vendor's host raises `VendorNetworkError`.

Without pytest, `virtual_time()` and `no_vendor_network()` are context managers. Only `plugin`,
which pytest loads, imports pytest.
"""

from asyncclients.testing.clock import VirtualClock, virtual_time
from asyncclients.testing.network import VendorNetworkError, no_vendor_network

__all__ = ["VendorNetworkError", "VirtualClock", "no_vendor_network", "virtual_time"]

"""For the tests of programs that use this library.

With pytest there is nothing to do: once the library is installed, a test may
ask for these fixtures, and pays only for those that it asks for.

* `sandbox`: the five vendors on loopback; `sandbox.environ` is what `from_env`
  needs, `sandbox.fail("intouch", "drop")` orders a fault by name.
  `@pytest.mark.sandbox(quotas={"intouch": (200, 1.0)})` sets it up.
* `virtual_time`: the running loop's clock jumps over every wait, so an hour of
  quota takes a second; `virtual_time.elapsed` is how much has passed.
* `no_vendor_network`: whoever looks up a real vendor's host gets an error that
  says so.

Without pytest, `virtual_time()` and `no_vendor_network()` are context managers.
Nothing here imports pytest but `plugin`, which pytest loads.
"""

from asyncclients.testing.clock import VirtualClock, virtual_time
from asyncclients.testing.network import VendorNetworkError, no_vendor_network

__all__ = ["VendorNetworkError", "VirtualClock", "no_vendor_network", "virtual_time"]

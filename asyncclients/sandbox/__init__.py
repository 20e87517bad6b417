"""Mock vendors for tests and trials: `async with Sandbox() as sandbox: ...`.

They are written from the vendors' manuals and import nothing of the clients, so that a
misinterpretation of a manual in one of the two is visible.
"""

from . import faults as faults
from .faults import cut as cut
from .faults import delay as delay
from .faults import drop as drop
from .faults import hang as hang
from .faults import html as html
from .faults import redirect as redirect
from .faults import status as status
from .sandbox import Sandbox as Sandbox
from .server import Summary as Summary
from .vendor import SandboxRequest as SandboxRequest

"""Backfills: push many rows or pull many pages within the quota, resumable after a crash.

```python
from asyncclients.backfill import pull, push

report = await pull(intouch.contacts.list(sort_by="created_at"), "contacts.jsonl", state="pull.db")
report = await push("quakes.csv", totango.touchpoints.create, row_type=NewTouchpoint, state="q.db")
```

Run again with the same state to resume.
"""

from asyncclients.backfill.files.sink import Sink, UpsertSink
from asyncclients.backfill.plan import InvalidReason, InvalidRow, Plan, RequestPreview
from asyncclients.backfill.pull import pull
from asyncclients.backfill.push import push
from asyncclients.backfill.report import Progress, Report, SyncReport
from asyncclients.backfill.rows import Renaming
from asyncclients.backfill.status import Status, read_status
from asyncclients.backfill.sync import sync
from asyncclients.backfill.sync_targets import SyncTarget

__all__ = [
    "InvalidReason",
    "InvalidRow",
    "Plan",
    "Progress",
    "Renaming",
    "Report",
    "RequestPreview",
    "Sink",
    "Status",
    "SyncReport",
    "SyncTarget",
    "UpsertSink",
    "pull",
    "push",
    "read_status",
    "sync",
]

"""When a call may go, and which: decisions that are told the time, and know no HTTP."""

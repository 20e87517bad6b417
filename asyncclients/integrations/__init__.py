"""Integrations with other software. Each module names the extra that it needs, if any."""

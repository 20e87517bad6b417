"""Quotas, tokens and state shared between processes."""

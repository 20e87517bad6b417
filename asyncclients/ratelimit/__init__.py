"""Rate limiting: when a call may be sent, and which call is sent first. Knows no vendor."""

"""The machinery: limits, scheduling, dispatch. It knows no vendor."""

"""The machinery of one call: request, token, wire, judgement, result. It knows no vendor."""

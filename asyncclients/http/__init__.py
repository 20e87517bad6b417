"""aiohttp as it is wanted here: quiet connections, and requests made the shortest way."""

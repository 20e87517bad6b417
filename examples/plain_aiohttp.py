"""Rate-limit a plain aiohttp session, for any API."""

import asyncio
import os
from typing import Any

import aiohttp

from asyncclients import Quota, quota_middleware

INTOUCH = os.environ.get("INTOUCH_BASE_URL", "https://api.intouchinsight.com/public/v1/")


async def main(names: list[str]) -> list[Any]:
    headers = {"x-api-key": os.environ["INTOUCH_API_KEY"]}
    limited = quota_middleware(Quota(2, 1.0))
    async with aiohttp.ClientSession(
        INTOUCH, headers=headers, middlewares=(limited,), raise_for_status=True
    ) as session:

        async def create(name: str) -> Any:
            async with session.post("tags", json={"name": name}) as response:
                return await response.json()

        return await asyncio.gather(*(create(name) for name in names))


if __name__ == "__main__":
    for tag in asyncio.run(main(["red", "green", "blue"])):
        print(tag["uuid"], tag["name"])

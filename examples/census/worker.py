"""The worker process of the census: drives runs until the census is done. The demo kills it on the way."""

from __future__ import annotations

import asyncio
import logging
import warnings

from workflow import app, census

CENSUS = "census"


async def main() -> None:
    warnings.simplefilter("ignore")  # some of the library's own files have invalid escapes
    logging.getLogger("perdure.worker").setLevel(logging.ERROR)  # the demo itself tells what was taken over
    async with app:
        await app.handle(CENSUS, census).result()


if __name__ == "__main__":
    asyncio.run(main())

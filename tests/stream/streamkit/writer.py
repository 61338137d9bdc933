"""A process that writes to a stream as it is told, line by line: `python writer.py URL`."""

import asyncio
import json
import sys

from perdure import App
from perdure.errors import PerdureError


def say(answer) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def main(url: str) -> None:
    app = App(url)
    async with app.connected():
        producers = {}
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            what, name, *rest = json.loads(line)
            stream = app.stream(name, int)
            try:
                if what == "create":
                    answer = await stream.create()
                elif what == "as":
                    producers[name] = stream.producer(*rest)
                    answer = None
                elif what == "append":
                    answer = await producers[name].append(*rest)
                elif what == "flood":
                    for n in range(*rest):
                        say([n, await stream.append(n)])
                    answer = None
                else:
                    answer = await producers[name].close()
            except PerdureError as error:
                answer = {"error": error.code}
            say(answer)


asyncio.run(main(sys.argv[1]))

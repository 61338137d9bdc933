"""
A script whose work survives it: killed in the middle, started again, done.

    python examples/pages.py

It starts itself twice with the same database. The first process is killed when it fetches the fourth page.
"""

import asyncio
import signal
import subprocess
import sys
import tempfile

from perdure import Context, run_durable


async def fetch(page: int) -> str:
    print(f"  fetching page {page}", flush=True)
    await asyncio.sleep(0.2)  # what takes its time, and costs money
    return f"page {page}"


async def fetch_all(ctx: Context) -> list[str]:
    return [await ctx.step(fetch, page) for page in range(1, 7)]


async def job(url: str) -> None:
    result, record, _ = await run_durable("catalogue", fetch_all, store=url, manifest={"pages": 6})
    print(f"  {record.status}: {', '.join(result)}")


def start(url: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/pages.db"
        print("first process")
        with start(url) as first:
            for line in first.stdout or ():
                print(line, end="")
                if "page 4" in line:
                    first.send_signal(signal.SIGKILL)
                    break
        print("killed; second process", flush=True)
        with start(url) as second:
            print(second.stdout.read() if second.stdout else "", end="")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(job(sys.argv[1]))
    else:
        main()

"""Who asks for neither metrics nor spans has neither, and does not wait for them."""

import subprocess
import sys

from perdure.errors import InvalidOption

RUN = """
import asyncio, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("opentelemetry", "prometheus_client"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from perdure import App, Context
app = App("sqlite://")
@app.workflow
async def flow(ctx: Context) -> int:
    return await ctx.step("one", lambda: 1)
async def main():
    async with app:
        assert await (await app.start(flow)).result() == 1
asyncio.run(main())
print(*(name for name in sys.modules if name.startswith(("opentelemetry", "prometheus_client", "perdure.observe", "perdure.flow"))))
from perdure.cli.metrics import with_metrics
try:
    with_metrics(app, 0)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_nothing_of_it_is_imported():
    """`import perdure` would take twice as long, or need packages that are not installed."""
    ended = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 0, ended.stderr
    imported, refused = ended.stdout.splitlines()
    assert imported == ""
    assert refused.startswith(InvalidOption.__name__)
    assert "pip install 'perdure[metrics]'" in refused

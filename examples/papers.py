"""
A pipeline over files: the documents of this repository are read, measured side by side, and described by a service.

    python examples/papers.py

The service runs in this program, over HTTP: a batch is submitted, takes a while, and is asked for until it is ready.
The worker leaves while it is under way, and the next one goes on: the batch is not submitted again. One document is too
long for the service; that is an item with an error, and the others count. At last the run is done again from a stage.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import threading
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from perdure import App, Batch, Pending, Pipeline, Stage, StageContext
from perdure.pipeline.batch import Item, items_of

DOCS = Path(__file__).resolve().parents[1] / "docs"
LONGEST, READY_AT = 20_000, 3
LINK = re.compile(r"\]\(([^)#\s]+\.md)")


# ----------------------------------------------------------------------------------------- the batch service
class Service(BaseHTTPRequestHandler):
    """POST /batches takes {"texts": {…}} once per Idempotency-Key; GET /batches/<id> is "busy" at first."""

    keys: ClassVar[list[str]] = []
    batches: ClassVar[list[dict[str, Any]]] = []
    asked: ClassVar[Counter[int]] = Counter()

    def do_POST(self) -> None:
        key = self.headers["Idempotency-Key"]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if key not in self.keys:
            self.keys.append(key)
            self.batches.append(body["texts"])
        self._answer({"id": self.keys.index(key)})

    def do_GET(self) -> None:
        batch = int(self.path.removeprefix("/batches/"))
        self.asked[batch] += 1
        if self.asked[batch] < READY_AT:
            self._answer({"state": "busy", "retry_after": 0.3})
        else:
            items = {name: describe(text) for name, text in self.batches[batch].items()}
            self._answer({"state": "done", "items": items})

    def _answer(self, data: dict[str, Any]) -> None:
        text = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


def describe(text: str) -> dict[str, Any]:
    """What the service finds out about a text: the long words that it uses most."""
    if len(text) > LONGEST:
        return {"error": "more than 20,000 characters"}
    words = Counter(word for word in re.findall(r"[a-z]{7,}", text.lower()))
    return {"words": [word for word, _ in words.most_common(3)]}


# ---------------------------------------------------------------------------------------------- the pipeline
app = App("sqlite://")


class Reading(BaseModel):
    pattern: str = "*.md"
    most: int = 100


class Asking(BaseModel):
    url: str


class Described(BaseModel):
    words: list[str]


def read(stage: StageContext[str, Reading]) -> list[str]:
    """Keep the texts beside the journal, and give their names."""
    files = sorted(Path(stage.input).glob(stage.config.pattern))[: stage.config.most]
    for done, file in enumerate(files, 1):
        stage.wait(stage.artifacts.save(f"texts/{file.name}", file.read_text()))
        stage.progress(done / len(files), file.name)
    stage.log.info("read", files=len(files))
    return [file.name for file in files]


def lines(stage: StageContext[list[str], None]) -> int:
    texts = [stage.wait(stage.artifacts.load(f"texts/{name}", str)) for name in stage.input]
    return sum(text.count("\n") for text in texts)


async def links(stage: StageContext[list[str], None]) -> dict[str, list[str]]:
    """Which document names which."""
    found = {}
    for name in stage.input:
        found[name] = sorted(set(LINK.findall(await stage.artifacts.load(f"texts/{name}", str))))
    return found


async def submit(stage: StageContext[None, Asking]) -> str:
    texts = {name: await stage.artifacts.load(f"texts/{name}") for name in stage.require("read", list[str])}
    answer = await http(stage.config.url, {"texts": texts}, key=stage.idempotency_key)
    return str(answer["id"])


async def check(stage: StageContext[None, Asking], batch: str) -> list[Item[Described]] | Pending:
    answer = await http(f"{stage.config.url}/{batch}")
    if answer["state"] == "busy":
        return Pending(answer["retry_after"], progress="the service is busy")
    results = {name: ValueError(one["error"]) if "error" in one else one for name, one in answer["items"].items()}
    return items_of(Described, results, asked=stage.require("read", list[str]))


async def http(url: str, data: Any = None, key: str = "") -> dict[str, Any]:
    """One request, in a thread."""
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Idempotency-Key": key})  # noqa: S310 - of the service here

    def ask() -> dict[str, Any]:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
            found: dict[str, Any] = json.load(answer)
            return found

    return await asyncio.to_thread(ask)


def report(stage: StageContext[list[Item[Described]], None]) -> str:
    named = Counter(target for targets in stage.require("links").values() for target in targets)
    good = [item for item in stage.input if item.value]
    refused = [f"{item.id}: {item.error}" for item in stage.input if item.error]
    most = named.most_common(1)[0][0]
    return (
        f"{len(stage.input)} documents of {stage.require('lines')} lines, {len(good)} described\n"
        f"named most: {most}; refused: {'; '.join(refused)}"
    )


pipeline = (
    Pipeline("papers", input=str, description="Reads documents and has them described.")
    .stage("read", read)
    .parallel({"lines": lines, "links": links})
    .stage("describe", Batch(submit, check, first=0.1, every=0.3, deadline=60))
    .stage("report", Stage(report, dependencies=["links", "lines"]))
)
papers = app.pipeline(pipeline)


async def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {"describe": {"url": f"http://127.0.0.1:{server.server_port}/batches"}}
    with tempfile.TemporaryDirectory() as folder:
        here = app.variant(url=f"sqlite:///{folder}/papers.db")
        print(pipeline.order)
        async with here:
            run = await here.start(papers, str(DOCS), config, id="docs")
            async for event in run.events():
                if event.kind == "step_emitted" and event.data["topic"] == "log":
                    print("log:", event.data["value"]["message"], sorted(event.data["value"]["fields"]))
                if event.key == "describe#submit":
                    break
        print("the worker has left")
        async with here:
            run = here.handle("docs", papers)
            print(await run.result())
            kept = [artifact.name for artifact in await run.artifacts()]
            print("texts/guide.md kept:", "texts/guide.md" in kept, "- batches paid for:", len(Service.keys))
            await here.client.rerun("docs", stage="report")
            await run.result()
            print("generation", (await run.info()).generation, "- batches paid for:", len(Service.keys))
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    asyncio.run(main())

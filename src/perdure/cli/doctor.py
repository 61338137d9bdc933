"""`perdure doctor`: examine the database, and say what to do about what is found."""

from __future__ import annotations

import typer
from rich.text import Text

from perdure.cli.command import Session
from perdure.cli.exits import UNHEALTHY
from perdure.cli.output import visible
from perdure.store.choose import shown

_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold blue"}


async def doctor(session: Session) -> None:
    """
    Examine the database: is any run lost, stuck or broken?

    Exit code 0 when there is nothing worse than notes.
    """
    async with session.connected() as app:
        findings = await app.client.doctor()
        counts = await app.client.counts()
        url = shown(app.url)
    healthy = all(finding.severity == "note" for finding in findings)
    out = session.out
    if out.as_json:
        out.document({"url": url, "healthy": healthy, "findings": findings})
    else:
        for finding in findings:
            style = _STYLES[finding.severity]
            out.text(Text.assemble((finding.severity, style), f"  {visible(finding.message)}  [{finding.code}]"))
            if finding.examples:
                more = finding.count - len(finding.examples)
                rest = f" and {more:,} more" if more > 0 else ""
                out.text(f"    {', '.join(finding.examples)}{rest}")
            out.text(f"    {finding.what_to_do}\n")
        verdict = "healthy" if healthy else "not healthy"
        out.text(f"{url} is {verdict}. Runs: {sum(counts.values()):,}.")
    if not healthy:
        raise typer.Exit(UNHEALTHY)

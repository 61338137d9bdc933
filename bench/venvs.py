"""The virtual environments that the peers run in; perdure itself runs in the project's own."""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONSTRAINTS = HERE / "constraints-peers.txt"
PACKAGES = {"ceiling": ("asyncpg",), "dbos": ("dbos",), "absurd": ("absurd-sdk", "absurdctl")}


def interpreter(peer: str, folder: Path) -> Path:
    """
    The Python that a peer runs on.

    Its environment is made when it is missing, or when the pinned versions or our own Python changed
    since it was made.
    """
    if peer not in PACKAGES:
        return Path(sys.executable)
    home = folder / peer
    python, stamp = home / "bin" / "python", home / "made-of"
    wanted = hashlib.sha256(CONSTRAINTS.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"making {home}", file=sys.stderr, flush=True)
    venv.EnvBuilder(clear=True, with_pip=bool(PACKAGES[peer])).create(home)
    if PACKAGES[peer]:
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "-c", str(CONSTRAINTS), *PACKAGES[peer]], check=True)
    stamp.write_text(wanted)
    return python


def pinned(package: str) -> str:
    """Return the version of a peer's package, as pinned."""
    pins = (line.partition("==") for line in CONSTRAINTS.read_text().splitlines())
    return next(pin for name, _, pin in pins if name == package)

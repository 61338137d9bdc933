"""`python -m perdure.cli` is the same as `perdure`."""

import sys

from perdure.cli.exits import INTERRUPTED


def main() -> None:
    """What the installed command calls."""
    try:
        from perdure.cli.main import main as command  # noqa: PLC0415 - takes a while, in which Ctrl-C is no error either

        command()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()

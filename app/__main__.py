"""`winnow`, and `python -m app`: Ctrl-C is heard before the command line is there."""

from __future__ import annotations

import signal


def main() -> None:
    """To import all commands takes a second; Ctrl-C would end it with a traceback of whatever is being imported."""
    heard = signal.getsignal(signal.SIGINT)
    if heard is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from app.cli import main as run

    signal.signal(signal.SIGINT, heard)
    run()


if __name__ == "__main__":
    main()

"""The entry point of `repo-stream` and `python -m repo_stream`: the command of `repo_stream.cli`.

It answers Ctrl-C before anything else is imported, and after everything else is done.
"""

import os
import signal

__all__ = ["main"]

_INTERRUPTED = 128 + 2  # as a shell says it of SIGINT


def main() -> int:
    """Import the command, and do what the command line says.

    Returns:
        The exit code.
    """
    # Where it was turned off, as by `nohup`, it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from repo_stream.cli import main as command  # noqa: PLC0415 - the point

    return command()


def _leave(*_: object) -> None:
    """End at once: whatever is at work could swallow an exception, or print it."""
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    raise SystemExit(main())

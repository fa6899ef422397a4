"""The entry point of `repo-stream` and `python -m repo_stream`, which run `repo_stream.cli`.

It handles Ctrl-C from before the first import until after the last line of the command.
"""

import os
import signal
import sys

__all__ = ["main"]

_INTERRUPTED = 128 + 2  # as shells report SIGINT


def main() -> int:
    """Import the command and run it.

    Returns:
        The exit code.
    """
    # If the signal is ignored, as by `nohup`, it stays ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    _open_closed_files()
    from repo_stream.cli import main as command  # noqa: PLC0415 - after Ctrl-C is handled

    return command()


def _open_closed_files() -> None:
    """Open the standard files that are closed, or the next file opened would get their numbers.

    They are opened so that using them fails as with closed files: the input for writing only, the
    outputs for reading only.
    """
    for number, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # it gets the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - stays open
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - stays open


def _leave(*_: object) -> None:
    """End the process at once: whatever is running could swallow or print an exception."""
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    raise SystemExit(main())

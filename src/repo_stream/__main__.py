"""The entry point of `repo-stream` and `python -m repo_stream`: the command of `repo_stream.cli`.

It answers Ctrl-C before anything else is imported, and after everything else is done.
"""

import os
import signal
import sys

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
    _stand_in_for_closed_files()
    from repo_stream.cli import main as command  # noqa: PLC0415 - the point

    return command()


def _stand_in_for_closed_files() -> None:
    """Open what the command was started without, or the next file opened takes its number.

    Input that can only be written, and output that can only be read, fail as closed files do.
    """
    for number, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # it gets the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - to the end
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - to the end


def _leave(*_: object) -> None:
    """End at once: whatever is at work could swallow an exception, or print it."""
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    raise SystemExit(main())

"""What the Python contenders share: clock, memory gauge, and the line they print."""

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass
class Tally:
    """What was seen on the walk.

    `record_bytes` stays `None` for a contender that hands out decoded records only: it has lost
    the blocks, and encoding each again just to learn its length would not be fair to it.
    """

    records: int = 0
    key_bytes: int = 0
    record_bytes: int | None = None
    spilled: int = 0

    def add(self, records: int, key_bytes: int, record_bytes: int = 0) -> None:
        """Add one repo."""
        self.records += records
        self.key_bytes += key_bytes
        if self.record_bytes is not None:
            self.record_bytes += record_bytes


class Gauge:
    """Measures from its making to its report: make it after the imports, just before the job."""

    def __init__(self) -> None:
        # 5 resets the peak to what is resident now; where that is not allowed the growth is
        # counted from the peak so far.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._base_kib = _peak_kib()
        self._start = time.perf_counter()

    def report(self, distribution: str, tally: Tally) -> None:
        """Print what was seen and what it took, as one line of JSON."""
        seconds = time.perf_counter() - self._start
        growth = _peak_kib() - self._base_kib
        took = {"seconds": round(seconds, 6), "growth_kib": growth}
        print(json.dumps(asdict(tally) | took | {"version": _version(distribution)}))


def _peak_kib() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # not Linux
        import resource  # noqa: PLC0415 - nor is it everywhere
        import sys  # noqa: PLC0415

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak // 1024 if sys.platform == "darwin" else peak
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0])


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "this tree"

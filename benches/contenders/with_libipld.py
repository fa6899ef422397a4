"""`libipld.decode_car` and the shortest correct walk: FILE... [--no-gc]."""

import gc
import sys
from pathlib import Path

import libipld
from measure import Gauge, Tally
from walk import count


def main(files: list[str]) -> None:
    gauge, tally = Gauge(), Tally()
    for file in files:
        header, blocks = libipld.decode_car(Path(file).read_bytes())
        commit = blocks[header["roots"][0]]
        count(blocks.__getitem__, commit["data"], tally)
    gauge.report("libipld", tally)


if __name__ == "__main__":
    if "--no-gc" in sys.argv:
        gc.disable()
    main([arg for arg in sys.argv[1:] if arg != "--no-gc"])

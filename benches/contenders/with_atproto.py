"""The `atproto` SDK's `CAR` and the shortest correct walk: FILE..."""

import sys
from pathlib import Path

from atproto_core.car import CAR
from atproto_core.cid import CID
from measure import Gauge, Tally
from walk import count


def main(files: list[str]) -> None:
    gauge, tally = Gauge(), Tally()
    for file in files:
        visit(CAR.from_bytes(Path(file).read_bytes()), tally)
    gauge.report("atproto", tally)


def visit(car: CAR, tally: Tally) -> None:
    blocks = car.blocks
    # A link lies in its block as bytes; this is the cheapest way from there to another block.
    count(lambda link: blocks[CID.from_decoded_bytes(link)], blocks[car.root]["data"], tally)


if __name__ == "__main__":
    main(sys.argv[1:])

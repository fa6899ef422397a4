"""`atmst`, which reads each block from the file when the walk asks for it: FILE..."""

import sys
from pathlib import Path

from atmst.blockstore.car_file import ReadOnlyCARBlockStore
from atmst.mst.node_store import NodeStore
from atmst.mst.node_walker import NodeWalker
from cbrrr import decode_dag_cbor
from measure import Gauge, Tally


def main(files: list[str]) -> None:
    gauge, tally = Gauge(), Tally(record_bytes=0)
    for file in files:
        with Path(file).open("rb") as stream:
            count(ReadOnlyCARBlockStore(stream), tally)
    gauge.report("atmst", tally)


def count(store: ReadOnlyCARBlockStore, tally: Tally) -> None:
    commit = decode_dag_cbor(store.get_block(bytes(store.car_root)))
    records = key_bytes = record_bytes = 0
    for key, cid in NodeWalker(NodeStore(store), commit["data"]).iter_kv():
        records += 1
        key_bytes += len(key)  # a key is ASCII
        record_bytes += len(store.get_block(bytes(cid)))
    tally.add(records, key_bytes, record_bytes)


if __name__ == "__main__":
    main(sys.argv[1:])

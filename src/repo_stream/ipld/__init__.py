"""CIDs, DAG-CBOR and records: what all blocks are made of.

- `cid` and `digest`: CIDs, and checking blocks against them.
- `dagcbor`: strict DAG-CBOR.
- `datamodel`: records as Python values and as JSON.
- `spilled_values`: results of processors as CBOR, for the disk.
- `errors`: the base of all errors.
"""

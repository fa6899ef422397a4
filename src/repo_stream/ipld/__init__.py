"""CIDs, DAG-CBOR and the data model of records: what all blocks are made of."""

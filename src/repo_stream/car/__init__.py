"""CAR files: bytes in, blocks out.

- `source` and `files`: where the bytes come from.
- `decoder`: blocks from bytes, without input or output; `file_type` for files that are not CARs.
- `reader`: both together.
- `encoder`: bytes of a CAR that is written.
- `sections`: blocks that are read again at any offset.
"""

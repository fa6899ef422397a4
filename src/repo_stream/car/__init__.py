"""CAR files: bytes in, blocks out.

- `source` and `files`: where the bytes come from; `compression` for files that are compressed.
- `decoder`: blocks from bytes, without input or output; `header` for what comes first, and
  `file_type` for files that are not CARs.
- `damage`: what is damaged, and how it is repaired; `salvage` finds what is sound after it.
- `reader`: both together.
- `encoder`: bytes of a CAR that is written.
- `sections`: blocks that are read again at any offset.
"""

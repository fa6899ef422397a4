def cut_ordinary(
    buffer: bytes,
    at: int,
    cids: list[bytes],
    blocks: list[bytes],
    *,
    most: int,
    longest: int,
    verify: bool,
) -> int: ...

from collections.abc import Sequence

from repo_stream.store.buckets import Buckets

def add_places(
    buckets: list[bytearray], cids: Sequence[bytes], blocks: Sequence[bytes], at: int
) -> tuple[int, int]: ...
def locate(buckets: Buckets, cids: Sequence[bytes]) -> list[int]: ...

from collections.abc import Sequence

from repo_stream.car.files import OpenFile

def read_sections(
    file: OpenFile, cids: Sequence[bytes], starts: Sequence[int]
) -> tuple[dict[bytes, bytes], list[tuple[bytes, int, bytes]]]: ...

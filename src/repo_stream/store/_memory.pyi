from collections.abc import Callable, Sequence
from typing import TypeVar

from repo_stream.mst.tables import Table

_T = TypeVar("_T")

def process_into(
    raw: Table[bytes],
    processed: Table[_T],
    cids: Sequence[bytes],
    blocks: Sequence[bytes],
    *,
    process: Callable[[bytes], _T],
    size_of: Callable[[_T], float],
) -> float: ...

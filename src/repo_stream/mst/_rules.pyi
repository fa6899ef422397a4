from repo_stream.limits import Limits
from repo_stream.mst.frames import Frame, Subtree

def open_ordinary(subtree: Subtree, block: bytes, limits: Limits) -> list[Frame] | None: ...

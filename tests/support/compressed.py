"""CARs that are compressed."""

from __future__ import annotations

import gzip
import sys
from typing import Literal

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["Compression", "compressed", "zstd"]

Compression = Literal["gzip", "zstd"]


def compressed(data: bytes, compression: Compression) -> bytes:
    """Data as one member of gzip, or one frame of zstd."""
    return gzip.compress(data) if compression == "gzip" else zstd.compress(data)

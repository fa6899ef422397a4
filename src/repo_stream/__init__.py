"""Read AT Protocol repositories: verified records in key order, within a memory limit."""

from repo_stream.car import CarDecoder, CarHeader
from repo_stream.cid import Cid
from repo_stream.disk import DiskBuilder, DiskStore
from repo_stream.drive import DiskDriver, Driver, DriverBuilder, MemDriver, NeedDisk, Output
from repo_stream.errors import *  # noqa: F403
from repo_stream.limits import Limits
from repo_stream.mst import Commit
from repo_stream.process import Processor
from repo_stream.reader import CarReader

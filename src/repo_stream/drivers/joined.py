"""Reading several CARs of one account as if they were one: the newest commit, and all blocks.

The files may come in any order, and their commits anywhere in them. So which commit is the newest
is known late, and until then blocks are returned as usual and no file has a special place:

1. Each file is read as far as its own commit, the base last. These commits are held back.
2. When all of them are there, the newest is returned, followed by the others, which are ordinary
   blocks from here on; and `JoinedReader.header` names the newest.
3. The rest of the files is read, the base last again. If the base is in streamable order, its
   blocks then come when the walk needs them, and only those of the slices have to be kept.

What a file claims is of no importance: the walk from the newest commit needs blocks by their CIDs,
and takes them from whichever file has them. So a file need not have a commit of its own if another
one has it, and the base may lack it altogether: a server that deletes blocks during a download may
delete the commit as well.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import AsyncExitStack, contextmanager
from itertools import chain
from typing import Final

from repo_stream.car.decoder import Columns
from repo_stream.car.encoder import section_size, write_section
from repo_stream.car.header import CarHeader
from repo_stream.car.reader import CarReader, checksum_of
from repo_stream.car.source import CarFile, Source
from repo_stream.drivers.loading import no_commit, root_of
from repo_stream.errors import (
    ConflictingCommits,
    OtherAccount,
    RepoStreamError,
)
from repo_stream.ipld.cid import Cid
from repo_stream.limits import KIB, Limits
from repo_stream.mst.commit import Commit

__all__ = ["JoinedReader"]

# All files are opened at the beginning, so what is read of each should be little.
_FIRST_PIECE: Final = 4 * KIB


class JoinedReader:
    """Reads the blocks of several CARs; see `repo_stream.drivers.joined`.

    Attributes:
        header: names the newest commit; `None` as long as that is not known.
        base_commit: the commit of the base; `None` as long as it is not known, or if it is missing.
    """

    def __init__(self, base: _File, slices: list[_File], limits: Limits, *, verify: bool) -> None:
        self.header: CarHeader | None = None
        self.base_commit: Commit | None = None
        self._base = base
        self._files = [*slices, base]
        self._roots = list(dict.fromkeys(each.root for each in self._files if each.root))
        self._limits = limits
        self._verify = verify
        # The commits that the files name, as far as they have come, in the order in which they did.
        self._commits: dict[Cid, Commit] = {}
        self._header_end = sum(file.reader.header_end for file in self._files)
        self._offset = self._header_end
        self._blocks = 0
        self._copies: list[bytes] | None = None
        self._checksum = 0

    @classmethod
    async def open(
        cls, sources: Sequence[Source], *, limits: Limits, verify_cids: bool, piece_size: int
    ) -> JoinedReader:
        """Open all sources, and read their headers.

        Args:
            sources: the base, and then the slices. `aclose` closes the files of paths and nothing
                else.
            limits: bounds on each of them.
            verify_cids: check every block against its CID.
            piece_size: the most to read at a time, in bytes.

        Raises:
            CarError, LimitExceeded, TypeError, OSError: as `CarReader.open`; the source is named.
        """
        opened: list[_File] = []
        try:
            for number, source in enumerate(sources):
                name = _name_of(source, number)
                with _naming(name):
                    reader = await CarReader.open(
                        source,
                        limits=limits,
                        verify_cids=verify_cids,
                        piece_size=piece_size,
                        first_piece_size=min(_FIRST_PIECE, piece_size),
                    )
                    opened.append(_File(name, reader))
                    opened[-1].find_root()
        except BaseException:
            await _close(opened)
            raise
        base, *slices = opened
        return cls(base, slices, limits, verify=verify_cids)

    @property
    def header_end(self) -> int:
        """How many bytes the headers have."""
        return self._header_end

    @property
    def offset(self) -> int:
        """How many bytes the headers have, and the blocks that have been returned."""
        return self._offset

    @property
    def blocks(self) -> int:
        """How many blocks have been returned."""
        return self._blocks

    @property
    def unchecked(self) -> int:
        """How many of the blocks that have been returned could not be checked."""
        return sum(file.unchecked for file in self._files)

    @property
    def has_short_sections(self) -> bool:
        """Whether any section so far is shorter than that of an ordinary CID can be."""
        return any(file.reader.has_short_sections for file in self._files)

    @property
    def file(self) -> CarFile | None:
        """`None`: there are several files, and none of them has all blocks."""
        return None

    @property
    def checksum(self) -> int:
        """See `CarReader.checksum`."""
        return self._checksum

    @property
    def verifies_cids(self) -> bool:
        """Whether blocks are checked against their CIDs."""
        return self._verify

    @property
    def longest_section(self) -> int:
        """The most bytes that a section may have, without its length prefix."""
        return self._limits.block_bytes

    def copy_to(self, pieces: list[bytes], checksum: int) -> None:
        """Copy the sections of all blocks to come into a list, as they are returned."""
        self._copies, self._checksum = pieces, checksum

    async def next_columns(self) -> Columns | None:
        """Return the next blocks; `None` at the end of all files.

        Raises:
            CarError, CidMismatch, LimitExceeded: as `CarReader.next_columns`; the source is named.
            CommitError: if no file has a valid commit; if the commit of a slice is missing; if two
                files are of different accounts; or if the newest commit is not the only one of its
                rev.
        """
        while (file := self._unread()) is not None:
            columns = await file.next_columns()
            if columns is not None and self.header is None:
                self._hold_commits_back(columns, file)
            if columns is not None and columns[0]:
                return self._returned(columns)
        return self._returned(self._choose_commit()) if self.header is None else None

    def _unread(self) -> _File | None:
        """Return the file to read next, if there is one."""
        for file in self._files:
            commit_came = self.header is None and file.root in self._commits
            if not (file.ended or commit_came):
                return file
        return None

    def _hold_commits_back(self, columns: Columns, file: _File) -> None:
        """Remove the commits that the files name from blocks that have come."""
        cids, blocks = columns
        for root in self._roots:
            if root not in self._commits and root in cids:
                at = cids.index(root)
                with _naming(file.name):
                    self._commits[root] = Commit.decode(blocks[at], root)
                del cids[at], blocks[at]

    def _choose_commit(self) -> Columns:
        """Return the commits, the newest first.

        Raises:
            CommitError: see `next_columns`.
        """
        self._check_commits()
        commits = sorted(self._commits.values(), key=lambda commit: commit.rev, reverse=True)
        newest, *others = commits
        if others and others[0].rev == newest.rev:
            raise ConflictingCommits(cid=newest.cid, other=others[0].cid, rev=newest.rev)
        self.header = CarHeader(roots=(newest.cid,))
        return [each.cid for each in commits], [each.block for each in commits]

    def _check_commits(self) -> None:
        base = self._base
        self.base_commit = self._commits.get(base.root) if base.root is not None else None
        for file in self._files:
            # If the base lacks its commit, so may a slice that names the same one.
            if file.root is None or file.root in self._commits or file.root == base.root:
                continue
            with _naming(file.name):
                raise no_commit(file.reader)
        if not self._commits:
            with _naming(base.name):
                raise no_commit(base.reader)
        expected = (self.base_commit or next(iter(self._commits.values()))).did
        for file in self._files:
            commit = self._commits.get(file.root) if file.root is not None else None
            if commit is not None and commit.did != expected:
                with _naming(file.name):
                    raise OtherAccount(did=commit.did, expected=expected)

    def _returned(self, columns: Columns) -> Columns:
        """Count blocks that are about to be returned, and copy them."""
        cids, blocks = columns
        self._blocks += len(cids)
        if self._copies is None:
            self._offset += sum(map(section_size, cids, blocks))
        else:
            sections = b"".join(chain.from_iterable(map(write_section, cids, blocks)))
            self._offset += len(sections)
            self._copies.append(sections)
            self._checksum = checksum_of(cids, self._checksum)
        return columns

    async def aclose(self) -> None:
        """Close the files that were opened for paths; other sources stay open."""
        await _close(self._files)


class _File:
    """One of the CARs.

    Attributes:
        name: what it is called in errors: its path, or which of the arguments it is.
        reader: reads its blocks.
        root: the CID of its commit; `None` if it has only blocks, such as the answer of a server to
            `com.atproto.sync.getBlocks`.
        ended: whether it has been read to its end.
        unchecked: how many of its blocks so far could not be checked against their CIDs. Those that
            came with its header have not been returned yet, and do not count.
    """

    def __init__(self, name: str, reader: CarReader) -> None:
        self.name = name
        self.reader = reader
        self.root: Cid | None = None
        self.ended: bool = False
        self.unchecked: int = 0

    def find_root(self) -> None:
        """Set `root`.

        Raises:
            BadRoot: if it cannot be the CID of a commit.
        """
        if self.reader.header.roots:
            self.root = root_of(self.reader)

    async def next_columns(self) -> Columns | None:
        """Do what `CarReader.next_columns` does; an error names the file."""
        with _naming(self.name):
            columns = await self.reader.next_columns()
        self.ended = columns is None
        self.unchecked = self.reader.unchecked
        return columns


def _name_of(source: Source, number: int) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    return f"slice {number}" if number else "the base"


@contextmanager
def _naming(name: str) -> Generator[None]:
    """Name a source in the errors of this block."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RepoStreamError):
            error.source = name
        error.add_note(f"while reading {name}")
        raise


async def _close(files: list[_File]) -> None:
    async with AsyncExitStack() as stack:  # all of them, whatever happens to one
        for file in files:
            stack.push_async_callback(file.reader.aclose)

"""Repos to test with: of any records, in any block order, of any size; and a server for them.

There are three ways to make a CAR file:

- `build_car` returns the bytes of a valid CAR for `{key: record}`.
- `build_repo` returns a `BuiltRepo`, with all its parts, for tests that need to know them.
- `made_car` streams a CAR of any number of invented records, in little memory; `made_records`
  yields the records that a reader must find in it.

A CAR of invented records from the command line:

    python -m repo_stream.testing OUT.car --records 300000 --order shuffled --seed 0

`CarServer` serves CARs on loopback as a PDS does, with faults if asked for. The pytest plugin has
fixtures for all of this. The public names are in `__init__.pyi`.
"""

from repo_stream import _face


def __getattr__(name: str) -> object:
    return _face.named(__name__, name)


def __dir__() -> list[str]:
    return _face.directory_of(__name__)

"""Make repos to test with: any records, any block order, any size; and serve them on loopback.

Three ways to a CAR file, from the handy to the huge:

- `build_car` turns `{key: record}` into the bytes of a valid CAR;
- `build_repo` does the same and keeps every part in reach, for tests that need to know them;
- `made_car` streams a CAR of as many made records as asked for, in little memory, and
  `made_records` says what a reader must find in it.

From the command line:

    python -m repo_stream.testing OUT.car --records 300000 --order shuffled --seed 0

`CarServer` serves them as a PDS does, well or badly. The public names are in `__init__.pyi`.
"""

from repo_stream import _face


def __getattr__(name: str) -> object:
    return _face.named(__name__, name)


def __dir__() -> list[str]:
    return _face.directory_of(__name__)

"""Read AT Protocol repositories: verified records in key order, within a memory limit.

Start with `open_car`, or with `DriverBuilder` to decide for yourself what goes to disk. The same
without `async` is in `repo_stream.sync`, and tables are in `repo_stream.arrow`.

The public names are in `__init__.pyi`. A name is imported from its module when it is first used, so
a program that needs only the errors, CIDs or the CAR decoder does not pay for the rest.
"""

from repo_stream import _face


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - takes longer than all of this

        return version("atproto-repo-stream")
    return _face.named(__name__, name)


def __dir__() -> list[str]:
    return _face.directory_of(__name__)

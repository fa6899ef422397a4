"""The same without `async`: plain `with` and `for`, in scripts, notebooks and threads.

    with repo_stream.sync.open_car("repo.car") as repo:
        for key, record in repo:
            ...

The names, arguments, results and errors are those of `repo_stream`; `aclose` is `close`. Each class
and function is made from its async sibling (`faces`), its docstring, too (`turning`), and the stub
`__init__.pyi`, which type checkers and editors read, is written from the same declarations by
`tests/support/sync_stub.py`.

What has to be waited for is done in one thread, which has an event loop
(`repo_stream.loop_thread`). It starts with the first use, and ends a second or two after the last.
A source that you pass is read in the thread that waits for its records; a block processor is called
in either of the two. Several threads can read repos at once, each its own.

A name is imported from its module when it is first used: those of the network are not needed for
files.
"""

from importlib import import_module

_CARS = ("OrderedCar", "Repo", "join_cars", "load_commit", "open_car", "order_car", "records")
_ACCOUNTS = ("AccountRepo", "Network", "get_record", "open_repo")

_MODULES = {
    **dict.fromkeys(_CARS, "repo_stream.sync.cars"),
    **dict.fromkeys(_ACCOUNTS, "repo_stream.sync.accounts"),
    "Source": "repo_stream.sync.sources",
}


def __getattr__(name: str) -> object:
    if name == "__all__":
        return sorted(_MODULES)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})

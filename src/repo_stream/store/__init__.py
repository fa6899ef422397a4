"""Where blocks are kept while a repo is read: in memory, or in a log with places.

- `budget` shares out the memory limit, which decides when blocks go to disk.
- `memory` keeps blocks, or what the processor made of them, in memory.
- `repo_log` keeps the blocks of one repo in a log, and finds them there by their `places`.
- `disk` is the disk store, which callers open: a `database` and a `log`.
"""

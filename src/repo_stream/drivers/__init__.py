"""Drivers: they get the blocks of a repo, walk it, and return its records.

- `builder`, `options` and `keywords`: how a repo is to be read, and the ways to read it.
- `base` and `backlog`: what all drivers can do.
- `loading` and `loaded`: a repo that is loaded, and its drivers; `channel` lets one walk ahead.
- `stream`: the driver that walks a repo while it is read.
- `incoming`, `piece` and `order`: blocks as they come, and how far they are from the walk's order.
- `spilling`, `released` and `writing`: what goes to disk, when, and how.
- `destination` and `fetch`: the store that it goes to, and how blocks come back from there.
"""

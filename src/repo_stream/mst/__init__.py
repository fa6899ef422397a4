"""The tree of a repo, a Merkle Search Tree: the commit, the nodes, their rules, and the walk.

- `commit` and `signature`: the signed top of a repo.
- `node`, `frames` and `rules`: a node from its bytes to what a walk sees of it, all checked.
- `tables` and `blocks`: the blocks that a walk can use.
- `ranges` and `selection`: which keys a walk takes, and what it leaves out.
- `cursor`, `lookahead` and `walker`: where a walk stands, what is ahead of it, and taking that.
- `results`: what comes out of it.
"""

"""The tree of a repo, a Merkle Search Tree: the commit, the nodes, their rules, and the walk.

- `commit` and `signature`: the signed top of a repo.
- `node`, `rules` and `frames`: a node is decoded, checked, and laid on the stack of a walk.
- `tables` and `blocks`: the blocks that a walk can use.
- `ranges` and `selection`: which keys a walk takes, and what it leaves out.
- `cursor`, `lookahead` and `walker`: where a walk stands, what is ahead of it, and taking that.
- `results`: what comes out of it.
"""

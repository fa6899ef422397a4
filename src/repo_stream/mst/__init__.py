"""The repo's tree: the commit, the nodes and what they must obey, and the walk over them."""

from repo_stream.mst.walker import Walker as Walker

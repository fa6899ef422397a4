from repo_stream.mst.lookahead import keep_only as keep_only, look_ahead as look_ahead

from repo_stream.mst.lookahead import keep_only as keep_only
from repo_stream.mst.lookahead import look_ahead as look_ahead

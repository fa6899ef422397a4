from repo_stream.mst.cursor import Cursor as Cursor

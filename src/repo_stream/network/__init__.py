"""From the name of an account to its records: resolving, downloading, checking.

The public names are in `repo_stream`: `open_repo` and `get_record`, `Network` and its `Account`,
`did_key`, and the errors below `NetworkError`.

Requests are made by `httpx`, look-ups in the DNS by `dnspython`, and signatures are checked with
`cryptography`. All three are in the extra `[network]`, and are imported when they are first used.
"""

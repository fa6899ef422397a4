"""`python -m repo_stream`: the shell command of `repo_stream.cli`."""

from repo_stream.cli import main

raise SystemExit(main())

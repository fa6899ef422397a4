from repo_stream.ray.problems import (
    Problems as Problems,
)
from repo_stream.ray.reading import (
    read_repos as read_repos,
)

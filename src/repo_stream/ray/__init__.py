"""Many repos on a Ray cluster: `read_repos` makes a `ray.data.Dataset` of their records.

    import repo_stream.ray

    records = repo_stream.ray.read_repos("s3://bucket/cars/*.car", columns=["did", "collection"])
    print(records.groupby("collection").count().to_pandas())

It needs the extra `[ray]`. Neither `import repo_stream.ray` nor what it has imports Ray, until
`read_repos` or `Problems` is called.

What runs where:

- The program that calls `read_repos` looks up how large the files are (`files`), and shares them
  out among read tasks (`grouping`). A large one is a task of its own. It reads none of them.
- A read task (`tasks`) runs in a worker of Ray. It reads its repos one after the other, each within
  the memory limit, as batches of Arrow. Beside the limit, a worker takes what Ray collects of them
  before it stores a block: `ray.data.DataContext.target_max_block_size`, 128 MiB by default. So
  `Dataset.take(1)` may read so much, too.
- What is wrong with repos is kept by an actor (`problems`).

If a worker dies, Ray runs its task again from the beginning, in another one, and drops as many
blocks as it has of the first try. So each row comes exactly once, because a task makes the same
blocks in every try: batches end after a number of rows, and not when time is up or a piece of a
file has come. That holds for files that nobody writes to meanwhile, and that can be read in each
try, or in none. If an account writes between two tries, then its download is another one; see
`read_repos`.
"""

from repo_stream import _face


def __getattr__(name: str) -> object:
    return _face.named(__name__, name)


def __dir__() -> list[str]:
    return _face.directory_of(__name__)

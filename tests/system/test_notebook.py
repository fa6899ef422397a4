"""A notebook, in an environment that has the wheel: what people type is what comes out."""

from __future__ import annotations

import json
import shutil
import site
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support import ROOT, SAMPLE
from support.packaging import PIP, clean_environ, environment, needs, run

pytestmark = pytest.mark.long


class Cell(NamedTuple):
    """What is typed, and what comes out: printed, or the value of its last line."""

    source: str
    output: str


CELLS = [
    Cell(
        "import repo_stream, sys\n"
        "print(repo_stream.__file__.startswith('INSTALLED'))\n"
        "print([folder for folder in sys.path if folder in ('', 'CHECKOUT', 'CHECKOUT/src')])",
        "True\n[]\n",
    ),
    # Without async.
    Cell(
        "with repo_stream.sync.open_car('sample.car') as repo:\n"
        "    for key, record in repo:\n"
        "        break\n"
        "key, record['displayName'], repo.commit.did",
        "('app.bsky.actor.profile/self', 'Made Up', 'did:plc:testrepotestrepotestrepo')",
    ),
    # The loop of the notebook itself is running, and takes `async with` at the top level.
    Cell(
        "async with repo_stream.open_car('sample.car') as repo:\n"
        "    keys = [key async for key, record in repo]\n"
        "keys == [output.key for output in repo_stream.sync.records('sample.car')], len(keys)",
        "(True, 500)",
    ),
    # An error is one of ours, and the next cell goes on.
    Cell(
        "try:\n"
        "    with repo_stream.sync.open_car('nowhere.car') as repo:\n"
        "        pass\n"
        "except FileNotFoundError as error:\n"
        "    print(error.filename)",
        "nowhere.car\n",
    ),
    # Tables.
    Cell(
        "import pandas\n"
        "records = repo_stream.arrow.records('sample.car', columns=['collection', 'rkey'])\n"
        "pandas.DataFrame.from_arrow(records).groupby('collection').size().to_dict()",
        "{'app.bsky.actor.profile': 1,\n 'app.bsky.feed.like': 295,\n"
        " 'app.bsky.feed.post': 134,\n 'app.bsky.graph.follow': 70}",
    ),
    Cell(
        "import duckdb\n"
        "duckdb.sql('from records select collection, count(*) as n group by all order by n desc')"
        ".fetchall()",
        "[('app.bsky.feed.like', 295),\n ('app.bsky.feed.post', 134),\n"
        " ('app.bsky.graph.follow', 70),\n ('app.bsky.actor.profile', 1)]",
    ),
    # What a cell left open is closed with the kernel, whose end hangs on nothing.
    Cell(
        "opened = repo_stream.sync.open_car('sample.car')\nnext(iter(opened.__enter__()))[0]",
        "'app.bsky.actor.profile/self'",
    ),
]


@pytest.fixture
def python(wheel: Path, tmp_path: Path) -> Path:
    """The Python of an environment with the wheel, and what this environment has beside it."""
    needs("nbclient", "ipykernel", "pandas", "duckdb", "pyarrow")
    python = environment(tmp_path / "env")
    install = (*PIP, "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    done = run(*install, wheel, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (packages,) = (tmp_path / "env").rglob("site-packages")
    # After the environment's own. Links to checkouts that are in them are not followed.
    (packages / "beside.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    return python


@pytest.fixture
def kernels(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a kernel of that Python, `installed`."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    kernel = tmp_path / "kernels" / "installed" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    command = [str(python), "-I", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "Installed", "language": "python"}
    kernel.write_text(json.dumps(spec), encoding="utf-8")
    return kernel.parents[1]


@asynccontextmanager
async def started(notebook: Any, kernels: Path, folder: Path) -> AsyncGenerator[Any]:
    """A client that runs a notebook, with a kernel that is ended whatever happens."""
    from jupyter_client.kernelspec import KernelSpecManager  # noqa: PLC0415 - may be missing
    from jupyter_client.manager import AsyncKernelManager  # noqa: PLC0415 - as above
    from nbclient import NotebookClient  # noqa: PLC0415 - as above

    specs = KernelSpecManager(kernel_dirs=[str(kernels)])
    manager: Any = AsyncKernelManager(kernel_name="installed", kernel_spec_manager=specs)
    client = NotebookClient(notebook, km=manager, timeout=120)
    environ = clean_environ() | {"IPYTHONDIR": str(folder / "ipython")}
    try:
        async with client.async_setup_kernel(env=environ, cwd=str(folder), cleanup_kc=False):
            yield client
    finally:
        if client.kc is not None:
            client.kc.stop_channels()
        if await manager.is_alive():
            await manager.shutdown_kernel(now=True)


def output_of(cell: Any) -> str:
    """What was printed, and the value of the last line; a traceback would be an error before."""
    return "".join(
        output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
        for output in cell["outputs"]
    )


async def test_notebook_shows_what_people_expect(
    python: Path, kernels: Path, tmp_path: Path
) -> None:
    v4: Any = import_module("nbformat.v4")  # its functions have no types
    shutil.copy(SAMPLE, tmp_path / "sample.car")
    checkout, installed = str(ROOT), str(python.parents[1])
    cells = [
        v4.new_code_cell(cell.source.replace("CHECKOUT", checkout).replace("INSTALLED", installed))
        for cell in CELLS
    ]
    async with started(v4.new_notebook(cells=cells), kernels, tmp_path) as client:
        await client.async_execute()
        for cell, expected in zip(cells, CELLS, strict=True):
            assert output_of(cell) == expected.output, cell["source"]
        process = client.km.provisioner.process
        await client.km.shutdown_kernel()
        assert process.returncode == 0, "it had to be killed"

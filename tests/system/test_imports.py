"""What an import brings, and what is only imported once it is needed; each in a new process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from repo_stream._compiled import COMPILED
from repo_stream.ipld.cid import ordinary
from repo_stream.testing import made_car


def printed_by(program: str) -> list[str]:
    """The words that a program prints."""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def brought_by(program: str) -> set[str]:
    """The modules that a program imports, of a package its first name."""
    return set(
        printed_by(
            f"import sys; before = set(sys.modules)\n{program}\n"
            "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
        )
    )


NETWORK = {"httpx", "httpcore", "dns"}
DEPENDENCIES = {"anyio", "cbor2", "multiformats", "aiosqlite", "cryptography", "libipld", *NETWORK}


def test_the_package_alone_brings_no_dependency() -> None:
    assert not {*DEPENDENCIES, "asyncio", "sqlite3"} & brought_by("import repo_stream")


def test_a_builder_brings_nothing_that_only_few_values_or_the_disk_need() -> None:
    late = {"decimal", "fractions", "uuid", "datetime"}
    late |= {"aiosqlite", "multiformats", "cryptography", "libipld", *NETWORK}
    assert not late & brought_by("from repo_stream import DriverBuilder")


def test_command_brings_no_matplotlib_unless_it_draws() -> None:
    assert "matplotlib" not in brought_by("from repo_stream.cli import plot, options")


def test_what_a_did_document_says_is_told_without_the_extras_of_the_network() -> None:
    program = (
        "from repo_stream import Account, NetworkError, did_key\n"
        "from repo_stream.network.document import handle_of, pds_of\n"
        "did, key = 'did:web:a.b', 'zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc'\n"
        "method = {'id': '#atproto', 'controller': did, 'type': 'Multikey'}\n"
        "method['publicKeyMultibase'] = key\n"
        "document = {'id': did, 'verificationMethod': [method]}\n"
        "assert did_key(document) == f'did:key:{key}'"
    )
    assert not {*NETWORK, "asyncio", "anyio", "cryptography", "cbor2"} & brought_by(program)


def test_a_value_of_the_standard_library_brings_what_it_needs() -> None:
    program = (
        "from repo_stream.ipld.spilled_values import dump_value, load_value\n"
        "from repo_stream.sizes import size_of\n"
        "from uuid import UUID\n"
        "given = (UUID(int=1 << 100), 7)\n"
        "print(load_value(dump_value(given)) == given, size_of(given) > size_of(given[:0]))"
    )
    assert printed_by(program) == ["True", "True"]


def test_the_first_record_brings_libipld() -> None:
    pytest.importorskip("libipld")
    before = "import repo_stream, repo_stream.process as process"
    assert "libipld" not in brought_by(before)
    assert "libipld" in brought_by(before + "; process.record(b'\\xa0')")


def test_a_cluster_is_not_brought_before_it_is_asked_for() -> None:
    program = "import repo_stream.ray\nrepo_stream.ray.read_repos, repo_stream.ray.Problems"
    assert not {"ray", "fsspec", "pyarrow", "numpy", "pandas"} & brought_by(program)


def test_the_sync_face_brings_nothing_of_the_extras() -> None:
    program = "from repo_stream import sync; sync.open_car; sync.records"
    assert not {*NETWORK, "pyarrow", "cryptography", "libipld"} & brought_by(program)
    program = "from repo_stream import sync; sync.open_repo; sync.Network"
    assert not {*NETWORK, "pyarrow"} & brought_by(program)


async def whole(count: int) -> bytes:
    return b"".join([piece async for piece in made_car(count)])


def test_the_module_of_made_repos_can_be_run(tmp_path: Path) -> None:
    out = tmp_path / "out.car"
    command = [sys.executable, "-W", "error", "-m", "repo_stream.testing", str(out)]
    subprocess.run([*command, "--records", "5"], check=True, timeout=60)
    assert out.read_bytes() == anyio.run(whole, 5)


@pytest.mark.skipif(not COMPILED, reason="plain tables are dicts")
def test_the_hash_of_a_compiled_table_is_another_in_every_process() -> None:
    one, other = ordinary(bytes(32)), ordinary(bytes(9) + b"\1" + bytes(22))
    program = f"from repo_stream.mst._tables import tag; print(tag({one!r}), tag({other!r}))"
    seen = [printed_by(program) for _ in range(3)]
    assert len({each for pair in seen for each in pair}) == 6
    # Each word has a factor of its own, which is as unknown.
    assert len({int(first) - int(second) for first, second in seen}) == 3


@pytest.mark.skipif(not COMPILED, reason="nothing runs compiled here")
@pytest.mark.parametrize(
    ("value", "form"),
    [
        pytest.param("1", "repo_stream.mst.rules", id="plain"),
        pytest.param("0", "repo_stream.mst._rules", id="zero"),
        pytest.param("", "repo_stream.mst._rules", id="empty"),
    ],
)
def test_compiled_forms_can_be_turned_off(
    monkeypatch: pytest.MonkeyPatch, value: str, form: str
) -> None:
    monkeypatch.setenv("REPO_STREAM_PURE", value)
    program = "from repo_stream.mst.rules import open_ordinary; print(open_ordinary.__module__)"
    assert printed_by(program) == [form]

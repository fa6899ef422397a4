"""Repos whose commits are signed by a key that is made here, in memory and through the disk."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from repo_stream import DiskBuilder, Driver, DriverBuilder
from repo_stream.testing import build_car
from support.keys import did_key, signer

RECORDS = {"app.bsky.feed.post/3k2akpa2gis2y": {"text": "signed"}}


@pytest.mark.parametrize("curve", [ec.SECP256K1(), ec.SECP256R1()], ids=["k256", "p256"])
async def test_the_commit_of_a_signed_repo_in_memory_is_verified(curve: ec.EllipticCurve) -> None:
    private = ec.generate_private_key(curve)
    car = build_car(RECORDS, sign=signer(private), order="stream")
    match await DriverBuilder().load_car(car):
        case Driver.Memory(commit, _):
            commit.verify_signature(did_key(private))
        case Driver.Disk():
            pytest.fail("it fits")


async def test_the_commit_of_a_signed_repo_on_disk_is_verified() -> None:
    private = ec.generate_private_key(ec.SECP256K1())
    car = build_car(RECORDS, sign=signer(private), order="stream")
    match await DriverBuilder(mem_limit_mb=0).load_car(car):
        case Driver.Memory():
            pytest.fail("it does not fit")
        case Driver.Disk(paused):
            async with DiskBuilder().open() as store:
                commit, _ = await paused.finish_loading(store)
    commit.verify_signature(did_key(private))

"""`Limits`: what it takes, and what it is by default. Its fields are tested where they bind."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from repo_stream import DriverBuilder, Limits

FIELDS = [field.name for field in dataclasses.fields(Limits)]


def test_the_defaults() -> None:
    assert dataclasses.asdict(Limits()) == {
        "header_bytes": 64 * 1024,
        "block_bytes": 2 * 1024 * 1024,
        "car_bytes": None,
        "blocks": None,
        "mst_depth": 40,
        "node_entries": 8192,
        "key_bytes": 1024,
        "repeated_bytes": 64 * 1024 * 1024,
    }


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [-1, -(1 << 70)])
def test_a_negative_bound_is_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must not be negative, not {value}"):
        Limits(**{name: value})
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(Limits(), **{name: value})


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [0, 1, 1 << 70])
def test_any_other_bound_is_taken(name: str, value: int) -> None:
    limits = Limits(**{name: value})
    assert dataclasses.asdict(limits) == {**dataclasses.asdict(Limits()), name: value}


def test_some_bounds_can_be_turned_off() -> None:
    on = Limits(car_bytes=1, blocks=1)
    assert dataclasses.replace(on, car_bytes=None) == Limits(blocks=1)
    assert dataclasses.replace(on, blocks=None) == Limits(car_bytes=1)


@pytest.mark.parametrize("name", FIELDS)
def test_limits_do_not_change(name: str) -> None:
    limits = Limits()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(limits, name, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(limits, name)
    assert limits == Limits()


def test_limits_are_given_by_name() -> None:
    limits: Any = Limits
    with pytest.raises(TypeError):
        limits(1)
    with pytest.raises(TypeError, match="blok_bytes"):
        limits(blok_bytes=1)


def test_limits_compare_hash_and_pickle() -> None:
    limits = Limits(blocks=5)
    assert limits != Limits()
    assert {limits: 1}[Limits(blocks=5)] == 1
    assert pickle.loads(pickle.dumps(limits)) == limits  # noqa: S301 - our own bytes


def test_every_limit_is_documented() -> None:
    assert Limits.__doc__ is not None
    for name in FIELDS:
        assert f"{name}: " in Limits.__doc__


def test_the_builder_passes_them_on_and_leaves_the_old_one_alone() -> None:
    builder = DriverBuilder()
    changed = builder.with_limits(Limits(blocks=5))
    assert changed.limits == Limits(blocks=5)
    assert builder.limits == Limits()

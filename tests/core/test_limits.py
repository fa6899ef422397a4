"""`Limits`: what it takes, and what it is by default. Its fields are tested where they bind."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from repo_stream import DriverBuilder, Limits

FIELDS = [field.name for field in dataclasses.fields(Limits)]


def test_the_default_limits() -> None:
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


def test_a_negative_limit_is_refused() -> None:
    for name in FIELDS:
        for value in (-1, -(1 << 70)):
            with pytest.raises(ValueError, match=f"{name} must not be negative, not {value}"):
                Limits(**{name: value})
            with pytest.raises(ValueError, match=name):
                dataclasses.replace(Limits(), **{name: value})


def test_any_other_limit_is_taken() -> None:
    for name in FIELDS:
        for value in (0, 1, 1 << 70):
            limits = Limits(**{name: value})
            assert dataclasses.asdict(limits) == {**dataclasses.asdict(Limits()), name: value}


def test_limits_of_the_whole_car_can_be_turned_off() -> None:
    on = Limits(car_bytes=1, blocks=1)
    assert dataclasses.replace(on, car_bytes=None) == Limits(blocks=1)
    assert dataclasses.replace(on, blocks=None) == Limits(car_bytes=1)


def test_limits_cannot_be_changed() -> None:
    limits = Limits()
    for name in FIELDS:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(limits, name, 1)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(limits, name)
    assert limits == Limits()


def test_limits_are_given_by_keyword() -> None:
    limits: Any = Limits
    with pytest.raises(TypeError):
        limits(1)
    with pytest.raises(TypeError, match="blok_bytes"):
        limits(blok_bytes=1)


def test_limits_can_be_compared_hashed_and_pickled() -> None:
    limits = Limits(blocks=5)
    assert limits != Limits()
    assert {limits: 1}[Limits(blocks=5)] == 1
    assert pickle.loads(pickle.dumps(limits)) == limits  # noqa: S301 - our own bytes


def test_every_limit_is_documented() -> None:
    assert [name for name in FIELDS if f"{name}: " not in (Limits.__doc__ or "")] == []


def test_a_builder_with_other_limits_is_another_builder() -> None:
    builder = DriverBuilder()
    changed = builder.with_limits(Limits(blocks=5))
    assert changed.limits == Limits(blocks=5)
    assert builder.limits == Limits()

"""Merchants distributed over processes: each belongs to exactly one shard."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.cli import main
from exporter.config.settings import Settings

IDS = st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True), min_size=1, max_size=40, unique=True)


def settings_of(ids: list[str]) -> Settings:
    secrets = {"api_key": "k", "mail_address": "a@example.com", "password": "p"}
    return Settings.model_validate({"merchants": [{"id": each, **secrets} for each in ids]})


def ids_of(settings: Settings) -> list[str]:
    return [merchant.id for merchant in settings.merchants]


@given(IDS, st.integers(1, 12))
def test_the_shards_are_a_partition(ids: list[str], count: int) -> None:
    """Every merchant is in exactly one shard, in the order of the configuration; all other settings are the same."""
    settings = settings_of(ids)
    shards = [settings.shard(index, count) for index in range(count)]
    assert sorted(each for shard in shards for each in ids_of(shard)) == sorted(ids)
    for shard in shards:
        assert ids_of(shard) == [each for each in ids if each in ids_of(shard)]
        assert shard.model_copy(update={"merchants": settings.merchants}) == settings


@given(IDS, st.integers(2, 6))
def test_a_merchant_stays_in_its_shard(ids: list[str], count: int) -> None:
    """The shard of a merchant depends only on its id, so adding or removing others does not move it."""
    together = settings_of(ids)
    for each in ids:
        alone = settings_of([each])
        assert [index for index in range(count) if ids_of(alone.shard(index, count))] == [
            index for index in range(count) if each in ids_of(together.shard(index, count))
        ]


@pytest.mark.parametrize(("merchant_id", "index"), [("nttsmc", 0), ("merchant-13", 1), ("sports", 2)])
def test_the_shard_is_the_same_in_every_release(merchant_id: str, index: int) -> None:
    """A merchant that moved would lose its counters, which are in the state file of its shard."""
    assert ids_of(settings_of([merchant_id]).shard(index, 3)) == [merchant_id]


def test_the_shards_have_similar_sizes() -> None:
    """No process has many more merchants than another."""
    settings = settings_of([f"merchant-{number}" for number in range(500)])
    sizes = [len(settings.shard(index, 4).merchants) for index in range(4)]
    assert sum(sizes) == 500
    assert min(sizes) > 90


def test_one_process_has_all_merchants() -> None:
    """Without the flags all merchants are in one process."""
    settings = settings_of(["a", "b", "c"])
    assert settings.shard(0, 1) == settings


@pytest.mark.parametrize("flags", [["--shard.index=1"], ["--shard.index=2", "--shard.count=2"], ["--shard.count=x"]])
def test_an_invalid_shard_is_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong flags are an error message and exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    assert "--shard." in capsys.readouterr().err

"""The laws of the plan, on any data."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import Plan, bucket_of, default_shards, group_of, make_plan, place, survey
from pipeline.schema import BUCKETS, Item

keys = st.from_regex(r"(faces|comics|[a-zé]{1,3})/[a-z0-9]{1,3}\.(jpg|png)", fullmatch=True)
items = st.lists(
    st.builds(Item, keys, st.integers(0, 1), st.integers(0, 10**6)),
    unique_by=lambda item: item.key,
    max_size=60,
)
plans = st.builds(
    Plan,
    seed=st.integers(-(2**63), 2**63 - 1),
    test_fraction=st.floats(0, 0.95),
    group_by=st.sampled_from(["stem", "path"]),
    train_shards=st.integers(1, 40),
    test_shards=st.integers(1, 10),
)


@given(items, plans)
def test_shards_partition_the_keys(items, plan):
    shards = {}
    for item in items:
        split, shard, _ = place(item, plan)
        assert 0 <= shard < plan.shards(split)
        shards.setdefault((split, shard), []).append(item.key)
    placed = Counter(key for members in shards.values() for key in members)
    assert placed == Counter(item.key for item in items)


@given(items, plans)
def test_groups_never_cross_splits(items, plan):
    splits = {}
    for item in items:
        splits.setdefault(group_of(item.key, plan.group_by), set()).add(place(item, plan).split)
    assert all(len(found) == 1 for found in splits.values())


@given(st.integers(-(2**63), 2**63 - 1), st.floats(0.01, 0.95), st.integers(0, 10**6))
def test_a_photograph_and_its_drawing_go_together(seed, test_fraction, number):
    plan = Plan(seed, test_fraction, "stem", 16, 4)
    photograph = place(Item(f"a/faces/{number:06d}.jpg", 0, 1), plan)
    drawing = place(Item(f"b/comics/{number:06d}.png", 1, 1), plan)
    assert photograph.split == drawing.split


@given(items, items, plans)
def test_adding_an_image_moves_no_other_between_splits(old, added, plan):
    """`make_plan` may choose more shards for more images; the splits stay what they were."""
    larger = make_plan(
        seed=plan.seed,
        test_fraction=plan.test_fraction,
        group_by=plan.group_by,
        total=len(old) + 10**6 * len(added),
        record_bytes=22_000,
    )
    for item in old:
        assert place(item, larger).split == place(item, plan).split


@given(items, plans)
def test_shards_in_turn_are_the_order_of_the_split(items, plan):
    by_order = sorted((place(item, plan) for item in items), key=lambda placed: placed.order)
    for split in ("train", "test"):
        shards = [placed.shard for placed in by_order if placed.split == split]
        assert shards == sorted(shards)


@given(items, st.randoms(use_true_random=False))
def test_a_survey_does_not_depend_on_the_listing_order(items, random):
    shuffled = list(items)
    random.shuffle(shuffled)
    assert survey(items) == survey(shuffled)


def test_another_seed_gives_another_order_and_another_split():
    one, two = Plan(0, 0.2, "stem", 16, 4), Plan(1, 0.2, "stem", 16, 4)
    members = [Item(f"faces/{number}.jpg", 0, 1) for number in range(300)]
    assert [place(item, one) for item in members] != [place(item, two) for item in members]
    assert {i.key for i in members if place(i, one).split == "test"} != {
        i.key for i in members if place(i, two).split == "test"
    }


def test_the_test_split_and_the_buckets_are_as_large_as_asked():
    plan = Plan(0, 0.2, "stem", 16, 4)
    groups = [f"{number:06d}" for number in range(20_000)]
    share = sum(place(Item(f"f/{g}.jpg", 0, 1), plan).split == "test" for g in groups) / 20_000
    assert abs(share - 0.2) < 0.01  # three and a half standard deviations
    buckets = [bucket_of(0, group) for group in groups]
    assert min(buckets) >= 0 and max(buckets) < BUCKETS
    assert abs(sum(bucket < 300 for bucket in buckets) / 20_000 - 0.3) < 0.012


def test_the_split_tells_nothing_about_the_bucket():
    plan = Plan(0, 0.5, "stem", 16, 4)
    groups = [f"{number:06d}" for number in range(10_000)]
    train = [g for g in groups if place(Item(f"f/{g}.jpg", 0, 1), plan).split == "train"]
    share = sum(bucket_of(0, group) < 500 for group in train) / len(train)
    assert abs(share - 0.5) < 0.025


def test_default_shards():
    assert default_shards(160, 22_650) == 16  # never fewer
    assert default_shards(16_000, 22_650) == 16
    big = default_shards(1_000_000, 22_650)
    assert 1_000_000 / big * 22_650 < 128e6  # with room for the fullest shard:
    assert 1_000_000 / big + 6 * (1_000_000 / big) ** 0.5 <= 128e6 / 22_650

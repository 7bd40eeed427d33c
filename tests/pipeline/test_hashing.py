from pipeline.hashing import stable_hash


def test_golden_values_hold_the_order_of_all_data_sets():
    """If this fails, every data set and every figure ever measured on one is void."""
    assert stable_hash(0, "split", "000123") == 15806506853229498993
    assert stable_hash(0, "order", "faces/000123.jpg") == 2016780680044921142
    assert stable_hash(-7, "bucket", "ünïcode/名前.png") == 3970638819230331022


def test_seed_and_purpose_keep_the_streams_apart():
    values = {stable_hash(seed, purpose, "a") for seed in (0, 1) for purpose in ("split", "order")}
    assert len(values) == 4

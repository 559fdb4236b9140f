import datasets
import numpy as np
import pytest

from trainables.splits import split_samples


@pytest.mark.parametrize("n", [11, 12, 15, 54, 300, 1001])
def test_the_split_is_that_of_datasets(n):
    data = datasets.Dataset.from_dict({"i": list(range(n))})
    first = data.train_test_split(test_size=0.3, seed=42)
    second = first["test"].train_test_split(test_size=0.67, seed=42)
    split = split_samples(n)
    np.testing.assert_array_equal(split.train, first["train"]["i"])
    np.testing.assert_array_equal(split.val, second["train"]["i"])
    np.testing.assert_array_equal(split.test, second["test"]["i"])


def test_every_sample_is_in_one_split():
    split = split_samples(300)
    assert [len(part) for part in split.parts().values()] == [210, 29, 61]
    assert sorted(np.concatenate(list(split.parts().values()))) == list(range(300))


def test_up_to_ten_samples_are_all_three_splits():
    for part in split_samples(10).parts().values():
        assert part.tolist() == list(range(10))

"""No two purposes draw the same random numbers."""

from itertools import combinations

from ldm.training.batches.random_streams import Stream, modules_stream
from ldm.training.batches.sample_order import generator_for, mix


def test_all_streams_differ_on_any_number_of_processes() -> None:
    ranks = [modules_stream(rank) for rank in range(100_000)]
    numbers = [int(stream) for stream in Stream if stream is not Stream.MODULES] + ranks
    assert len(set(numbers)) == len(numbers)


def test_streams_of_one_sample_have_other_seeds() -> None:
    for one, other in combinations(Stream, 2):
        assert mix(7, 3, one) != mix(7, 3, other)
        assert generator_for(7, 3, one).initial_seed() != generator_for(7, 3, other).initial_seed()


def test_numbers_that_bytes_of_trainings_depend_on_stay() -> None:
    assert (Stream.LOADING, Stream.LOSS, modules_stream(0)) == (0, 1, 2)
    assert (Stream.STRATA, Stream.GROUPS, Stream.JUDGE_VALIDATION, Stream.JUDGE_CHECK) == (2**20, 2**21, 101, 102)

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.synthesis.groups import Part, batches_of_groups


@settings(deadline=None)
@given(count=st.integers(1, 2000), group=st.integers(1, 300), groups=st.integers(1, 8))
def test_every_image_is_in_one_group_of_nearly_equal_size(count: int, group: int, groups: int) -> None:
    parts = batches_of_groups(count, group, groups)
    places = range(count)
    assert [place for part in parts for place in places[part.images]] == list(places)
    sizes: list[int] = []
    for part in parts:
        number, rest = divmod(len(places[part.images]), part.group)
        assert rest == 0
        assert 1 <= number <= groups
        sizes += [part.group] * number
    assert max(sizes) <= group
    assert max(sizes) - min(sizes) <= 1
    assert (len(sizes) - 1) * group < count  # no more groups than needed


def test_what_does_not_divide_is_spread() -> None:
    assert batches_of_groups(26, 8, 2) == [Part(slice(0, 14), 7), Part(slice(14, 26), 6)]
    assert batches_of_groups(5, 8, 2) == [Part(slice(0, 5), 5)]

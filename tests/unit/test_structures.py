import pytest

from gridclip.io.errors import InputError
from gridclip.structures import Vocabulary


def test_equal_vocabularies_share_one_cache_entry():
    assert {Vocabulary(["cat", "dog"]): 1}[Vocabulary(("cat", "dog"))] == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "empty"), (["cat", " "], "empty name"), (["cat", "dog", "cat"], "twice: cat")],
)
def test_a_bad_vocabulary_is_refused_with_its_fault(names, message):
    with pytest.raises(InputError, match=message):
        Vocabulary(names)

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


@pytest.mark.field
@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cat", r"names: 'cat' is one text\n  fix: give a list: \['cat'\]"),
        ("", "is one text"),
        ([None], "names: None is no text"),
        (["cat", 3], "names: 3 is no text"),
        ([["cat", "dog"]], r"names: \['cat', 'dog'\] is no text"),
        (b"cat", "names: 99 is no text"),
    ],
)
def test_what_is_no_list_of_texts_is_no_vocabulary(names, message):
    """Of one text the letters would be taken for names."""
    with pytest.raises(InputError, match=message):
        Vocabulary(names)


@pytest.mark.field
def test_any_collection_of_texts_is_a_vocabulary():
    expected = Vocabulary(["cat", "dog"])
    for names in (("cat", "dog"), {"cat": 1, "dog": 2}, (name for name in ("cat", "dog"))):
        assert Vocabulary(names) == expected

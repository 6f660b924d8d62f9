"""What a person is told of own names before a fine-tuning begins."""

from gridclip.engine.finetune.names import compare_names


def test_names_are_known_alike_or_new():
    trained = ["traffic light", "coffee cup", "grey wolf", "dog"]
    own = ["dog", "Traffic_Lights", "coffee-cup", "gray wolf", "forklift", "dot"]
    found = compare_names(own, trained)
    assert found.known == ("dog",)
    assert found.alike == {
        "Traffic_Lights": ("traffic light",),
        "coffee-cup": ("coffee cup",),
        "gray wolf": ("grey wolf",),
    }
    assert found.new == ("forklift", "dot")


def test_what_is_told_names_each_kind_and_is_short():
    lines = compare_names([*map(str, range(1000, 1020)), "dogs"], ["dog"]).told()
    assert lines[0].startswith("20 new names: 1000, 1001")
    assert lines[0].endswith("(12 more)")
    assert lines[1] == "'dogs' is new, but spelt much like 'dog'"
    assert compare_names([], ["dog"]).told() == []


def test_long_names_that_differ_in_one_word_are_not_alike():
    found = compare_names(["pink striped moon"], ["pink striped diamond", "pink stripes"])
    assert found.new == ("pink striped moon",)


def test_many_names_that_are_alike_are_counted():
    names = [f"word{letter * 6} cup" for letter in "abcdefghijk"]
    lines = compare_names([f"{name}s" for name in names], names).told()
    assert len(lines) == 9
    assert lines[-1] == "and so are 3 others"

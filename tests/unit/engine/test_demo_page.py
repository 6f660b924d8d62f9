"""What the demo page shows of what was found; test_demo_in_browser.py opens it."""

import numpy as np
import pytest
from PIL import Image

from gridclip.engine.demo_page import grouped, searched, shown
from gridclip.engine.detect.finder import Finder
from gridclip.engine.detect.findings import Findings, Found
from gridclip.io.errors import InputError
from gridclip.structures import Detections

NAMES = ["cup", "mug", "jar", "pot", "dog"]
CUP, SHIFTED, DOG = (0.0, 0.0, 100.0, 100.0), (0.0, 0.0, 100.0, 90.0), (0.0, 0.0, 100.0, 60.0)


def findings(*found):
    return Findings([Found(*each) for each in found], names=NAMES, width=120, height=110)


def test_boxes_that_are_nearly_one_are_shown_once_with_their_three_best_names():
    found = findings(
        ("cup", 0.9, CUP),
        ("dog", 0.8, DOG),  # an IoU of 0.6 with the cup
        ("mug", 0.5, SHIFTED),  # of 0.9
        ("jar", 0.4, CUP),
        ("mug", 0.3, CUP),
        ("pot", 0.2, SHIFTED),
    )
    cup, dog = grouped(found)
    assert cup == (CUP, (("cup", 0.9), ("mug", 0.5), ("jar", 0.4)))
    assert dog == (DOG, (("dog", 0.8),))
    assert grouped(findings()) == []


def test_the_least_score_is_of_the_best_name_and_other_names_stay_beside_it(tmp_path):
    file = tmp_path / "a.png"
    Image.new("RGB", (120, 110), "grey").save(file)
    found = findings(("cup", 0.9, CUP), ("dog", 0.4, DOG), ("mug", 0.1, CUP))
    picture, rows = shown(str(file), found, 0.5)
    assert rows == [["cup 0.90", "mug 0.10", "", "0, 0, 100, 100"]]
    assert len(shown(str(file), found, 0.4)[1]) == 2
    bare, none = shown(str(file), found, 0.95)
    assert none == []
    assert (picture != bare).any()
    np.testing.assert_array_equal(bare, np.full((440, 480, 3), 128))  # enlarged, nothing drawn
    assert shown(None, found, 0.5) == (None, [])


class Everywhere(Finder):
    """Finds the first name in the whole of every image."""

    def search(self, pixels, vocabulary):
        import torch

        self.asked = vocabulary.names
        corners = [[0.0, 0.0, each.shape[1], each.shape[0]] for each in pixels]
        one = [torch.tensor([box]) for box in corners]
        return [Detections(box, torch.tensor([0.2]), torch.tensor([0])) for box in one]


def test_names_are_typed_in_a_line_or_in_lines_and_scores_of_any_height_are_kept(tmp_path):
    file = tmp_path / "a.png"
    Image.new("RGB", (30, 20)).save(file)
    finder = Everywhere()
    found, told = searched(finder, str(file), "a cup,\n a dog , ")
    assert finder.asked == ("a cup", "a dog")
    assert [each.name for each in found] == ["a cup"]
    assert told.startswith("2 names")
    assert told.endswith("the best score is 0.20")
    assert searched(finder, None, "a cup")[0] is None
    assert searched(finder, str(file), " , ")[0] is None
    with pytest.raises(InputError, match="a cup"):
        searched(finder, str(file), "a cup, a cup")


def test_no_visitor_reads_a_file_of_the_machine_by_its_name(tmp_path):
    """On the command line a file of names is one; what is typed into the page is names."""
    file, secret = tmp_path / "a.png", tmp_path / "names.txt"
    Image.new("RGB", (30, 20)).save(file)
    secret.write_text("a secret\n")
    finder = Everywhere()
    searched(finder, str(file), str(secret))
    assert finder.asked == (str(secret),)

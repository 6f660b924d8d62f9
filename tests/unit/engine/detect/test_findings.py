"""What was found in an image, as a list that knows its image."""

import copy
import pickle

import numpy as np
import pytest
import supervision

import gridclip
from gridclip.engine.detect.findings import Findings, Found

CUP, CAT = Found("cup", 0.9, (1.0, 2.0, 30.0, 40.0)), Found("cat", 0.5, (0.0, 0.0, 5.5, 6.25))


@pytest.fixture
def findings():
    return Findings([CUP, CAT], names=["cat", "dog", "cup"], width=64, height=48)


def test_findings_are_a_list_of_objects_that_knows_its_image(findings):
    assert findings == [CUP, CAT]
    assert findings[0].name == "cup"
    assert (findings.width, findings.height, findings.names) == (64, 48, ("cat", "dog", "cup"))
    assert gridclip.Findings is Findings
    assert gridclip.Found is Found


@pytest.mark.parametrize(
    ("threshold", "limit", "left"),
    [(0.0, None, 2), (0.5, None, 2), (0.51, None, 1), (0.0, 1, 1), (1.0, None, 0)],
)
def test_those_above_a_threshold_are_the_best_and_know_their_image_too(
    findings, threshold, limit, left
):
    above = findings.above(threshold, limit)
    assert above == [CUP, CAT][:left]
    assert above.names == findings.names
    assert (above.width, above.height) == (64, 48)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copy_and_what_another_process_gets_know_their_image(findings, twin):
    other = twin(findings)
    assert other == findings
    assert (other.names, other.width) == (findings.names, 64)


def test_supervision_gets_boxes_scores_and_rows_of_the_names(findings):
    given = findings.to_supervision()
    assert isinstance(given, supervision.Detections)
    assert given.xyxy.tolist() == [[*CUP.box], [*CAT.box]]
    assert given.confidence.tolist() == pytest.approx([0.9, 0.5])
    assert given.class_id.tolist() == [2, 0]
    assert given["class_name"].tolist() == ["cup", "cat"]
    drawn = supervision.BoxAnnotator().annotate(np.zeros((48, 64, 3), np.uint8), given)
    assert drawn.any()


def test_of_nothing_found_supervision_gets_an_empty_detections():
    given = Findings([], names=["cat"], width=4, height=4).to_supervision()
    assert len(given) == 0
    assert given.xyxy.shape == (0, 4)
    assert len(supervision.Detections.merge([given, given])) == 0

"""Names that compete in the score of a whole detector, against the formula written out."""

import logging

import pytest
import torch
from torch import nn

from gridclip.engine.lightning_module import DetectionSystem, load_weights, start_from
from gridclip.io.errors import InputError
from gridclip.models.dense.text_folding import Folding
from gridclip.models.detclip.model import DetCLIPv2
from gridclip.models.encoders.backbones import ClipResNet
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.text import TextBank
from gridclip.models.gridclip.model import GridCLIP, LossWeights
from gridclip.ops.assigners import FCOSAssigner
from gridclip.ops.postprocess import DecodeSettings
from gridclip.structures import DetectionBatch, Images, Record, Targets, Vocabulary

MINI = ClipModel(name="gridclip-mini", weights="random")
TRAINED = Vocabulary(["red star", "green ring", "blue moon", "disc", "round plate", "kite"])
RECORDS = [Record(1, "", 64, 64), Record(2, "", 96, 128)]
EVERY_PAIR = {"candidates": 10**6, "limit": 10**6, "nms_iou": 1.0}


class Words(TextBank):
    """A vector of its own for each name, but for other spellings and true synonyms."""

    width = 48

    def encode(self, vocabulary):
        return torch.stack([self._of(name.replace("_", " ")) for name in vocabulary.names])

    def _of(self, name):
        seed = sum((n + 1) * ord(letter) for n, letter in enumerate(name))
        seed = 1 if name in ("disc", "round plate") else seed
        return torch.randn(self.width, generator=torch.Generator().manual_seed(seed))

    def fingerprint(self):
        return "words"


def make(kind=GridCLIP, trained_on=TRAINED, score="competing", **decoding):
    torch.manual_seed(0)
    weights = {"weights": LossWeights(image=0.0)} if kind is GridCLIP else {}
    settings = DecodeSettings(score=score, **EVERY_PAIR | decoding)
    detector = kind(
        ClipResNet(MINI),
        Words(),
        FCOSAssigner(),
        width=32,
        num_convs=1,
        decoding=settings,
        **weights,
    )
    nn.init.normal_(detector.head.centreness.weight, std=0.5)
    detector.trained_on = trained_on
    detector.score_scale.value.fill_(2.5)
    return detector.eval()


def some_images():
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=rng)
    return Images(pixels, torch.tensor([[64, 64], [48, 64]]))


def found(detector, *names):
    """Scores of each name in the first image, best first."""
    first = detector.detect(some_images(), Vocabulary(names), RECORDS)[0]
    return {name: first.scores[first.labels == row] for row, name in enumerate(names)}


def formula(detector, asked, compete):
    """The same by the formula, from embeddings that are not folded."""
    with torch.no_grad():
        predictions = detector(some_images(), TRAINED)
        logits = detector.cosines(predictions.embeddings[0], Vocabulary(compete)).logits().double()
    shares = (2.5 * logits).softmax(1)
    weight = logits.sigmoid().amax(1) * predictions.centreness[0].sigmoid()
    scores = (shares * weight[:, None]).sqrt()
    return {name: scores[:, compete.index(name)].sort(descending=True).values for name in asked}


def assert_same(some, others):
    assert some.keys() == others.keys()
    for name, scores in some.items():
        assert len(scores) > 50
        assert torch.allclose(scores.double(), others[name].double(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [GridCLIP, DetCLIPv2])
def test_a_score_is_share_times_objectness_times_centreness_under_a_root(kind):
    detector, asked = make(kind), ["kite", "yellow arrow", "disc"]
    assert detector.folding.projection() is not None
    rest = ["red star", "green ring", "blue moon", "round plate"]
    assert_same(found(detector, *asked), formula(detector, asked, asked + rest))


def test_a_name_that_was_trained_on_scores_the_same_whatever_else_is_asked_for():
    detector = make()
    whole = found(detector, *TRAINED.names)
    for names in (["kite"], ["disc"], ["blue moon", "disc"], [*reversed(TRAINED.names)]):
        assert_same(found(detector, *names), {name: whole[name] for name in names})


def test_another_spelling_takes_the_place_of_the_name_that_was_trained_on():
    detector = make()
    assert_same({"red star": found(detector, "red_star")["red_star"]}, found(detector, "red star"))


def test_without_a_reference_the_names_that_are_asked_for_compete_alone():
    asked = ["kite", "yellow arrow"]
    for detector in (make(reference=False), make(trained_on=None)):
        assert_same(found(detector, *asked), formula(detector, asked, asked))
        alone = found(make(score="independent"), "kite")
        assert_same(found(detector, "kite"), alone)


def test_above_the_limit_of_pairs_only_promising_cells_are_scored_by_all_names():
    exact, asked = make(), ["kite", "yellow arrow"]
    few = make(pairs=7 * 30, candidates=20)
    every, best = found(exact, *asked), found(few, *asked)
    assert sum(len(scores) for scores in best.values()) == 20
    for name, scores in best.items():
        gaps = (scores[:, None] - every[name]).abs().amin(1)
        assert gaps.max() < 1e-5 if len(scores) else True
    top = max(scores[0] for scores in every.values())
    assert torch.isclose(max(scores[0] for scores in best.values() if len(scores)), top)


def test_competitors_are_made_once_and_forgotten_when_the_weights_change():
    detector, asked = make(), ["kite", "yellow arrow"]
    folding = detector.folding
    first = folding.others(Vocabulary(asked), TRAINED)
    assert folding.others(Vocabulary(asked), TRAINED) is first
    assert first.shape == (5, 33)
    nn.init.normal_(detector.head.embed.weight, std=0.3)
    renewed = found(detector, *asked)
    assert not torch.equal(folding.others(Vocabulary(asked), TRAINED), first)
    detector.folding = Folding(detector.head.embed, detector.text, enabled=False)
    assert_same(renewed, found(detector, *asked))


def test_scores_are_made_in_full_precision_where_networks_run_in_half():
    detector = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = torch.cat([*found(detector, *TRAINED.names).values()])
    assert scores.dtype == torch.float32
    assert 0 <= scores.min() <= scores.max() <= 1
    assert len(scores.unique()) > 0.8 * len(scores)  # bf16 tells 256 in a factor of 2


def _batch():
    boxes = Targets(torch.tensor([[4.0, 4.0, 40.0, 44.0]]), torch.tensor([1]))
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    return DetectionBatch(some_images(), [boxes, nothing], TRAINED, RECORDS)


@pytest.mark.parametrize(("kind", "name"), [(GridCLIP, "grid"), (DetCLIPv2, "align")])
def test_training_fits_the_scale_and_touches_nothing_else(kind, name, monkeypatch):
    detector = make(kind)
    quiet = detector.losses(_batch())[name]
    assert detector.score_scale.value == 2.5  # in evaluation nothing is fitted
    detector.train()
    generator = torch.get_rng_state()
    loss = detector.losses(_batch())[name]
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(loss, quiet)
    assert detector.score_scale.value != 2.5
    assert detector.score_scale.curvature > 0
    assert all(not part.requires_grad for part in detector.score_scale.buffers())


@pytest.mark.parametrize("score", ["independent", "competing"])
def test_a_checkpoint_from_before_the_scale_loads_and_says_so_where_it_matters(
    score, tmp_path, caplog
):
    system = DetectionSystem(make())
    state = {n: w for n, w in system.state_dict().items() if "score_scale" not in n}
    checkpoint = {"state_dict": state, "frozen": "words", "trained_on": [*TRAINED.names]}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with caplog.at_level(logging.WARNING):
        for load in (load_weights, start_from):
            again = DetectionSystem(make(score=score))
            load(again, tmp_path / "last.ckpt")
            assert again.detector.score_scale.value == 1
            assert again.detector.trained_on == TRAINED
        resumed = torch.load(tmp_path / "last.ckpt")
        again.on_load_checkpoint(resumed)
        again.load_state_dict(resumed["state_dict"])
    said = [each.getMessage() for each in caplog.records if each.name.startswith("gridclip")]
    assert len(said) == (3 if score == "competing" else 0)
    assert all("not fitted" in line and "\n" not in line for line in said)


def test_a_checkpoint_that_lacks_more_is_of_another_model(tmp_path, caplog):
    system = DetectionSystem(make())
    state = {n: w for n, w in system.state_dict().items() if "scale" not in n}
    torch.save({"state_dict": state, "frozen": "words"}, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match="another model"):
        load_weights(DetectionSystem(make()), tmp_path / "last.ckpt")
    assert not [each for each in caplog.records if each.name.startswith("gridclip")]


def test_the_scale_is_in_checkpoints(tmp_path):
    system = DetectionSystem(make())
    system.detector.score_scale.curvature.fill_(7.0)
    checkpoint = {"state_dict": system.state_dict()}
    system.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    again = DetectionSystem(make())
    again.detector.score_scale.value.fill_(1.0)
    load_weights(again, tmp_path / "last.ckpt")
    assert again.detector.score_scale.value == 2.5
    assert again.detector.score_scale.curvature == 7

"""Own names that are learned while the network rests."""

import pytest
import torch

from gridclip.engine.lightning_module import DetectionSystem, start_from
from gridclip.engine.optimizers import OptimizerSettings, make_optimizer
from gridclip.io.errors import InputError
from gridclip.models.dense.grid_head import Projections
from gridclip.models.encoders.backbones import ClipResNet
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.text import ClipText
from gridclip.models.encoders.trained_text import TrainedText
from gridclip.models.gridclip.model import GridCLIP, LossWeights
from gridclip.models.gridclip.prompt import Prompt, PromptedText
from gridclip.ops.assigners import FCOSAssigner
from gridclip.ops.postprocess import DecodeSettings, all_scores
from gridclip.structures import DetectionBatch, Detections, Images, Record, Targets, Vocabulary

MINI = ClipModel(name="gridclip-mini", weights="mini")
OLD = ["red plain star", "green plain ring", "blue dotted moon"]
OWN = ["my cup", "my other cup"]
BOTH = Vocabulary([*OWN, *OLD])
RECORDS = [Record(1, "", 64, 64), Record(2, "", 64, 64)]


def make(prompt=None, score="independent"):
    torch.manual_seed(0)
    made = GridCLIP(
        ClipResNet(MINI),
        ClipText(MINI),
        FCOSAssigner(),
        width=32,
        num_convs=1,
        weights=LossWeights(image=0.0),
        decoding=DecodeSettings(score=score, candidates=10**6, limit=10**6, nms_iou=1.0),
        prompt=prompt,
    )
    torch.nn.init.normal_(made.head.embed.weight, std=0.3)
    made.trained_on = Vocabulary(OLD)
    return made.eval()


def some_images():
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=rng)
    return Images(pixels, torch.tensor([[64, 64]] * 2))


def train(detector, steps=8):
    """Some steps on two boxes of own names."""
    boxes = [
        Targets(torch.tensor([[4.0, 4.0, 40.0, 44.0]]), torch.tensor([0])),
        Targets(torch.tensor([[20.0, 9.0, 60.0, 60.0]]), torch.tensor([1])),
    ]
    batch = DetectionBatch(some_images(), boxes, Vocabulary(OWN), RECORDS)
    optimizer = make_optimizer(detector.train(), OptimizerSettings(lr=0.003))
    losses = []
    for _ in range(steps):
        detector.meet(batch.vocabulary)
        made = detector.losses(batch)
        optimizer.zero_grad()
        sum(made.values()).backward()
        optimizer.step()
        losses.append(made["grid"].item())
    detector.eval()
    return losses


def detections(detector, names=BOTH):
    return detector.detect(some_images(), names, RECORDS)[0]


def test_only_shifts_learn_and_the_own_names_do():
    detector = make(Prompt(names=tuple(OWN)))
    before = {name: weight.clone() for name, weight in detector.state_dict().items()}
    assert [name for name, weight in detector.named_parameters() if weight.requires_grad] == [
        "text.shift"
    ]
    losses = train(detector)
    assert losses[-1] < 0.9 * losses[0]
    moved = {n for n, weight in detector.state_dict().items() if not torch.equal(weight, before[n])}
    assert moved == {"text.shift"}


def all_cells(detector):
    """Boxes of all cells, and their scores of all names, before any cap or order."""
    with torch.no_grad():
        predictions = detector._predict(some_images(), Projections(detector.folding.projection()))
        asked = detector._asked(BOTH)
        cosines = detector.against(predictions.embeddings[0], asked.names.text)
        central = predictions.centreness[0].sigmoid()
        return predictions.boxes, all_scores(cosines, central, asked.rivals)


def same(one: Detections, other: Detections) -> bool:
    """Whether two lists of boxes are one to the bit."""
    return all(torch.equal(*pair) for pair in zip(one[:3], other[:3], strict=True))


def test_scores_of_other_names_are_the_same_to_the_bit_where_names_are_independent():
    detector = make(Prompt(names=tuple(OWN)))
    (boxes, scores), found = all_cells(detector), detections(detector, Vocabulary(OLD))
    train(detector)
    new_boxes, new_scores = all_cells(detector)
    assert torch.equal(boxes, new_boxes)
    for row, name in enumerate(BOTH.names):
        assert torch.equal(scores[:, row], new_scores[:, row]) == (name in OLD)
    again = detections(detector, Vocabulary(OLD))
    assert same(found, again)


def test_where_names_compete_scores_of_others_fall_by_the_share_of_own_names_at_most():
    detector = make(Prompt(names=tuple(OWN)), "competing")
    before = detections(detector, Vocabulary(OLD))
    train(detector)
    assert detector.trained_on.names == (*OLD, *OWN)
    after = detections(detector, Vocabulary(OLD))
    with torch.no_grad():
        predictions = detector(some_images(), BOTH)
        logits = detector.cosines(predictions.embeddings[0], BOTH).logits().double()
        central = predictions.centreness[0].sigmoid().double()
    scale = detector.score_scale.value
    own = (scale * logits).softmax(1)[:, : len(OWN)].sum(1)  # the share that own names take
    old, new = (logits[:, start:].amax(1).sigmoid() for start in (len(OWN), 0))
    factor = ((1 - own) * new / old).sqrt()
    assert (factor >= (1 - own).sqrt() - 1e-9).all()
    shares = (scale * logits[:, len(OWN) :]).softmax(1)
    scores = (shares * (old * central)[:, None]).sqrt()
    for row in range(len(OLD)):
        for found, expected in ((before, scores), (after, factor[:, None] * scores)):
            mine = found.scores[found.labels == row].double()
            wanted = expected[:, row].sort(descending=True).values
            assert torch.allclose(mine, wanted, rtol=1e-4, atol=1e-6)


def test_with_shifts_of_zero_it_is_the_run_that_it_started_from(tmp_path):
    plain = DetectionSystem(make())
    saved = {"state_dict": plain.state_dict(), "trained_on": OLD} | frozen(plain)
    torch.save(saved, tmp_path / "a.ckpt")
    prompted = DetectionSystem(make(Prompt(names=tuple(OWN))))
    torch.nn.init.normal_(prompted.detector.head.embed.weight)
    prompted.detector.text.shift.data.fill_(3.0)
    start_from(prompted, tmp_path / "a.ckpt")
    assert prompted.detector.trained_on.names == tuple(OLD)
    mine, theirs = (each.detector.eval() for each in (prompted, plain))
    assert same(detections(mine, Vocabulary(OLD)), detections(theirs, Vocabulary(OLD)))
    assert torch.allclose(all_cells(mine)[1], all_cells(theirs)[1], atol=1e-6)


def frozen(system):
    checkpoint = {}
    system.on_save_checkpoint(checkpoint)
    return {"frozen": checkpoint["frozen"]}


def test_a_run_with_a_prompt_is_saved_with_its_shifts(tmp_path):
    prompted = DetectionSystem(make(Prompt(names=tuple(OWN))))
    train(prompted.detector)
    file = tmp_path / "b.ckpt"
    torch.save({"state_dict": prompted.state_dict(), "trained_on": OLD} | frozen(prompted), file)
    again = DetectionSystem(make(Prompt(names=tuple(OWN))))
    detections(again.detector)  # whose vectors are kept until the weights change
    start_from(again, file)
    assert same(detections(again.detector.eval()), detections(prompted.detector))


def test_the_vector_of_an_own_name_is_the_banks_with_its_shift():
    text = PromptedText(ClipText(MINI), Prompt(names=tuple(OWN)))
    torch.nn.init.normal_(text.shift, std=0.1)
    bank = ClipText(MINI)
    vectors = text(Vocabulary([OLD[0], OWN[1]]))
    assert torch.equal(vectors[0], bank(Vocabulary([OLD[0], OWN[1]]))[0])
    expected = bank(Vocabulary([OWN[1]]))[0] + text.shift[1]
    assert torch.allclose(vectors[1], expected / expected.norm(), atol=1e-6)
    assert text.penalty().item() == pytest.approx(
        sum(float(each @ each) for each in text.shift) / 2, rel=1e-5
    )


def test_what_cannot_be_prompted_is_refused():
    with pytest.raises(InputError, match="text tower that learns with the detector does not rest"):
        PromptedText(TrainedText(MINI), Prompt(names=("my cup",)))
    with pytest.raises(InputError, match="twice"):
        Prompt(names=("my cup", "my cup"))
    with pytest.raises(InputError, match=r"prompt\.weight"):
        Prompt(names=("my cup",), weight=-1.0)

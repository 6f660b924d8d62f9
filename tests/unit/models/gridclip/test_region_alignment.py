"""Region-level alignment beside naive loops over cells and regions."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import box_iou

from gridclip.io.errors import InputError
from gridclip.models.encoders.backbones import ClipResNet
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.region_views import embed_regions
from gridclip.models.encoders.teachers import ClipTeacher
from gridclip.models.encoders.text import ClipText
from gridclip.models.gridclip.losses import Negatives
from gridclip.models.gridclip.model import GridCLIP, LossWeights
from gridclip.models.gridclip.region_alignment import (
    RegionAlignment,
    jittered,
    look_at,
    owners_of,
    unannotated,
)
from gridclip.ops.assigners import FCOSAssigner
from gridclip.ops.boxes import grid_cells
from gridclip.ops.postprocess import DecodeSettings, decode
from gridclip.structures import DetectionBatch, Images, Record, RegionTargets, Targets, Vocabulary

MINI = ClipModel(name="gridclip-mini", weights="mini")
CELLS = grid_cells([(8, 8), (4, 4)], (8, 16), torch.device("cpu"))
BOXED = Targets(torch.tensor([[4.0, 4.0, 28.0, 28.0]]), torch.tensor([1]))
NOTHING = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
# The first is the annotated object, seen a little otherwise; the second nobody annotated.
REGIONS = torch.tensor([[5.0, 3.0, 29.0, 27.0], [32.0, 30.0, 60.0, 58.0]])


def vectors(count, width=512, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, width, generator=generator), dim=-1)


def batch(regions=True):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=generator)
    seen = [
        RegionTargets(REGIONS, vectors(2, WIDTH)),
        RegionTargets(torch.zeros(0, 4), vectors(0, WIDTH)),
    ]
    return DetectionBatch(
        Images(pixels, torch.tensor([[64, 64], [64, 64]])),
        [BOXED, NOTHING],
        Vocabulary(["red plain star", "green plain ring", "blue plain moon"]),
        [Record(row, "", 64, 64) for row in (1, 2)],
        regions=seen if regions else None,
    )


@pytest.fixture(scope="module")
def text():
    return ClipText(MINI)


WIDTH = 128


def detector(text, region=1.0, teacher=None, **settings):
    torch.manual_seed(0)
    weights = LossWeights(image=0.0, region=region)
    made = GridCLIP(
        backbone=ClipResNet(MINI),
        text=text,
        assigner=FCOSAssigner(size_factor=4.0),
        teacher=teacher,
        width=32,
        num_convs=1,
        weights=weights,
        **settings,
    )
    return made.train()


def student(width=6, seed=3):
    return vectors(2 * len(CELLS.strides), width, seed).view(2, -1, width)


@pytest.mark.parametrize("distance", ["cosine", "l1", "contrastive"])
def test_the_loss_is_the_mean_over_cells_of_their_distance_from_their_regions(distance):
    settings = RegionAlignment(distance=distance, temperature=0.1)
    seen = [RegionTargets(REGIONS, vectors(2, 6, 1)), RegionTargets(REGIONS[:1], vectors(1, 6, 2))]
    cells, owners = student(), owners_of(FCOSAssigner(size_factor=4.0), CELLS, seen)
    everything, gaps = [vector for each in seen for vector in each.embeddings], []
    for image, row in (owners >= 0).nonzero().tolist():
        z, t = cells[image, row], seen[image].embeddings[owners[image, row]]
        if distance == "cosine":
            gaps.append(1 - torch.dot(z, t).item())
        elif distance == "l1":
            gaps.append((z - t).abs().sum().item())
        else:
            truth = [math.exp(torch.dot(t, other).item() / 0.1) for other in everything]
            found = [math.exp(torch.dot(z, other).item() / 0.1) for other in everything]
            gaps.append(
                -sum(
                    p / sum(truth) * math.log(q / sum(found))
                    for p, q in zip(truth, found, strict=True)
                )
            )
    assert len(gaps) > 4
    loss = settings.gap(cells, owners, seen)
    assert loss.item() == pytest.approx(sum(gaps) / len(gaps), rel=1e-4)


def test_a_cell_belongs_to_a_region_as_it_would_to_an_object_of_that_box():
    assigner = FCOSAssigner(size_factor=4.0)
    seen = [RegionTargets(REGIONS, vectors(2))]
    owners = owners_of(assigner, CELLS, seen)
    assert torch.equal(owners[0], assigner.match(CELLS, REGIONS))
    assert set(owners[0].tolist()) == {-1, 0, 1}


def test_cells_are_spared_in_regions_that_no_box_overlaps_and_never_inside_a_box():
    seen = [RegionTargets(REGIONS, vectors(2)), RegionTargets(REGIONS[1:], vectors(1))]
    spared = unannotated(CELLS, seen, [BOXED, NOTHING])
    for image, (each, target) in enumerate(zip(seen, [BOXED, NOTHING], strict=True)):
        for row, (x, y) in enumerate(CELLS.centres.tolist()):
            expected = False
            for region in each.boxes:
                left, top, right, bottom = region.tolist()
                covered = len(target.boxes) and box_iou(region[None], target.boxes).max() >= 0.5
                expected |= not covered and left < x < right and top < y < bottom
            for left, top, right, bottom in target.boxes.tolist():
                expected &= not (left < x < right and top < y < bottom)
            assert spared[image, row].item() == expected
    assert spared.any(1).all()


def test_the_weight_begins_late_and_rises_over_a_tenth_of_the_training():
    late = RegionAlignment(begin=0.5)
    shares = [late.share(progress) for progress in (0.0, 0.5, 0.55, 0.6, 1.0)]
    assert shares == pytest.approx([0, 0, 0.5, 1, 1])
    assert RegionAlignment().share(0.0) == 1


def test_the_loss_takes_the_share_of_its_weight_from_the_progress_of_the_training(text):
    made = detector(text, regions=RegionAlignment(begin=0.5))
    losses = []
    for progress in (0.25, 0.55, 1.0):
        made.progress = progress
        losses.append(made.losses(batch())["region"].item())
    assert losses[0] == 0
    assert losses[1] == pytest.approx(losses[2] / 2, rel=1e-4)


def test_an_own_branch_learns_beside_the_names_and_is_not_run_where_it_has_no_say(text):
    made = detector(text)
    loss = made.losses(batch())["region"]
    loss.backward()
    assert made.head.align.weight.grad.abs().sum() > 0
    assert made.head.embed.weight.grad is None
    assert next(made.head.embedding_tower.parameters()).grad.abs().sum() > 0
    asked = batch()
    made.eval().head.align.register_forward_hook(lambda *_: pytest.fail("the branch ran"))
    made.detect(asked.images, asked.vocabulary, asked.records)


@pytest.mark.parametrize("novel", [None, 0.8])
def test_at_inference_the_branch_has_its_say_in_the_shares_of_names(text, novel):
    regions = RegionAlignment(novel_opinion=novel)
    made = detector(text, regions=regions, decoding=DecodeSettings(score="competing"))
    asked = batch()
    made.losses(asked)  # fits both scales
    made.trained_on = Vocabulary(["green plain ring", "cyan dotted bowl"])
    predictions = made(asked.images, asked.vocabulary)  # in training mode: both embeddings
    made.eval()
    names = Vocabulary([*asked.vocabulary.names, "cyan dotted bowl"])  # the last only competes
    vectors, logits = made.text(names), made.cosines(predictions.embeddings, names).logits()
    sharp = 10 * made.opinion.scale.value * predictions.aligned @ vectors.mT
    known = torch.tensor([name in made.trained_on.names for name in names.names])
    assert known.any()
    assert not known[:3].all()
    weights = torch.where(known, 0.5, 0.5 if novel is None else novel)
    shares = (made.score_scale.value * logits).log_softmax(-1), sharp.log_softmax(-1)
    joint = ((1 - weights) * shares[0] + weights * shares[1]).softmax(-1)
    factor = logits.amax(-1).sigmoid() * predictions.centreness.sigmoid()
    expected = (joint[..., :3] * factor[..., None]).sqrt()
    assert made.opinion.scale.value != 1
    found = made.detect(asked.images, asked.vocabulary, asked.records)
    for scores, boxes, each in zip(expected, predictions.boxes, found, strict=True):
        naive = decode(scores, boxes, torch.tensor([64, 64]), asked.records[0], made.decoding)
        torch.testing.assert_close(each.scores, naive.scores, rtol=1e-4, atol=1e-6)
        assert (each.labels == naive.labels).float().mean() > 0.95  # ties of equal scores


def test_the_shared_embedding_itself_is_aligned_where_there_is_no_branch(text):
    made = detector(text, regions=RegionAlignment(branch="shared"))
    made.losses(batch())["region"].backward()
    assert made.head.align is None
    assert made.head.embed.weight.grad.abs().sum() > 0


def test_spared_cells_are_nobodys_negatives(text):
    made, without = detector(text), detector(text, regions=RegionAlignment(spare=False))
    losses = made.losses(batch())["grid"], without.losses(batch())["grid"]
    assert losses[0] < losses[1]
    empty = batch()._replace(regions=[RegionTargets(REGIONS[:0], vectors(0, WIDTH))] * 2)
    assert made.losses(empty)["grid"].item() == pytest.approx(losses[1].item(), rel=1e-5)


def test_without_stored_regions_the_teacher_looks_at_boxes_and_proposals(text):
    teacher = ClipTeacher(MINI)
    made = detector(text, teacher=teacher, regions=RegionAlignment(least=0.0, jitter=0.0, found=2))
    asked = batch(regions=False)
    losses = made.losses(asked)
    assert losses["region"] > 0
    proposed = [REGIONS, REGIONS]
    settings = RegionAlignment(jitter=0.0, found=2)
    first, second = look_at(made.teacher, asked, proposed, settings)
    assert torch.equal(first.boxes, torch.cat([BOXED.boxes, REGIONS[1:]]))
    assert torch.equal(second.boxes, REGIONS)
    seen = embed_regions(made.teacher, asked.images, [first.boxes, second.boxes], "pasted")
    torch.testing.assert_close(first.embeddings, seen[0])


def test_jittered_boxes_move_by_less_than_their_share(text):
    boxes = REGIONS.repeat(100, 1)
    moved = (jittered(boxes, 0.1) - boxes).abs() / (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    assert 0.08 < moved.max() <= 0.1 + 1e-6


def test_regions_that_nobody_shows_are_refused_with_both_ways_out(text):
    with pytest.raises(InputError, match=r"teacher: .*no teacher\n.*gridclip propose"):
        detector(text).losses(batch(regions=False))


def test_embeddings_of_another_width_are_refused(text):
    other = batch()._replace(
        regions=[RegionTargets(REGIONS, vectors(2, 24)), RegionTargets(REGIONS[:0], vectors(0, 24))]
    )
    with pytest.raises(InputError, match="24"):
        detector(text).losses(other)


@pytest.mark.parametrize(
    ("field", "value"), [("begin", 1.0), ("temperature", 0.0), ("least", 2.0), ("found", -1)]
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(InputError, match=f"regions.{field}"):
        RegionAlignment(**{field: value})


def test_likely_objects_outside_all_boxes_are_nobodys_negatives(text):
    made = detector(text, region=0.0, negatives=Negatives(unlabelled=0.5))
    asked = batch()
    predictions = made(asked.images, asked.vocabulary)
    cosines = made.cosines(predictions.embeddings, asked.vocabulary)
    cosines = cosines._replace(bias=torch.tensor(0.0))
    spared = made.negatives.leniency(cosines, predictions.cells, asked.targets).unknown
    logits = cosines.logits().amax(-1)
    for image, target in enumerate(asked.targets):
        for row, (x, y) in enumerate(predictions.cells.centres.tolist()):
            boxed = any(a < x < c and b < y < d for a, b, c, d in target.boxes.tolist())
            assert spared[image, row].item() == (logits[image, row].item() > 0 and not boxed)
    assert spared.any()
    assert not spared.all()


def test_related_names_weigh_less_by_the_cosine_of_their_texts(text):
    made = detector(text, region=0.0, negatives=Negatives(related=0.25))
    asked = batch()
    predictions = made(asked.images, asked.vocabulary)
    cosines = made.cosines(predictions.embeddings, asked.vocabulary)
    weights = made.negatives.leniency(cosines, predictions.cells, asked.targets).related
    for row, one in enumerate(cosines.text):
        for column, other in enumerate(cosines.text):
            expected = 1 - 0.25 * max(0.0, torch.dot(one, other).item())
            assert weights[row, column].item() == pytest.approx(expected, abs=1e-5)


def test_a_trained_detector_proposes_what_any_of_its_names_fits(text):
    made = detector(text, region=0.0).eval()
    asked = batch()
    with pytest.raises(InputError, match="no list of names"):
        made.propose(asked.images)
    made.trained_on = asked.vocabulary
    predictions = made(asked.images, asked.vocabulary)
    logits = made.cosines(predictions.embeddings, asked.vocabulary).logits()
    scores = (logits.amax(-1).sigmoid() * predictions.centreness.sigmoid()).sqrt()
    for image, found in enumerate(made.propose(asked.images)):
        left, kept = scores[image].argsort(descending=True).tolist(), []
        while left:
            best = left.pop(0)
            kept.append(best)
            overlaps = box_iou(predictions.boxes[image][best][None], predictions.boxes[image])[0]
            left = [row for row in left if overlaps[row] <= 0.5]
        torch.testing.assert_close(found.boxes, predictions.boxes[image][kept])
        torch.testing.assert_close(found.scores, scores[image][kept])

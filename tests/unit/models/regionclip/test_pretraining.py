"""RegionCLIP's pre-training on batches made by hand; its losses have tests of their own."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from gridclip.data.datamodules.noise import SyntheticPairs
from gridclip.data.synthetic.mini_captions import MiniPairs
from gridclip.io.errors import InputError
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.region_encoders import ClipRegions
from gridclip.models.encoders.text import ClipText, TextVectors
from gridclip.models.regionclip.pretraining import (
    PretrainingWeights,
    RegionPretraining,
    Temperatures,
    enlarged,
)
from gridclip.models.regionclip.region_sources import BatchRegions, ProposedRegions, RandomRegions
from gridclip.models.two_stage.detector import TwoStageDetector
from gridclip.ops.images import pad
from gridclip.structures import ConceptBatch, Images, Proposals, Record, Targets, Vocabulary

MINI = ClipModel(name="gridclip-mini", weights="mini")
POOL = ["red striped star", "green ring", "blue dotted square", "ring", "star"]
CAPTIONS = ("a photo of a green ring", "there is a red striped star in the scene")
NO_BOXES = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))


@pytest.fixture(scope="module")
def text():
    return ClipText(MINI, templates=("a {}",))


def detector(text, **settings):
    torch.manual_seed(0)
    return RegionPretraining(ClipRegions(MINI), text, **({"concepts": POOL} | settings))


def make_images(*sizes):
    torch.manual_seed(1)
    coarse = [torch.rand(1, 3, 7, 7) * 255 for _ in sizes]
    shown = [
        F.interpolate(c, size, mode="nearest")[0].byte()
        for c, size in zip(coarse, sizes, strict=True)
    ]
    return pad(shown)


def batch(sizes=((128, 96), (96, 128)), regions=None, kind="pairs"):
    images = make_images(*sizes)
    count = len(sizes)
    return ConceptBatch(
        kind=kind,
        images=images,
        targets=[NO_BOXES] * count,
        vocabulary=Vocabulary(CAPTIONS[:count]),
        present=torch.eye(count, dtype=torch.bool),
        captions=CAPTIONS[:count],
        records=[Record(n, "", *size) for n, size in enumerate(sizes)],
        regions=regions,
    )


REGIONS = [torch.tensor([[0.0, 0, 50, 60], [20, 30, 90, 120]]), torch.tensor([[5.0, 5, 70, 80]])]


def test_random_regions_have_corners_on_the_grid_inside_each_image():
    torch.manual_seed(0)
    source = RandomRegions(count=500, cell=8)
    images = Images(
        torch.zeros(3, 3, 128, 128).byte(), torch.tensor([[128, 61], [40, 128], [5, 5]])
    )
    for (boxes, scores), (height, width) in zip(
        source.propose(images), images.sizes.tolist(), strict=True
    ):
        assert boxes.shape == (500, 4)
        assert (scores == 1).all()
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes[:, 2:] <= torch.tensor([width, height])).all()
    on_grid = source.propose(images)[0].boxes
    assert (on_grid % 8 == 0).all()
    # Of 7 columns each is the near one as often as any other; the far one is then uniform.
    columns = torch.bincount((on_grid[:, 0] / 8).long(), minlength=7) / 500
    assert (columns - 1 / 7).abs().max() < 0.05
    from_first = on_grid[on_grid[:, 0] == 0, 2] / 8
    assert set(from_first.tolist()) == set(range(1, 8))


def test_stored_regions_are_drawn_from_those_of_the_batch():
    given = batch(regions=REGIONS)
    drawn = BatchRegions(count=1)(given)
    assert [len(each) for each in drawn] == [1, 1]
    assert any(torch.equal(drawn[0][0], box) for box in REGIONS[0])
    seen = {tuple(BatchRegions(1)(given)[0][0].tolist()) for _ in range(30)}
    assert len(seen) == 2
    assert [len(each) for each in BatchRegions(9)(given)] == [2, 1]
    with pytest.raises(InputError, match="carries no regions"):
        BatchRegions()(batch())


class Corners(TwoStageDetector):
    """Proposes what stands in a weight of its own, that a training would change."""

    def __init__(self, *args):
        super().__init__()
        self.boxes = torch.nn.Parameter(REGIONS[0].clone())

    def propose(self, images):
        return [Proposals(self.boxes, torch.tensor([0.9, 0.4]))] * len(images.sizes)

    forward = losses = scores = propose


def test_proposed_regions_are_those_of_a_frozen_network(tmp_path):
    torch.save({"state_dict": {"detector.boxes": REGIONS[0] + 1}}, tmp_path / "last.ckpt")
    source = ProposedRegions(Corners(), str(tmp_path / "last.ckpt"), count=5)
    drawn = source(batch())[1]
    assert torch.equal(drawn.sort(0).values, (REGIONS[0] + 1).sort(0).values)
    assert not drawn.requires_grad
    assert not list(source.parameters())
    assert not source.state_dict()
    torch.save({"state_dict": {"detector.other": REGIONS[0]}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="does not fit"):
        ProposedRegions(Corners(), str(tmp_path / "other.ckpt"))


def test_its_checkpoint_holds_the_encoder_and_nothing_else(text):
    made = detector(text)
    encoder = {f"regions.{name}" for name in ClipRegions(MINI).state_dict()}
    assert set(made.state_dict()) == encoder
    learning = {name for name, weight in made.named_parameters() if weight.requires_grad}
    assert learning
    assert learning < encoder


def test_the_losses_are_those_of_the_papers_formulas_on_kept_regions(text):
    given, pool = batch(regions=REGIONS), text(Vocabulary(POOL))
    images = given.images
    with torch.no_grad():
        seen_by_teacher = F.normalize(ClipRegions(MINI).eval()(images, REGIONS), dim=-1)
    shares = (seen_by_teacher @ pool.T / 0.2).softmax(-1)
    kept = shares.amax(-1) > shares.amax(-1).min()  # all but the least sure
    made = detector(
        text,
        source=BatchRegions(),
        threshold=shares.amax(-1).min().item() + 1e-5,
        temperatures=Temperatures(teacher=0.2, region=0.1, distillation=0.3, image=0.05),
    ).train()
    with torch.no_grad():  # a student that is no longer the teacher
        for weight in made.regions.tower.layer4.parameters():
            weight.mul_(1 + 0.3 * torch.rand_like(weight))
    losses = made.losses(given)
    with torch.no_grad():
        student = F.normalize(made.regions(images, REGIONS), dim=-1)[kept] @ pool.T
        teacher = (seen_by_teacher @ pool.T)[kept]
        whole = [torch.tensor([[0.0, 0, w, h]]) for h, w in images.sizes.tolist()]
        pairs = F.normalize(made.regions(images, whole), dim=-1) @ text.say(CAPTIONS).T / 0.05
    named = teacher.argmax(-1)
    positive = (student / 0.1)[:, named].softmax(-1) * (named[:, None] == named)
    assert losses["region"].item() == pytest.approx(-positive.sum(1).log().mean().item(), rel=1e-3)
    said, truth = (student / 0.3).log_softmax(-1), (teacher / 0.3).softmax(-1)
    gap = (truth * (truth.log() - said)).sum(1).mean()
    assert losses["distillation"].item() == pytest.approx(gap.item(), rel=1e-3)
    match = (pairs.log_softmax(-1) + pairs.log_softmax(0)).diagonal().mean() / 2
    assert losses["image"].item() == pytest.approx(-match.item(), rel=1e-3)


def test_weights_scale_losses_and_zero_leaves_them_out(text):
    given = batch(regions=REGIONS)
    plain = detector(text, source=BatchRegions()).losses(given)
    weights = PretrainingWeights(region=2.0, distillation=0.5, image=0.0)
    scaled = detector(text, source=BatchRegions(), weights=weights).losses(given)
    assert set(scaled) == {"region", "distillation"}
    assert scaled["region"].item() == pytest.approx(2 * plain["region"].item(), rel=1e-5)
    alone = detector(text, weights=PretrainingWeights(region=0.0, distillation=0.0))
    assert alone.teacher is None
    assert alone.losses(given)["image"].item() == pytest.approx(plain["image"].item(), rel=1e-4)


def test_padding_and_neighbours_do_not_change_what_an_image_learns(text):
    made = detector(text, source=BatchRegions(), weights=PretrainingWeights(image=0.0))
    alone = batch(sizes=((96, 80),), regions=[REGIONS[0][:1]])
    among = Images(F.pad(alone.images.pixels, (0, 64, 0, 32), value=77), alone.images.sizes)
    one, other = made.losses(alone), made.losses(alone._replace(images=among))
    for name, loss in one.items():
        assert other[name].item() == pytest.approx(loss.item(), rel=1e-4, abs=1e-5)


def mini_batch():
    """Four images of the mini world, two with one object, with a caption each."""
    pixels, captions = MiniPairs(seed=0, batches=1, batch_size=4, side=128, most=3)[0]
    torch.manual_seed(0)
    images = Images(pixels, torch.tensor([[128, 128]] * 4))
    regions = [found.boxes for found in RandomRegions(count=12).propose(images)]
    given = batch(sizes=((128, 128),) * 2, regions=regions)
    return given._replace(images=images, captions=tuple(captions), records=given.records * 2)


def test_a_few_steps_lower_every_loss_and_leave_the_teacher_as_it_was(text):
    given = mini_batch()
    torch.manual_seed(0)
    made = RegionPretraining(
        ClipRegions(ClipModel(name="gridclip-mini", weights="random")),
        text,
        concepts=POOL,
        source=BatchRegions(),
        teacher=ClipRegions(MINI),
        temperatures=Temperatures(region=0.1, distillation=0.1, image=0.1),
    ).train()
    teacher = made.teacher.network
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    weights = [weight for weight in made.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=2e-3)
    history = []
    for _ in range(32):
        losses = made.losses(given)
        history.append({name: loss.item() for name, loss in losses.items()})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    for name, loss in history[-1].items():
        assert loss < 0.95 * history[0][name], name
    assert all(torch.equal(before[name], t) for name, t in teacher.state_dict().items())
    assert not teacher.training


def test_a_teacher_may_see_images_enlarged_without_their_padding():
    given = make_images((40, 24), (32, 48))
    given.pixels[0, :, 40:], given.pixels[0, :, :, 24:] = 255, 255  # no part of the image
    larger, boxes = enlarged(given, REGIONS, 2)
    for row, (height, width) in enumerate(given.sizes.tolist()):
        wanted = Image.fromarray(given.pixels[row, :, :height, :width].permute(1, 2, 0).numpy())
        wanted = np.asarray(wanted.resize((2 * width, 2 * height), Image.Resampling.BILINEAR))
        ours = larger.pixels[row, :, : 2 * height, : 2 * width].permute(1, 2, 0).numpy()
        assert np.abs(ours.astype(int) - wanted).max() <= 1
    assert larger.sizes.tolist() == [[80, 48], [64, 96]]
    assert torch.equal(boxes[1], 2 * REGIONS[1])


def test_it_is_the_teacher_that_sees_more(text):
    given = batch(regions=REGIONS)
    made = detector(text, source=BatchRegions(), teacher_scale=2)
    larger = enlarged(given.images, REGIONS, 2)
    with torch.no_grad():
        told = F.normalize(made.regions(*larger), dim=-1) @ text(Vocabulary(POOL)).T
        mine = made.region_features(given.images, REGIONS) @ text(Vocabulary(POOL)).T
    gap = F.kl_div((mine / 0.01).log_softmax(-1), (told / 0.01).softmax(-1), reduction="batchmean")
    assert gap > 0.01
    assert made.losses(given)["distillation"].item() == pytest.approx(gap.item(), rel=1e-3)


def test_captioned_noise_makes_batches_that_it_learns_from(text):
    data = SyntheticPairs(names=3, height=64, width=96, length=4, batch_size=2)
    first, second = data.train_dataloader()
    assert first.kind == "pairs"
    assert first.images.pixels.shape == (2, 3, 64, 96)
    assert len({*first.captions, *second.captions}) == 4
    assert [len(target.boxes) for target in first.targets] == [0, 0]
    shown = [name for name, on in zip(first.vocabulary.names, first.present[1], strict=True) if on]
    assert any(first.captions[1].endswith(name) for name in shown)
    losses = detector(text).losses(first)
    assert set(losses) == {"region", "distillation", "image"}
    assert all(loss.isfinite() for loss in losses.values())


def test_given_boxes_and_proposed_boxes_have_the_same_features_and_names(text):
    made = detector(text, source=ProposedRegions(Corners())).eval()
    images, names = batch().images, Vocabulary(POOL)
    with torch.no_grad():
        proposed = made(images, names)
        given = [found.boxes for found in made.propose(images)]
        features = made.region_features(images, given)
        shares = made.classify(images, given, names)
    torch.testing.assert_close(proposed.text, features, atol=1e-6, rtol=0)
    assert shares.sum(-1).allclose(torch.ones(4))
    assert torch.equal(shares.argmax(-1), (features @ text(names).T).argmax(-1))


def test_a_regions_score_is_its_softmax_with_a_background_of_cosine_zero(text):
    made = detector(text, source=ProposedRegions(Corners()), fusion="none").eval()
    given, names = batch(sizes=((128, 128),)), Vocabulary(POOL)
    found = made.detect(given.images, names, given.records)[0]
    with torch.no_grad():
        cosines = made.region_features(given.images, [REGIONS[0]]) @ text(names).T
    powers = [[math.exp(c / 0.01) for c in row] for row in cosines.tolist()]
    wanted = [max(row) / (sum(row) + 1) for row in powers]
    for box, score in zip(REGIONS[0], wanted, strict=True):
        of_box = (found.boxes - box).abs().amax(1) < 1e-3
        assert found.scores[of_box].max().item() == pytest.approx(score, rel=1e-3)


def test_sentences_are_said_without_a_template_and_may_come_twice(text, tmp_path):
    tower = MINI.create()
    said = text.say([CAPTIONS[1], CAPTIONS[0], CAPTIONS[1]])
    with torch.no_grad():
        wanted = F.normalize(tower.encode_text(MINI.tokenizer()([*CAPTIONS])), dim=-1)
    torch.testing.assert_close(said, wanted[[1, 0, 1]], atol=1e-5, rtol=0)
    np.save(tmp_path / "vectors.npy", np.eye(3, 4))
    (tmp_path / "names.txt").write_text("star\nring\ncup\n")
    listed = TextVectors(str(tmp_path / "vectors.npy"), str(tmp_path / "names.txt"))
    assert torch.equal(listed.say(["cup", "star", "cup"]), torch.eye(3, 4)[[2, 0, 2]])
    with pytest.raises(InputError, match=r"no vector for 1 names, first: a photo"):
        listed.say(["a photo of a cup"])


def test_the_pool_is_read_from_a_file_of_names(text, tmp_path):
    (tmp_path / "concepts.txt").write_text("star\ngreen ring\n")
    assert detector(text, concepts=str(tmp_path / "concepts.txt")).concepts.names == (
        "star",
        "green ring",
    )


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda text: detector(text, concepts="nowhere.txt"), "nowhere.txt"),
        (lambda text: detector(text, concepts=["star", "star"]), "twice: star"),
        (lambda text: PretrainingWeights(region=-1.0), "weights.region"),
        (lambda text: Temperatures(image=0.0), "temperatures.image"),
        (lambda text: detector(text, teacher_scale=0), "teacher_scale"),
        (lambda text: RandomRegions(count=0), "count: 0"),
        (lambda text: RandomRegions(cell=0), "cell: 0"),
        (lambda text: detector(text).losses(batch(kind="detection")), "RegionPretraining learns"),
        (
            lambda text: detector(text, source=BatchRegions()).propose(batch().images),
            "for training only",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(text, make, problem):
    with pytest.raises(InputError, match=problem):
        make(text)

"""How much faster does GridCLIP-R50 detect than ViLD, RegionCLIP, and CLIP on every proposal?

One image of 800 × 1333, 1203 names, random weights, the same backbone and machine, all in turn.
ViLD has its released form: 1000 proposals, heads of 4 convolutions and 2 layers; the ensemble has
two of them, and finds boxes only, or boxes and masks as it was published (masks on grids, not yet
pasted into the image). GridCLIP finds boxes only. RegionCLIP has its own form: two backbones, and a
CLIP's last stage on each of 1000 proposals. Crop-and-classify sees 1000 proposals at two scales and
takes minutes an image, so it has one turn. About ten minutes:  python benchmarks/vild_inference.py
"""

from collections.abc import Callable

import _networks
import _timing

from gridclip.models.base import Detector
from gridclip.models.encoders.teachers import ClipTeacher
from gridclip.models.vild.crop_and_classify import CropAndClassify

MASKS = "vild-ensemble with masks"


def main() -> None:
    given = _timing.arguments(__doc__, names=1203, crops=1000)
    size, crops = (_networks.SMALL, 20) if given.quick else (_networks.FULL, given.crops)
    runs = sides(size, given.names, crops, given.device)
    slow = runs.pop("crop-and-classify")
    taken = _timing.seconds(runs, given.rounds)
    goals = {MASKS: "≥ 3.8", "vild-ensemble": "≥ 5", "vild-text": "–", "regionclip": "–"}
    rows = [
        _timing.row(
            f"inference, {given.names} names, towers of {convs}: times faster than {peer}",
            taken[f"towers of {convs}"],
            taken[peer],
            goal,
            faster=True,
        )
        for peer, goal in goals.items()
        for convs in (4, 2, 1)
    ]
    once = _timing.seconds({"ours": runs["towers of 1"], "slow": slow}, 1, warm_up=False)
    rows.append(
        _timing.row(
            f"the same, towers of 1: times faster than CLIP on {crops} proposals (one turn)",
            once["ours"],
            once["slow"],
            "≥ 100",
            faster=True,
        )
    )
    _timing.report(rows, given)


def sides(
    size: tuple[int, int], names: int, crops: int, device: str
) -> dict[str, Callable[[], object]]:
    vocabulary, records = _networks.names(names), _networks.records(size)
    images = _networks.images(size)
    images = type(images)(*(part.to(device) for part in images))
    networks = {f"towers of {convs}": _networks.gridclip(convs) for convs in (4, 2, 1)}
    networks |= {variant: _networks.vild(variant) for variant in ("vild-ensemble", "vild-text")}
    networks[MASKS] = _networks.vild("vild-ensemble", masks=True)
    networks["regionclip"] = _networks.regionclip()
    networks["crop-and-classify"] = CropAndClassify(
        _networks.vild("vild-text"),
        _networks.RandomText(),
        ClipTeacher(_networks.RN50),
        limit=crops,
    )

    def run(network: Detector) -> Callable[[], object]:
        network.eval().to(device)
        return lambda: network.detect(images, vocabulary, records)

    return {name: run(network) for name, network in networks.items()}


if __name__ == "__main__":
    main()

"""What does detection pay for a large vocabulary: 20 000 names against 80, time and memory?

GridCLIP-R50 at 800 × 1333 with random weights. Vocabularies take turns; peak memory of each in a
process of its own, the network's weights and the vectors of names not counted, which are made
beforehand. About three minutes:  python benchmarks/vocabulary.py
"""

from collections.abc import Callable

import _networks
import _timing

from gridclip.ops.postprocess import DecodeSettings

COUNTS = (80, 1203, 13_000, 20_000)


def main() -> None:
    given = _timing.arguments(__doc__, num_convs=4)
    size = _networks.SMALL if given.quick else _networks.FULL
    if given.memory:
        _timing.print_peak(side(size, given.num_convs, int(given.memory), given.device))
        return
    sides: dict[str, Callable[[], object]] = {
        str(count): side(size, given.num_convs, count, given.device, shared=True)
        for count in COUNTS
    }
    sides["competing"] = side(
        size, given.num_convs, 1203, given.device, shared=True, competing=True
    )
    taken = _timing.seconds(sides, given.rounds)
    peaks = {count: _timing.memory_of(str(count)) for count in (80, 20_000)}
    rows = [
        _timing.row(
            f"detect at {count} names against 80 ({size[0]} × {size[1]})",
            taken[str(count)],
            taken["80"],
            "≤ 1.3" if count == 20_000 else "–",
            faster=False,
        )
        for count in COUNTS[1:]
    ]
    question = f"1203 names that compete against 1203 that do not ({size[0]} × {size[1]})"
    rows.append(_timing.row(question, taken["competing"], taken["1203"], "–", faster=False))
    rows.append(
        _timing.memory_row("the same at 20 000: peak memory", peaks[20_000], peaks[80], "≤ 1.2")
    )
    _timing.report(rows, given)


_shared = {}


def side(
    size: tuple[int, int],
    num_convs: int,
    count: int,
    device: str,
    *,
    shared: bool = False,
    competing: bool = False,
) -> Callable[[], object]:
    """Detection with so many names; `shared`: by the same network as others."""
    key = num_convs if shared else count
    if key not in _shared:
        _shared[key] = _networks.gridclip(num_convs).eval().to(device)
    detector, vocabulary = _shared[key], _networks.names(count)
    detector.folding.names(vocabulary).prototypes  # noqa: B018 - they are kept from then on
    images = type(_networks.images(size))(*(p.to(device) for p in _networks.images(size)))
    decoding = DecodeSettings(score="competing" if competing else "independent")

    def run() -> object:
        detector.decoding = decoding
        return detector.detect(images, vocabulary, _networks.records(size))

    return run


if __name__ == "__main__":
    main()

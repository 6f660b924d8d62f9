"""Kill -9 in the middle of an epoch, resume, and nothing differs from the run that went through."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch

from gridclip.cli import main
from gridclip.data.datasets.image_level import ImageLevelSource, ImageSample
from gridclip.data.sampling import SampleIndex
from gridclip.structures import Record, Vocabulary

ROW = Path(__file__).parents[2] / "experiments" / "mini" / "gridclip.yaml"
STEPS = 9  # of an epoch: 6 of 8 images with boxes, 3 of 4 without
EPOCHS = 4
KILLED = 16  # after so many steps


class Noise(ImageLevelSource):
    """Images without boxes, and names drawn for them; five turns of three a pass."""

    def __init__(self) -> None:
        self.vocabulary = Vocabulary(["red plain circle", "blue striped square"])
        self.sizes = np.array([[48, 64], [64, 40]] * 7)

    def check(self) -> None:
        pass

    def __getitem__(self, draw: SampleIndex | int) -> ImageSample:
        height, width = self.sizes[draw.row].tolist()
        chance = np.random.default_rng((draw.epoch, draw.row))
        return ImageSample(
            torch.from_numpy(chance.integers(0, 256, (3, height, width), np.uint8)),
            torch.from_numpy(chance.random(2, np.float32)),
            Record(draw.row, str(draw.row), height, width),
        )


class Witness(lightning.Callback):
    """Writes down what each step saw and lost, to the last bit; kills its processes if asked.

    Args:
        folder: Where; one file for each process.
        kill_after: Steps after which the whole process group dies, as by `kill -9`.
    """

    def __init__(self, folder: str, kill_after: int | None = None) -> None:
        self.folder, self.kill_after = Path(folder), kill_after

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        line = {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "index": batch_idx,
            "kind": type(batch).__name__,
            "ids": [record.image_id for record in batch.records],
            "loss": outputs["loss"].item().hex(),
        }
        with (self.folder / f"rank{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.kill_after:
            trainer.strategy.barrier()  # so that every process has written all its lines
            os.killpg(0, signal.SIGKILL)


def fit(folder, root, *arguments, kill_after=None):
    """The command line of a small run with a witness."""
    witness = {"folder": str(folder), "kill_after": kill_after}
    folder.mkdir(exist_ok=True)
    return [
        "fit",
        f"--config={ROW}",
        f"--run_dir={folder}",
        f"--data.init_args.root={root}",
        "--data.init_args.batch_size=8",
        '--data.init_args.resize={"shortest": [48, 64], "longest": 64}',
        '--data.init_args.val_resize={"shortest": [64], "longest": 64}',
        "--model.detector.init_args.width=16",
        "--model.detector.init_args.num_convs=1",
        f"--data.init_args.image_level={__name__}.Noise",
        "--data.init_args.image_level_ratio=0.5",
        "--data.init_args.image_level_batch_size=4",
        "--model.detector.init_args.weights.pseudo=1.0",
        "--trainer.max_steps=-1",
        f"--trainer.max_epochs={EPOCHS}",
        "--trainer.val_check_interval=5",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.callbacks+="
        + json.dumps({"class_path": f"{__name__}.Witness", "init_args": witness}),
        "--trust",  # Noise and Witness are no classes of gridclip
        *arguments,
    ]


def run_apart(command, *, check=True):
    """In processes of their own, which a witness may kill."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),  # the order of sums is part of the bits
    }
    return subprocess.run(
        [sys.executable, "-m", "gridclip", *command],
        check=check,
        timeout=280,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def seen(folder, rank=0):
    return [json.loads(line) for line in (folder / f"rank{rank}.jsonl").read_text().splitlines()]


def history(folder):
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def last_weights(folder):
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["global_step"], checkpoint["state_dict"]


def require_equal(whole, resumed, *, first, rank=0):
    """Every step from the first one on, and what was killed before, as in the whole run."""
    expected, witnessed = seen(whole, rank), seen(resumed, rank)
    assert [line["step"] for line in expected] == list(range(1, STEPS * EPOCHS + 1))
    assert witnessed[:KILLED] == expected[:KILLED]
    assert witnessed[KILLED:] == expected[first - 1 :]


@pytest.fixture(scope="module")
def whole(mini_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    main(fit(folder, mini_root, "--data.init_args.num_workers=0"))
    return folder


@pytest.fixture(scope="module")
def whole_of_two(mini_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole_of_two"
    run_apart(fit(folder, mini_root, "--data.init_args.num_workers=0", *TWO))
    return folder


TWO = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.init_args.batch_size=4"]
BY_STEPS = [f"--trainer.max_steps={STEPS * EPOCHS}", "--trainer.max_epochs=-1"]


@pytest.mark.parametrize(
    ("workers", "every", "settings"),
    [
        # the checkpoint is one of a validation, whose line stands
        pytest.param(0, 5, [], marks=pytest.mark.slow),
        (2, 7, []),  # a validation came after the checkpoint, and comes again
        pytest.param(2, 4, BY_STEPS, marks=pytest.mark.slow),
        pytest.param(0, 7, BY_STEPS, marks=pytest.mark.slow),
    ],
)
def test_a_killed_training_goes_on_as_if_nothing_had_been(
    mini_root, whole, tmp_path, workers, every, settings
):
    """Ids and losses of both kinds of batch, to the last bit, over the rest of the second epoch and
    the next two, the history, and the weights at the end.
    """
    settings = [*settings, f"--data.init_args.num_workers={workers}"]
    resume = kill(tmp_path / "killed", mini_root, every, settings)
    main(resume)
    require_same_run(whole, tmp_path / "killed", every)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_two_killed_processes_go_on_as_if_nothing_had_been(
    mini_root, whole_of_two, tmp_path, workers
):
    settings = [*TWO, f"--data.init_args.num_workers={workers}"]
    resume = kill(tmp_path / "killed", mini_root, 7, settings)
    run_apart(resume)
    require_same_run(whole_of_two, tmp_path / "killed", 7, processes=2)


def kill(folder, root, every, settings):
    """Start a training, kill it in the second epoch; how to resume it."""
    settings = [*settings, f"--checkpoint_every_steps={every}"]
    killed = run_apart(fit(folder, root, *settings, kill_after=KILLED), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [line["step"] for line in history(folder)] == [5, 10, 15]
    return fit(folder, root, *settings, f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}")


def require_same_run(whole, resumed, every, processes=1):
    for rank in range(processes):
        require_equal(whole, resumed, first=KILLED // every * every + 1, rank=rank)
    assert {line["kind"] for line in seen(whole)} == {"DetectionBatch", "ImageBatch"}
    assert history(resumed) == history(whole)
    (steps, weights), (again, others) = last_weights(whole), last_weights(resumed)
    assert steps == again == STEPS * EPOCHS
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_training_is_not_resumed_in_another_way(mini_root, whole, tmp_path, capsys):
    checkpoint = f"--ckpt_path={whole / 'checkpoints' / 'last.ckpt'}"
    changed = ["batch_size=4", "seed=3", "image_level_ratio=1.0", "keep_empty=false"]
    arguments = [f"--data.init_args.{each}" for each in changed]
    with pytest.raises(SystemExit):
        main(fit(tmp_path / "other", mini_root, "--trainer.max_epochs=9", checkpoint, *arguments))
    told = capsys.readouterr().err
    assert "batch_size was 8, now 4; seed was 0, now 3; image_level_ratio was 0.5, now 1.0" in told
    assert "fix: resume it as it began" in told
    assert not (tmp_path / "other" / "rank0.jsonl").exists()


@pytest.mark.slow
def test_a_training_is_not_resumed_by_more_processes(mini_root, whole, tmp_path):
    checkpoint = f"--ckpt_path={whole / 'checkpoints' / 'last.ckpt'}"
    stopped = run_apart(
        fit(tmp_path / "other", mini_root, "--trainer.max_epochs=9", checkpoint, *TWO), check=False
    )
    assert stopped.returncode == 2
    assert b"processes was 1, now 2" in stopped.stderr
    assert not (tmp_path / "other" / "rank0.jsonl").exists()


@pytest.mark.slow
def test_a_death_while_a_checkpoint_is_written_leaves_the_one_before(mini_root, tmp_path):
    """The disk takes no more than a part of the second checkpoint, and the process dies of it."""
    settings = ["--checkpoint_every_steps=2", f"--trainer.callbacks+={__name__}.FullDisk"]
    died = run_apart(fit(tmp_path, mini_root, *settings), check=False)
    assert died.returncode == -signal.SIGXFSZ
    assert last_weights(tmp_path)[0] == 2


class FullDisk(lightning.Callback):
    """Lets no file grow beyond 50 kB from the third step on."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 3:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python would turn into an error
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

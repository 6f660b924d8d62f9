"""Kill -9 in the middle of an epoch, resume, and nothing differs from the run that went through."""

import resource
import signal

import lightning
import pytest
import torch
from witnessed import BY_STEPS, EPOCHS, STEPS, TWO, fit, history, last_weights, run_apart, seen

from gridclip.cli import main

KILLED = 16  # after so many steps


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


@pytest.mark.parametrize(
    ("workers", "every", "settings"),
    [
        # the checkpoint follows a validation, whose line stands
        pytest.param(0, 5, [], marks=pytest.mark.slow),
        (2, 7, []),  # the checkpoint is from before a validation, which comes again
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


def saved(every):
    """Last step of which there is a checkpoint: as asked, and before every validation."""
    return max(KILLED // every * every, KILLED // 5 * 5)


def require_same_run(whole, resumed, every, processes=1):
    for rank in range(processes):
        require_equal(whole, resumed, first=saved(every) + 1, rank=rank)
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
    told = stopped.stderr.decode()
    assert "was written by 1 processes at step 36, after 240 images; now there are 2" in told
    assert "--model.init_from" in told
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

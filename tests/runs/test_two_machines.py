"""Two machines train one run; one is killed or cut off, and the run goes on as if it had not been.

The machines are two torchrun nodes: on the loopback device, or each in a network namespace of its
own, with a link between them that can be cut, where that is allowed.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
import torch
from witnessed import TWO, asking, environment, fit, history, last_weights, run_apart, seen

from gridclip.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.field]

SHORT = [
    "--trainer.val_check_interval=6",
    "--trainer.max_epochs=2",
    "--trainer.limit_val_batches=2",
    "--data.init_args.num_workers=0",
    "--checkpoint_every_steps=2",
]
STEPS = 18
PATIENCE = 540  # seconds for a run of a few
# Else torchrun tells the address of the first process once, and who joins later waits for it.
LATE_JOINERS = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


class Machines:
    """Two nodes of torchrun, of which the first hosts the rendezvous.

    Args:
        address: Of the first.
        logs: A folder for what the nodes print.
        device: Network device of each.
        prefixes: Words before the command on each.
    """

    def __init__(self, address, logs, devices=("lo", "lo"), prefixes=((), ())):
        self.address, self.devices, self.prefixes = address, devices, prefixes
        self.logs = logs
        self.nodes = [None, None]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def start(self, node, *words):
        """Starts `gridclip fit` on a machine; its error output is kept in a file."""
        launch = [
            *(*self.prefixes[node], sys.executable, "-m", "torch.distributed.run", "--nnodes=2"),
            *("--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-id=test"),
            f"--rdzv-endpoint={self.address}:{self.port}",
            # The first hosts it, not who comes first on one machine; who is alone gives up in time.
            f"--rdzv-conf=is_host={str(node == 0).lower()},join_timeout=120",
            f"--local-addr={self.address[:-1]}{node + 1}",
            *("-m", "gridclip"),
        ]
        with (self.logs / f"node{node}.txt").open("a") as log:
            self.nodes[node] = subprocess.Popen(
                [*launch, *words, "--trainer.num_nodes=2", "--trainer.devices=1"],
                env=environment() | LATE_JOINERS | {"GLOO_SOCKET_IFNAME": self.devices[node]},
                start_new_session=True,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start_both(self, *words):
        for node in (0, 1):
            self.start(node, *words)

    def ends(self):
        return [node.wait(PATIENCE) for node in self.nodes]

    def trainings(self):
        """The processes that torchrun started and that still run."""
        alive = [node.pid for node in self.nodes if node.poll() is None]
        found = [child for pid in alive for child in psutil.Process(pid).children(recursive=True)]
        return [each for each in found if each.status() != psutil.STATUS_ZOMBIE]

    def kill(self, node):
        """As a machine that loses its power: torchrun and all that it started, at once."""
        root = self.nodes[node].pid
        told = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, check=True)
        pairs = [tuple(map(int, line.split())) for line in told.stdout.splitlines()]
        family = {root}
        for _ in pairs:  # a child may be listed before its parent
            family |= {child for child, parent in pairs if parent in family}
        for process in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.nodes[node].wait()

    def end(self):
        for node, process in enumerate(self.nodes):
            if process is not None and process.poll() is None:
                self.kill(node)


@pytest.fixture
def loopback(tmp_path):
    machines = Machines("127.0.0.1", tmp_path)
    yield machines
    machines.end()


@pytest.fixture
def apart(tmp_path):
    """In two network namespaces, and what cuts (or mends) the link between them."""
    names, devices = (f"gc{os.getpid()}a", f"gc{os.getpid()}b"), ("gcva", "gcvb")

    def ip(*words):
        return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0

    if not all(ip("netns", "add", name) for name in names):
        pytest.skip("no network namespaces may be made here")
    link = ("link", "add", devices[0], "netns", names[0], "type", "veth")
    assert ip(*link, "peer", "name", devices[1], "netns", names[1])
    for number, (name, device) in enumerate(zip(names, devices, strict=True), start=1):
        assert ip("-n", name, "addr", "add", f"10.231.77.{number}/24", "dev", device)
        assert ip("-n", name, "link", "set", "lo", "up")
        assert ip("-n", name, "link", "set", device, "up")
    prefixes = tuple(("ip", "netns", "exec", name) for name in names)
    machines = Machines("10.231.77.1", tmp_path, devices, prefixes)
    yield machines, lambda state: ip("-n", names[0], "link", "set", devices[0], state)
    machines.end()
    for name in names:
        ip("netns", "del", name)


@pytest.fixture(scope="module")
def whole(mini_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run_apart(fit(folder, mini_root, *SHORT, *TWO))
    return folder


def words(folder, root, *options):
    return fit(folder, root, *SHORT, "--data.init_args.batch_size=4", *options)


def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def require_same(whole, folder):
    """Whatever was repeated, each step is that of the run that nothing happened to."""
    for rank in (0, 1):
        expected = {line["step"]: line for line in seen(whole, rank)}
        found = seen(folder, rank)
        assert all(line == expected[line["step"]] for line in found)
        assert {line["step"] for line in found} == set(range(1, STEPS + 1))
    assert history(folder) == history(whole)
    (steps, weights), (again, others) = last_weights(whole), last_weights(folder)
    assert steps == again == STEPS
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert (folder / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()


def lost_steps(folder, rank=0):
    """How many steps were trained again."""
    return len(seen(folder, rank)) - STEPS


def seconds_until_it_goes_on(folder):
    """From now until a step that was not trained yet."""
    before, began = max(line["step"] for line in seen(folder)), time.monotonic()
    until(lambda: max(line["step"] for line in seen(folder)) > before)
    return round(time.monotonic() - began, 1)


def test_a_killed_process_costs_steps_since_the_checkpoint_and_the_run_goes_on_by_itself(
    mini_root, whole, tmp_path, loopback, record_property
):
    folder, died = tmp_path / "run", tmp_path / "died"
    dies = asking(signal.SIGKILL, 12, rank=1, once=str(died))
    loopback.start_both(*words(folder, mini_root, dies))
    until(died.exists)
    record_property("seconds until it went on", seconds_until_it_goes_on(folder))
    assert loopback.ends() == [0, 0]
    record_property("steps trained again", lost_steps(folder))
    assert lost_steps(folder) <= 2
    require_same(whole, folder)


def test_a_machine_that_is_lost_and_started_again_joins_the_run(
    mini_root, whole, tmp_path, loopback, record_property
):
    folder = tmp_path / "run"
    loopback.start_both(*words(folder, mini_root))
    until(lambda: (folder / "rank1.jsonl").exists() and len(seen(folder, 1)) >= 7)
    loopback.kill(1)
    loopback.start(1, *words(folder, mini_root))
    record_property("seconds until it went on", seconds_until_it_goes_on(folder))
    assert loopback.ends() == [0, 0]
    record_property("steps trained again", lost_steps(folder))
    assert lost_steps(folder) <= 2
    require_same(whole, folder)


def test_a_cut_link_ends_both_sides_in_time_and_the_same_command_goes_on(
    mini_root, whole, tmp_path, apart, record_property
):
    machines, link = apart
    folder, timeout = tmp_path / "run", "--process_timeout=0.25"
    machines.start_both(*words(folder, mini_root, timeout))
    until(lambda: (folder / "rank1.jsonl").exists() and len(seen(folder, 1)) >= 7)
    assert link("down")
    began = time.monotonic()
    until(lambda: not machines.trainings())
    assert time.monotonic() - began < 300
    record_property("seconds until both sides ended", round(time.monotonic() - began, 1))
    assert not (folder / "metrics.json").exists()
    machines.end()  # torchrun itself waits for TCP to give up, a quarter of an hour
    assert link("up")
    machines.start_both(*words(folder, mini_root, timeout))
    record_property("seconds until it went on", seconds_until_it_goes_on(folder))
    assert machines.ends() == [0, 0]
    record_property("steps trained again", lost_steps(folder))
    require_same(whole, folder)


def test_one_process_evaluates_the_weights_of_two_machines_to_the_same_figures(
    mini_root, whole, tmp_path
):
    last = whole / "checkpoints" / "last.ckpt"
    evaluated = fit(tmp_path / "again", mini_root, *SHORT[2:4], f"--ckpt_path={last}")
    kept = [word for word in evaluated[1:] if not word.startswith(("--config", "--trainer.call"))]
    one = ["--trainer.callbacks=null", "--trainer.devices=1", "--trainer.strategy=auto"]
    main(["validate", f"--config={whole / 'config.yaml'}", *kept, *one])
    alone, both = (
        json.loads((run / "metrics.json").read_text()) for run in (tmp_path / "again", whole)
    )
    assert alone == both

"""Machines that run one sweep and to which anything may happen: own network, disk and clock each.

Each machine has a network namespace with a link to the database, a small disk of its own, and a
runner whose clock can be set. They share the process ids of this computer, so a runner that died
is known to be dead at once; one that is cut off is not.
"""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml
from postgresql_server import Server
from small_disks import fill, mount, unmount

from gridclip.sweeps.running.guard import MARK

STEPS = 20
LEASE = 6  # seconds
NAN = (7, 19)  # trials whose loss is no number
TESTED = "MACHINE_OF_TEST"

# A training that saves every second step and goes on from there. Its figure hangs on every step.
PROGRAM = """
import fcntl, hashlib, json, os, sys, time
from pathlib import Path
number = dict(word.removeprefix("--").split("=") for word in sys.argv[1:])["x"]
hold = open(f"hold-{number}", "w")
def tell(word):
    handle = os.open("told", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    place = os.environ["MACHINE_OF_TEST"]
    os.write(handle, f"{time.monotonic()} {place} {number} {word}\\n".encode())
try:
    fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    tell("twice")
run = Path(os.environ["GRIDCLIP_RUN_DIR"])
last = run / "checkpoints" / "last.ckpt"
state = {"step": 0, "sum": "", "rows": []}
if os.environ.get("GRIDCLIP_GO_ON") == "1" and last.exists():
    state = json.loads(last.read_text())
last.parent.mkdir(exist_ok=True)
(run / "config.yaml").write_text("{}")
def write(file, text):
    part = file.with_suffix(".part")
    part.write_text(text)
    part.replace(file)
for step in range(state["step"] + 1, STEPS + 1):
    time.sleep(SECONDS)
    state["step"] = step
    state["sum"] = hashlib.sha256(f"{state['sum']}{number}{step}".encode()).hexdigest()
    if step % 5 == 0:
        state["rows"].append({"step": step, "val/APr": int(state["sum"][:8], 16) / 16**8})
        write(run / "history.jsonl", "".join(json.dumps(row) + "\\n" for row in state["rows"]))
    if step % 2 == 0:
        write(last, json.dumps(state))
    tell(step)
figure = float("nan") if int(number) in NAN else int(state["sum"][:8], 16) / 16**8
write(run / "metrics.json", json.dumps({"APr": figure}))
"""

# The runner, whose clock is moved by the seconds that a file has: that of records, and the time of
# the system's start, which Linux moves when its clock is set.
RUNNER = """
import sys, datetime, psutil, psutil._pslinux
from pathlib import Path
from gridclip.sweeps.running import claims, running_trial
file, real = Path(sys.argv.pop(1)), psutil._pslinux.boot_time
def moved():
    return float(file.read_text() or 0) if file.exists() else 0.0
class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.now(tz) + datetime.timedelta(seconds=moved())
psutil._pslinux.boot_time = psutil.boot_time = lambda: real() + moved()
claims.datetime = running_trial.datetime = Clock
from gridclip.cli import main
main(sys.argv[1:])
"""


def expected(number: int) -> float | None:
    """The figure of a trial that nothing happens to."""
    total = ""
    for step in range(1, STEPS + 1):
        total = hashlib.sha256(f"{total}{number}{step}".encode()).hexdigest()
    return None if number in NAN else int(total[:8], 16) / 16**8


def write_sweep(trials: int, seconds: float) -> None:
    """The sweep file and its program, in this folder; a step takes so many seconds."""
    text = PROGRAM.replace("SECONDS", str(seconds)).replace("STEPS", str(STEPS))
    Path("train.py").write_text(text.replace("in NAN", f"in {NAN}"))
    config = {
        "method": "grid",
        "program": "train.py",
        "metric": {"name": "val/APr", "goal": "maximize"},
        "parameters": {"x": {"values": list(range(1, trials + 1))}},
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(config))


def ip(*words: str) -> bool:
    """Whether a command of iproute2 went well."""
    try:
        return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


class Machine:
    """One machine.

    Args:
        place: Its number, from 1.
        storage: The database, as a function of this machine's address of the host.
    """

    def __init__(self, place: int, storage: Callable[[str], str]) -> None:
        self.place, self.name, self.device = place, f"gcm{os.getpid()}-{place}", f"gcm{place}"
        self.disk, self.clock = Path(f"disk{place}"), Path(f"clock{place}")
        self.address = storage(f"10.231.{77 + place}.1")
        self.runner: subprocess.Popen[bytes] | None = None

    def build(self) -> bool:
        """Makes its network and its disk; returns whether that is allowed here."""
        near, far = f"10.231.{77 + self.place}.1/24", f"10.231.{77 + self.place}.2/24"
        return (
            ip("netns", "add", self.name)
            and ip(
                "link", "add", self.device, "type", "veth", "peer", "name", "e0", "netns", self.name
            )
            and ip("addr", "add", near, "dev", self.device)
            and ip("link", "set", self.device, "up")
            and ip("-n", self.name, "addr", "add", far, "dev", "e0")
            and ip("-n", self.name, "link", "set", "e0", "up")
            and ip("-n", self.name, "link", "set", "lo", "up")
            and mount(self.disk, megabytes=24)
        )

    def remove(self) -> None:
        """Kills all that runs on it, and takes it away."""
        for process in [*self.processes("trial"), *self.processes("guard")]:
            process.kill()
        if self.runner is not None:
            self.runner.kill()
            self.runner.wait()
        ip("link", "del", self.device)
        ip("netns", "del", self.name)
        unmount(self.disk)

    def start(self, *options: str) -> None:
        """Starts its runner."""
        command = ["ip", "netns", "exec", self.name, sys.executable, "-c", RUNNER, str(self.clock)]
        command += ["sweep", "run", "sweep.yaml", "--dir", str(self.disk), "--attempts=1000"]
        with Path(f"runner{self.place}.log").open("ab") as log:
            self.runner = subprocess.Popen(
                [*command, f"--storage={self.address}", f"--lease={LEASE}", "--jobs=2", *options],
                env={**os.environ, TESTED: str(self.place), "PWD_OF_TEST": str(Path.cwd())},
                stdout=log,
                stderr=log,
            )

    def processes(self, kind: str) -> list[psutil.Process]:
        """Those of its trials: the program, or its guard."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                if (
                    environment.get("PWD_OF_TEST") == str(Path.cwd())
                    and environment.get(TESTED) == str(self.place)
                    and MARK in environment
                ):
                    is_guard = any(word.endswith("guard.py") for word in process.cmdline())
                    found += [process] * (is_guard == (kind == "guard"))
        return found

    def send(self, number: signal.Signals) -> bool:
        """Sends its runner a signal, if it runs."""
        if self.runner is None or self.runner.poll() is not None:
            return False
        self.runner.send_signal(number)
        return True

    def signal_one(self, kind: str, number: signal.Signals) -> bool:
        """Sends one of its trials, or a guard, a signal."""
        for process in self.processes(kind):
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
                return True
        return False

    def link(self, state: str) -> bool:
        """Cuts its link, or mends it."""
        return ip("link", "set", self.device, state)

    def set_clock(self, seconds: float) -> bool:
        """Sets its clock by so much."""
        self.clock.write_text(str(seconds))
        return True

    def fill(self) -> bool:
        """Takes all the room on its disk."""
        fill(self.disk / "filling")
        return True

    def make_room(self) -> bool:
        """Gives it back."""
        (self.disk / "filling").unlink(missing_ok=True)
        return True


def later(seconds: float, act: Callable[[], object]) -> bool:
    """Does something after a while, beside what goes on."""
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    return True


Fault = Callable[[Machine], bool]  # returns whether it happened


def faults(server: Server) -> dict[str, Fault]:
    """All that may happen to a machine or to the database of all, by name."""
    kill, stop, go_on = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT
    return {
        "kill -9 of a trial": lambda m: m.signal_one("trial", kill),
        "kill -9 of a guard": lambda m: m.signal_one("guard", kill),
        "kill -9 of a runner": lambda m: m.send(kill),
        "SIGTERM to a runner": lambda m: m.send(signal.SIGTERM),
        "SIGUSR1 to a runner": lambda m: m.send(signal.SIGUSR1),
        "a runner hangs for 5 s": lambda m: m.send(stop) and later(5, lambda: m.send(go_on)),
        "link down for 3 s": lambda m: m.link("down") and later(3, lambda: m.link("up")),
        "link down for 10 s": lambda m: m.link("down") and later(10, lambda: m.link("up")),
        "clock an hour on": lambda m: m.set_clock(3600),
        "clock an hour back": lambda m: m.set_clock(-3600),
        "disk full for 3 s": lambda m: m.fill() and later(3, m.make_room),
        "database crashes": lambda _: server.crash(),
        "database down for 4 s": lambda _: server.down(4),
    }


def told() -> list[tuple[float, int, int, str]]:
    """What trials told: when, on which machine, which trial, and which step or `twice`."""
    file = Path("told")
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return [(float(when), int(place), int(trial), word) for when, place, trial, word in lines]

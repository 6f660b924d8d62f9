"""SLURM's programs as far as submitit calls them, on one machine. A signal reaches the task alone.

Run as sbatch, srun, scontrol or scancel; SLURM_STAND_IN names a folder for what they remember.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.environ.get("SLURM_STAND_IN", "."))


def tell(*words: str) -> None:
    with (HERE / "asked").open("a") as file:
        file.write(" ".join(words) + "\n")


def sbatch(script: str) -> None:
    text = Path(script).read_text()
    tell(*re.findall(r"#SBATCH (.*)", text))
    number = str(100 + len(list(HERE.glob("job-*"))))
    array = re.search(r"--array=0-(\d+)", text)
    tasks = [f"_{task}" for task in range(int(array[1]) + 1)] if array else [""]
    for task in tasks:
        command = [sys.executable, __file__, "job", f"{number}{task}", script]
        with (HERE / f"job-{number}{task}").open("w") as output:
            subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    sys.stdout.write(f"Submitted batch job {number}\n")


def job(name: str, script: str) -> None:
    """Runs a job until it ends and nobody put it back."""
    number, _, task = name.partition("_")
    variables = {"SLURM_JOB_ID": number, "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "NAME": name}
    if task:
        variables |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": task}
    time.sleep(0.5)  # submitit moves its file into place once the job's number is known
    for restart in range(9):
        environment = {**os.environ, **variables, "SLURM_RESTART_COUNT": str(restart)}
        code = subprocess.run(["bash", script], env=environment, check=False).returncode
        again = HERE / f"requeue-{name}"
        if not again.exists():
            (HERE / f"ended-{name}").write_text(str(code))
            return
        again.unlink()


def srun(*words: str) -> None:
    """Becomes the task."""
    output = Path(words[words.index("--output") + 1].replace("%j", os.environ["NAME"]))
    handle = os.open(str(output).replace("%A_%a", os.environ["NAME"]), os.O_CREAT | os.O_WRONLY)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    (HERE / f"pid-{os.environ['NAME']}").write_text(str(os.getpid()))
    command = words[words.index("--error") + 2 :]
    os.execvp(command[0], command)


def scontrol(action: str, name: str) -> None:
    tell("scontrol", action, name)
    (HERE / f"requeue-{name}").touch()


def scancel(name: str, flag: str, number: str) -> None:
    assert flag == "--signal"
    os.kill(int((HERE / f"pid-{name}").read_text()), signal.Signals[f"SIG{number}"])


PROGRAMS = {"sbatch": sbatch, "srun": srun, "scontrol": scontrol, "scancel": scancel}

if __name__ == "__main__":
    if sys.argv[1] == "job":  # sbatch has started itself again
        job(*sys.argv[2:])
    else:
        PROGRAMS[Path(sys.argv[0]).name](*sys.argv[1:])

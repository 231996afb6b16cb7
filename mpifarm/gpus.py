"""The GPUs that a rank was given, and which of them a worker gets.

Rules of this file:

- Ids are words: a number, ``GPU-4b2c...``, ``MIG-...``; nothing is made of them.
- What the rank was given stands in the variables that the GPU libraries read, as the
  batch system or the user has set them; only where none is set, the devices are
  counted.  A variable that is set and empty says: no GPU.
- ROCR_VISIBLE_DEVICES hides devices from all of ROCm; HIP_VISIBLE_DEVICES and
  CUDA_VISIBLE_DEVICES (the same to HIP) count among those that it leaves (ROCm's "GPU
  isolation techniques").
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from mpifarm.errors import InputError

ROCR = "ROCR_VISIBLE_DEVICES"
HIP = "HIP_VISIBLE_DEVICES"
CUDA = "CUDA_VISIBLE_DEVICES"

_COUNT_WITHIN_ROCR = (HIP, CUDA, "GPU_DEVICE_ORDINAL")
"""The last is that of OpenCL; Slurm sets it together with the others."""

VARIABLES = (ROCR, *_COUNT_WITHIN_ROCR)
"""All that may tell a worker its GPU."""

_NO_DEVICE = frozenset({"", "-1", "NoDevFiles"})
"""Where a list ends.  The last is what older Slurms write for none."""


@dataclass(frozen=True, slots=True)
class Gpus:
    """What the workers of a rank share: the ids in each variable that names some."""

    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def of_worker(self, node_worker: int) -> dict[str, str]:
        """What a worker gets into its environment, round robin.

        `node_worker` is its number among all workers of the node, so that those of
        other ranks with the same GPUs are counted in.
        """
        return {name: ids[node_worker % len(ids)] for name, ids in self.lists.items()}


def find_gpus(setting: str, environ: Mapping[str, str], root: str = "/") -> Gpus:
    """What the workers of this rank share.

    `setting` is ``auto``, ``none`` or a number, `environ` the rank's environment;
    devices are looked for below `root`.
    """
    if setting == "none":
        return Gpus()
    lists = _given(environ)
    if _is_amd(root):
        lists = _nested(lists, environ)
    if setting == "auto":
        lists = lists or {_variable(root): _seen(environ, root)}
    else:
        count = int(setting)
        lists = lists or {_variable(root): tuple(map(str, range(count)))}
        lists = {name: ids[:count] for name, ids in lists.items()}
    return Gpus({name: ids for name, ids in lists.items() if ids})


def check_gpus(setting: str, environ: Mapping[str, str], root: str = "/") -> str:
    """What to say at the start of how `setting` meets what this rank has; "" if well.

    Raises InputError where it asks for more than there is.
    """
    if setting == "none":
        return ""
    if setting == "auto":
        if find_gpus(setting, environ, root).lists:
            return ""
        return "--gpus auto finds no GPU here: the commands get no variable for one"
    for name, ids in _given(environ).items():
        if int(setting) > len(ids):
            raise InputError(
                f"--gpus {setting} is more than the {len(ids)} that {name}="
                f"{environ[name]} gives to this rank: take --gpus auto, or ask the "
                "batch system for more"
            )
    return ""


def _given(environ: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The ids in each variable that is set."""
    return {name: _ids(environ[name]) for name in (ROCR, HIP, CUDA) if name in environ}


def _ids(value: str) -> tuple[str, ...]:
    """Those of a list up to the first that is none, as the GPU libraries take it."""
    ids: list[str] = []
    for word in value.split(","):
        if word.strip() in _NO_DEVICE:
            break
        ids.append(word.strip())
    return tuple(ids)


def _nested(
    lists: dict[str, tuple[str, ...]], environ: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """The same GPUs on an AMD machine: where ROCR names one, it is the others' 0."""
    outer = lists.get(ROCR)
    if not outer:
        return lists
    inner = lists.get(HIP) or lists.get(CUDA) or ()
    chosen = [int(i) for i in inner if i.isdecimal() and int(i) < len(outer)]
    nested = {ROCR: tuple(outer[i] for i in chosen) or outer}
    for name in _COUNT_WITHIN_ROCR:
        if _ids(environ.get(name, "")):
            nested[name] = ("0",)
    return nested


# ---- the machine --------------------------------------------------------------------


def _is_amd(root: str) -> bool:
    exists = os.path.exists
    return exists(f"{root}/dev/kfd") and not exists(f"{root}/dev/nvidiactl")


def _variable(root: str) -> str:
    """Only one: with both, the GPU of one is counted among those of the other."""
    return ROCR if _is_amd(root) else CUDA


def _seen(environ: Mapping[str, str], root: str) -> tuple[str, ...]:
    """The devices that this process may open, which libraries count from 0.

    Slurm's variables number all GPUs of the node, whatever a job's cgroup hides (man
    srun).  So they hold only where it hides nothing: where more can be opened.
    """
    count = _count_amd(root) if _is_amd(root) else _count_nvidia(root)
    slurms = environ.get("SLURM_STEP_GPUS") or environ.get("SLURM_JOB_GPUS") or ""
    listed = _ids(slurms)
    if 0 < len(listed) < count:
        return listed
    return tuple(map(str, range(count)))


def _count_nvidia(root: str) -> int:
    """Those whose device file may be opened: a cgroup hides devices, not files."""
    names = [n for n in _names(f"{root}/dev") if n.removeprefix("nvidia").isdecimal()]
    paths = [f"{root}/dev/{name}" for name in names if name.startswith("nvidia")]
    return sum(os.access(path, os.R_OK | os.W_OK) for path in paths)


def _count_amd(root: str) -> int:
    """The nodes of the driver's topology with a GPU; one that is hidden can't be read.

    A CPU is a node too, with the id 0.
    """
    nodes = f"{root}/sys/class/kfd/kfd/topology/nodes"
    return sum(_read_number(f"{nodes}/{name}/gpu_id") > 0 for name in _names(nodes))


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _read_number(path: str) -> int:
    try:
        with open(path, "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0

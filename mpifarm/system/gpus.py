"""The GPUs that a rank was given, and the GPU of each worker.

Rules of this file:

- Ids are words, never computed with: a number, ``GPU-4b2c...``, ``MIG-...``.
- A rank's GPUs are those in the variables of the GPU libraries, as the batch system or
  the user has set them.  An empty variable means no GPU.  Only if no variable is set,
  the devices are counted.
- ROCR_VISIBLE_DEVICES hides devices from all of ROCm.  HIP_VISIBLE_DEVICES, and
  CUDA_VISIBLE_DEVICES with the same meaning for HIP, number the devices that are left
  (ROCm's "GPU isolation techniques").
"""

import os
from collections.abc import Mapping
from dataclasses import field

from mpifarm.errors import InputError
from mpifarm.immutable import immutable

ROCR = "ROCR_VISIBLE_DEVICES"
HIP = "HIP_VISIBLE_DEVICES"
CUDA = "CUDA_VISIBLE_DEVICES"

_COUNT_WITHIN_ROCR = (HIP, CUDA, "GPU_DEVICE_ORDINAL")
"""Variables that number the devices that ROCR has left.  GPU_DEVICE_ORDINAL is
OpenCL's; Slurm sets it together with the others."""

VARIABLES = (ROCR, *_COUNT_WITHIN_ROCR)
"""All variables that may give a worker its GPU."""

_NO_DEVICE = frozenset({"", "-1", "NoDevFiles"})
"""Words that end a list of ids; older versions of Slurm write NoDevFiles for none."""


@immutable
class Gpus:
    """The GPUs that the workers of a rank share: the ids in each variable."""

    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def of_worker(self, node_worker: int) -> dict[str, str]:
        """Return the variables of a worker, with one id each, round robin.

        `node_worker` is the worker's number among all workers of the node: ranks that
        have the same GPUs then use different ones first.
        """
        return {name: ids[node_worker % len(ids)] for name, ids in self.lists.items()}


def find_gpus(setting: str, environ: Mapping[str, str], root: str = "/") -> Gpus:
    """Return the GPUs that the workers of this rank share.

    `setting` is ``auto``, ``none`` or a number, `environ` the rank's environment, and
    `root` the directory in which /dev and /sys are.  A number without any variable
    counts GPUs from 0, whether they exist or not.
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
    """Return a warning if `setting` is ``auto`` and there is no GPU, else "".

    Raises InputError if `setting` is more than the GPUs that this rank was given.
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
    """Return the ids in each variable that is set; of an empty variable, none."""
    return {name: _ids(environ[name]) for name in (ROCR, HIP, CUDA) if name in environ}


def _ids(value: str) -> tuple[str, ...]:
    """Return the ids of a list up to the first invalid one, as GPU libraries do."""
    ids: list[str] = []
    for word in value.split(","):
        if word.strip() in _NO_DEVICE:
            break
        ids.append(word.strip())
    return tuple(ids)


def _nested(
    lists: dict[str, tuple[str, ...]], environ: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Return the same GPUs for an AMD machine, all of them in ROCR's variable.

    A worker sees only the GPU in its ROCR variable, and that is number 0 for the other
    variables.
    """
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
    """Return the variable in which ids are given to workers."""
    # Never both: the id in one would number the devices that the other has left.
    return ROCR if _is_amd(root) else CUDA


def _seen(environ: Mapping[str, str], root: str) -> tuple[str, ...]:
    """Return the ids of the devices that this process may open, from 0."""
    # Slurm's variables number all GPUs of the node, even those that the cgroup of the
    # job hides (man srun).  So they hold only if it hides none: if this process can
    # open more than they list.
    count = _count_amd(root) if _is_amd(root) else _count_nvidia(root)
    slurms = environ.get("SLURM_STEP_GPUS") or environ.get("SLURM_JOB_GPUS") or ""
    listed = _ids(slurms)
    if 0 < len(listed) < count:
        return listed
    return tuple(map(str, range(count)))


def _count_nvidia(root: str) -> int:
    """Return the number of NVIDIA devices that this process may open."""
    # Opened: a cgroup forbids a device, and leaves its file.
    names = [n for n in _names(f"{root}/dev") if n.removeprefix("nvidia").isdecimal()]
    paths = [f"{root}/dev/{name}" for name in names if name.startswith("nvidia")]
    return sum(os.access(path, os.R_OK | os.W_OK) for path in paths)


def _count_amd(root: str) -> int:
    """Return the number of GPUs in the topology of AMD's driver."""
    # A CPU is a node of the topology, too, with the id 0.  A hidden node is unreadable.
    nodes = f"{root}/sys/class/kfd/kfd/topology/nodes"
    return sum(_read_number(f"{nodes}/{name}/gpu_id") > 0 for name in _names(nodes))


def _names(directory: str) -> list[str]:
    """Return the names in a directory; [] if it can't be read."""
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _read_number(path: str) -> int:
    """Return the number in a file; 0 if it can't be read."""
    try:
        with open(path, "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0

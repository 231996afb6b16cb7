"""Failures with planted causes, in the words of real programs.

The wordings are those of the programs' sources and of reports by their users.  `FIRST`
was there while the program was written, `SECOND` was written afterwards.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from mpifarm.causes.failure import Failure, Group

HOSTS = [f"n{number:03}" for number in range(1, 33)]
STEMS = ["sample", "run", "conf", "frame", "patient", "tile", "mol", "grid", "seq"]
WORDS = [
    *("alpha", "bravo", "carbon", "delta", "ember", "fluor", "gamma", "helio", "iris"),
    *("jasper", "krypton", "lumen", "mesa", "nova", "onyx", "pluto", "quartz", "raven"),
    *("sigma", "tango", "umbra", "vortex", "willow", "xenon", "yarrow"),
]


class Writer:
    """The random parts of what programs print."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.host = "n001"

    def pick(self, *texts: str) -> str:
        return self.random.choice(texts)

    def number(self, most: int = 9999) -> int:
        return self.random.randrange(1, most)

    def real(self) -> str:
        return f"{self.random.uniform(-1e3, 1e3):.{self.random.randrange(2, 9)}g}"

    def word(self) -> str:
        return self.random.choice(WORDS)

    def address(self) -> str:
        return f"0x{self.random.getrandbits(44):012x}"

    def hash(self) -> str:
        return f"{self.random.getrandbits(64):016x}"

    def directory(self) -> str:
        return self.pick(
            f"/scratch/project_{self.number()}/{self.word()}",
            f"/home/{self.word()}/work/{self.word()}_{self.number(99)}",
            f"/lustre/{self.word()}/{self.hash()[:8]}",
            f"/tmp/tmp{self.hash()[:8]}",
        )

    def path(self, suffix: str = ".dat") -> str:
        return f"{self.directory()}/{self.pick(*STEMS)}_{self.number():05}{suffix}"

    def time(self) -> str:
        rest = self.random
        return (
            f"2026-{rest.randrange(1, 13):02}-{rest.randrange(1, 29):02}T"
            f"{rest.randrange(24):02}:{rest.randrange(60):02}:{rest.randrange(60):02}"
        )


Planted = tuple[str, int, int, str]
"""Outcome, status, signal, and the end of the log."""
Cause = Callable[[Writer], Planted]


def failed(status: int, text: str) -> Planted:
    return "failed", status, 0, text


# ---- the first twelve ---------------------------------------------------------------


def traceback(w: Writer, last: str) -> str:
    """Return a Python traceback of varied depth."""
    lines = ["Traceback (most recent call last):"]
    script = w.path(".py")
    lines += [f'  File "{script}", line {w.number(400)}, in <module>', "    main()"]
    for _ in range(w.random.randrange(1, 5)):
        name = f"{w.directory()}/lib/python3.1{w.number(4)}/site-packages/{w.word()}.py"
        lines.append(f'  File "{name}", line {w.number()}, in {w.word()}')
        lines.append(f"    return self.{w.word()}({w.word()}, {w.word()}={w.number()})")
        if w.random.random() < 0.4:
            lines.append("           ^^^^^^^^^^^^^^^^^^^^^^^^")
    return "\n".join([*lines, last]) + "\n"


def python(w: Writer) -> Planted:
    value = w.pick(w.word(), f"{w.word()}-{w.number()}", "n/a", f"{w.number()},5", "")
    last = f"ValueError: could not convert string to float: {value!r}"
    text = traceback(w, last)
    if w.random.random() < 0.2:
        first = traceback(w, f"KeyError: {w.word()!r}")
        between = "During handling of the above exception, another exception occurred:"
        text = f"{first}\n{between}\n\n{text}"
    return failed(1, text)


def bash(w: Writer) -> Planted:
    line = w.number(90)
    return failed(
        127,
        w.pick(
            f"bash: line {line}: samtools: command not found\n",
            f"{w.path('.sh')}: line {line}: samtools: command not found\n",
            f"/bin/sh: {line}: samtools: not found\n",
            "/bin/bash: samtools: command not found\n",
            f"zsh:{line}: command not found: samtools\n",
        ),
    )


def fortran(w: Writer) -> Planted:
    program = w.pick("solver.x", "mped_v2.2", "a.out")
    rows = w.random.randrange(3, 14)
    if w.random.random() < 0.6:
        text = (
            f"At line {w.number(900)} of file "
            f"{w.pick('../src/', '')}read_{w.word()}.f90 (unit = {w.number(99)}, "
            f"file = '{w.path()}')\n"
            "Fortran runtime error: End of file\n"
        )
        if w.random.random() < 0.6:
            text += "\nError termination. Backtrace:\n"
            for row in range(rows):
                text += f"#{row}  {w.address()} in ???\n"
        return failed(2, text)
    where = w.pick(
        f"unit {w.number(99)}, file {w.path()}",
        "unit 5, file stdin",
        f"unit {w.number(99)}, file {w.path()}, line {w.number()}, position 0",
    )
    text = f"forrtl: severe (24): end-of-file during read, {where}\n"
    text += (
        "Image              PC                Routine            Line        Source\n"
    )
    for _ in range(rows):
        image = w.pick(program, "libc.so.6", "libc-2.27.so")
        text += (
            f"{image:<18} {w.random.getrandbits(44):016X}  Unknown               "
            "Unknown  Unknown\n"
        )
    return failed(24, text)


def cuda(w: Writer) -> Planted:
    gib = f"{w.random.uniform(0.1, 40):.2f}"
    kind = w.random.randrange(6)
    if kind == 0:
        return failed(
            1,
            traceback(
                w,
                f"torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate "
                f"{gib} {w.pick('GiB', 'MiB')}. GPU {w.number(4) - 1} has a total "
                f"capacty of 39.39 GiB of which {w.number(900)}.56 MiB is free. "
                f"Process {w.number()} has 14.52 GiB memory in use. Of the "
                f"allocated memory "
                f"{gib} GiB is allocated by PyTorch",
            ),
        )
    if kind == 1:
        return failed(
            1,
            traceback(
                w,
                f"RuntimeError: CUDA out of memory. Tried to allocate {gib} GiB (GPU "
                f"{w.number(4) - 1}; {gib} GiB total capacity; {w.number(900)}.59 MiB "
                f"already allocated; 3.03 GiB free; 1.24 GiB reserved in total by "
                "PyTorch)",
            ),
        )
    if kind == 2:
        return failed(
            1,
            traceback(
                w,
                "tensorflow.python.framework.errors_impl.ResourceExhaustedError: OOM "
                f"when allocating tensor with shape[{w.number()},{w.number()}] and "
                "type float on /job:localhost/replica:0/task:0/device:GPU:0 by "
                "allocator "
                "GPU_0_bfc [Op:Conv2D]",
            ),
        )
    if kind == 3:
        return failed(
            1,
            f"CUDA error at {w.path('.cu')}:{w.number()} "
            f'code=2(cudaErrorMemoryAllocation) "cudaMalloc(&d_{w.word()}, '
            f'{w.number()})" \n',
        )
    if kind == 4:
        return failed(
            w.random.choice([1, 255]),
            f"CUDA error: out of memory in file {w.word()}.cu at line {w.number()}\n",
        )
    return failed(
        134,
        f"{w.time()[:10]} 03:12:11.{w.number()}: E tensorflow/stream_executor/cuda/"
        f"cuda_driver.cc:{w.number()}] failed to allocate {gib}G ({w.number()} bytes) "
        "from device: CUDA_ERROR_OUT_OF_MEMORY: out of memory\n",
    )


def slurm(w: Writer) -> Planted:
    job, step = w.number(9_999_999), w.number(9) - 1
    kind = w.pick("STEP", "STEP", "JOB")
    what = f"{job}.{step}" if kind == "STEP" else f"{job}"
    text = (
        f"slurmstepd: error: *** {kind} {what} ON {w.host} CANCELLED AT {w.time()} "
        "DUE TO TIME LIMIT ***\n"
    )
    if w.random.random() < 0.5:
        text = (
            f"srun: Job step aborted: Waiting up to {w.pick('32', '47', '62')} seconds "
            f"for job step to finish.\n{text}"
        )
    if w.random.random() < 0.5:
        text += f"srun: error: {w.host}: tasks 0-{w.number(64)}: Terminated\n"
        text += f"srun: Terminating job step {job}.{step}\n"
    return failed(w.random.choice([1, 143, 15]), text)


def mpi(w: Writer) -> Planted:
    rank, code = w.number(64) - 1, w.random.choice([1, 1, -1, 9, 123, 14])
    if w.random.random() < 0.5:
        text = w.pick(
            f"Abort({code}) on node {rank} (rank {rank} in comm 0): application called "
            f"MPI_Abort(MPI_COMM_WORLD, {code}) - process {rank}\n",
            f"application called MPI_Abort(MPI_COMM_WORLD, {code}) - process {rank}\n",
            f"application called MPI_Abort(MPI_COMM_WORLD, {code}) - process {rank}"
            f"[cli_{rank}]: aborting job:\napplication called MPI_Abort(MPI_COMM_WORLD,"
            f" {code}) - process {rank}\n",
        )
        if w.random.random() < 0.5:
            text += (
                "\n" + "=" * 83 + "\n=   BAD TERMINATION OF ONE OF YOUR APPLICATION "
                f"PROCESSES\n=   PID {w.number()} RUNNING AT {w.host}\n=   EXIT CODE: "
                f"{code}\n=   CLEANING UP REMAINING PROCESSES\n=   YOU CAN IGNORE THE "
                "BELOW CLEANUP MESSAGES\n" + "=" * 83 + "\n"
            )
        return failed(code % 256, text)
    rule = "-" * 74
    text = (
        f"{rule}\nMPI_ABORT was invoked on rank {rank} in communicator MPI_COMM_WORLD"
        f"{w.pick('', ' ')}\n"
        + w.pick("", f"  Proc: [[{w.number()},1],{rank}]\n  Errorcode: {code}\n")
        + f"with errorcode {code}.\n\n"
        "NOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes.\n"
        "You may or may not see output from other processes, depending on\n"
        f"exactly when Open MPI kills them.\n{rule}\n"
    )
    if w.random.random() < 0.4:
        text += (
            f"{rule}\nprterun has exited due to process rank {rank} with PID 0 on node "
            f'{w.host} calling\n"abort". This may have caused other processes in the '
            "application to be\nterminated by signals sent by prterun (as reported "
            f"here).\n{rule}\n"
        )
    return failed(code % 256, text)


def disk_full(w: Writer) -> Planted:
    path, phrase = w.path(".h5"), "No space left on device"
    return failed(
        w.random.choice([1, 1, 2]),
        w.pick(
            traceback(w, f"OSError: [Errno 28] {phrase}: '{path}'"),
            traceback(w, f"OSError: [Errno 28] {phrase}"),
            f"cp: error writing '{path}': {phrase}\n",
            f"mkdir: cannot create directory ‘{w.directory()}’: {phrase}\n",
            f"gzip: write error: {phrase}\ntar: {path}: Cannot write: Broken pipe\n"
            "tar: Error is not recoverable: exiting now\n",
            f"{w.path('.sh')}: line {w.number(99)}: echo: write error: {phrase}\n",
            f"dd: error writing '{path}': {phrase}\n{w.number()}+0 records in\n"
            f"{w.number()}+0 records out\n",
            f"At line {w.number()} of file out.f90 (unit = 12, file = '{path}')\n"
            f"Fortran runtime error: {phrase}\n",
        ),
    )


def licence(w: Writer) -> Planted:
    server = f"{w.number(9)}055@lic{w.number(9)}.{w.word()}.edu"
    return failed(
        w.random.choice([1, 1, 8, 255]),
        w.pick(
            "License checkout failed.\nLicense Manager Error -15\n"
            "MATLAB is unable to connect to the license server. \nCheck that the "
            "license manager has been started, and that the MATLAB client machine can "
            "communicate\nwith the license server.\n\nTroubleshoot this issue by "
            f"visiting: \nhttp://www.mathworks.com/support/lme/R20{w.number(26):02}b/15\n"
            "\nDiagnostic Information:\nFeature: MATLAB \nLicense path: "
            f"{w.path('.lic')} \nLicensing error: -15,570. System Error: 115\n",
            "License checkout failed.\nLicense Manager Error -4\nMaximum number of "
            "users for MATLAB reached. Try again later.\nTo see a list of current "
            "users use "
            "the lmstat utility or contact your License Administrator.\n",
            "ANSYS LICENSE MANAGER ERROR:Request name cfd_solve_level2 does not exist "
            "in the licensing pool.\nCannot connect to license server system.\n The "
            "license server manager (lmgrd) has not been started yet,\n the wrong "
            "port@host or license file is being used, or the\n port or hostname in the "
            "license file has been changed.\nFeature:       cfd_solve_level2\nServer "
            f"name:   10.1.{w.number(250)}.{w.number(250)}\nLicense path:  {server};\n"
            "FlexNet Licensing error:-15,10032\n",
            "\t\tInsufficient Ansys Mechanical Pro licenses available.\n\t\tLicensed "
            "number of users already reached.\n\t\tFeature:       mech_1\n\t\tLicense "
            f"path:  {server};\n\t\tFlexNet Licensing error:-4,132\n",
            "License server machine is down or not responding.\n See the system "
            "administrator about starting the license server system, or\n make sure "
            "you're referring to the right host (see LM_LICENSE_FILE).\nFeature:       "
            f"abaqus\nHostname:      {w.word()}\nLicense path:  {server}:\nFlexNet "
            "Licensing error:-96,7\n",
        ),
    )


def missing_file(w: Writer) -> Planted:
    path = f"{w.directory()}/input_{w.number():05}.nc"
    phrase = "No such file or directory"
    return failed(
        w.random.choice([1, 2]),
        w.pick(
            traceback(w, f"FileNotFoundError: [Errno 2] {phrase}: '{path}'"),
            f"cat: {path}: {phrase}\n",
            f"cp: cannot stat '{path}': {phrase}\n",
            f"Fortran runtime error: Cannot open file '{path}': {phrase}\n\n"
            f"Error termination. Backtrace:\n#0  {w.address()}\n#1  {w.address()}\n",
            f"forrtl: severe (29): file not found, unit {w.number(99)}, file {path}\n",
            f"{w.pick('ncks', 'solver')}: error opening {path}: {phrase}\n",
        ),
    )


def segmentation_fault(w: Writer) -> Planted:  # noqa: PLR0911 - one for each tool
    kind = w.random.randrange(7)
    core = w.pick(" (core dumped)", "")
    if kind == 0:
        return "failed", 139, 11, w.pick("", "iteration done\n")
    if kind == 1:
        return failed(
            139,
            f"{w.pick('bash', w.path('.sh'))}: line {w.number(99)}: {w.number()} "
            f"Segmentation fault     {core} ./solver --in {w.path()} -n {w.number()}\n",
        )
    if kind == 2:
        text = (
            "\nProgram received signal SIGSEGV: Segmentation fault - invalid memory "
            "reference.\n\nBacktrace for this error:\n"
        )
        for row in range(w.random.randrange(4, 12)):
            text += f"#{row}  {w.address()} in {w.pick('???', w.word())}\n"
        return failed(139, text)
    if kind == 3:
        text = "forrtl: severe (174): SIGSEGV, segmentation fault occurred\n"
        text += (
            "Image              PC                Routine            Line    Source\n"
        )
        for _ in range(6):
            text += f"solver.x  {w.random.getrandbits(44):016X}  Unknown   Unknown\n"
        return failed(174, text)
    if kind == 4:
        tag = f"[{w.host}:{w.number():05}]"
        text = (
            f"{tag} *** Process received signal ***\n"
            f"{tag} Signal: Segmentation fault (11)\n"
            f"{tag} Signal code: Address not mapped (1)\n"
            f"{tag} Failing at address: {w.pick('(nil)', w.address())}\n"
            f"{tag} [ 0] /lib64/libpthread.so.0(+0xf710)[{w.address()}]\n"
            f"{tag} [ 1] {w.path('.so')}(main+0x156)[{w.address()}]\n"
            f"{tag} *** End of error message ***\n"
        )
        if w.random.random() < 0.5:
            text += (
                f"mpirun noticed that process rank {w.number(64)} with PID "
                f"{w.number()} on node {w.host} exited on signal 11 (Segmentation "
                f"fault).\n"
            )
        return failed(139, text)
    if kind == 5:
        return failed(
            139,
            "=" * 83 + "\n=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES\n"
            f"=   PID {w.number()} RUNNING AT {w.host}\n=   EXIT CODE: 139\n"
            "YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Segmentation fault "
            "(signal 11)\n",
        )
    return failed(
        139, f"srun: error: {w.host}: task {w.number(64)}: Segmentation fault{core}\n"
    )


def time_out(w: Writer) -> Planted:
    return (
        "timed out",
        *(124, w.random.choice([9, 15])),
        w.pick(
            "",
            f"step {w.number()}: energy {w.real()}\n",
            f"WARNING: convergence is slow ({w.real()})\n",
        )
        + f"=== mpifarm: ended after {w.number()} s, the limit of --task-timeout ===\n",
    )


def kill(w: Writer) -> Planted:
    return w.random.choice(
        [
            (
                "failed",
                137,
                9,
                (
                    f"step {w.number()}: energy {w.real()}\n"
                    "=== mpifarm: killed by signal 9 (SIGKILL) ===\n"
                ),
            ),
            ("failed", 137, 9, "=== mpifarm: killed by signal 9 (SIGKILL) ===\n"),
            failed(137, f"reading {w.path()}\nKilled\n"),
            failed(
                137,
                f"{w.path('.sh')}: line {w.number(99)}: {w.number():6} Killed"
                f"                  python3 main.py --epochs {w.number()}\n",
            ),
        ]
    )


FIRST: tuple[Cause, ...] = (
    *(python, bash, fortran, cuda, slurm, mpi, disk_full, licence, missing_file),
    *(segmentation_fault, time_out, kill),
)


# ---- what stands around the cause ---------------------------------------------------


def chatter(w: Writer) -> str:
    """Return a line that a program prints while all is well."""
    return w.pick(
        f"step {w.number()}: energy {w.real()}, residual {w.real()}",
        f"reading {w.path()}",
        f"[{w.time()}] INFO {w.word()}: {w.number()} items, {w.word()} {w.real()}",
        f"iteration {w.number()}  mean error: {w.real()}  max error = {w.real()}",
        f"loaded module {w.word()}/{w.number(9)}.{w.number(20)}",
        f"{w.number()} of {w.number()} done, 0 errors",
        f"{w.word()} {w.word()} {w.word()} {w.real()}",
        f"  {w.real()}  {w.real()}  {w.real()}",
    )


def warning(w: Writer) -> str:
    return w.pick(
        f"{w.path('.py')}:{w.number()}: DeprecationWarning: `{w.word()}` is deprecated",
        f"WARNING: {w.word()} failed to converge, falling back to {w.word()}",
        f"Warning: invalid value encountered in {w.word()}",
        "Note: The following floating-point exceptions are signalling: "
        "IEEE_UNDERFLOW_FLAG IEEE_DENORMAL",
        f"[warn] could not read {w.path()}, using defaults",
    )


def progress(w: Writer) -> str:
    percent = range(0, 100, w.random.randrange(5, 20))
    return "".join(
        f"\r{part:3}%|{'█' * (part // 10):<10}| {part}/100 [00:0{part // 20}<00:10]"
        for part in percent
    )


def consequence(w: Writer, status: int) -> str:
    return w.pick(
        f"srun: error: {w.host}: task {w.number(64)}: Exited with exit code {status}\n",
        f"make: *** [Makefile:{w.number(90)}: all] Error {status}\n",
        f"Command exited with non-zero status {status}\n",
        f"real\t{w.number(59)}m{w.number(59)}.{w.number(999)}s\nuser\t0m1.2s\n",
    )


def surround(w: Writer, outcome: str, status: int, text: str) -> bytes:
    """Return a log: what a program may print before and after its error."""
    chance = w.random.random
    many = w.random.choice([0, 0, 1, 3, 8, 30, 120])
    before = [chatter(w) for _ in range(many)]
    if chance() < 0.3:
        before.insert(w.random.randrange(len(before) + 1), warning(w))
    if many >= 30 and chance() < 0.3:
        before[0] = f"rm: cannot remove '{w.path()}': No such file or directory"
    head = "".join(f"{line}\n" for line in before)
    if chance() < 0.15:
        head += progress(w) + w.pick("\n", "")
    if head.endswith("]") and not text.startswith("Traceback"):
        head += "\n"
    if chance() < 0.1 and text.strip():
        text = interleave(w, text)
    if chance() < 0.1:
        text = "\x1b[31m" + text.rstrip("\n") + "\x1b[0m\n"
    if outcome == "failed" and chance() < 0.15 and "mpifarm" not in text:
        text += consequence(w, status)
    log = (head + text).encode()
    if chance() < 0.1:
        log = log.replace(b" ", b" \xe9\xff ", 1)
    return log[-w.random.choice([4096, 4096, 8192]) :]


def interleave(w: Writer, text: str) -> str:
    """Return the same text from several ranks, with labels."""
    ranks = w.random.randrange(2, 4)
    label = w.pick("[1,{}]<stderr>:", "{}: ", "[rank{}]: ")
    lines = []
    for line in text.rstrip("\n").split("\n"):
        lines += [label.format(rank) + line for rank in range(ranks)]
    return "\n".join(lines) + "\n"


def make_corpus(
    causes: Sequence[Cause] = FIRST, each: int = 1000, seed: int = 1
) -> list[tuple[str, Failure]]:
    """Return failures with the name of their cause, in random order."""
    w = Writer(seed)
    names = [cause for cause in causes for _ in range(each)]
    w.random.shuffle(names)
    corpus = []
    for taskid, cause in enumerate(names):
        w.host = w.random.choice(HOSTS)
        outcome, status, signum, text = cause(w)
        tail = surround(w, outcome, status, text)
        command = f"./run.sh {w.path()}"
        corpus.append(
            (
                cause.__name__,
                Failure(taskid, outcome, status, signum, w.host, command, tail),
            )
        )
    return corpus


# ---- the score ----------------------------------------------------------------------


def confusion(
    corpus: Iterable[tuple[str, Failure]], groups: Sequence[Group]
) -> list[Counter[str]]:
    """Return how many failures of each cause are in each group."""
    cause_of = {failure.taskid: name for name, failure in corpus}
    return [Counter(cause_of[taskid] for taskid in group.tasks) for group in groups]


def score(corpus: Sequence[tuple[str, Failure]], groups: Sequence[Group]) -> float:
    """Return the share in the right group.

    Strict: a cause has one group, that with the most of it, and a group one cause.
    """
    pairs = [
        (count, name, number)
        for number, found in enumerate(confusion(corpus, groups))
        for name, count in found.items()
    ]
    right, names, numbers = 0, set(), set()
    for count, name, number in sorted(pairs, key=lambda pair: -pair[0]):
        if name not in names and number not in numbers:
            right += count
            names.add(name)
            numbers.add(number)
    return right / len(corpus)

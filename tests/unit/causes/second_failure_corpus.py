"""Twelve more planted causes, written when the program was done."""

from tests.unit.causes.failure_corpus import Cause, Planted, Writer, failed, traceback


def r(w: Writer) -> Planted:
    condition = f"{w.random.uniform(1, 9):.5f}e-{w.random.randrange(17, 22)}"
    call = w.pick(f"solve.default({w.word()})", f"solve.default({w.word()}$cov, b)")
    text = w.pick(
        f"Error in {call} : \n  system is computationally singular: reciprocal "
        f"condition "
        f"number = {condition}\n",
        f"Error in {call} :\n  Lapack routine dgesv: system is exactly singular: "
        f"U[{w.number(99)},{w.number(99)}] = 0\n",
    )
    text += w.pick("", f"Calls: {w.word()} ... {w.word()} -> solve -> solve.default\n")
    return failed(1, text + "Execution halted\n")


def julia(w: Writer) -> Planted:
    text = (
        f"ERROR: LoadError: DomainError with {w.real()}:\n"
        f"{w.pick('log', 'sqrt')} was called with a negative real argument but will "
        f"only "
        "return a complex result if called with a complex argument. Try "
        "log(Complex(x)).\nStacktrace:\n"
        " [1] throw_complex_domainerror(f::Symbol, x::Float64)\n"
        f"   @ Base.Math ./math.jl:{w.number(99)}\n"
    )
    for row in range(2, w.random.randrange(4, 14)):
        text += w.pick(
            f" [{row}] {w.word()}(x::Float64, {w.word()}::Vector{{Float64}})\n"
            f"   @ Main {w.path('.jl')}:{w.number(300)}\n",
            f" [{row}] macro expansion at {w.path('.jl')}:{w.number(300)} [inlined]\n",
        )
    text += f"in expression starting at {w.path('.jl')}:{w.number(300)}\n"
    return failed(1, text)


def java(w: Writer) -> Planted:
    cause = (
        f"java.lang.NullPointerException: Cannot invoke "
        f'"org.{w.word()}.{w.word().title()}.get{w.word().title()}()" because '
        f'"<local{w.number(9)}>" is null'
    )
    thread = w.pick("main", f"pool-1-thread-{w.number(64)}")

    def places(most: int) -> str:
        return "".join(
            f"\tat "
            f"org.{w.word()}.{w.word().title()}.{w.word()}({w.word().title()}.java:"
            f"{w.number(900)})\n"
            for _ in range(w.random.randrange(2, most))
        )

    if w.random.random() < 0.5:
        return failed(1, f'Exception in thread "{thread}" {cause}\n{places(9)}')
    return failed(
        1,
        f'Exception in thread "{thread}" java.lang.RuntimeException: '
        f"{w.pick('task', 'sample')} {w.number()} failed\n{places(7)}"
        f"Caused by: {cause}\n{places(7)}\t... {w.number(9)} more\n",
    )


def perl(w: Writer) -> Planted:
    script, line = w.path(".pl"), w.number(40)
    places = " ".join(f"{w.directory()}/lib/perl5" for _ in range(w.number(8)))
    text = (
        "Can't locate Bio/SeqIO.pm in @INC (you may need to install the Bio::SeqIO "
        f"module) (@INC contains: {places} .) at {script} line {line}.\n"
        f"BEGIN failed--compilation aborted at {script} line {line}.\n"
    )
    if w.random.random() < 0.3:
        text += (
            f"Compilation failed in require at {w.path('.pm')} line {w.number(40)}.\n"
            f"BEGIN failed--compilation aborted at {w.path('.pm')} line 7.\n"
        )
    if w.random.random() < 0.3:
        text = 'perl: warning: Falling back to the standard locale ("C").\n' + text
    return failed(2, text)


def gromacs(w: Writer) -> Planted:
    ranks, rule = w.number(256), "-" * 55
    head = w.pick(
        f"Program:     gmx mdrun, version 202{w.number(5)}.{w.number(6)}\nSource file: "
        f"src/gromacs/domdec/domdec.cpp (line {w.number()})\nMPI rank:    0 (out of "
        f"{ranks})\n\n",
        f"Program mdrun, VERSION 4.6.{w.number(8)}\nSource code file: {w.path('.c')}, "
        f"line: {w.number()}\n\n",
    )
    text = (
        f"\n{rule}\n{head}Fatal error:\nThere is no domain decomposition for {ranks} "
        "ranks that is compatible with the\ngiven box and a minimum cell size of "
        f"{w.random.uniform(0.5, 2):.4f} nm\nChange the number of ranks or mdrun "
        f"option "
        "-rdd or -dds\nLook in the log file for details on the domain decomposition\n\n"
        "For more information and tips for troubleshooting, please check the GROMACS\n"
        f"website at http://www.gromacs.org/Documentation/Errors\n{rule}\n"
    )
    if w.random.random() < 0.4:
        text += (
            "application called MPI_Abort(MPI_COMM_WORLD, 1) - process "
            f"{w.number(ranks + 1)}\n"
        )
    return failed(1, text)


def vasp(w: Writer) -> Planted:
    code = f"{w.number(9):3}{w.number(9):2}{w.number(99):4}"
    message = f"Error EDDDAV: Call to ZHEGV failed. Returncode = {code}"
    if w.random.random() < 0.5:
        text = ""
        for _ in range(w.random.randrange(0, 4)):
            text += (
                f" WARNING: Sub-Space-Matrix is not hermitian in DAV {w.number(20)}\n"
            )
        return failed(w.random.choice([0, 1]) or 1, f"{text} {message}\n")
    rule = " " + "-" * 77
    text = f"{rule}\n|{'':77}|\n"
    for row in (
        "EEEEEEE  RRRRRR   RRRRRR   OOOOOOO  RRRRRR ",
        "E        R     R  R     R",
    ):
        text += f"|     {row:72}|\n"
    text += f"|{'':77}|\n|     {message:72}|\n|{'':77}|\n"
    last = "---->  I REFUSE TO CONTINUE WITH THIS SICK JOB ... BYE!!! <----"
    text += f"|       {last:70}|\n"
    return failed(1, f"{text}|{'':77}|\n{rule}\n")


def conda(w: Writer) -> Planted:
    text = (
        "\nCommandNotFoundError: Your shell has not been properly configured to use "
        "'conda activate'.\n"
    )
    text += w.pick(
        "To initialize your shell, run\n\n    $ conda init <SHELL_NAME>\n\nCurrently "
        "supported shells are:\n  - bash\n  - fish\n  - tcsh\n  - xonsh\n  - zsh\n  - "
        "powershell\n\nSee 'conda init --help' for more information and options.\n\n"
        "IMPORTANT: You may need to close and restart your shell after running 'conda "
        "init'.\n\n\n",
        "If your shell is Bash or a Bourne variant, enable conda for the current user "
        f'with\n\n    $ echo ". {w.directory()}/etc/profile.d/conda.sh" >> '
        f"~/.bashrc\n\n"
        "or, for all users, enable conda with\n\n    $ sudo ln -s "
        f"{w.directory()}/etc/profile.d/conda.sh /etc/profile.d/conda.sh\n\nThe "
        f"options "
        "above will permanently enable the 'conda' command, but they do NOT\nput "
        "conda's "
        "base (root) environment on PATH.  To do so, run\n\n    $ conda activate\n\n",
    )
    return failed(1, text)


def permission(w: Writer) -> Planted:
    path, phrase = w.path(".out"), "Permission denied"
    status, text = w.random.choice(
        [
            (1, traceback(w, f"PermissionError: [Errno 13] {phrase}: '{path}'")),
            (126, f"bash: line {w.number(9)}: {w.path('.sh')}: {phrase}\n"),
            (1, f"mkdir: cannot create directory ‘{w.directory()}’: {phrase}\n"),
            (1, f"Cannot open output file: {path} ({phrase}). \n"),
            (2, f"Fortran runtime error: Cannot open file '{path}': {phrase}\n"),
            (1, f"filesystem error: cannot create directory: {phrase} [{path}]\n"),
        ]
    )
    return failed(status, text)


def quota(w: Writer) -> Planted:
    path, phrase = w.path(".h5"), "Disk quota exceeded"
    return failed(
        1,
        w.pick(
            traceback(w, f"OSError: [Errno 122] {phrase}: '{path}'"),
            traceback(w, f"OSError: [Errno 122] {phrase}"),
            f"cp: error writing ‘{path}’: {phrase}\n",
            f"-bash: cannot create temp file for here-document: {phrase}\n",
            f"tar: {path}: Cannot write: {phrase}\ntar: Exiting with failure status "
            f"due "
            "to previous errors\n",
        ),
    )


def ssh(w: Writer) -> Planted:
    address = f"10.{w.number(250)}.{w.number(250)}.{w.number(250)}"
    text = (
        w.pick("kex_exchange_identification", "ssh_exchange_identification")
        + ": Connection closed by remote host\n"
    )
    if text.startswith("kex"):
        text += f"Connection closed by {address} port 22\n"
    text += w.pick(
        "",
        "rsync: connection unexpectedly closed (0 bytes received so far) "
        "[sender]\nrsync "
        f"error: unexplained error (code 255) at io.c({w.number(900)}) [sender=3.2."
        f"{w.number(9)}]\n",
        "lost connection\n",
    )
    return failed(255, text)


def glibcxx(w: Writer) -> Planted:
    library = w.pick("/lib64", "/usr/lib/x86_64-linux-gnu", f"{w.directory()}/lib")
    message = (
        f"{library}/libstdc++.so.6: version `GLIBCXX_3.4.{w.number(33)}' not found"
    )
    if w.random.random() < 0.5:
        return failed(
            1, traceback(w, f"ImportError: {message} (required by {w.path('.so')})")
        )
    program = f"{w.directory()}/bin/{w.word()}"
    lines = [f"{program}: {message} (required by {program})"]
    if w.random.random() < 0.5:
        lines.append(lines[0].replace("GLIBCXX_3.4", "CXXABI_1.3"))
    return failed(1, "\n".join(lines) + "\n")


def hdf5(w: Writer) -> Planted:
    errno = "errno = 11, error message = 'Resource temporarily unavailable'"
    if w.random.random() < 0.5:
        kind = w.pick("OSError", "BlockingIOError")
        return failed(
            1,
            traceback(
                w,
                f"{kind}: {w.pick('', '[Errno 11] ')}Unable to open file (unable to "
                f"lock "
                f"file, {errno})",
            ),
        )
    text = (
        f"HDF5-DIAG: Error detected in HDF5 (1.10.{w.number(9)}) thread {w.number()}:\n"
    )
    rows = (
        ("H5F", "H5Fopen", "unable to open file", "File accessibilty"),
        ("H5Fint", "H5F_open", "unable to lock the file", "File accessibilty"),
        ("H5FD", "H5FD_lock", "driver lock request failed", "Virtual File Layer"),
        ("H5FDsec2", "H5FD_sec2_lock", f"unable to lock file, {errno}", "File access"),
    )
    for row, (file, function, message, major) in enumerate(rows):
        text += (
            f"  #00{row}: {file}.c line {w.number(2000)} in {function}(): {message}\n"
            f"    major: {major}\n    minor: "
            f"{w.pick('Unable to open file', 'Bad ID')}\n"
        )
    text += w.pick("", f"   Could not open the HDF5 file.\n - File: {w.path('.h5')}\n")
    return failed(1, text)


SECOND: tuple[Cause, ...] = (
    *(r, julia, java, perl, gromacs, vasp, conda, permission, quota, ssh, glibcxx),
    hdf5,
)

"""Twelve causes that nothing was mended for: a look at what is still unknown."""

from tests.unit.causes.failure_corpus import Cause, Planted, Writer, failed, traceback


def lammps(w: Writer) -> Planted:
    return failed(
        1,
        f"ERROR on proc {w.number(64)}: Bond atoms {w.number()} {w.number()} "
        f"missing on "
        f"proc {w.number(64)} at step {w.number()} "
        f"(src/ntopo_bond_all.cpp:{w.number(90)})\n"
        f"Last command: run {w.number()}\n"
        + w.pick("", "application called MPI_Abort(MPI_COMM_WORLD, 1) - process 3\n"),
    )


def espresso(w: Writer) -> Planted:
    rule = " " + "%" * 78
    return failed(
        1,
        f"{rule}\n     Error in routine {w.pick('c_bands', 'cdiaghg')} "
        f"({w.number(99)}):\n      "
        f"{w.pick('too many bands are not converged')}\n{rule}\n"
        "\n     stopping ...\n",
    )


def openfoam(w: Writer) -> Planted:
    return failed(
        1,
        f"[{w.number(64)}] \n[{w.number(64)}] \n--> FOAM FATAL ERROR: \nMaximum "
        f"number of "
        f"iterations exceeded: {w.number(900)}\n\n    From function Foam::scalar "
        "Foam::species::thermo<Thermo, Type>::T(scalar, scalar) const\n    in file "
        f"{w.directory()}/thermoI.H at line {w.number(99)}.\n\nFOAM aborting\n",
    )


def snakemake(w: Writer) -> Planted:
    return failed(
        1,
        f"Building DAG of jobs...\nMissingInputException in rule "
        f"{w.pick('map', 'trim')} "
        f"in file {w.path('.smk')}, line {w.number(90)}:\nMissing input files for rule "
        f"{w.pick('map', 'trim')}:\n    output: {w.path('.bam')}\n    affected files:\n"
        f"        {w.path('.fastq')}\n",
    )


def samtools(w: Writer) -> Planted:
    path = w.path(".bam")
    return failed(
        1,
        f"[E::bgzf_read_block] Failed to read BGZF block data at offset "
        f"{w.number(999_999)} expected {w.number(65535)} bytes; hread returned "
        f"{w.number(999)}\n[E::bgzf_read] Read block operation failed with error 4 "
        f"after "
        f"0 of {w.number(99)} bytes\nsamtools {w.pick('sort', 'view')}: error reading "
        f'file "{path}"\n',
    )


def apptainer(w: Writer) -> Planted:
    image = w.path(".sif")
    return failed(
        255,
        w.pick(
            "INFO:    Converting SIF file to temporary sandbox...\n",
            "WARNING: underlay of /etc/localtime required more than 50 bind mounts\n",
            "",
        )
        + f"FATAL:   container creation failed: mount hook function failure: mount "
        f"{image}->/var/singularity/mnt/session/rootfs error: while mounting image "
        f"{image}: failed to find loop device: no loop devices available\n",
    )


def go(w: Writer) -> Planted:
    text = (
        f"panic: runtime error: index out of range [{w.number(99)}] with length "
        f"{w.number(9)}\n\ngoroutine {w.number(99)} [running]:\n"
    )
    for _ in range(w.random.randrange(1, 7)):
        text += (
            f"main.{w.word()}(0xc000{w.number():06x}, 0x{w.number():x})\n"
            f"\t{w.path('.go')}:{w.number(300)} +0x{w.number():x}\n"
        )
    return failed(2, f"{text}exit status 2\n")


def rust(w: Writer) -> Planted:
    return failed(
        101,
        f"thread '{w.pick('main', '<unnamed>')}' panicked at src/{w.word()}.rs:"
        f"{w.number(300)}:{w.number(60)}:\ncalled `Result::unwrap()` on an `Err` "
        f"value: "
        f"ParseIntError {{ kind: InvalidDigit }}\nnote: run with `RUST_BACKTRACE=1` "
        "environment variable to display a backtrace\n",
    )


def cpp(w: Writer) -> Planted:
    return failed(
        134,
        "terminate called after throwing an instance of 'std::out_of_range'\n"
        f"  what():  vector::_M_range_check: __n (which is {w.number()}) >= "
        f"this->size() "
        f"(which is {w.number()})\n"
        + w.pick(
            "",
            f"{w.path('.sh')}: line {w.number(90)}: {w.number()} Aborted"
            f"                 (core dumped) ./fit {w.path()}\n",
        ),
    )


def petsc(w: Writer) -> Planted:
    rank = w.number(64)
    tag = f"[{rank}]PETSC ERROR: "
    text = (
        f"{tag}{'-' * 21} Error Message {'-' * 62}\n{tag}Zero pivot in LU "
        f"factorization: "
        f"https://petsc.org/release/faq/#zeropivot\n{tag}Zero pivot row {w.number()} "
        f"value {w.real()} tolerance 2.22045e-14\n{tag}See https://petsc.org/release/faq/"
        f" for trouble shooting.\n{tag}{w.path('')} on a arch-linux-c-opt named "
        f"{w.host} "
        f"by {w.word()} {w.time()}\n"
    )
    for row in range(1, w.random.randrange(4, 9)):
        text += f"{tag}#{row} {w.word()}() at {w.path('.c')}:{w.number()}\n"
    return failed(71, text)


def numpy(w: Writer) -> Planted:
    kind = w.pick("numpy.linalg.LinAlgError", "numpy.linalg.linalg.LinAlgError")
    return failed(1, traceback(w, f"{kind}: SVD did not converge"))


def make(w: Writer) -> Planted:
    return failed(
        2,
        f"{w.path('.c')}:{w.number(900)}:{w.number(60)}: fatal error: fftw3.h: No such "
        "file or directory\n"
        f"  {w.number(900)} | #include <fftw3.h>\n      |          ^~~~~~~~~\n"
        "compilation terminated.\n"
        f"make: *** [Makefile:{w.number(90)}: {w.word()}.o] Error 1\n",
    )


THIRD: tuple[Cause, ...] = (
    *(lammps, espresso, openfoam, snakemake, samtools, apptainer, go, rust, cpp, petsc),
    *(numpy, make),
)

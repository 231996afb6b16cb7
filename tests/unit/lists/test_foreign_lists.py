"""Lists that were written for another tool are recognized; others get no warning."""

from pathlib import Path

import pytest

from mpifarm.batch.launcher import command_environment
from mpifarm.errors import InputError
from mpifarm.lists.foreign_lists import check_list
from mpifarm.lists.line_faults import LineChecker
from mpifarm.lists.task_numbers import KNOWN_NUMBERS, parse_id_variable
from mpifarm.tasklists import HEAD, TAIL, find_line_numbers, is_plain, read_list

HOME = {b"HOME": b"/home/me", b"PATH": b"/bin"}


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """Return a function that checks a list and returns its warnings."""
    monkeypatch.chdir(tmp_path)

    def judge(content, environment=HOME, setup="", given=(), holds_cpus=False):
        Path("tasks.txt").write_text(content)
        texts = read_list("tasks.txt").texts
        if is_plain(texts):
            return []
        checker = LineChecker(environment, setup, given, lambda: holds_cpus)
        return check_list(texts, "tasks.txt", checker)

    return judge


def only(said):
    assert len(said) == 1, said
    return said[0]


# ---- another tool's number of a task -------------------------------------------------


@pytest.mark.parametrize("name", KNOWN_NUMBERS)
@pytest.mark.parametrize("form", ["${}", '"${}"', "${{{}%.txt}}", "$(({} + 1))"])
def test_a_number_that_another_tool_would_set_is_refused(judged, name, form):
    line = "run > out/" + form.format(name)
    sentence, is_certain = only(judged(f"# a comment\n\nls\n{line}.txt\n"))
    assert is_certain
    assert sentence.startswith(f"line 4 of tasks.txt uses ${name}, ")
    assert f"--id-variable {name} (numbers from {KNOWN_NUMBERS[name][1]};" in sentence


@pytest.mark.parametrize(
    "name",
    [
        *("LAUNCHER_NJOBS", "LAUNCHER_PPN", "DISBATCH_NAMETASKS", "DISBATCH_JOBID"),
        *("HQ_ENTRY", "GREASY_NWORKERS", "SLURM_ARRAY_TASK_COUNT", "SGE_TASK_LAST"),
        *("SLURM_LOCALID", "SLURM_NTASKS", "PMI_RANK", "OMPI_COMM_WORLD_RANK"),
        *("PARALLEL_PID", "PARALLEL_SSHHOST"),
    ],
)
def test_what_else_another_tool_would_set_is_refused(judged, name):
    sentence, is_certain = only(judged(f"run --of ${name}\n"))
    assert is_certain
    assert f"line 1 of tasks.txt uses ${name}, " in sentence


def test_a_variable_that_only_ranks_have_is_missing_in_the_environment_of_tasks(judged):
    ranks = {**HOME, b"SLURM_PROCID": b"3", b"SLURM_ARRAY_TASK_ID": b"7"}
    tasks = command_environment(ranks)
    assert only(judged("run $SLURM_PROCID\n", tasks))[1]
    assert judged("run $SLURM_ARRAY_TASK_ID\n", tasks) == []


@pytest.mark.parametrize(
    ("name", "value"), [("SGE_TASK_ID", "undefined"), ("LSB_JOBINDEX", "0")]
)
@pytest.mark.parametrize("form", ["$%s", "${%s:-1}"])
def test_what_a_job_that_is_no_array_gets_is_no_number(judged, name, value, form):
    environment = {**HOME, name.encode(): value.encode()}
    sentence, is_certain = only(judged(f"run {form % name}\n", environment))
    assert is_certain
    assert f"it is '{value}' here" in sentence
    assert judged(f"run ${name}\n", {**HOME, name.encode(): b"3"}) == []


@pytest.mark.parametrize(
    "line",
    [
        "run ${SGE_TASK_ID:-0}",
        "run ${SGE_TASK_ID-none} ${SGE_TASK_ID:+yes}",
        r"run \$SGE_TASK_ID",
        "run '$SGE_TASK_ID'",
        'run "\\$SGE_TASK_ID"',
        "run a # $SGE_TASK_ID",
        "SGE_TASK_ID=3; run $SGE_TASK_ID",
        "export SGE_TASK_ID=3 && run $SGE_TASK_ID",
        "SGE_TASK_ID=3 bash -c 'run $SGE_TASK_ID'",
        "for SGE_TASK_ID in 1 2; do run $SGE_TASK_ID; done",
        "echo 3 | while read SGE_TASK_ID; do run $SGE_TASK_ID; done",
        "srun -n 4 sh -c 'echo $SLURM_PROCID'",
        "mpirun -n 2 bash -c 'run $OMPI_COMM_WORLD_RANK'",
        "parallel 'run {} > $PARALLEL_SEQ' ::: a b",
        "run $SLURM_JOB_ID $PBS_JOBID $LSB_JOBID $JOB_ID $PROC_NUMBER",
        "run $((1<<2)) $((i=3, i+1))",
    ],
)
def test_what_the_shell_does_not_expand_or_the_line_sets_gets_no_word(judged, line):
    assert judged(line + "\n") == []


@pytest.mark.parametrize(
    "line",
    [
        *("SGE_TASK_ID=3 run $SGE_TASK_ID", "env SGE_TASK_ID=3 run $SGE_TASK_ID"),
        "A=b SGE_TASK_ID=$A run > out/$SGE_TASK_ID.txt",
        "/usr/bin/env -i SGE_TASK_ID=3 run $SGE_TASK_ID",
    ],
)
def test_what_is_set_in_front_of_a_command_is_not_set_for_its_own_words(judged, line):
    assert only(judged(line + "\n"))[1]


@pytest.mark.parametrize(
    "line",
    [
        *("let n=SGE_TASK_ID+1; run $n", "let 'n = 2 * SGE_TASK_ID'; run $n"),
        *(
            "run $[SGE_TASK_ID+1]",
            "run $[$SGE_TASK_ID % 4]",
            "let n=$SGE_TASK_ID; run $n",
        ),
        *("x=(a b); run ${x[$SGE_TASK_ID]}", 'x=(a b); run "${x[${SGE_TASK_ID}]}"'),
    ],
)
def test_a_number_in_arithmetic_and_subscripts_is_seen(judged, line):
    assert only(judged(line + "\n"))[1]


@pytest.mark.parametrize(
    "line",
    [
        *("let SGE_TASK_ID=3; run $SGE_TASK_ID", "let n=3 m=n+1; run $m"),
        *(
            "run $[3 + 0x1F] $[n=3] $[n++]",
            "let n+=1; let n++ --m; run '$[SGE_TASK_ID]'",
        ),
        *("declare -A x=([SGE_TASK_ID]=3); run ${x[SGE_TASK_ID]}", "run $[RANDOM % 7]"),
        *("env A=3 run $HOME", "env A=3 sh -c 'run $A'", "let SGE_TASK_ID++; run"),
    ],
)
def test_other_arithmetic_and_subscripts_get_no_word(judged, line):
    assert judged(line + "\n") == []


def test_a_shell_of_the_line_expands_what_it_is_given(judged):
    for shell in ("sh", "/bin/dash", "/usr/bin/ksh", "zsh"):
        assert only(judged(f"{shell} -c 'run $LAUNCHER_JID'\n"))[1]
    assert only(judged("bash -c 'run $LAUNCHER_JID'\n"))[1]
    for other in ("run -c", "python -c", "bash -x"):
        assert judged(f"{other} 'run $LAUNCHER_JID'\n") == []


@pytest.mark.parametrize(
    "line",
    [
        "source env.sh; run $SGE_TASK_ID",
        'eval "$(numbers)"; run $SGE_TASK_ID',
        '[ -n "$SGE_TASK_ID" ] && run $SGE_TASK_ID',
        '[[ -z $SGE_TASK_ID ]] || run "$SGE_TASK_ID"',
    ],
)
def test_where_the_line_may_set_it_or_asks_for_it_that_is_a_warning(judged, line):
    assert not only(judged(line + "\n"))[1]


def test_what_is_set_for_the_tasks_gets_no_word(judged):
    assert judged("run $SGE_TASK_ID\n", given=["SGE_TASK_ID"]) == []
    setup = "export SGE_TASK_ID=$((PROC_NUMBER + 1))"
    assert judged("run $SGE_TASK_ID\n", setup=setup) == []
    assert not only(judged("run $SGE_TASK_ID\n", setup="source numbers.sh"))[1]
    assert not only(judged("run $SGE_TASK_ID\n", {**HOME, b"BASH_ENV": b"x"}))[1]


def test_condors_macros_are_refused(judged):
    assert "uses $(Process), which HTCondor" in only(judged("run $(Process)\n"))[0]
    assert judged("run '$(Process)' $(Processes)\n") == []


# ---- dialects ------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["PREFIX cd x ;", "SUFFIX > y", "BARRIER", "REPEAT 5"])
def test_directives_of_disbatch_are_refused_also_without_tasks(judged, word):
    sentence, is_certain = only(judged(f"# text\n#DISBATCH {word}\n"))
    assert is_certain
    assert "line 2 of tasks.txt is a directive of disBatch" in sentence
    assert sentence.endswith(": give --tasklist disbatch")


def test_variables_of_disbatch_lead_to_its_handler(judged):
    for name in ("DISBATCH_TASKID", "DISBATCH_NAMETASKS"):
        sentence, is_certain = only(judged(f"run > ${name}.txt\n"))
        assert is_certain
        assert "give --tasklist disbatch, if the list is one of disBatch" in sentence


@pytest.mark.parametrize(
    "line", ["[#1-3#] run", "[# -1 #] run", "[@ /data @] run", "[@/data@] [# 1 #] run"]
)
def test_brackets_of_greasy_are_refused(judged, line):
    sentence, is_certain = only(judged(f"run\n{line}\n"))
    assert is_certain
    assert "line 2" in sentence
    assert "GREASY" in sentence
    assert sentence.endswith(": give --tasklist greasy")


@pytest.mark.parametrize(
    ("line", "word"),
    [
        *(
            (each, "#BARRIER")
            for each in ("# BARRIER", "#barrier", "#\tBarrier  check ")
        ),
        *((each, "#AFTER") for each in ("# AFTER 3", "#after 1-2, 5")),
    ],
)
def test_a_comment_that_is_nearly_a_directive_is_told(judged, line, word):
    sentence, is_certain = only(judged(f"run\n{line}\nrun\n"))
    assert not is_certain
    assert sentence.startswith("line 2 of tasks.txt seems to say what waits ('#")
    assert f"write {word}, without a blank and in capitals" in sentence


@pytest.mark.parametrize(
    "line",
    [
        *("# a barrier", "# BARRIER between stages", "# after 3 days", "#BARRIER_1"),
        *("#BENCHMARK", "#APRIL 1", "#ALPHA 3", "#AFTERWARDS", " # BARRIER", "#A 1"),
    ],
)
def test_other_comments_and_directives_are_not_told(judged, line):
    assert judged(f"run\n{line}\n#BARRIER\n#AFTER 0\n[limit=x] run\n") == []


@pytest.mark.parametrize(
    ("line", "word"),
    [
        *((each, "#BARRIER") for each in ("#BARIER", "#BARRER CHECK", "#BARRIERS")),
        *((each, "#AFTER") for each in ("#AFTR 0", "#AFTRE 0-1,3", "#AFTER0")),
    ],
)
def test_a_misspelt_directive_is_told(judged, line, word):
    sentence, is_certain = only(judged(f"run\n{line}\nrun\n"))
    assert not is_certain
    assert f"seems to say what waits ('{line}'), and is a comment" in sentence
    assert f"write {word}, if it is to count" in sentence


@pytest.mark.parametrize("line", [" #BARRIER", "\t#BARRIER CHECK", "  #AFTER 0"])
def test_a_directive_behind_a_blank_is_told(judged, line):
    # In the middle, where lines are looked at only if something marks them.
    many = "run\n" * 2000
    sentence, is_certain = only(judged(f"{many}{line}\n{many}"))
    assert not is_certain
    assert sentence.startswith("line 2001 of tasks.txt seems to say what waits")
    assert "is a task of its own, because of the blank in front" in sentence
    assert f"write {line.split()[0]} at the beginning of the line" in sentence


def test_a_kind_in_front_of_a_command_hides_no_fault(judged):
    sentence, is_certain = only(judged("run\n[limit=disk] run $SGE_TASK_ID\n"))
    assert is_certain
    assert "line 2 of tasks.txt uses $SGE_TASK_ID" in sentence
    assert only(judged("[limit=disk] cd x\n"))[0].startswith("line 1 of tasks.txt ")


def test_directives_for_a_batch_system_are_those_of_a_script(judged):
    for directive in ("#SBATCH -N 1", "#PBS -l x", "#BSUB -n 2", "#$ -cwd", "#HQ --x"):
        assert only(judged(f"{directive}\nrun\n"))[1], directive


def test_swarms_options_are_told(judged):
    assert not only(judged("#SWARM -t 4\nrun\n"))[1]


# ---- scripts -------------------------------------------------------------------------

SCRIPT = r"""#!/bin/bash
#SBATCH --nodes=1
module load gcc
export OMP_NUM_THREADS=1
cd /scratch
for seed in 1 2 3
do
    ./run --seed $seed \
        --steps 10 &
done
wait
cat <<EOF
done
EOF
"""


def test_a_script_is_told_as_one_with_its_lines(judged):
    sentences = judged(SCRIPT)
    sentence, is_certain = sentences[0]
    assert is_certain
    assert sentence.startswith("tasks.txt is a script, and here each line would be")
    for named in (
        "line 2 is for a batch system (#SBATCH)",
        "line 3 only sets something (module), which no",
        'line 6 has no end for its "for"',
        'line 7 has a "do" without a beginning',
        "line 8 ends with a backslash",
        'line 11 is a "wait"',
        "line 12 has a here-document",
    ):
        assert named in sentence


@pytest.mark.parametrize(
    "line",
    [
        *("export X=3", "X=3", "cd dir", "set -e", "ulimit -s unlimited", "umask 022"),
        *("module load gcc", "module purge", "conda activate x", "unset X", "wait"),
        *("exec > log", "trap 'rm x' EXIT", "shopt -s nullglob", "alias a=b"),
        *("for i in 1 2 3; do", "for i in 1", "while read x; do", "if [ -f a ]; then"),
        *("case $x in", "do", "done", "then", "else", "fi", "esac", "}", "f() {"),
        *("f() { run; }", "function f {", "( cd x", "run |", "run &&", "a ||", ")"),
        *("cat <<EOF", "cat <<-'EOF' > x", "run \\", "run 'a' \\", 'run "$(date)" \\'),
        *("run \\\t", "export X=3; cd y", "pushd x", "x=(a b)", "[[ -f x"),
    ],
)
def test_a_part_of_a_script_is_refused(judged, line):
    sentence, is_certain = only(judged(f"run --all\n{line}\n"))
    assert is_certain
    assert sentence.startswith("line 2 of tasks.txt ")


@pytest.mark.parametrize(
    "line", ["source env.sh", ". ~/.bashrc", "N=$(nproc)", "echo it's", 'say "it']
)
def test_what_may_be_meant_is_a_warning(judged, line):
    assert not only(judged(f"run --all\n{line}\n"))[1]


def test_an_open_quote_is_told_with_the_task_that_will_fail(judged):
    lines = ["# first", *["true"] * 3, "echo 'a", "true"]
    sentence, is_certain = only(judged("\n".join([*lines, ""])))
    assert not is_certain
    assert sentence == (
        "line 5 of tasks.txt (task 3) has a single quote that is not closed: if a"
        " command has several lines, put them into a script, and list its call, as"
        " bash script.sh"
    )


def test_an_open_quote_that_is_found_twice_is_still_one(judged):
    """It stands at the list's end, and has a mark as well."""
    assert not only(judged("run --all\necho it's &\n"))[1]


def test_lines_between_two_open_quotes_would_run(judged):
    said = judged("awk '\nprint $1\n' file\n")
    assert only(said)[1]


@pytest.mark.parametrize(
    ("first", "language"),
    [
        ("#!/usr/bin/env python3", "python3"),
        ("#!/usr/bin/python", "python"),
        ("#! /usr/bin/perl -w", "perl"),
        ("#!/usr/bin/env -S Rscript --vanilla", "Rscript"),
        ("#!/bin/csh -f", "csh"),
    ],
)
def test_a_script_of_another_language_is_refused(judged, first, language):
    sentence, is_certain = only(judged(f"{first}\nimport os\nprint(os)\n"))
    assert is_certain
    assert sentence.startswith(f"line 1 of tasks.txt makes it a script of {language},")


@pytest.mark.parametrize("first", ["#!/usr/bin/env bash", "#!/bin/sh -e", "#!/bin/ksh"])
def test_a_shell_above_commands_is_no_other_language(judged, first):
    assert judged(f"{first}\n./run 1\n./run 2\n") == []


def test_a_line_of_a_script_above_commands_gets_no_word(judged):
    assert judged("#!/bin/bash\n./run 1\n./run 2 > x\n") == []


# ---- what goes on behind its task, and marks of an editor ----------------------------


@pytest.mark.parametrize(
    "line", ["run &", "run > x 2>&1 &", "run & # note", "a; b &", "nohup run & ", "a&"]
)
def test_a_line_that_ends_in_the_background_is_refused(judged, line):
    sentence, is_certain = only(judged(f"# x\n{line}\n"))
    assert is_certain
    assert 'line 2 of tasks.txt ends with "&"' in sentence


@pytest.mark.parametrize(
    "line",
    [
        *("A || B & wait", "(cmd &) ; wait", "cmd &> file", "cmd > file 2>&1"),
        *("a & b & wait", "run 'a &'", 'echo "&"', r"echo \&", "a |& b", "run #&"),
        *("{ a & b & wait; }", "server & ./client; kill $!", "curl 'http://x?a=1&b=2'"),
    ],
)
def test_what_is_waited_for_or_no_operator_gets_no_word(judged, line):
    assert judged(line + "\n") == []


@pytest.mark.parametrize("text", ["run", "#!/bin/bash", "# a comment", ""])
def test_a_byte_order_mark_is_refused(judged, text):
    sentence, is_certain = only(judged(f"\ufeff{text}\nrun\n"))
    assert is_certain
    assert "line 1 of tasks.txt begins with a byte order mark" in sentence
    assert r"sed -i 's/^\xEF\xBB\xBF//' tasks.txt" in sentence


def test_a_byte_order_mark_where_two_files_were_joined_is_refused(judged):
    lines = "run\n" * (3 * HEAD)
    assert f"line {3 * HEAD + 1} " in only(judged(f"{lines}\ufeffrun\n{lines}"))[0]


def test_other_letters_that_begin_with_the_same_byte_get_no_word(judged):
    assert judged("run --of ｶﾅ\nrun ﬁ\n" * 2000) == []


# ---- an srun that would wait for the farm's own CPUs ---------------------------------


@pytest.mark.parametrize(
    "line",
    [
        *("srun -n2 ./solve case1", "srun -n2 ./solve $PROC_NUMBER > out.$PROC_NUMBER"),
        *("cd case1 && srun --mpi=pmi2 -n 2 ./solve", "OMP_NUM_THREADS=1 srun ./solve"),
        "for i in 1 2; do srun -n1 ./solve $i; done",
        *("env X=1 srun ./solve", "timeout 9 srun -n1 ./solve || echo lost"),
        *("out=$(srun -n1 ./solve) && echo $out", 'echo "$(time srun ./solve)" x'),
        *("sh -c 'srun -n1 ./solve'", 'bash -c "cd case1; srun ./solve"'),
    ],
)
def test_an_srun_that_waits_for_the_farm_gets_a_warning(judged, line):
    sentence, is_certain = only(judged(f"# x\n{line}\n{line}\n", holds_cpus=True))
    assert not is_certain
    started = "line 2 of tasks.txt (task 0) starts srun without --overlap"
    assert sentence.startswith(started)
    assert 'write srun --overlap -N1 -w "$SLURMD_NODENAME" …' in sentence
    assert judged(f"{line}\n") == []


@pytest.mark.parametrize(
    "line",
    [
        'srun --overlap -N1 -n2 -w "$SLURMD_NODENAME" ./solve case1',
        "SLURM_OVERLAP=1 srun -n2 ./solve",
        "export SLURM_OVERLAP=1; srun -n2 ./solve",
        "echo srun -n2 ./solve",
        "env X=1 srun --overlap -n2 ./solve",
        "timeout 9 echo srun",
        "sh -c 'echo srun -n1 ./solve'",
        "echo $(echo srun ./solve)",
        "./srun_of_last_week.sh",
    ],
)
def test_an_srun_that_overlaps_gets_no_word(judged, line):
    assert judged(f"{line}\n", holds_cpus=True) == []


def test_an_srun_gets_no_word_where_all_tasks_overlap(judged):
    line = "srun -n2 ./solve\n"
    environment = {**HOME, b"SLURM_OVERLAP": b"1"}
    assert judged(line, environment, holds_cpus=True) == []
    assert judged(line, given=["SLURM_OVERLAP"], holds_cpus=True) == []
    assert judged(line, setup="export SLURM_OVERLAP=1", holds_cpus=True) == []


# ---- long lists ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", ["run $LAUNCHER_JID", "run &", "run \\", "cat <<EOF", "run ${SGE_TASK_ID}"]
)
@pytest.mark.parametrize("place", [0, 5 * HEAD, 10 * HEAD - 1])
def test_marks_are_seen_wherever_they_stand(judged, line, place):
    lines = [f"run --seed {n} > {n}.txt 2>&1" for n in range(10 * HEAD)]
    lines[place] = line
    sentence, is_certain = only(judged("# x\n" + "\n".join(lines) + "\n"))
    assert is_certain
    assert sentence.startswith(f"line {place + 2} of ")


@pytest.mark.parametrize(
    "usual",
    [
        *("run $HOME/{n}", "run ${{HOME}} $HOME", "echo $$ $HOME $1 $@ $(date) {n}$"),
        *("run $[{n} + 1]", "HQ_TASK_ID={n}; run $HQ_TASK_ID"),
        "HQ_TASK_ID={n}; run $[HQ_TASK_ID]",
    ],
)
@pytest.mark.parametrize(
    "line",
    ["run $HQ_TASK_ID", "x ${SGE_TASK_ID}$HOME", "x $[HQ_TASK_ID+1]", "run $HOME &"],
)
@pytest.mark.parametrize("place", [1500, 4000])
def test_a_fault_is_seen_among_other_variables(judged, monkeypatch, usual, line, place):
    monkeypatch.setattr("mpifarm.tasklists._BLOCK_BYTES", 1 << 14)
    lines = [usual.format(n=n) for n in range(5000)]  # some blocks
    lines[place] = line
    sentence, is_certain = only(judged("\n".join(lines) + "\n"))
    assert is_certain
    assert sentence.startswith(f"line {place + 1} of ")


@pytest.mark.parametrize("place", [0, HEAD - 1, 10 * HEAD - TAIL, 10 * HEAD - 1])
def test_words_are_seen_at_both_ends(judged, place):
    lines = ["run --all"] * (10 * HEAD)
    lines[place] = "export X=3"
    assert f"line {place + 1} of" in only(judged("\n".join(lines) + "\n"))[0]


def test_a_line_number_counts_what_is_no_task(tmp_path):
    path = tmp_path / "tasks.txt"
    path.write_bytes(b"# a\r\n\na\r\n  \nb\rc\n#\nd")
    assert find_line_numbers(str(path), [0, 1, 2, 3]) == {0: 3, 1: 5, 2: 6, 3: 8}


# ---- ordinary lists ------------------------------------------------------------------

ORDINARY = {
    "alignment": "bwa mem -t 4 -R '@RG\\tID:s{n}\\tSM:s{n}' ref.fa s{n}_1.fq.gz "
    "s{n}_2.fq.gz | samtools sort -@ 4 -o s{n}.bam - 2> log/s{n}.log",
    "variants": "bcftools mpileup -f ref.fa s{n}.bam | bcftools call -mv -Oz > "
    '"s{n}.vcf.gz" && tabix -p vcf "s{n}.vcf.gz"',
    "counts": "zcat s{n}.fastq.gz | awk 'NR%4==2 {{print length($0)}}' | sort -n | "
    "uniq -c > s{n}.len",
    "blast": "blastp -query q/{n}.fa -db nr -evalue 1e-5 -outfmt '6 qseqid sseqid "
    "pident' -out hits/{n}.tsv",
    "docking": "cd $HOME/dock && vina --config conf.txt --ligand lig/{n}.pdbqt --out "
    "out/{n}.pdbqt &> log/{n}.txt",
    "phylogeny": 'raxml-ng --msa g{n}.phy --model GTR+G --seed $RANDOM --prefix "T{n}"',
    "molecular dynamics": "mkdir -p run_{n} && cd run_{n} && gmx mdrun -deffnm md",
    "monte carlo": "./mc --beta 0.{n} --seed $(( {n} * 17 + 3 )) > b{n}.dat 2>&1",
    "lattice": "OMP_NUM_THREADS=2 ./su3 -L 16 -b 5.{n} < in/{n}.in > out/{n}.out",
    "detector": 'root -l -b -q "analyse.C(\\"run{n}.root\\",{n})"',
    "cosmology": "python -c \"import sim; sim.run({n}, path='out/{n}.npz')\"",
    "plots": "python3 plot.py --title 'it is $x^2$ & more' --out fig{n}.png",
    "elements": 'matlab -batch "solve({n}); exit" > log{n}.txt',
    "flow": "if [ ! -f case{n}/done ]; then simpleFoam -case case{n} && touch "
    "case{n}/done; fi",
    "structures": "for i in $(seq 3); do ./fem mesh{n}.msh $i; done",
    "images": "find raw/{n} -name '*.tif' -exec convert {{}} -resize 50% {{}}.png \\;",
    "nested": "parallel -j 2 ./work {{}} {n} ::: a b c",
    "parameters": "./sweep --alpha={{0.1,0.2}} --id {n} --tag $(date +%F)_$(hostname)",
    "containers": "singularity exec -B /data a.sif bash -c 'cd /data && run {n}'",
    "group": '( cd w{n} && ./a.out ) || {{ echo "failed {n}" >&2; exit 1; }}',
    "loops": 'while read -r a b; do ./pair "$a" "$b"; done < pairs{n}.txt',
    "queries": "curl -s 'https://example.org/api?id={n}&fmt=json' | jq '.a[] | .b'",
    "arrays": 'x=({n} 2 3); for v in "${{x[@]}}"; do ./f "$v" "${{x[0]:-1}}"; done',
    "steps": "srun --overlap -n 4 ./mpi_program {n} $SLURM_JOB_ID",
    "cases": "case {n} in 1*) ./one;; *) ./other {n};; esac",
    "time": 'time ./solver -n {n} ; echo "status $?" >> st{n}',
    "sourced runs": "source venv/bin/activate && python train.py --fold {n}",
    "scripts": ". ./job_{n}.sh",
    "here-string": 'bc -l <<< "{n} * 3.14" > r{n}; ./shift $((1 << 3)) {n}',
}


@pytest.mark.parametrize("field", ORDINARY)
def test_an_ordinary_list_gets_no_word(judged, field):
    lines = "".join(ORDINARY[field].format(n=n) + "\n" for n in range(30))
    assert judged(f"# a list\n{lines}\n# the end\n") == []


# ---- the number under another name ---------------------------------------------------


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("LAUNCHER_TSK_ID", ("LAUNCHER_TSK_ID", 0)),
        ("LAUNCHER_JID", ("LAUNCHER_JID", 1)),
        ("SGE_TASK_ID", ("SGE_TASK_ID", 1)),
        ("SGE_TASK_ID=0", ("SGE_TASK_ID", 0)),
        ("MINE", ("MINE", 0)),
        ("MINE=1000", ("MINE", 1000)),
    ],
)
def test_a_name_brings_the_first_number_of_its_tool(word, meant):
    assert parse_id_variable(word) == meant


@pytest.mark.parametrize(
    "word",
    ["", "3", "A-B", "A=", "A=x", "A=-1", "PROC_NUMBER", "MPIFARM_X", "PMI_RANK=1"],
)
def test_a_name_that_no_variable_can_have_is_refused(word):
    with pytest.raises(InputError, match="--id-variable"):
        parse_id_variable(word)

"""The template handler: the values of its replacement strings, and their quoting.

Rules of this file: each command is written out here.  Comparisons with a real bash and
a real GNU parallel are in tests/process/test_templates_in_bash.py.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.errors import InputError
from mpifarm.model.settings import HandlerDefinition
from mpifarm.order.constraints import Barrier
from mpifarm.plugins.shell_split import split_direct
from mpifarm.tasklists import open_tasklist
from mpifarm.templates import TemplateTaskList, parse_template


def rendered(template, value="a b.c", number=7):
    return parse_template(template).render(value, number)


# ---- what they mean ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "bare", "last", "directory", "last_bare"),
    [
        ("d/f.tar.gz", "d/f.tar", "f.tar.gz", "d", "f.tar"),
        ("f", "f", "f", ".", "f"),
        ("d.e/f", "d.e/f", "f", "d.e", "f"),
        (".bashrc", "", ".bashrc", ".", ""),
        ("d/.bashrc", "d/", ".bashrc", "d", ""),
        ("f.", "f", "f.", ".", "f"),
        ("..", ".", "..", ".", "."),
        ("d/", "d/", "", ".", ""),
        ("c/d/", "c/d/", "", "c", ""),
        ("/", "/", "", "/", ""),
        ("/f.x", "/f", "f.x", "/", "f"),
        ("//d//f.x", "//d//f", "f.x", "//d", "f"),
        ("a b/c d.e f", "a b/c d", "c d.e f", "a b", "c d"),
    ],
)
def test_the_replacement_strings_mean_what_they_mean_to_parallel(
    value, bare, last, directory, last_bare
):
    quoted = [f"'{part}'" for part in (value, bare, last, directory, last_bare)]
    assert rendered("p '{}' '{.}' '{/}' '{//}' '{/.}'", value) == " ".join(
        ["p", *quoted]
    )


def test_between_double_quotes_a_value_is_no_shell_code():
    assert rendered('p "{}"', 'a `b` $c "d" \\e') == 'p "a \\`b\\` \\$c \\"d\\" \\\\e"'


def test_the_number_is_the_tasks_place_from_1(tmp_path):
    path = tmp_path / "files.txt"
    path.write_text("# files\na\n\nb\n")
    tasks = TemplateTaskList(str(path), "workdir", command="cp {} out/{#}")
    assert [tasks[0], tasks[1]] == ["cp a out/1", "cp b out/2"]
    assert tasks.tasks == ["a", "b"]
    assert len(tasks) == 2


def test_the_kind_of_a_line_is_no_part_of_its_value(tmp_path):
    path = tmp_path / "files.txt"
    path.write_text("a\n#BARRIER\n[limit=disk] b\n")
    tasks = TemplateTaskList(str(path), "workdir", command="cp {} out")
    assert [tasks[0], tasks[1]] == ["cp a out", "cp b out"]
    assert tasks.constraints.kinds == {1: "disk"}
    assert tasks.constraints.barriers == [Barrier(1, checks=False)]


def test_the_line_comes_last_where_the_template_does_not_say():
    assert rendered("gzip -9") == "gzip -9 'a b.c'"
    assert rendered("echo {#}") == "echo 7"


@pytest.mark.parametrize(
    "template", ["p {x} {1} {%} { } {..} {///} {print} '{''}'", "p \\{} \\{.}"]
)
def test_other_braces_stay_as_they_are(template):
    assert rendered(f"{template} {{}}") == f"{template} 'a b.c'"


# ---- how they are quoted -------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "command"),
    [
        ("p {}", "p 'a b.c'"),
        ("p x{}y", "p x'a b.c'y"),
        ('p "x{}y"', 'p "xa b.cy"'),
        ("p 'x{}y'", "p 'xa b.cy'"),
        ("p \"'{}'\" '\"{}\"'", "p \"'a b.c'\" '\"a b.c\"'"),
        ("p \\\"{} \\'{}", "p \\\"'a b.c' \\''a b.c'"),
        ('p "$(q {} "{}")" {}', "p \"$(q 'a b.c' \"a b.c\")\" 'a b.c'"),
        ('p "$( (q; (r)) | s {} ) {}"', "p \"$( (q; (r)) | s 'a b.c' ) a b.c\""),
        ("(p {}); q <(r {})", "(p 'a b.c'); q <(r 'a b.c')"),
        ("p \"$v{}\" '$v{}'", 'p "$v""a b.c" \'$va b.c\''),
        ('p "${v}{}" ${v}{}', "p \"${v}a b.c\" ${v}'a b.c'"),
        ('p "\\{}" "\\\\{}" "\\"{}"', 'p "\\\\a b.c" "\\\\a b.c" "\\"a b.c"'),
        ('p "(( {} ))"', 'p "(( a b.c ))"'),
        ("p # don't {}\nq {}", "p # don't {}\nq 'a b.c'"),
        ("p a#'{}' \\ #'{}' $# {}", "p a#'a b.c' \\ #'a b.c' $# 'a b.c'"),
        ("case {} in (a) p;; *.c) q;; esac", "case 'a b.c' in (a) p;; *.c) q;; esac"),
        ("p <<< {}", "p <<< 'a b.c'"),
        ("p <<E {}\nit's\nE", "p <<E 'a b.c'\nit's\nE"),
        ("p 2>&1 {} >&- 2>&1; q 2>& 1", "p 2>&1 'a b.c' >&- 2>&1; q 2>& 1"),
        ("awk '{print $1}' {}", "awk '{print $1}' 'a b.c'"),
        ("p $((7+{#})) `q {#}` {}", "p $((7+7)) `q {#}` 'a b.c'".replace("{#}", "7")),
    ],
)
def test_a_value_is_quoted_for_its_place(template, command):
    assert rendered(template) == command


@pytest.mark.parametrize(
    ("template", "command"),
    [
        ("p {} &", "p 'it'\\''s \"$x\"' &"),
        ("p '{}'", "p 'it'\\''s \"$x\"'"),
        ('p "{}"', 'p "it\'s \\"\\$x\\""'),
    ],
)
def test_quotes_in_a_value_are_quoted(template, command):
    assert rendered(template, 'it\'s "$x"') == command


@pytest.mark.parametrize(
    ("template", "command"),
    [
        ("p \\\n -x {}", "p  -x 'a b.c'"),
        ("p -x \\\n", "p -x  'a b.c'"),
        ('p "$\\\n(q {})"', "p \"$(q 'a b.c')\""),
        ('p "$v\\\n{}"', 'p "$v""a b.c"'),
        ("p a \\\n# it's\np {} # '", "p a # it's\np 'a b.c' # '"),
        ("p a\\\n#'{}'", "p a#'a b.c'"),
        ("p 2>\\\n&\\\n1\\\n {}", "p 2>&1 'a b.c'"),
        # No continuation: it stays.
        ("p '\\\n{}'", "p '\\\na b.c'"),
        ("p \\\\\n{} x", "p \\\\\n'a b.c' x"),
        ("p # \\\n{} x", "p # \\\n'a b.c' x"),
        ("p {} <<E\na\\\nb\nE", "p 'a b.c' <<E\na\\\nb\nE"),
    ],
)
def test_a_line_continuation_is_taken_out_before_anything_is_read(template, command):
    assert rendered(template) == command


def test_the_number_stands_bare_where_it_stays_a_word_of_its_own():
    assert rendered("echo {1..{#}}", number=3) == "echo {1..3}"
    assert rendered("p {#}; q", number=3) == "p 3; q"


PLAIN_VALUES = st.text("abcXYZ019_./:=,@%+-", min_size=1)


@given(PLAIN_VALUES)
def test_a_plain_command_stays_one_and_needs_no_shell(value):
    command = rendered("convert -o out/{/.}.png {}", value)
    if "/." in value or value.endswith("/") or value.startswith("."):
        return  # {/.} may be nothing, which is a word to be quoted
    assert "'" not in command
    assert split_direct(command) == command.split()


@pytest.mark.parametrize("value", ["if", "a=b", "time", "cd", "-n"])
def test_a_value_is_never_a_word_of_the_shells_own(value):
    assert rendered("{} x", value) == f"'{value}' x"
    assert rendered("./{} x", value) == f"./{value} x"
    assert rendered("p {} x", value) == f"p {value} x"


@pytest.mark.parametrize(
    ("template", "command"),
    [
        ("p {#}>out", "p '7'>out"),  # not descriptor 7
        ("p {#}{#}2<in", "p '7''7'2<in"),
        ("p $v{#}; q", "p $v'7'; q"),
        ("p {}>out", "p '2'>out"),
        ("p $v{}", "p $v'2'"),
        ("a={} p {}", "a='2' p '2'"),
    ],
)
def test_nothing_is_left_bare_in_a_command_for_a_shell(template, command):
    assert rendered(template, "2") == command


def test_what_may_be_nothing_is_still_a_word():
    assert rendered("p {/} x", "d/") == "p '' x"


# ---- what is wrong -------------------------------------------------------------------


def complaint(template):
    with pytest.raises(InputError) as caught:
        parse_template(template)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("template", ["", "  ", "\n", " \\\n"])
def test_an_empty_command_is_told(template):
    assert "the option command is empty" in complaint(template)


@pytest.mark.parametrize(
    ("template", "place"),
    [
        ("p `q {}`", "{} in `...`"),
        ('p "`q {.}`"', "{.} in `...`"),
        ("p $'{}'", "{} in $'...'"),
        ("p $(({} + 1))", "{} in ((...))"),
        ('p "$((1 + {}))"', "{} in ((...))"),
        ("for ((i=0; i<{}; i++)); do p; done", "{} in ((...))"),
        ("p $(( $(q '') )) {}", "{} after (("),
        ("p ${v:-{}}", "{} after ${"),
        ('p "${v#\'}" {/}', "{/} after ${"),
        ("p $[1+{}]", "{} after $["),
        ("p ${}", "{} after a $"),
        ('p "${#}"', "{#} after a $"),
        ("cat <<E\n{}\nE", "{} in a here-document"),
        ("cat <<E '\n' {}\nE", "{} in a here-document"),
        ('p "$(case {} in a) q;; esac)"', "{} after a case in $(...)"),
        ('p "$(case a in a) q;; es\\\nac) {}"', "{} after a case in $(...)"),
        ('p "$(case a in a) q "\'";; es\\\nac) {}" \'', "{} after a case in"),
        ("cat <\\\n<E\n{}\nE", "{} in a here-document"),
        ("p $\\\n'{}'", "{} in $'...'"),
        ("p (\\\n({}))", "{} in ((...))"),
    ],
)
def test_a_place_without_a_sure_quoting_is_told_with_the_remedy(template, place):
    said = complaint(template)
    assert place in said
    assert "begin the command with f={" in said


@pytest.mark.parametrize(
    "template", ["p >& {}", "p >&x{/.}", 'p >& "{}"', "p >&\\\n{}", "p >&1{}", "p >&"]
)
def test_what_bash_reads_twice_is_told_with_the_remedy(template):
    assert "after >&, which bash reads twice: write &> instead" in complaint(template)
    assert rendered("p >& $log.{#}") == "p >& $log.7"


@pytest.mark.parametrize(
    ("template", "mark"),
    [
        ("echo don't {}", "'"),
        ('echo "{}', '"'),
        ("echo $(cat {}", "$("),
        ("echo `cat", "`"),
        ("echo $'cat", "'"),
    ],
)
def test_what_is_not_closed_is_told(template, mark):
    assert complaint(template).endswith(f"has an unclosed {mark}")


def test_a_comment_hides_no_line():
    assert "before its comment" in complaint("gzip -9  # the best")
    assert "before its comment" in complaint("gzip -9  # {}")


def test_a_backslash_at_the_end_and_a_nul_byte_are_told():
    assert "a backslash at its end" in complaint("p {} \\")
    assert rendered("p {} \\\\") == "p 'a b.c' \\\\"
    assert "a NUL byte" in complaint("p {} \0")


def test_a_long_command_is_told_by_its_beginning():
    said = complaint("echo 'it " + "x" * 1000)
    assert "'echo 'it xxx" in said.replace('"', "'")
    assert len(said) < 200


def open_template(path, **options):
    definition = HandlerDefinition(
        "png", "mpifarm.templates.TemplateTaskList", options, "my.ini"
    )

    def never():
        raise AssertionError("the workdir was made")

    return open_tasklist(definition, str(path), "workdir", never)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "misses the option command: mpifarm.templates.TemplateTaskList takes"),
        ({"command": ""}, ": the option command is empty"),
        ({"command": "p '"}, "has an unclosed '"),
        ({"command": "p", "comand": "q"}, "doesn't know the option comand"),
    ],
)
def test_a_wrong_option_is_told_with_the_handler_and_its_file(tmp_path, options, told):
    path = tmp_path / "files.txt"
    path.write_text("a\n")
    with pytest.raises(InputError) as caught:
        open_template(path, **options)
    assert str(caught.value).startswith("the tasklist handler 'png' in my.ini")
    assert told in str(caught.value)


def test_a_list_that_is_not_there_is_told_as_by_default(tmp_path):
    with pytest.raises(InputError, match=r"no\.txt: there is no such file"):
        open_template(tmp_path / "no.txt", command="p")

"""The template handler before its judges: bash, and GNU parallel.

Rules of this file: what a command is comes down to the arguments that a real bash makes
of it.  One bash does many lines at a time, so that thousands are tried.
"""

import os
import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mpifarm.errors import InputError
from mpifarm.runners import BASH
from mpifarm.templates import NUMBER, REPLACEMENTS, parse_template

SHOW = """
show() { printf '%s\\0' "$@"; printf '\\n\\0'; }
v=VALUE
cd / || exit
"""
"""A command that shows its arguments, each ended by a NUL, and then an end mark."""


def arguments_of(commands: list[str]) -> list[list[bytes]]:
    """The arguments of ``show`` in each of the commands, as bash makes them."""
    script = "\n".join([SHOW, *commands, ""]).encode("utf-8", "surrogateescape")
    said = subprocess.run(
        [BASH, "--norc", "-s"], input=script, capture_output=True, check=True
    )
    assert said.stderr == b""
    *shown, rest = said.stdout.split(b"\n\0")
    assert rest == b""
    return [arguments.split(b"\0")[:-1] for arguments in shown]


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# ---- lines ---------------------------------------------------------------------------

NASTY = "\\\\'\"'\"$`(){}[]<>|&;*?!#~^=%/. \t-a1\x01\x1b\x7f"

VALUES = (
    st.one_of(
        st.text(NASTY, min_size=1, max_size=12),
        st.text("ab/.", min_size=1, max_size=8),
        st.text(
            st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1
        ).map(lambda text: text[:20]),
        st.binary(min_size=1, max_size=8).map(
            lambda some: some.translate(None, b"\0\r\n").decode(
                "utf-8", "surrogateescape"
            )
        ),
        st.sampled_from(["$(touch x)", "`id`", "-rf", "if", "a=b", "$'\\x41'", "!!"]),
    )
    .map(str.strip)
    .filter(bool)
)
"""What a line of a tasklist may be."""

# ---- templates -----------------------------------------------------------------------


# A part of a word is a pair: how it stands in the template, and what it comes to,
# which is literal text and names of replacement strings.

HOLES = st.sampled_from([*REPLACEMENTS, NUMBER]).map(lambda name: (name, (name,)))
SPECIAL = "ab ,{[\\'\"$`!#~*?&;|<>()%=/.-"


def written(escape):
    """Literal text as a template has it; without ``}``, so that it makes no hole."""
    return st.text(SPECIAL, max_size=5).map(lambda text: (escape(text), (text,)))


def joined(parts):
    return "".join(text for text, _ in parts), tuple(
        s for _, says in parts for s in says
    )


def sequence(*kinds, most=4):
    return st.lists(st.one_of(*kinds), max_size=most).map(joined)


def escape_bare(text):
    return "".join("\\" + letter for letter in text)


def escape_double(text):
    return "".join("\\" + c if c in '\\"$`' else c for c in text)


def enclose(begin, end):
    return lambda part: (begin + part[0] + end, part[1])


BACKSLASHED = HOLES.map(lambda hole: ("\\" + hole[0], ("\\", *hole[1])))
BARE = st.one_of(written(escape_bare), st.just(("\\ #", (" #",))))
JOINED = st.just(("\\\n", ()))  # a line continuation
NOT_JOINED = st.just(("\\\n.", ("\\\n.",)))
SINGLE = sequence(
    HOLES, NOT_JOINED, written(lambda text: text.replace("'", "'\\''"))
).map(enclose("'", "'"))  # fmt: skip
NAMED = st.tuples(HOLES, st.sampled_from(["$v", "$\\\nv", "$v\\\n"])).map(
    lambda pair: (pair[1] + pair[0][0], ("VALUE", *pair[0][1]))
)
IN_DOUBLE = (HOLES, written(escape_double), NAMED, BACKSLASHED, JOINED)
DOUBLE = sequence(*IN_DOUBLE).map(enclose('"', '"'))
INNER = st.tuples(
    sequence(HOLES, BARE, SINGLE, DOUBLE, JOINED),
    st.sampled_from(['"$(', '"$\\\n(', '"$(\\\n']),
).map(lambda pair: enclose(f"{pair[1]}printf '%s_' x", ')"')(pair[0]))
NESTED = INNER.map(lambda part: (part[0], ("x", *part[1], "_")))
WORDS = st.lists(
    st.one_of(HOLES, BARE, SINGLE, DOUBLE, NESTED, JOINED), min_size=1, max_size=5
)


@st.composite
def templates(draw):
    """A template, and the words that it has behind ``show``."""
    words = [joined(draw(WORDS)) for _ in range(draw(st.integers(1, 4)))]
    words = [word for word in words if word[0].replace("\\\n", "")]
    words.append(("{}", ("{}",)))
    return " ".join(["show", *[text for text, _ in words]]), [says for _, says in words]


def filled(says, value, number):
    """What a word comes to."""
    known = {name: part(value) for name, part in REPLACEMENTS.items()}
    known[NUMBER] = str(number)
    return as_bytes("".join(known.get(each, each) for each in says))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(templates(), st.lists(VALUES, min_size=1, max_size=20))
def test_bash_sees_exactly_the_bytes_of_the_line(template, values):
    text, words = template
    parsed = parse_template(text)
    commands = [parsed.render(value, n) for n, value in enumerate(values, start=1)]
    assert arguments_of(commands) == [
        [filled(says, value, n) for says in words]
        for n, value in enumerate(values, start=1)
    ]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(
        ["show {} x", "show -o /{/.}.x {//} {}", "show", "show --o={} {.}"]
    ),
    st.lists(VALUES, min_size=1, max_size=30),
)
def test_so_it_does_where_plain_values_are_left_bare(text, values):
    parsed = parse_template(text)
    commands = [parsed.render(value, 1) for value in values]
    words = [*text.split()[1:]] or ["{}"]
    assert arguments_of(commands) == [
        [as_bytes(replaced(word, value)) for word in words] for value in values
    ]


def replaced(word, value):
    """A word of a plain template with its one replacement string."""
    for name, part in REPLACEMENTS.items():
        if name in word:
            return word.replace(name, part(value))
    return word


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("case {} in *.c) show yes {};; *) show no;; esac", ["yes", "VALUE"]),
        ("f={}; show \"${f%.c}\" $(printf %s \"$f\" | tr a b)", ["BARE", "b", "b.c"]),
        ("show $((10 + {#})) `echo {#}` # it's {}\n: {}", ["11", "1"]),
        ("show {a,{}} ~{}x", ["a", "VALUE", "~VALUEx"]),
        ("read -r x <<< {}; show \"$x\"", ["VALUE"]),
        ("show \"\\{}\" \\{} 'a\\{}' \\\\{}", ["\\VALUE", "{}", "a\\VALUE", "\\VALUE"]),
        ("( show $'it\\'s' \"$(show {} | tr -d '\\0\\n')\" )", ["it's", "VALUE"]),
        ("show {1..{#}} \\\n {\\\na,b} \\\n# it's\n: {} # '", ["1", "a", "b"]),
        ("for i in {} {#}; do show $i; done; : 2>&1", None),
    ],
)  # fmt: skip
def test_the_rest_of_the_shells_syntax_is_left_to_it(template, expected):
    value = "a a.c"
    if expected is None:
        assert arguments_of([parse_template(template).render("q", 1)]) == [
            [b"q"],
            [b"1"],
        ]
        return
    meant = [each.replace("VALUE", value).replace("BARE", "a a") for each in expected]
    command = parse_template(template).render(value, 1)
    assert arguments_of([command]) == [[as_bytes(each) for each in meant]]


OWNING = [
    *("; own", "$(own)", "`own`", "'; own; '", '"; own; "', "); own; (", "|own"),
    *(")own", '\\" $(own)', "\\'; own", "\\", "abc; own #", "'\"'; own", "\\$(own)"),
]
"""Lines that would run ``own`` if they were not quoted rightly."""

PIECES = [
    *("{}", "{}", "{.}", "{#}", "\\\n", "\\\n", "\n", " ", '"', "'", "$", "(", ")"),
    *("$(", '"$(', "<", "<<", "E\n", "\nE\n", "#", " #", "`", "\\", "$x", "x", "s "),
    *("case a in a) ", "esac", "es", "ac", ";;", "{", "}", "${", "$'", "((", "))"),
    *("|", "&", ">", ">&", "3", "it's", "[["),
]
"""What templates of any kind are put together from, whatever they mean."""

RUN_ALL = """
own() { echo "$number" >&7; }
number=0
while IFS= read -r -d '' command <&8; do
  ( exec 8<&-; eval "$command" ) > /dev/null 2>&1
  number=$((number + 1))
done 7>../owned 8<../commands
"""


# What fails says which command it was: to shrink it would take minutes.
@settings(max_examples=10, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(st.lists(st.lists(st.sampled_from(PIECES), min_size=2), min_size=60))
def test_a_line_is_never_run_whatever_the_template(tmp_path_factory, many):
    directory = tmp_path_factory.mktemp("any")
    (directory / "here").mkdir()
    commands = [
        template.render(value, 3)
        for pieces in many
        if (template := find_template("echo " + "".join(pieces)))
        for value in OWNING
    ]
    content = b"".join(as_bytes(command) + b"\0" for command in commands)
    (directory / "commands").write_bytes(content)
    subprocess.run(
        [BASH, "--norc", "-c", RUN_ALL],
        cwd=directory / "here",
        stdin=subprocess.DEVNULL,
        check=True,
    )
    owned = (directory / "owned").read_text().split()
    assert [commands[int(number)] for number in owned] == []


def find_template(text):
    """The template; None where it is refused."""
    try:
        return parse_template(text)
    except InputError:
        return None


# ---- GNU parallel --------------------------------------------------------------------

_ODD_WORDS = """
a a.b a.b.c a. .a ..a . .. ... a..b .a.b a.b/c a.b/ a/ a// / // /// /a /a/ //a a//b
a/b// a/.b a/b.c a/.b.c a.b/.c ./a ../a.b a/./b a/.. -a -- --x=y.z ~ ~/a.b $HOME a'b
a"b a\\b a*b ? [x] {a,b} {} {.} a;b a&b a|b a<b a>b a#b #a.b !a (a) `a` ä.ö 漢字/漢.字
a=b %d 100%
"""
_ODD_PHRASES = """
a b\na b.c d\na b/c d.e f\na\tb.c\nit's "x".y\nx/ .y\nx /y
"""
ODD_LINES = [*_ODD_WORDS.split(), *_ODD_PHRASES.strip().split("\n")]

PARALLEL = "show {} {.} {/} {//} {/.} {#}"


@pytest.fixture(scope="module")
def parallel(tmp_path_factory):
    """What GNU parallel would run for each of the lines."""
    program = shutil.which("parallel")
    said = b""
    if program is not None:
        said = subprocess.run(
            [program, "--version"], check=False, capture_output=True
        ).stdout
    if program is None or not said.startswith(b"GNU"):
        pytest.skip("no GNU parallel here")
    home = tmp_path_factory.mktemp("home")

    def dry_run(lines: list[str]) -> list[str]:
        source = home / "lines"
        source.write_bytes(b"".join(as_bytes(line) + b"\n" for line in lines))
        said = subprocess.run(
            [program, "--will-cite", "-k", "--dry-run", "-a", str(source), PARALLEL],
            capture_output=True,
            env={**os.environ, "HOME": str(home)},
            check=True,
        )
        return said.stdout.decode("utf-8", "surrogateescape").split("\n")[:-1]

    return dry_run


def assert_parallel_agrees(parallel, lines):
    ours = parse_template(PARALLEL)
    commands = [ours.render(line, n) for n, line in enumerate(lines, start=1)]
    assert arguments_of(commands) == arguments_of(parallel(lines))


def test_parallel_means_the_same_by_its_replacement_strings(parallel):
    lines = [*ODD_LINES, "caf\udce9.\udcff/x\udc80.y"]
    assert_parallel_agrees(parallel, lines)


@settings(max_examples=10, deadline=None)
@given(st.lists(VALUES, min_size=20, max_size=60))
def test_so_it_does_for_any_line(parallel, lines):
    assert_parallel_agrees(parallel, lines)

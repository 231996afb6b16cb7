"""What a shell line is read as: one reading for each piece of bash's grammar.

Rules of this file: no shell is started.  That bash agrees is what
`tests/process/test_shell_lines_against_bash.py` finds out.
"""

import pytest

from mpifarm.lists.shell_lines import Command, read_line

UNSURE = None
"""The reader says nothing of such a line."""


def words_of(command: Command) -> str:
    """The assignments in angle brackets, then the words; an expansion is ``$``."""
    assigned = [f"<{word.raw}>" for word in command.assignments]
    words = ["$" if word.value is None else word.value for word in command.words]
    return " ".join([*assigned, *words])


def told(line: str) -> dict[str, object] | None:
    """All that is read of a line and is not empty, but for `Reading.names`."""
    read = read_line(line)
    if not read.is_sure:
        assert not read.commands
        return UNSURE
    found = {
        "commands": [words_of(command) for command in read.commands],
        "expansions": " ".join(each.name + each.guard for each in read.expansions),
        "substituted": read.substituted,
        "prefixed": " ".join(sorted(read.prefixed)),
        "unfinished": read.unfinished,
        "stray": read.stray,
        "has_heredoc": read.has_heredoc,
        "in_background": read.ends_in_background,
        "is_compound": read.has_compound,
        "only_defines": read.only_defines,
    }
    return {name: each for name, each in found.items() if each}


# ---- the words of a command, without their quotes ------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("echo a b", {"commands": ["echo a b"]}),
        ("echo 'a b' c", {"commands": ["echo a b c"]}),
        ('echo "a b"c\\ d', {"commands": ["echo a bc d"]}),
        ('echo "a \\"b\\" \\$x \\q"', {"commands": ['echo a "b" $x \\q']}),
        ("echo $'a\\'b' c", {"commands": ["echo $ c"]}),
        ('echo $"a b"', {"commands": ["echo a b"]}),
        ("echo 'a", {"unfinished": "'"}),
        ('echo "a', {"unfinished": '"'}),
        ('echo "a\\', {"unfinished": '"'}),
        ("echo a\\", {"unfinished": "\\"}),
        ('echo "$\'"', {"commands": ["echo $'"]}),
        ("echo a#b #c 'd", {"commands": ["echo a#b"]}),
        ("# echo 'a", {}),
        ("echo a'b'\"c\"", {"commands": ["echo abc"]}),
        ('echo "a" "b', {"unfinished": '"'}),
    ],
)
def test_quotes_are_taken_off(line, expected):
    assert told(line) == expected


# ---- what the line's own shell expands -----------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("echo $X a$Y", {"commands": ["echo $ $"], "expansions": "X Y"}),
        ("echo \"$X\" '$Y' \\$Z", {"commands": ["echo $ $Y $Z"], "expansions": "X"}),
        ('echo ${X} "${Y}"', {"commands": ["echo $ $"], "expansions": "X Y"}),
        (
            "echo ${X:-$Y} ${Z-a} ${W:=b} ${V?c} ${U:+d}",
            {"commands": ["echo $ $ $ $ $"], "expansions": "X- Z- W= V? U+"},
        ),
        (
            "echo ${#X} ${#} ${!X} ${X%b} ${X/a/b}",
            {"commands": ["echo $ $ $ $ $"], "expansions": "X X X"},
        ),
        (
            "echo ${X[$Y]} ${X[${Z}]}",
            {"commands": ["echo $ $"], "expansions": "Y X Z X"},
        ),
        (
            "echo ${X:-\"$Y\"} ${X:-'}'} ${X:-\\}}",
            {"commands": ["echo $ $ $"], "expansions": "X- X- X-"},
        ),
        ('echo "${X:-\'}"', UNSURE),
        ("echo ${X:-`b`}", UNSURE),
        ("echo ${X", {"unfinished": "${"}),
        ("echo ${", {"unfinished": "${"}),
        ("echo ${%x}", UNSURE),
        ("echo $1 $@ $$ $? ${1:-$X}", {"commands": ["echo $ $ $ $ $"]}),
        ('echo $ a$ "a$"', {"commands": ["echo $ a$ a$"]}),
        ('echo "$$(a)"', UNSURE),
        (
            "echo $(cmd $X) `other $Y`",
            {"commands": ["echo $ $"], "expansions": "X Y", "substituted": ["cmd $X"]},
        ),
        (
            'echo "$(cmd "$X")" "`a`"',
            {"commands": ["echo $ $"], "expansions": "X", "substituted": ['cmd "$X"']},
        ),
        (
            "x=$(a)$Y b",
            {
                "commands": ["<x=$(a)$Y> b"],
                "expansions": "Y",
                "substituted": ["a"],
                "prefixed": "x",
            },
        ),
        ("echo `a \\`b $X\\``", {"commands": ["echo $"], "expansions": "X"}),
        ("echo `a", {"unfinished": "`"}),
        ('echo `a "b`', UNSURE),
        ("echo $(a", {"unfinished": "("}),
        (
            "echo <(a $X) >(b)",
            {"commands": ["echo $ $"], "expansions": "X", "substituted": ["a $X", "b"]},
        ),
        ("echo $((X+1)) $(($Y*2))", {"commands": ["echo $ $"], "expansions": "X Y"}),
        (
            "echo $((X=1)) $((Y++)) $((--Z)) $((W==2)) $((V <<= 1))",
            {"commands": ["echo $ $ $ $ $"], "expansions": "W"},
        ),
        ("echo $((X?Y:2)) $((A,B)) $((A&&B))", {"commands": ["echo $ $ $"]}),
        ("echo $((2#101+X)) $((0x1f))", {"commands": ["echo $ $"], "expansions": "X"}),
        ("echo $((X+(2*Y)))", {"commands": ["echo $"], "expansions": "X Y"}),
        ('echo $((X+"1"))', UNSURE),
        ("echo $(((a) (b)))", {"commands": ["echo $"], "expansions": "a b"}),
        ("echo $((${X))", UNSURE),
        ("echo $((X", {"unfinished": "(("}),
        ("echo $[X+1] $[$Y%4]", {"commands": ["echo $ $"], "expansions": "X Y"}),
        ("echo $[X++]", UNSURE),
        ("echo $[X", UNSURE),
        ("let X=Y+1 Z=3", {"commands": ["let X=Y+1 Z=3"], "expansions": "Y"}),
        ("let 'X = Y * 2'", {"commands": ["let X = Y * 2"], "expansions": "Y"}),
    ],
)
def test_expansions_are_told_with_what_guards_them(line, expected):
    assert told(line) == expected


# ---- the variables that a line may set -----------------------------------------------


@pytest.mark.parametrize(
    ("line", "names", "prefixed"),
    [
        ("X=1", "X", ""),
        ("X=1 cmd $X", "cmd", "X"),
        ("X=1 Y=$Z", "X Y", ""),
        ("X[0]=1 Y+=2 cmd", "cmd", "X Y"),
        ("X+=a", "X", ""),
        ("X=(a $Y b) cmd", "cmd", "X"),
        ("X=(a", "", ""),
        ("export X=1 Y", "X Y export", ""),
        ("read X", "X read", ""),
        ("env X=1 Y cmd", "Y cmd env", "X"),
        ("/usr/bin/env X=1 cmd", "cmd", "X"),
        ("X=1; cmd", "X cmd", ""),
        ("echo ${W:=b} ${V=c} ${!U:=d}", "V W echo", ""),
        (
            "echo $((X=1)) $((Y++)) $((--Z)) $((W==2)) $((V <<= 1)) $((++U))",
            "U V X Y Z echo",
            "",
        ),
        ("((X=1)) && b", "X b", ""),
        ("let X=Y+1", "X let", ""),
        ("for i in 1; do a; done", "a i in", ""),
        ("( X=1 )", "X", ""),
        ("echo `X=1` $(Y=2; a)", "X Y a echo", ""),
        ("f() { X=1; }", "X f", ""),
    ],
)
def test_variables_that_a_line_may_set_are_told(line, names, prefixed):
    """Each word may be a name, as of ``read``; what is set for a command is apart."""
    read = read_line(line)
    assert " ".join(sorted(read.names)) == names
    assert " ".join(sorted(read.prefixed)) == prefixed


# ---- commands, operators and redirections --------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a; b; c", {"commands": ["a", "b", "c"]}),
        ("a && b || c", {"commands": ["a", "b", "c"]}),
        ("a | b |& c", {"commands": ["a", "b", "c"]}),
        ("a & b", {"commands": ["a", "b"]}),
        ("a &", {"commands": ["a"], "in_background": True}),
        ("a & # b", {"commands": ["a"], "in_background": True}),
        ("a &&", {"commands": ["a"], "unfinished": "&&"}),
        ("a |", {"commands": ["a"], "unfinished": "|"}),
        ("a ||", {"commands": ["a"], "unfinished": "||"}),
        ("a ;", {"commands": ["a"]}),
        ("a ; ;", UNSURE),
        ("; a", UNSURE),
        ("&& a", UNSURE),
        ("a > o 2>&1 < i", {"commands": ["a"]}),
        ("a >", UNSURE),
        ("a > ; b", UNSURE),
        ("> o", {}),
        ("> o a", {"commands": ["a"]}),
        ("2> o a b", {"commands": ["a b"]}),
        ("{fd}> o a", {"commands": ["a"]}),
        ("a 3 > o", {"commands": ["a 3"]}),
        ("cat <<EOF", {"commands": ["cat"], "has_heredoc": True}),
        ("cat <<-EOF", {"commands": ["cat"], "has_heredoc": True}),
        ("cat <<< b", {"commands": ["cat"]}),
        ("a &> o; b &>> o; c >| o; d <> o", {"commands": ["a", "b", "c", "d"]}),
        ("a > o if", {"commands": ["a if"]}),
        ("> o if b", UNSURE),
        ("X=1 if b", UNSURE),
    ],
)
def test_operators_and_redirections_part_commands(line, expected):
    assert told(line) == expected


# ---- loops, groups, tests and functions ----------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("if a; then b; fi", {"commands": ["a", "b"], "is_compound": True}),
        (
            "if a; then b; elif c; then d; else e; fi",
            {"commands": ["a", "b", "c", "d", "e"], "is_compound": True},
        ),
        (
            "if a; then b",
            {"commands": ["a"], "unfinished": "then", "is_compound": True},
        ),
        ("if a", {"unfinished": "if", "is_compound": True}),
        ("then b", {"stray": "then", "is_compound": True}),
        ("fi", {"stray": "fi", "is_compound": True}),
        ("else b", {"stray": "else", "is_compound": True}),
        ("if a; do b", UNSURE),
        ("if a; then b; done", UNSURE),
        ("while a; do b; done", {"commands": ["a", "b"], "is_compound": True}),
        (
            "until a; do b; done &",
            {"commands": ["a", "b"], "in_background": True, "is_compound": True},
        ),
        ("while a", {"unfinished": "while", "is_compound": True}),
        ("done", {"stray": "done", "is_compound": True}),
        (
            "for i in 1 2; do a $i; done",
            {
                "commands": ["for i in 1 2", "a $"],
                "expansions": "i",
                "is_compound": True,
            },
        ),
        (
            "for i in 1; do a; done; b",
            {"commands": ["for i in 1", "a", "b"], "is_compound": True},
        ),
        ("for i do a; done", UNSURE),
        ("for i in 1 { a; }", UNSURE),
        (
            "for ((i=0; i<3; i++)); do a; done",
            {"commands": ["for", "a"], "expansions": "i", "is_compound": True},
        ),
        ("for ((;;", {"unfinished": "((", "is_compound": True}),
        ("for i", {"unfinished": "for", "is_compound": True}),
        (
            "select y in a b; do c; done",
            {"commands": ["select y in a b", "c"], "is_compound": True},
        ),
        (
            "case $X in a) b;; c|d) e;; esac",
            {"commands": ["b", "e"], "expansions": "X", "is_compound": True},
        ),
        ("case x in (a) b;; esac", {"commands": ["b"], "is_compound": True}),
        (
            "case x in a) b;& c) d;;& esac",
            {"commands": ["b", "d"], "is_compound": True},
        ),
        ("case x in esac", {"is_compound": True}),
        ("case x in", {"unfinished": "case", "is_compound": True}),
        ("case x on", UNSURE),
        ("case x in a) b", {"unfinished": "case", "is_compound": True}),
        ("case x in a & b", UNSURE),
        ("a ;;", {"stray": ";;"}),
        ("{ a; b; }", {"commands": ["a", "b"], "is_compound": True}),
        ("{ a; b", {"commands": ["a"], "unfinished": "{", "is_compound": True}),
        ("}", {"stray": "}", "is_compound": True}),
        ("{ a; } > o", {"commands": ["a"], "is_compound": True}),
        ("{ a; } b", UNSURE),
        ("{ a; } | b", {"commands": ["a", "b"], "is_compound": True}),
        ("( a; b )", {"is_compound": True}),
        ("( a; X=1 ) &", {"in_background": True, "is_compound": True}),
        ("( a", {"unfinished": "(", "is_compound": True}),
        ("a )", {"stray": ")"}),
        ("a ( b", UNSURE),
        ("(a) b", UNSURE),
        ("((X+1))", {"expansions": "X", "is_compound": True}),
        ("((X=1)) && b", {"commands": ["b"], "is_compound": True}),
        ("[[ -e $X && a < b ]]", {"expansions": "X", "is_compound": True}),
        ("[[ a ]] && b", {"commands": ["b"], "is_compound": True}),
        ("[[ a", {"unfinished": "[[", "is_compound": True}),
        ("! a", {"commands": ["a"]}),
        ("time a", {"commands": ["a"]}),
        ("a && !", {"commands": ["a"]}),
        ("f() { a; }", {"commands": ["a"], "is_compound": True, "only_defines": True}),
        ("f() { a; }; f", {"commands": ["a", "f"], "is_compound": True}),
        ("a; f() { b; }", {"commands": ["a", "b"], "is_compound": True}),
        ("f ()", {"unfinished": "function", "is_compound": True}),
        (
            "function f { a; }",
            {"commands": ["a"], "is_compound": True, "only_defines": True},
        ),
        ("function f() { a; }; f b", {"commands": ["a", "f b"], "is_compound": True}),
        ("function f() a", UNSURE),
        ("f() a", UNSURE),
        ("coproc a", UNSURE),
        ("in", UNSURE),
        ("echo if then done", {"commands": ["echo if then done"]}),
        (
            "echo a; done",
            {"commands": ["echo a"], "stray": "done", "is_compound": True},
        ),
        ("if ( a ); then b; fi", {"commands": ["b"], "is_compound": True}),
        ("{ if a; then b; fi; }", {"commands": ["a", "b"], "is_compound": True}),
        ("[[ a ]] b", UNSURE),
    ],
)
def test_compound_commands_are_known_whole_begun_and_stray(line, expected):
    assert told(line) == expected


def test_a_word_knows_its_text_in_the_line_and_whether_it_runs_commands():
    (command,) = read_line("echo 'a b'$X \"$(c)\" `d` <(e) $((F))").commands
    assert [(word.raw, word.runs) for word in command.words] == [
        ("echo", False),
        ("'a b'$X", False),
        ('"$(c)"', True),
        ("`d`", True),
        ("<(e)", True),
        ("$((F))", False),
    ]


def test_the_name_of_a_command_is_its_first_word_unless_that_is_expanded():
    names = [each.name for each in read_line("a b; $X c; Y=1; 'd'e f").commands]
    assert names == ["a", "", "", "de"]


def test_a_line_that_nests_too_deeply_is_none_to_be_sure_of():
    assert told("( " * 100_000) is UNSURE

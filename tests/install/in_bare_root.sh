#!/bin/bash
# Run inside a bare root, without a network: installs mpifarm in one way, and tries it.
#
#   bash in_bare_root.sh WAY
#
# /index has mpifarm's wheel and source, and what they need; /packaging the recipes.
set -euo pipefail

export PIP_NO_INDEX=1 PIP_FIND_LINKS=/index PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
export UV_NO_INDEX=1 UV_FIND_LINKS=/index UV_OFFLINE=1
export HOME=/root PATH=/root/.local/bin:/usr/bin:/bin TERM=dumb LC_ALL=C.UTF-8
wheels=(/index/mpifarm-*.whl)
version=$(cut -d- -f2 <<< "${wheels[0]}")
way=$1

fail() {
    echo "$way: $*" >&2
    exit 1
}

# A farm of two tasks, its pages, and completion in each shell that was named.
try() {
    local directory
    directory=$(mktemp -d)
    cd "$directory"
    [[ $(mpifarm --version) == "mpifarm $version" ]] || fail "another version"
    printf 'echo one\necho two\n' > tasks.txt
    mpifarm --mpi off -n 2 --quiet tasks.txt > printed 2>&1 || fail "$(cat printed)"
    [[ $(cat tasks.txt_workdir/logs/log_1) == two ]] || fail "no output of the second task"
    mpifarm help docs/order.md | grep -q '#AFTER' || fail "no pages of the documents"
}

try_pages() {
    [[ $(man -w mpifarm) == */man1/mpifarm.1* ]] || fail "man does not find mpifarm"
    [[ $(man -w mpifarm-status) == */man1/mpifarm-status.1* ]] || fail "no page of status"
    man --warnings mpifarm > page 2> warnings
    [[ ! -s warnings ]] || fail "man warns: $(cat warnings)"
    grep -q -- '--max-failures' page || fail "the page has no options"
    man -w bash > /dev/null 2>&1 || man -w man > /dev/null || fail "other pages are gone"
}

try_completion() { # what bash and zsh are told
    bash -c "$1"'; complete -p mpifarm' > /dev/null || fail "bash completes nothing"
    zsh -fc "autoload -U compinit; compinit -D -u; $2"'
        whence -w _mpifarm && [[ $_comps[mpifarm] == _mpifarm ]]' > /dev/null \
        || fail "zsh completes nothing"
}

from_prefix() { # what a package of the system would have in /usr
    local share=$1/share
    try_completion ". $share/bash-completion/completions/mpifarm" \
        ". $share/zsh/site-functions/_mpifarm"
    zsh -fc "fpath=($share/zsh/site-functions \$fpath); autoload -U compinit; compinit -D -u
        [[ \$_comps[mpifarm] == _mpifarm ]]" || fail "zsh does not find its function"
    XDG_DATA_DIRS=$share:/usr/share fish -c 'complete -C "mpifarm stat"' \
        | grep -q ^status || fail "fish completes nothing"
    XDG_DATA_DIRS=$share:/usr/share bash -c '. /usr/share/bash-completion/bash_completion
        _completion_loader mpifarm; complete -p mpifarm' | grep -q _mpifarm \
        || fail "bash-completion does not find its file"
}

# shellcheck disable=SC2016  # the shells that are tried expand it
asked='eval "$(mpifarm completion bash)"'

venv_with() {
    python3 -m venv /venv
    /venv/bin/pip install --quiet "$@"
    PATH=/venv/bin:$PATH
}

case $way in
wheel)
    venv_with mpifarm
    try && try_pages && from_prefix /venv
    ;;
mpich)
    venv_with 'mpifarm[mpich]'
    try && try_pages
    mpiexec -n 2 python -m mpifarm -n 2 --workdir ranks tasks.txt > printed 2>&1 \
        || fail "$(cat printed)"
    grep -q '2 ranks' printed || fail "no two ranks: $(cat printed)"
    ;;
sdist)
    venv_with --no-binary mpifarm mpifarm
    try && try_pages && from_prefix /venv
    ;;
pipx)
    venv_with pipx
    pipx install --quiet mpifarm > printed 2>&1 || fail "$(cat printed)"
    PATH=/root/.local/bin:/usr/bin:/bin
    try
    # pipx links the pages into ~/.local/share/man, beside its ~/.local/bin
    try_pages
    try_completion "$asked" "${asked/bash/zsh}"
    ;;
uv)
    venv_with uv
    uv tool install --quiet --python /usr/bin/python3 mpifarm > printed 2>&1 \
        || fail "$(cat printed)"
    PATH=/root/.local/bin:/usr/bin:/bin
    try
    try_completion "$asked" "${asked/bash/zsh}"
    ;;
module)
    prefix=/opt/mpifarm/$version
    python3 -m venv "$prefix"
    "$prefix/bin/pip" install --quiet 'mpifarm[mpich]'
    mkdir -p "$prefix/module/bin" /modules/mpifarm
    ln -s ../../bin/mpifarm "$prefix/module/bin"
    # The MPI is in the prefix here, and no module of the site.
    sed 's/^local mpi = "openmpi"/local mpi = ""/' /packaging/modulefile.lua \
        > "/modules/mpifarm/$version.lua"
    use='module use /modules && module load mpifarm'
    before=$(command -v python3)
    # shellcheck source=/dev/null
    . /usr/share/lmod/lmod/init/bash
    eval "$use"
    [[ $(command -v python3) == "$before" ]] || fail "the module hides python3"
    try && try_pages
    "$MPIFARM_PYTHON" -I -m mpifarm --version > /dev/null
    module help mpifarm 2>&1 | grep -q 'runs each command' || fail "no help of the module"
    try_completion ". /usr/share/lmod/lmod/init/bash; $use" \
        ". /usr/share/lmod/lmod/init/zsh; $use"
    module unload mpifarm
    ! command -v mpifarm > /dev/null || fail "it is there after module unload"
    ;;
*) fail "not a way" ;;
esac
echo "$way: ok"

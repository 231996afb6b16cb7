# What the scripts that start a batch system for tests have in common: ports that nobody
# uses, and the end of daemons by their pids.  Sourced by tests/*/cluster.

STOP_SECONDS=15
FIRST_PORT=10000 LAST_PORT=32000 # below those that the kernel gives to anyone

is_free() { # of all that listens on this machine
  local hex
  printf -v hex ':%04X' "$1"
  ! awk '{ print $2 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -q "$hex\$"
}

choose_ports() { # COUNT: the first of COUNT + 1 free ports in a row
  local first port
  while :; do
    first=$((FIRST_PORT + RANDOM % (LAST_PORT - FIRST_PORT - $1)))
    for ((port = first; port <= first + $1; port++)); do
      is_free "$port" || continue 2
    done
    echo "$first"
    return
  done
}

end_all() { # WHICH DIR: TERM to each pid that WHICH names, later KILL; waits until none is left
  local i pid signal=TERM
  for ((i = 0; i < STOP_SECONDS * 10; i++)); do
    [[ $("$1" "$2") ]] || return 0
    ((i < STOP_SECONDS * 5)) || signal=KILL
    # twice is no harm, and a daemon that starts isn't missed
    ((i % 10)) || for pid in $("$1" "$2"); do kill -s $signal "$pid" 2>/dev/null || true; done
    sleep 0.1
  done
  echo "cluster: still alive: $("$1" "$2")" >&2
  return 1
}

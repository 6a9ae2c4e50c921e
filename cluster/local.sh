#!/usr/bin/env bash
# Simulate several hosts on one machine, to test a cluster when cables are cut and hosts die. Each host is a network
# namespace with a Ray of its own. This needs root, for the namespaces.
#
#   cluster/local.sh up 3                  # host 0 is the head; $CPUS cores each (1)
#   cluster/local.sh run COMMAND...        # on the head, with RAY_ADDRESS set
#   cluster/local.sh cut 2; cluster/local.sh mend 2
#   cluster/local.sh kill 2
#   cluster/local.sh add 3                 # one more host, or one that was killed or declared dead
#   cluster/local.sh down
#
# Checked: tests/chaos runs each of these.
set -euo pipefail

NAME=${NAME:-lake}         # several clusters can run side by side: each has its own name, and ...
NET=${NET:-10.77.0}        # ... its own network
CPUS=${CPUS:-1}
HEAD=$NET.10
PATH=$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH
export RAY_USAGE_STATS_ENABLED=0

on() { ip netns exec "$NAME-$1" "${@:2}"; }

add() {
    local host=$NAME-$1 cable=$NAME-c$1 role
    kill_host "$1"
    ip netns add "$host"
    ip link add "$cable" type veth peer name eth0 netns "$host"
    ip link set "$cable" master "$NAME" up
    ip -n "$host" addr add "$NET.$((10 + $1))/24" dev eth0
    ip -n "$host" link set lo up
    ip -n "$host" link set eth0 up
    # Ray takes the address of the default route as its own.
    ip -n "$host" route add default via "$NET.1"
    if [ "$1" = 0 ]; then role=(--head --port=6379 "--dashboard-host=$HEAD"); else role=("--address=$HEAD:6379"); fi
    on "$1" ray start "${role[@]}" "--node-ip-address=$NET.$((10 + $1))" "--num-cpus=$CPUS" \
        --object-store-memory=268435456 --disable-usage-stats >/dev/null
}

kill_host() {
    if ip netns list | grep -qw -- "$NAME-$1"; then
        ip netns pids "$NAME-$1" | xargs -r kill -9
        ip netns delete "$NAME-$1"
    fi
    ip link delete "$NAME-c$1" 2>/dev/null || true
}

case ${1:-} in
up)
    ip link add "$NAME" type bridge
    ip addr add "$NET.1/24" dev "$NAME"
    ip link set "$NAME" up
    for host in $(seq 0 $((${2:-3} - 1))); do add "$host"; done
    ;;
run) RAY_ADDRESS=$HEAD:6379 on 0 "${@:2}" ;;
cut) ip link set "$NAME-c$2" down ;;
mend) ip link set "$NAME-c$2" up ;;
kill) kill_host "$2" ;;
add) add "$2" ;;
down)
    for host in $(ip netns list | grep -o "^$NAME-[0-9]*" || true); do kill_host "${host##*-}"; done
    ip link delete "$NAME" 2>/dev/null || true
    ;;
*) sed -n '2,/^# Checked/p' "$0" | sed 's/^# \{0,1\}//' && exit 2 ;;
esac

#!/bin/sh
# Runs a command in a network of its own, in which nobody paces what is sent: its loopback uses reno. BBR paces by timers,
# whose cost depends on how the flows happen to fall. Nothing of the machine's own network is changed.
#   scripts/unpaced.sh true                     whether that works here: takes unshare and ip, and the right to use them
#   scripts/unpaced.sh ringlb-bench compare     everything on that loopback
set -eu
user=
[ "$(id -u)" -eq 0 ] || user=--map-root-user
# shellcheck disable=SC2016 # the inner shell's
inside='ip link set lo up && echo reno >/proc/sys/net/ipv4/tcp_congestion_control && exec "$@"'
exec unshare --net $user sh -c "$inside" sh "$@"

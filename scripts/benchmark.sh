#!/bin/sh
# The whole measurement, about 20 minutes after the build: writes bench/results/*.json, *.svg and README.md, which says
# what was measured and which targets were met. Needs a machine that does nothing else and two CPUs. A peer that is not
# installed is named and left out. Ctrl-C ends it, and nothing is left running.
#   scripts/benchmark.sh                  everything
#   scripts/benchmark.sh --quick          one short round of everything, in under four minutes: shows that it works
#   scripts/benchmark.sh --out DIR        somewhere else than bench/results
# More options go to every comparison, as in `--candidate before=/path/to/an/older/ringlb`.
# What is measured and how is in docs/benchmarks.md.
set -eu
cd "$(dirname "$0")/.."

results=bench/results
rounds=5 seconds=1 curve_rounds=3 curve_seconds=1.5 warmup=0.3
while [ $# -gt 0 ]; do
    case $1 in
        --quick) rounds=1 seconds=0.25 curve_rounds=1 curve_seconds=0.5 warmup=0.05 ;;
        --out) results=${2:?"--out takes a directory"} && shift ;;
        *) break ;;
    esac
    shift
done

if ! command -v cargo >/dev/null; then
    echo "cargo is missing: install Rust from https://rustup.rs" >&2
    exit 1
fi
cargo build --release --workspace --bins
release="${CARGO_TARGET_DIR:-target}/release"
bench="$release/ringlb-bench"
mkdir -p "$results"
. scripts/peers.sh

commit="unknown: this is no git checkout"
if git rev-parse --quiet --verify HEAD >/dev/null 2>&1; then
    commit=$(git rev-parse HEAD)
    git diff --quiet HEAD -- src bench/src Cargo.toml Cargo.lock || commit="$commit, changed"
fi
date=$(date -u +%Y-%m-%d)

# A comparison that is waited for in the background, so that a signal is taken up at once, also one for this shell alone.
running=
stop() {
    trap '' INT TERM HUP
    echo "interrupted: what was finished is in $results, without a page" >&2
    [ -z "$running" ] || { kill -TERM "$running" && wait "$running"; } || true
    exit 130
}
trap stop INT TERM HUP

failed=0
parts=
within=
compare() {
    name=$1
    shift
    # A peer that failed says so in the table and in the file; the other figures are kept.
    rm -f "$results/$name.json"
    $within "$bench" compare --ringlb "$release/ringlb" --nginx "${nginx:-nginx}" --haproxy "${haproxy:-haproxy}" \
        --seconds "$seconds" --warmup "$warmup" --json "$results/$name.json" "$@" &
    running=$!
    wait "$running" || failed=1
    running=
    parts="$parts $results/$name.json"
}

# What a message, a connection and a byte cost, how long they take, and what memory they hold.
requests="request:1x64,request:64x64,request:1000x64,request:64x1KiB,request:64x16KiB,request:1000x16KiB"
connects="connect:64x64,connect-server:64x64"
bulk="bulk-down:1,bulk-down:4,bulk-down:64,bulk-up:4,bulk-both:4"
open="open:64x64@30%,open:64x64@70%,open:64x64@90%,open:64x64@70%slowest,open:64x64@90%slowest"
compare one-worker --peers "$peers,direct" --rounds "$rounds" \
    --scenario "$requests,$connects,$bulk,$open,idle:5000" "$@"
compare spike --peers "$peers" --rounds "$curve_rounds" --scenario "spike:10000" "$@"

# How the cost of a message grows with connections, and that of a connection with backends.
curves=
for connections in 10 30 100 300 1000 3000 8000; do
    curves="${curves}request:${connections}x64,"
done
for backends in 2 10 30 100 300 1000; do
    curves="${curves}connect:64x64/$backends,"
done
compare scale --peers "$peers" --rounds "$curve_rounds" --seconds "$curve_seconds" --scenario "${curves%,}" "$@"

# Bulk again where nobody paces what is sent. BBR does, by timers, whose cost depends on how the flows happen to fall.
if [ "$(cat /proc/sys/net/ipv4/tcp_congestion_control)" != bbr ]; then
    echo "bulk is not paced here, so that it is not measured again without pacing" >&2
elif scripts/unpaced.sh true 2>/dev/null; then
    within=scripts/unpaced.sh
    compare unpaced --peers "$peers" --rounds "$rounds" --scenario "$bulk" "$@"
    within=
else
    echo "bulk without pacing is left out: it takes unshare, ip and a network namespace" >&2
fi

# How two workers share connections. On two CPUs one of them shares its CPU with the generator.
compare two-workers --peers "$peers" --workers 2 --rounds "$curve_rounds" \
    --scenario "request:64x64,connect:64x64,bulk-down:4,balance:8000" "$@"

# shellcheck disable=SC2086 # the parts are words
"$bench" report --commit "$commit" --date "$date" --out "$results" $parts || failed=1
exit $failed

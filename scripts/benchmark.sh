#!/bin/sh
# The whole measurement, about twenty minutes: writes bench/results/*.json and *.svg. Needs a machine that does
# nothing else, two CPUs, nginx with its stream module and HAProxy. More options go to every comparison.
# What is measured and how is in docs/benchmarks.md.
set -eu
cd "$(dirname "$0")/.."

cargo build --release --workspace --bins
release="${CARGO_TARGET_DIR:-target}/release"
bench="$release/ringlb-bench"
results=bench/results
mkdir -p "$results"
PATH="$PATH:/usr/sbin:/usr/local/sbin"

requests=""
for connections in 1 64 1000; do
    for size in 64 1KiB 16KiB; do
        requests="${requests}request:${connections}x${size},"
    done
done
connects="connect:64x64,connect-server:64x64"
bulk="bulk-down:1,bulk-down:4,bulk-down:64,bulk-up:4,bulk-both:4"
open="open:64x64@30%,open:64x64@70%,open:64x64@90%"

failed=0
compare() {
    name=$1
    shift
    # A peer that failed says so in the table and in the file; the other figures are kept.
    "$bench" compare --ringlb "$release/ringlb" --json "$results/$name.json" "$@" || failed=1
    "$bench" plot "$results/$name.json" --out "$results" --prefix "$name-" || failed=1
}
compare one-worker --scenario "$requests$connects,$bulk,$open,idle:5000" "$@"
compare two-workers --workers 2 --scenario "request:64x64,request:1000x64,$connects,bulk-down:4,bulk-down:64" "$@"
exit $failed

#!/bin/sh
# Builds ringlb and its load generator and compares ringlb with nginx and HAProxy on this machine, for about a
# minute, on the loopback only. Everything it starts is stopped again. More options go to the comparison:
#   scripts/load-test.sh --rounds 5 --scenario request:64x64
#   scripts/load-test.sh --candidate before=/path/to/an/older/ringlb
set -eu
cd "$(dirname "$0")/.."

if ! command -v cargo >/dev/null; then
    echo "cargo is missing: install Rust from https://rustup.rs" >&2
    exit 1
fi
cargo build --release --workspace --bins

. scripts/peers.sh

case " $* " in
    *" --peers "* | *" --peers="*) ;;
    *) set -- --peers "$peers,direct" "$@" ;;
esac

release="${CARGO_TARGET_DIR:-target}/release"
exec "$release/ringlb-bench" compare --ringlb "$release/ringlb" \
    --nginx "${nginx:-nginx}" --haproxy "${haproxy:-haproxy}" --rounds 3 --seconds 1 "$@"

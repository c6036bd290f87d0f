#!/bin/sh
# Breaks the platform on purpose, in one way after the other, and demands that the simulation notices.
# All mutants are built into one copy of the tree, where each is a switch that MUTANT= turns on: one
# build of what the simulation needs, and as many seeds as it takes to find each: the first that breaks a
# law is enough. `run.sh NAME` tries one of them.
set -eu
cd "$(dirname "$0")/../.."
root=$PWD tree=$PWD/target/mutants/tree
export CARGO_TARGET_DIR=$PWD/target/mutants/target CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=1 RUST_BACKTRACE=0
cargo=${CARGO:-cargo} seeds=${SEEDS:-1000} from=${FROM:-1}

# What was built is used again: the copy keeps the files' times, and shares the built dependencies.
rm -rf "$tree"
mkdir -p "$tree" "$CARGO_TARGET_DIR/debug"
git ls-files -z | xargs -0 cp --preserve=timestamps --parents -t "$tree"
for dir in deps build .fingerprint; do
  [ -d "$CARGO_TARGET_DIR/debug/$dir" ] || [ ! -d "target/debug/$dir" ] || cp -al "target/debug/$dir" "$CARGO_TARGET_DIR/debug/"
done
sh tests/mutants/slim.sh "$tree"
cd "$tree"
for patch in "$root"/tests/mutants/*.patch; do
  patch -s -p1 --no-backup-if-mismatch <"$patch"
done
cat "$root/tests/mutants/switch.rs" >>src/outside.rs
# The time that this costs is in the seeds: half of it is saved by a little of optimization.
simulate() {
  $cargo test -q --locked --lib --config profile.dev.package.deis.opt-level=1 "$@"
}
simulate --no-run >"$root/target/mutants/build.log" 2>&1 || { cat "$root/target/mutants/build.log"; exit 1; }

missed=
for patch in "$root"/tests/mutants/${1:-*}.patch; do
  name=$(basename "$patch" .patch) log=$root/target/mutants/$(basename "$patch" .patch).log
  if MUTANT=$name FIRST=1 FROM=$from SEEDS=$seeds simulate -- \
      --exact sim::tests::seeds --ignored --nocapture >"$log" 2>&1; then
    echo "$name: SURVIVED $seeds seeds"
    missed="$missed $name"
  elif grep -q FAILS "$log"; then
    grep -m1 FAILS "$log" | sed "s/^/$name: caught by /"
    grep -m1 'seeds in' "$log" | sed 's/^/  /'
  else
    echo "$name: could not be run, see $log"
    missed="$missed $name"
  fi
done
[ -z "$missed" ] || { echo "not caught:$missed"; exit 1; }

#!/bin/sh
# Breaks the platform on purpose, one patch after the other, in a copy of the tree, and demands that the
# simulation notices. `run.sh NAME` tries one of them. The copy shares the built dependencies.
set -eu
cd "$(dirname "$0")/../.."
root=$PWD tree=$PWD/target/mutants/tree
export CARGO_TARGET_DIR=$PWD/target/mutants/target
cargo=${CARGO:-cargo}

rm -rf "$tree"
mkdir -p "$tree" "$CARGO_TARGET_DIR/debug"
git ls-files -z | xargs -0 cp --parents -t "$tree"
for dir in deps build .fingerprint; do
  [ -d "$CARGO_TARGET_DIR/debug/$dir" ] || [ ! -d "target/debug/$dir" ] || cp -al "target/debug/$dir" "$CARGO_TARGET_DIR/debug/"
done

survivors=
for patch in "$root"/tests/mutants/${1:-*}.patch; do
  name=$(basename "$patch" .patch)
  (cd "$tree" && patch -s -p1 <"$patch")
  begun=$(date +%s)
  if ! (cd "$tree" && $cargo test -q --locked --lib --no-run 2>"$root/target/mutants/$name.log"); then
    echo "$name: does not compile, see target/mutants/$name.log"
    survivors="$survivors $name"
  elif (cd "$tree" && FIRST=1 FROM=1 SEEDS="${SEEDS:-1000}" $cargo test -q --locked --lib -- \
      --exact sim::tests::seeds --ignored --nocapture >"$root/target/mutants/$name.log" 2>&1); then
    echo "$name: SURVIVED ${SEEDS:-1000} seeds"
    survivors="$survivors $name"
  else
    grep -m1 FAILS "$root/target/mutants/$name.log" | sed "s/^/$name: caught by /"
    grep -m1 'seeds in' "$root/target/mutants/$name.log" | sed 's/^/  /'
  fi
  (cd "$tree" && patch -s -R -p1 <"$patch")
done
[ -z "$survivors" ] || { echo "not caught:$survivors"; exit 1; }

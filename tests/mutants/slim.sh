#!/bin/sh
# Leaves out of a copy of the tree what the simulation doesn't need: programs, controller, and all other
# tests. What is left builds in a fraction of the time. `slim.sh DIR`.
set -eu
cd "$1"
sed -i -E '/^pub mod (cli|controller|local);$/d' src/lib.rs
find src -name '*.rs' -not -path 'src/sim/*' -exec perl -0pi -e \
  's/#\[cfg\(test\)\]((?:\s*#\[[^\]]*\])*\s*(?:pub(?:\([a-z]+\))? )?mod (?:\w*_)?tests?\w*\s*[;{])/#[cfg(any())]$1/g' {} +

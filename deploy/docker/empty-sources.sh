#!/bin/sh
# Puts an empty source in the place of every one that the manifests here name, so that cargo can compile the
# dependencies before it has seen any source of ours.
set -eu
for manifest in */Cargo.toml; do
  crate=${manifest%/Cargo.toml}
  mkdir -p "$crate/src"
  : >"$crate/src/lib.rs"
  # A target is a [[bin]], [[example]], [[test]] or [[bench]] with a path, or with the one of its name.
  awk '
    function put() { if (kind != "") print (path != "" ? path : folder[kind] "/" name ".rs") }
    BEGIN { folder["example"] = "examples"; folder["test"] = "tests"; folder["bench"] = "benches"; folder["bin"] = "src/bin" }
    /^\[/ { put(); kind = name = path = "" }
    /^\[\[/ { gsub(/[][]/, ""); kind = $0 }
    /^name = / { split($0, part, "\""); name = part[2] }
    /^path = / { split($0, part, "\""); path = part[2] }
    END { put() }
  ' "$manifest" | while read -r source; do
    mkdir -p "$crate/$(dirname "$source")"
    echo 'fn main() {}' >"$crate/$source"
  done
  # A crate whose only target is a program has no library.
  [ ! -e "$crate/src/main.rs" ] || rm "$crate/src/lib.rs"
done

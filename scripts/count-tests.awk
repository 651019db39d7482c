# Reads the output of `cargo test` and says how many tests each crate has, then ends with one line in
# cargo's own form that adds them up.

BEGIN {
  order = split("proto locktable rangemap multiraft dataserver gateway client model sim cli bench history tests", crates, " ")
  # Test programs that are not called like their crate.
  program["sharklock"] = "cli"; program["e2e"] = "tests"
}

# Running unittests src/lib.rs (target/debug/deps/sharklock_locktable-0123456789abcdef)
# Running tests/engine/main.rs (target/debug/deps/engine-0123456789abcdef)
/^ *Running / {
  name = $NF
  gsub(/^.*\/|-[0-9a-f]+\)$/, "", name)
  if (sub(/^sharklock_/, "", name)) { crate = name; last_library = name }
  else if (name in program) crate = program[name]
  else crate = last_library
  module = ""
}
/^ *Doc-tests / { crate = $NF; sub(/^sharklock_/, "", crate); documentation[crate] = 1 }

# The end-to-end tests are one program: its modules are what they are about.
crate == "tests" && /^test .* \.\.\. ok$/ && $2 ~ /::/ {
  module = $2
  sub(/::.*/, "", module)
  modules[module]++
}

/^test result: / {
  for (i = 1; i < NF; i++) {
    if ($(i + 1) ~ /^passed/) { passed[crate] += $i; total += $i }
    if ($(i + 1) ~ /^failed/) failed += $i
    if ($(i + 1) ~ /^ignored/) ignored += $i
    if ($i == "finished") { seconds = $(i + 2); sub(/s$/, "", seconds); time += seconds }
  }
}

END {
  for (i = 1; i <= order; i++)
    printf "%-10s  %5d tests\n", crates[i], passed[crates[i]]
  for (module in modules)
    printf "  end to end: %-28s %4d\n", module, modules[module] | "sort"
  close("sort")
  printf "\ntest result: %s. %d passed; %d failed; %d ignored; 0 measured; 0 filtered out; finished in %.2fs\n",
    failed ? "FAILED" : "ok", total, failed, ignored, time
  exit failed > 0
}

#!/usr/bin/env bash
# Breaks the code on purpose, once for each promise, and checks that a test notices: a mutant that survives
# fails the run. Works on a copy, so that nothing here changes.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
copy="$(mktemp -d)"
trap 'rm -rf "$copy"' EXIT
(cd "$root" && git ls-files -z | tar --null -T - -cf -) | tar -xf - -C "$copy"
export CARGO_TARGET_DIR="$root/target/mutants"
# Old failures are tried first, but no new ones are written down: the mutant is to blame for them.
export PROPTEST_FAILURE_PERSISTENCE=off
cd "$copy"
survived=0

# mutant NAME FILE FROM TO TEST…: replaces FROM by TO in FILE and expects `cargo test TEST…` to fail.
mutant() {
  local name="$1" file="$2" from="$3" to="$4"
  shift 4
  cp "$file" "$copy/.original"
  FROM="$from" TO="$to" python3 - "$file" <<'PY'
import os, sys
path, old, new = sys.argv[1], os.environ["FROM"], os.environ["TO"]
text = open(path).read()
if text.count(old) != 1:
    sys.exit(f"{path}: the mutant's place occurs {text.count(old)} times; bring the mutant up to date")
open(path, "w").write(text.replace(old, new))
PY
  if ! cargo test --quiet --no-run "$@" >"$copy/.log" 2>&1; then
    echo "BROKEN    $name: it doesn't compile"; cat "$copy/.log"; survived=1
  elif timeout 300 cargo test --quiet "$@" >"$copy/.log" 2>&1; then
    echo "SURVIVED  $name: cargo test $*"; survived=1
  else
    echo "caught    $name: cargo test $*"
  fi
  cp "$copy/.original" "$file"
}

core=crates/ironbus/src
mutant "a leading @ isn't encoded" $core/key/chunk.rs \
  "(index == 0 && byte == b'@')" "(index == 0 && byte == 0)" -p ironbus --lib key
mutant "\$* matches at the start only" $core/key/pattern.rs \
  "text.ends_with(tail)" "tail.len() <= text.len()" -p ironbus-zenoh --test keys
mutant "a pattern's ** takes at least one chunk in the index" $core/tail/index.rs \
  "(0..=key.len()).for_each" "(1..=key.len()).for_each" -p ironbus --lib tail
mutant "the version is checked before the event ids" $core/store/sqlite/writer.rs \
  "        if let Some(places) = self.stored_before(append)? {" \
  "        self.check_versions(append)?; if let Some(places) = self.stored_before(append)? {" \
  -p ironbus --test contract --test appends
mutant "Exact admits later versions" $core/store/mod.rs \
  "Self::Exact(exact) => version == exact" "Self::Exact(exact) => version >= exact" \
  -p ironbus --test contract --test appends
mutant "a batch sees only the versions before it" $core/store/sqlite/writer.rs \
  "planned.insert(&write.aggregate, Sequence(actual.0 + write.events.len() as u64));" \
  "planned.insert(&write.aggregate, actual);" -p ironbus --test contract --test appends
mutant "what overflows a slot is forgotten" $core/tail/slot.rs \
  "state.look_from = Some(position);" "" -p ironbus --test subscriptions --test contract
mutant "a reader that left the ring goes on from where the ring is" $core/subscription.rs \
  "Looked::Gone => self.fall_back_to_log()," \
  "Looked::Gone => self.cursor = self.tail.head()," -p ironbus --test subscriptions --test contract
mutant "events wait in the ring, but nobody is told" $core/tail/mod.rs \
  "wakers.extend(slot.note(event.position));" "let _ = slot.note(event.position);" \
  -p ironbus --test subscriptions --test contract
mutant "the head is read after the slot's state was taken for empty" $core/subscription.rs \
  "self.cursor = self.cursor.max(head);" "self.cursor = Position(self.cursor.max(head).0 + 1);" \
  -p ironbus --test subscriptions --test contract
mutant "a session's events are shown to all" $core/key/filter.rs \
  "(Some(_), Self::Public) => false" "(Some(_), Self::Public) => true" -p ironbus --test contract
exit "$survived"

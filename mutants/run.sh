#!/usr/bin/env bash
# Breaks the code on purpose, once for each promise, and checks that a test notices: a mutant that survives
# fails the run. Works on a copy, so that nothing here changes. With a word (`mutants/run.sh verify`) only the
# mutants whose name has it. With `--check` none is tried: that each still finds its place is all that is looked at.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
copy="$(mktemp -d)"
trap 'rm -rf "$copy"' EXIT
(cd "$root" && git ls-files -z | tar --null -T - -cf -) | tar -xf - -C "$copy"
export CARGO_TARGET_DIR="$root/target/mutants"
# Old failures are tried first, but no new ones are written down: the mutant is to blame for them.
export PROPTEST_FAILURE_PERSISTENCE=off
cd "$copy"
only="${1:-}"
checked=""
if [ "$only" = --check ]; then only="" checked=yes; fi
survived=0

# mutant NAME FILE FROM TO TEST…: replaces FROM by TO in FILE and expects `cargo test TEST…` to fail.
mutant() {
  local name="$1" file="$2" from="$3" to="$4"
  shift 4
  [[ "$name" == *"$only"* ]] || return 0
  cp "$file" "$copy/.original"
  if ! FROM="$from" TO="$to" python3 - "$file" <<'PY'
import os, sys
path, old, new = sys.argv[1], os.environ["FROM"], os.environ["TO"]
text = open(path).read()
if text.count(old) != 1:
    sys.exit(f"its place occurs {text.count(old)} times in {path}")
open(path, "w").write(text.replace(old, new))
PY
  then
    echo "STALE     $name: bring it up to date"; survived=1
    return 0
  fi
  if [ -n "$checked" ]; then
    cp "$copy/.original" "$file"
    return 0
  fi
  if ! cargo test --quiet --no-run "$@" >"$copy/.log" 2>&1; then
    echo "BROKEN    $name: it doesn't compile"; cat "$copy/.log"; survived=1
  else
    local ended=0
    timeout 300 cargo test --quiet "$@" >"$copy/.log" 2>&1 || ended=$?
    case "$ended" in
      0) echo "SURVIVED  $name: cargo test $*"; survived=1 ;;
      # A test that never ends has noticed nothing, and a slow machine is no proof.
      124) echo "TIMED OUT $name: cargo test $*"; survived=1 ;;
      *) echo "caught    $name: cargo test $*" ;;
    esac
  fi
  cp "$copy/.original" "$file"
}

core=crates/ironbus/src
mutant "a leading @ isn't encoded" $core/key/chunk.rs \
  "(index == 0 && byte == b'@')" "(index == 0 && byte == 0)" -p ironbus --lib key
mutant "\$* matches at the start only" $core/key/pattern.rs \
  "text.ends_with(tail)" "tail.len() <= text.len()" -p ironbus-zenoh --test keys
mutant "a pattern's ** takes at least one chunk in the index" $core/key/index.rs \
  "(0..=key.len()).for_each" "(1..=key.len()).for_each" -p ironbus --lib key
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
mutant "a read that was handed to a thread at the last moment is lost" $core/store/sqlite/readers.rs \
  "        jobs.recv().ok()" "        None" -p ironbus --lib readers
mutant "a load is compiled anew each time" $core/store/sqlite/schema.rs \
  "SQLITE_DBCONFIG_ENABLE_QPSG, true" "SQLITE_DBCONFIG_ENABLE_QPSG, false" -p ironbus --lib reader
mutant "what overflows a slot is forgotten" $core/tail/slot.rs \
  "                state.look_from = Some(position);" "" -p ironbus --test subscriptions
mutant "a run that the reader has taken is made longer" $core/tail/slot.rs \
  "self.last.compare_exchange(last, last + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()" \
  "{ self.last.store(last + 1, Ordering::Release); true }" -p ironbus --lib tail::slot
mutant "a page whose place was guessed is taken wherever it begins" $core/subscription.rs \
  "if self.pages.first()?.after == after {" "if self.pages.first()?.after > Position(0) {" \
  -p ironbus --test subscriptions
mutant "a reader that left the ring goes on from where the ring is" $core/subscription.rs \
  "Looked::Gone => self.fall_back_to_log()," \
  "Looked::Gone => self.cursor = self.tail.head()," -p ironbus --test subscriptions --test contract
mutant "events wait in the ring, but nobody is told" $core/tail/mod.rs \
  "wakers.extend(slot.note(event.position));" "let _ = slot.note(event.position);" \
  -p ironbus --test subscriptions --test contract
mutant "the head is read after the slot's state was taken for empty" $core/subscription.rs \
  "self.cursor = self.cursor.max(head);" "self.cursor = Position(self.cursor.max(head).0 + 1);" \
  -p ironbus --test subscriptions --test contract
mutant "what a socket didn't take is forgotten" crates/ironbus-server/src/sse/shard.rs \
  "*frames = std::mem::take(&mut self.rest);" "self.rest.clear();" \
  -p ironbus-server --test http stream
mutant "a client that was told of something while it is served isn't served again" \
  crates/ironbus-server/src/sse/shard.rs \
  "                self.notice.left.store(false, Ordering::Release);" "" -p ironbus-server --test http stream
mutant "a shard sends after the credentials have expired" crates/ironbus-server/src/sse/shard.rs \
  "if self.stream.until().is_some_and(|until| until <= Instant::now())" \
  "if self.stream.until().is_some_and(|_| false)" \
  -p ironbus-server --test http sessions
mutant "a page that was read ahead is kept though its epoch has ended" $core/subscription.rs \
  "        self.ahead = None;
        if let" "        if let" -p ironbus --test following
mutant "a session's events are shown to all" $core/key/filter.rs \
  "(Some(_), Self::Public) => false" "(Some(_), Self::Public) => true" -p ironbus --test contract
mutant "the head is the tail's, which a reader of the file may be ahead of" $core/store/sqlite/mod.rs \
  "self.0.readers.with(|reader| reader.head()).await?" "self.0.tail.head()" -p ironbus --test subscriptions a_reader
mutant "metadata isn't part of the hash" $core/store/hash.rs \
  "text(event.metadata.json().as_bytes());" "" -p ironbus --test files
mutant "verify doesn't look at sequences" $core/store/sqlite/verify.rs \
  "if event.sequence != expected {" "if event.sequence == Sequence(0) {" -p ironbus --test files
mutant "a refused file is folded in" $core/store/sqlite/schema.rs \
  "fold_in_at_close(&connection, false).map_err(wrap)?;" "" -p ironbus --test files
mutant "a lock is left beside a file that isn't ours" $core/store/sqlite/schema.rs \
  "    check_owner(path, &connection, true)?;
    let lock" "    let lock" -p ironbus --test files
mutant "a power cut leaves the epoch as it is" $core/store/sqlite/unsynced.rs \
  "found != UNKNOWN_BOOT && Some(found) == boot" "found != UNKNOWN_BOOT && boot.is_some()" \
  -p ironbus --lib unsynced
mutant "a boot that isn't known is taken for the same one" $core/store/sqlite/unsynced.rs \
  "found != UNKNOWN_BOOT && Some(found) == boot" "found == boot.unwrap_or(UNKNOWN_BOOT)" \
  -p ironbus --lib unsynced
mutant "a writer that doesn't sync leaves no mark" $core/store/sqlite/unsynced.rs \
  "Durability::Normal => Some(boot.unwrap_or(UNKNOWN_BOOT))," "Durability::Normal => None," \
  -p ironbus --lib unsynced
mutant "a killed process begins a new epoch" $core/store/sqlite/unsynced.rs \
  "let survived = found.as_deref().is_none_or(|found| found != UNKNOWN_BOOT && Some(found) == boot);" \
  "let survived = found.is_none();" -p ironbus --lib unsynced
mutant "a clean close leaves the mark" $core/store/sqlite/writer.rs \
  "UPDATE log SET unsynced = NULL WHERE unsynced IS NOT NULL" "UPDATE log SET unsynced = NULL WHERE 0" \
  -p ironbus --lib unsynced
mutant "a step back gets no space on a full disk" $core/store/sqlite/writer.rs \
  "&& self.reserve.free()" "&& false" -p ironbus --test disk_full
mutant "appends get what a step back has left of the reserve" $core/store/sqlite/writer.rs \
  "self.reserve.fill();" "" -p ironbus --test disk_full
mutant "a commit doesn't keep how far the log was carried" $core/store/sqlite/writer.rs \
  "self.state.carried = self.carried_now();" "" -p ironbus --lib carried
mutant "what was handed over counts as carried at once" $core/store/sqlite/carried.rs \
  "now.saturating_duration_since(at) >= LINGER;" "now >= at;" -p ironbus --lib carried
mutant "Zenoh begins at the head after a start" $core/publisher.rs \
  "Start::After(before)" "Start::Live" -p ironbus --test carrying
mutant "what couldn't be handed over is taken for carried" $core/publisher.rs \
  "match bus.publish_on(side, &batch) {" \
  "match bus.publish_on(side, &batch).or(Ok::<(), crate::bus::PublishError>(())) {" -p ironbus --test carrying
mutant "a log that was superseded is carried all the same" $core/publisher.rs \
  "memory.is_some_and(|memory| memory.log.superseded().is_some())" "false" -p ironbus --test carrying
mutant "an idle log forgets how far it was carried" $core/store/sqlite/mod.rs \
  "Arc::new(move || log.keep_carried());" "Arc::new(move || drop(log.clone()));" -p ironbus --test carrying
mutant "Zenoh begins before its listeners are back" $core/publisher.rs \
  "tokio::time::timeout(RETURN, changed).await" "tokio::time::timeout(Duration::ZERO, changed).await" \
  -p ironbus --test carrying
mutant "parity ignores what only the in-process bus brought" $core/migration/parity.rs \
  "if let Some(first) = sum.first_only_broadcast {" "if let (true, Some(first)) = (false, sum.first_only_broadcast) {" \
  -p ironbus --test migration
mutant "what a bus brings again opens its position again" $core/migration/parity.rs \
  "                self.closed = self.closed.max(position);" "" -p ironbus --test migration
mutant "a step to Zenoh needs no parity" $core/migration/step.rs \
  "Some(parity) => why.extend(parity.why_not.iter().cloned().map(Obstacle::Parity))," "Some(_) => {}" \
  -p ironbus --test migration
mutant "a peak is taken for a load that lasts" $core/migration/triggers.rs \
  "if held >= half {" "if held > Duration::ZERO {" -p ironbus --test migration
mutant "a start doesn't let the bus follow the journal" $core/migration/controller.rs \
  "driver.follow().await.map_err(|source| StartError::Switch { phase, source })?;" "" \
  -p ironbus --test migration
mutant "a step that somebody else has overtaken is taken all the same" $core/migration/driver.rs \
  "if request.expected != from {" "if false {" -p ironbus --test migration
mutant "a step is recorded whatever phase the log is in" $core/store/sqlite/journal.rs \
  "if new.from != state.phase {" "if false {" -p ironbus --test journal
mutant "the writer forgets the phase that a step led to" $core/store/sqlite/writer.rs \
  "Ok(step) => (self.state.phase, self.state.carried) = (step.to, carried)," \
  "Ok(_) => self.state.carried = carried," -p ironbus --test journal
mutant "verify doesn't look where a step begins" $core/store/sqlite/journal.rs \
  "if step.from != reached {" "if false {" -p ironbus --test journal
mutant "whoever reads may take steps of the migration" crates/ironbus-server/src/operators.rs \
  "if self == Self::Everybody || entitlement == Entitlement::Everything {" "if true {" \
  -p ironbus-server --test http migration
mutant "a value from before an event that it depends on is put in" $core/cache/dependencies.rs \
  "zip(0..since)" "zip(1..since)" -p ironbus --lib cache
mutant "a value from before what is remembered is put in" $core/cache/dependencies.rs \
  "if computed_at < forgotten {" "if computed_at < forgotten && self.recent.is_empty() {" -p ironbus --lib cache
mutant "a cached value is served while it is being invalidated" $core/cache/views.rs \
  "held.dependent.is_current().then_some(held.value)" "Some(held.value)" -p ironbus --test cached_views
mutant "what is evicted leaves its dependencies behind" $core/cache/views.rs \
  "dependencies.lock().remove(&held.dependent)" "drop((dependencies.clone(), held))" \
  -p ironbus --test cached_views
mutant "what was missed invalidates nothing" $core/cache/live.rs \
  "Delivery::Reset(reason) => Err(reason.into())," "Delivery::Reset(_) => Ok(News::CaughtUp(this.events.cursor()))," \
  -p ironbus --test invalidation
mutant "a log that loses its last events invalidates nothing" $core/cache/live.rs \
  "if this.events.rewinds() != this.rewinds" "if this.events.rewinds() < this.rewinds" \
  -p ironbus --test cached_views --test invalidation
server=crates/ironbus-server/src
mutant "any token opens any session's stream" $server/routes/query.rs \
  "&& !entitlement.allows(Some(&session))" "&& entitlement == Entitlement::Public" \
  -p ironbus-server --test http sessions
mutant "a session's pattern entitles to the session" $server/routes/query.rs \
  "Ok((EventFilter::public(pattern).entitled(entitlement), until))" \
  "Ok((EventFilter::public(pattern).entitled(Entitlement::Everything), until))" \
  -p ironbus-server --test http sessions
mutant "a load shows other sessions' events" $server/routes/read.rs \
  "page.events.retain(|event| entitlement.allows(event.session_id.as_ref()));" "let _ = entitlement;" \
  -p ironbus-server --test http sessions
mutant "a signature isn't compared" $server/access/session_tokens.rs \
  "verify_slice(&signature).is_ok()" "verify_slice(&signature).is_ok() | true" -p ironbus-server --lib access
mutant "a token is taken after its time" $server/access/session_tokens.rs \
  "if now >= expires {" "if now >= expires && false {" -p ironbus-server --lib access
mutant "a stream outlives its credentials" $server/sse/body.rs \
  "expiry.as_mut().poll(context).is_ready())" "expiry.as_mut().poll(context).is_ready() && false)" \
  -p ironbus-server --test http_as_bodies sessions
mutant "a server that is dropped keeps its connections" $server/serve.rs \
  "tasks.spawn(async move {" "tasks.spawn(async {}); tokio::spawn(async move {" \
  -p ironbus-server --test http_as_bodies dropped
mutant "every origin may send cookies" $server/routes/mod.rs \
  "origins.iter().any(|known| *origin == **known)" "origins.iter().any(|_| !origin.is_empty())" \
  -p ironbus-server --test http sessions

# Nodes without a log: the follower of a faulty bus, later epochs, raw listeners.
stepped=(-p ironbus --test faulty_bus stepped)
following=(-p ironbus --test following)
mutant "an event is emitted before its turn" $core/tail/merge.rs \
  "if position == self.head.next() {" "if position > self.head {" "${stepped[@]}"
mutant "a repeated event is emitted again" $core/tail/merge.rs \
  "if position <= self.head || self.early.contains_key(&position) {
            self.counts.repeated += 1;
            return None;
        }
        if position == self.head.next() {" \
  "if position <= self.head.next() {" -p ironbus --lib tail
mutant "a page that comes late takes the head back" $core/tail/merge.rs \
  "if event.position == self.head.next() {" "if event.position <= self.head.next() {" -p ironbus --lib tail
mutant "what there was no room for is forgotten" $core/tail/merge.rs \
  "self.known > self.head" "!self.early.is_empty()" "${following[@]}"
mutant "a heartbeat's head is ignored" $core/tail/follow.rs \
  "self.expect(heartbeat.head, now + self.options.lag);" "" "${stepped[@]}"
mutant "a heartbeat's head is ignored where no bus carries" $core/tail/follow.rs \
  "None => self.expect(heartbeat.head, now)," "None => {}" "${stepped[@]}"
mutant "a position isn't due before a greater one" $core/tail/follow.rs \
  "let covered = self.due.iter().any(|(by, through)| *by <= at && *through >= position);" \
  "let covered = self.due.iter().any(|(_, through)| *through >= position);" -p ironbus --lib tail
mutant "a hole waits until all signals are dealt with" $core/tail/follow.rs \
  "if reading.is_none() && due.is_some_and" \
  "if signals.is_empty() && reading.is_none() && due.is_some_and" "${following[@]}"
mutant "a log that fails is asked again at once" $core/tail/follow.rs \
  "self.not_before = Some(Instant::now() + self.options.retry);" \
  "self.not_before = Some(Instant::now() + self.options.retry / 100);" "${following[@]}"
mutant "a log without what was told of it is asked again at once" $core/tail/follow.rs \
  "(!held).then(|| Instant::now() + self.options.retry)" \
  "(!held).then(|| Instant::now() + self.options.retry / 100)" "${following[@]}"
mutant "events of another epoch are taken" $core/tail/follow.rs \
  "Signal::Event(epoch, _) if epoch != self.tail.epoch() => {}" "Signal::Event(epoch, _) if epoch.0 == 0 => {}" \
  "${stepped[@]}"
mutant "a page of the epoch that has ended is taken" $core/tail/follow.rs \
  "                        reading = None;
                    }" "                    }" "${following[@]}"
mutant "the task isn't told of a hole that shows past the queue" $core/tail/follow.rs \
  "self.sooner.notify_one();" "" "${following[@]}"
mutant "an event overtakes what waits in the queue" $core/tail/follow.rs \
  "self.queue.capacity() == self.queue.max_capacity()" "self.queue.capacity() > 0" "${following[@]}"
mutant "what came together is held back without end" $core/tail/follow.rs \
  "if follower.out.len() >= TOGETHER {" "if follower.out.len() == usize::MAX {" "${following[@]}"
mutant "a number with a leading zero is read" $core/event/decode.rs \
  "digits.len() > 1 && digits.starts_with('0')" "digits.is_empty()" -p ironbus --lib event
mutant "what follows an event's JSON is passed over" $core/event/decode.rs \
  '(rest.0 == "}")' "rest.0.starts_with('}')" -p ironbus --lib event
mutant "a name may hold what JSON forbids" $core/event/decode.rs \
  " || byte < b' '" "" -p ironbus --lib event
mutant "who waits for the head isn't told when it moves" $core/tail/mod.rs \
  "        self.moved.notify_waiters();
        Ok(most)" "        Ok(most)" -p ironbus --lib tail
mutant "one event in many that many want is forgotten" $core/tail/follow.rs \
  "told.max(self.crowd - self.crowd.div_ceil(16))" "told" "${following[@]}"
mutant "the bus tells a crowd" $core/tail/follow.rs \
  "if follower.crowd > follower.options.crowd ||" "if follower.crowd == usize::MAX ||" "${following[@]}"
mutant "what a later epoch kept counts only as far as the tail has it" $core/tail/follow.rs \
  "lineage.kept_of(self.tail.epoch());" "lineage.kept_of(self.tail.epoch()).min(self.merge.head());" \
  "${stepped[@]}"
mutant "a later epoch isn't told to readers that wait" $core/tail/mod.rs \
  "            readers.index.all(&mut |slot| wakers.extend(slot.rewind()));
            if let Some(after)" "            if let Some(after)" "${stepped[@]}"
mutant "a later epoch isn't told where the tail has nothing to forget" $core/tail/mod.rs \
  "self.rewinds.store(readers.kept.len(), Ordering::Release);" \
  "if kept < self.head() { self.rewinds.store(readers.kept.len(), Ordering::Release); }" "${stepped[@]}"
mutant "who resumes takes the answer of the epoch that has ended" $core/subscription.rs \
  "            *asking = None;
            return None;" "            return None;" "${stepped[@]}"
mutant "what was read ahead stays where it wasn't kept" $core/subscription.rs \
  "self.ready.retain(|event| event.position <= kept);" "" "${stepped[@]}"
mutant "all is said of a log that isn't found" $core/subscription.rs \
  "let mode = if found { mode } else { Mode::Finding(start) };" "let _ = found;" "${following[@]}"
mutant "the epoch of what was yielded is that of the log" $core/subscription.rs \
  "        self.epoch
    }" "        self.tail.epoch()
    }" "${following[@]}"
mutant "a raw subscription stays on a side that stops meanwhile" $core/bus/dual.rs \
  "if self.mode().carries(side) {
                return" "if side == Side::Zenoh || self.mode().carries(side) {
                return" -p ironbus --test raw_listeners
mutant "raw subscriptions go on in another history" $core/publisher.rs \
  "bus.end_listeners_on(side);" "" -p ironbus --test raw_listeners
mutant "raw subscriptions of Zenoh go on in another history" crates/ironbus-zenoh/src/bus.rs \
  "self.listeners.end();" "" -p ironbus-zenoh --test nodes edges
mutant "a node asks for what was appended to another log" $core/tail/follow.rs \
  "Signal::Committed(epoch, _) if epoch != self.tail.epoch() => {}" \
  "Signal::Committed(epoch, _) if epoch.0 == 0 => {}" "${following[@]}"
mutant "the bus leaves while somebody listens" crates/ironbus-zenoh/src/bus.rs \
  "        if !self.receiver.listens() {
            *subscriber = None;
        }" "        *subscriber = None;" -p ironbus-zenoh --test nodes raw
storage=crates/ironbus-zenoh/src/storage
slots=(-p ironbus-zenoh --test storage)
slot_units=(-p ironbus-zenoh --lib storage)
mutant "storage: the version is checked before the event ids" $storage/plan.rs \
  "        let refused = match self.stored_before(append) {" \
  "        if let Err(error) = self.check_versions(append) { return Answer::Refused(error); }
        let refused = match self.stored_before(append) {" "${slots[@]}"
mutant "storage: an empty slot after a lost reply ends the round" $storage/plan.rs \
  "(None, true) => Turn::Again" "(None, true) => Turn::Answer" "${slots[@]}"
mutant "storage: a refusal is told on what the node knows" $storage/plan.rs \
  "self.batch.is_none() && self.answers" "self.batch.is_some() && self.answers" "${slots[@]}"
mutant "storage: a sealed log accepts appends" $storage/plan.rs \
  "match closed(self.state) {" "match closed(self.state).filter(|_| self.state.head().0 == 0) {" "${slots[@]}"
mutant "storage: a lost slot is filled again" $storage/follow.rs \
  "log.beyond(state.next()).await?" "None::<Slot>" "${slots[@]}"
mutant "storage: the hash isn't compared with the events" $storage/state.rs \
  "if hash == *after {" "if hash != [0; 32] {" "${slots[@]}"
mutant "storage: what is read isn't compared with what was folded" $storage/store.rs \
  "(*previous, *after, hash) == (at.previous, at.chain, at.chain)" \
  "(*previous, *after) == (at.previous, at.chain) && hash != [0; 32]" "${slots[@]}" damage
mutant "storage: a snapshot is gone on from whatever the log holds" $storage/follow.rs \
  "check_last(log, &state).await?;" "" "${slots[@]}"
mutant "storage: a put without a reply is told as never made" $storage/committer.rs \
  "(tries.in_limbo, tries.unheard) = (true, true);" "tries.unheard = true;" "${slots[@]}"
mutant "storage: a mark that was found is told as never made" $storage/committer.rs \
  "append_error(&trouble, tries.unheard)" "append_error(&trouble, tries.in_limbo)" "${slots[@]}" patience
mutant "storage: a further try gives events other ids" $storage/committer.rs \
  "_ = event.event_id.get_or_insert_with(EventId::generate)" "_ = event" "${slots[@]}"
mutant "storage: a node dozes on when it is given a hint" $storage/store.rs \
  "self.0.shared.hint.notify_one();" "" "${slots[@]}"
mutant "storage: a copy is opened although it is short" $storage/plan.rs \
  "if !state.end().holds_the_same(&of) {" "if state.head() > of.head {" "${slots[@]}"
mutant "storage: going over is decided without the seal's hash" $storage/plan.rs \
  "if !state.end().holds_the_same(&of) {" "if state.head() > of.head {" "${slot_units[@]}"
mutant "storage: an epoch opens a copy that nobody compared" $storage/plan.rs \
  "return Err(AppendError::Superseded { reason: closed(state).unwrap_or_default() }.into());" "" "${slots[@]}" copies
mutant "storage: a log that never was the copy is taken for it" $storage/plan.rs \
  "return if state.lineage().starts().contains(&opened) {" "return if state.epoch() >= opened.epoch {" \
  "${slots[@]}" copies
mutant "storage: a copy is opened in another epoch than its log was sealed in" $storage/plan.rs \
  "if state.epoch() != of.epoch {" "if state.epoch() > Epoch(99) {" "${slots[@]}" copies
mutant "storage: what a copy has isn't compared with what is copied" $storage/plan.rs \
  ".find(|event| !state.holds(event))" ".find(|_| false)" "${slots[@]}" copies
mutant "storage: another log is gone on with as the copy" $storage/store.rs \
  ".filter(|of| of.store_id != state.store_id())" ".filter(|_| false)" "${slots[@]}" copies
mutant "storage: a mark is put without being checked" $storage/committer.rs \
  "state.check(batch)?;" "let _ = batch;" "${slots[@]}" copies
mutant "storage: a tail hears of a copy in the making" $storage/committer.rs \
  "Record::Events { .. } if self.state.read().is_copying() => {}" \
  "Record::Events { .. } if self.state.read().is_copying() && self.owns_tail && false => {}" "${slots[@]}" copies
mutant "storage: a copy is read before it is opened" $storage/store.rs \
  "let most = if state.is_copying() { shared.tail.head() } else { state.head() };" \
  "let most = state.head();" "${slots[@]}" copies
mutant "storage: a log that is opened is followed from where its tail stands" $core/tail/mod.rs \
  "|known| (head > known).then_some(head)" "|_| None" -p ironbus --lib tail
mutant "storage: whichever epoch is in force is sealed" $storage/plan.rs \
  "if state.epoch() != epoch {" "if state.epoch() < epoch {" "${slots[@]}" patience
mutant "storage: an own step isn't found after a lost reply" $storage/committer.rs \
  "if self.is_own_step(&held, mark) =>" "if self.is_own_step(&held, mark) && held.slot == Slot(0) =>" \
  "${slots[@]}" journal
mutant "storage: a step is refused on what the node knows" $storage/committer.rs \
  "Err(refused) => (None, Some(refused))," \
  "Err(refused) if matches!(mark, Mark::Step(_)) => return Err(refused), Err(refused) => (None, Some(refused))," \
  "${slots[@]}" journal
mutant "storage: a copy has no journal" $storage/own.rs \
  "match store.copy_journal(journal).await {" \
  "match store.copy_journal(journal.into_iter().take(0).collect()).await {" "${slots[@]}" moves
mutant "storage: a node that is late tries every slot" $storage/committer.rs \
  "(tries.in_limbo, tries.late) = (false, true);" "tries.in_limbo = false;" "${slots[@]}" patience
mutant "storage: a node that is always late tries on without end" $storage/committer.rs \
  "Ok(Ok(_)) if Instant::now() < deadline => Ok(())," "Ok(Ok(_)) => Ok(())," "${slots[@]}" patience
mutant "storage: a put is waited for without end" $storage/committer.rs \
  "match tokio::time::timeout_at(tries.deadline, put)" \
  "match tokio::time::timeout_at(tries.deadline + 1000 * self.patience, put)" "${slots[@]}" patience
mutant "storage: a look is waited for without end" $storage/committer.rs \
  "tries.in_time(follow::read(&*self.shared.log, next)).await" \
  "follow::read(&*self.shared.log, next).await" "${slots[@]}" patience
mutant "storage: a retry isn't answered because the rest of its group can't be" $storage/committer.rs \
  "match plan::stored(state, &append) {" "match plan::stored(state, &append).filter(|_| false) {" \
  "${slots[@]}" patience
mutant "storage: a look reads sixteen slots" $storage/follow.rs \
  "let (mut folded, mut ahead) = (0, 1);" "let (mut folded, mut ahead) = (0, 16);" "${slots[@]}" patience
mutant "storage: a slot is read by each who wants it" $storage/store.rs \
  "flight.cell.get_or_try_init(|| self.read_batch(at)).await.cloned()" \
  "drop(flight); self.read_batch(at).await" "${slots[@]}" patience
mutant "storage: a snapshot is due by the slots since the start" $storage/store.rs \
  "&options, from, commands.downgrade());" \
  "&options, from.max(shared.state.read().next()), commands.downgrade());" "${slots[@]}" starts
mutant "storage: a snapshot that can't be fetched keeps the log from opening" $storage/follow.rs \
  "Err(error) => Err(error.to_string())," "Err(error) => return Err(error.into())," "${slots[@]}" starts
mutant "storage: a snapshot's last slot is known by its hash alone" $storage/state.rs \
  "let hash = events.iter().fold(*previous, |hash, event| chain(&hash, event));" \
  "let hash = self.chain();" "${slots[@]}" damage
mutant "storage: an event keeps the object that it came in" $storage/batch.rs \
  "let payload = own_json(&from.text()?);" "let payload = Json::parse(from.text()?);" "${slot_units[@]}"
mutant "storage: a snapshot is of what came after it was begun, too" $storage/state.rs \
  "0 => state.slots[piece].iter()" "0 => state.slots[piece.start..].iter()" "${slot_units[@]}"
mutant "storage: what the leader may yet append is refused for good" $storage/committer.rs \
  "Answer::Refused(error) if waiting.by == By::ThisAfterAll =>" "Answer::Refused(error) if waiting.by == By::This =>" \
  "${slots[@]}" leader
mutant "storage: what was sent to the leader is sent on" $storage/own.rs \
  "self.append_by(append, By::This).await" "self.append_by(append, By::Whomever).await" "${slots[@]}" leader
mutant "storage: a leader that doesn't answer is asked again and again" $storage/leader.rs \
  "(lead.leader, lead.shunned_until) = (None, Instant::now() + SHUN);" "lead.leader = None;" "${slots[@]}" leader
# These compile RocksDB (see `just rocksdb`), so they run only when they are asked for: `mutants/run.sh rocks`.
if [[ "$only" == rocks* ]]; then
  rocks=(--workspace --features ironbus-zenoh/rocksdb --test rocksdb)
  mutant "rocks: a commit isn't synced" $storage/rocks/database.rs \
    "options.set_sync(true);" "options.set_sync(false);" \
    --workspace --features ironbus-zenoh/rocksdb --lib storage::rocks
  mutant "rocks: a filled slot is written over" $storage/rocks/writer.rs \
    "if let Some(held) = held {" "if let Some(held) = held.filter(Vec::is_empty) {" "${rocks[@]}" opens
  mutant "rocks: a log that ends before its mark is opened" $storage/rocks/database.rs \
    "if found < filled {" "if found + filled == 0 {" "${rocks[@]}" damage
  mutant "rocks: the mark isn't raised" $storage/rocks/writer.rs \
    "self.raise_mark(slot);" "" "${rocks[@]}" damage
  mutant "rocks: what was written behind damage is dropped" $storage/rocks/database.rs \
    "later > Slot(found) =>" "later < Slot(found) =>" "${rocks[@]}" power_cut
  mutant "rocks: a last write that is torn is damage" $storage/rocks/database.rs \
    "DBRecoveryMode::PointInTime" "DBRecoveryMode::AbsoluteConsistency" "${rocks[@]}" power_cut
  mutant "rocks: a log is opened before it is looked at" $storage/rocks/database.rs \
    "check_end(folder, filled)?;" \
    "drop(DB::open(&options(), path(folder))); check_end(folder, filled)?;" "${rocks[@]}" damage
  mutant "rocks: after a write that failed the database stays as it is" $storage/rocks/writer.rs \
    "self.failed = true;" "" "${rocks[@]}" full_disk
  mutant "rocks: on a full disk nothing can be read" $storage/rocks/writer.rs \
    "*db = read_only;" "drop(read_only);" "${rocks[@]}" full_disk
  mutant "rocks: a folder of something else is taken" $storage/rocks/folder.rs \
    "begun &=" "begun |=" "${rocks[@]}" opens
  mutant "rocks: what RocksDB reads for ever is given to it" $storage/rocks/frames.rs \
    "if USED_AGAIN.contains(&kind) {" "if kind == 0 {" \
    --workspace --features ironbus-zenoh/rocksdb --lib storage::rocks
  mutant "rocks: a damaged slot is taken for one that can't be reached" $storage/follow.rs \
    "Err(error) if error.damaged => {" "Err(error) if error.damaged && slot.0 > 9000 => {" "${rocks[@]}" damage
fi
moves=(-p ironbus --test moving)
mutant "moves: the log that is left isn't sealed" $core/store/sqlite/writer.rs \
  'Mark::Seal(why) => connection.execute("UPDATE log SET sealed = ?1", [why]).map(drop),' \
  'Mark::Seal(why) => { let _ = why; Ok(()) }' "${moves[@]}"
mutant "moves: appends are let in while the log goes over" $core/moving/mover.rs \
  "let gate = self.0.log.close_gate().await;" "let gate = ();" "${moves[@]}"
mutant "moves: what has come meanwhile isn't copied" $core/moving/mover.rs \
  "while copy.end().head < end.head {" "while copy.end().head.0 + 1 < end.head.0 {" "${moves[@]}"
mutant "moves: one that was cut off isn't gone on with" $core/moving/mover.rs \
  "(Some(moving), _) => Some(self.carry_out(moving, false).await)," "(Some(_), _) => None," "${moves[@]}"
mutant "moves: the mirror begins before it is written down" $core/moving/mover.rs \
  "self.0.whereabouts.lock().write(&self.0.data)?;" "" "${moves[@]}"
mutant "moves: none is cancelled while its place is away" $core/moving/mover.rs \
  "() = cancel.cancelled() => {" "() = cancel.cancelled(), if moving.by.is_empty() => {" "${moves[@]}"
mutant "moves: a log that isn't in force is opened" $core/store/sqlite/copying.rs \
  "None => Found::Opened," "None => { SqliteEventStore::open(options).await?; Found::Opened }" "${moves[@]}"
replica=crates/ironbus-zenoh/src/replica
compared=(-p ironbus-zenoh --lib replica)
mutant "replica: what it holds isn't compared byte for byte" $replica/comparison.rs \
  "if held != event.json() {" "if held.is_empty() {" "${compared[@]}"
mutant "replica: the chain is computed over the log's own events" $replica/comparison.rs \
  "chain(&self.replica, &held)" "{ let _ = held; chain(&self.replica, event) }" "${compared[@]}"
mutant "replica: a hole is taken for an end" $replica/comparison.rs \
  "self.missing.append(&mut self.behind);" "" "${compared[@]}"
mutant "replica: no key is foreign" $replica/strangers.rs \
  "self.count += 1;" "" "${compared[@]}"
mutant "replica: what is appended meanwhile is foreign" $replica/strangers.rs \
  "if self.later.remove(&key).is_none() {" "if self.known.len() < usize::MAX {" "${compared[@]}"
exit "$survived"

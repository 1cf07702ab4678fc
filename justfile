# What one does with this project. `just` alone lists it.

set shell := ["bash", "-euo", "pipefail", "-c"]

# Lists the recipes.
default:
    @just --list

# Starts a server on ./ironbus-data; the page is at http://127.0.0.1:4466.
run *args:
    cargo run --release -p ironbus-cli -- serve {{ args }}

# The binary to hand on: 23 MB instead of 28, for some ten minutes more of compiling. It is in target/dist.
dist:
    cargo build --profile dist -p ironbus-cli

# Formats everything.
format:
    cargo fmt --all
    cargo fmt --manifest-path peers/Cargo.toml

# What a reviewer would say first: format, clippy, spelling, licences, the API's description.
lint:
    cargo fmt --all --check
    cargo fmt --manifest-path peers/Cargo.toml --check
    cargo clippy --workspace --all-targets -- -D warnings
    typos
    cargo deny --all-features check bans licenses sources
    python3 -m openapi_spec_validator crates/ironbus-server/openapi.json
    mutants/run.sh --check

# All tests; what needs a browser or the real logs says so when it skips.
test *args:
    cargo test --workspace {{ args }}

# The public documentation, warnings denied.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc -p ironbus -p ironbus-server -p ironbus-zenoh --no-deps

# That no dependency asks for a later Rust than ours.
msrv:
    .ci/msrv

# What decides whether a change lands.
ci: lint doc msrv test

# The long fault runs: 100 kills of the server, and more cases of every property.
faults:
    IRONBUS_KILL_ROUNDS=100 cargo test --release --workspace --test process kill -- --nocapture
    IRONBUS_FAULT_TIMES=20 PROPTEST_CASES=2000 cargo test --release -p ironbus -p ironbus-zenoh

# Several processes on one bucket of an S3 server that loses replies (needs `moto_server`).
bucket:
    cargo build -p ironbus-zenoh --features s3 --example bucket-writer
    cargo test -p ironbus-zenoh --features s3 --test bucket -- --nocapture

# The log in RocksDB: its contract, 100 kills, damage, power cuts and a full disk. Needs a C++ compiler and libclang
# (on Debian `apt-get install g++ libclang-dev`; or `pip install libclang`, with LIBCLANG_PATH naming the folder of
# its `native/libclang.so`, and BINDGEN_EXTRA_CLANG_ARGS="-I…" that of the compiler's own headers). It compiles
# RocksDB once, which takes a quarter of an hour. ROCKSDB_LIB_DIR names the folder of a library of RocksDB 10.4.2 to
# take instead (with ROCKSDB_STATIC=1 a static one, which must bring the C++ library's objects along).
[doc('The log in RocksDB: its contract, 100 kills, damage, power cuts, a full disk (long).')]
rocksdb:
    cargo build --workspace --features ironbus-zenoh/rocksdb --example rocks-writer
    cargo test --workspace --features ironbus-zenoh/rocksdb --lib storage::rocks
    IRONBUS_KILL_ROUNDS=100 cargo test --workspace --features ironbus-zenoh/rocksdb --test rocksdb -- --nocapture
    IRONBUS_TEST_LOG=rocksdb:rocks cargo test --workspace --features ironbus-zenoh/rocksdb,ironbus-cli/rocksdb \
      --test typed_on_slots --test http_on_slots --test commands_on_slots

# The log moves from SQLite to RocksDB, to a folder, to an S3 server, and back from each, while eight clients append and
# a hundred read, and the server is killed. Needs what `just rocksdb` and `just bucket` need.
[doc('The log moves to RocksDB, a folder and S3 and back, under fire and kills.')]
moves:
    IRONBUS_MOVE_TO=rocksdb:rocks,folder:slots,s3 IRONBUS_MOVE_READERS=100 \
      cargo test --workspace --features ironbus-cli/rocksdb,ironbus-cli/s3 --test process moves -- --nocapture

# The migration under fire: to Zenoh and back, twice, while everybody writes and reads and nodes are killed.
migration:
    IRONBUS_FIRE=full cargo test --release --workspace --test fire -- --nocapture

# Nodes behind a router, on links that lose, repeat, reorder, are cut one way and partitioned (needs root).
lab:
    cargo build --release --workspace --examples
    IRONBUS_FIRE=full cargo test --release --workspace --test lab -- --nocapture

# A stock `zenohd` with RocksDB, built from the registry (long; needs libclang), is killed, proven and mended.
replica:
    cargo build --release --manifest-path replica/Cargo.toml --target-dir target/replica \
      -p zenohd -p zenoh-plugin-storage-manager -p zenoh-backend-rocksdb
    IRONBUS_ZENOHD="$PWD/target/replica/release/zenohd" cargo test --workspace --test replica -- --nocapture

# Instructions for one event on each hot path, under callgrind (needs valgrind): what doesn't depend on what else runs.
# With `profile=profiling` the functions keep their names for `callgrind_annotate`.
[doc('Instructions for one event on each hot path, under callgrind (needs valgrind).')]
instructions profile="release":
    cargo build --profile {{ profile }} -p ironbus-bench -p ironbus-cli
    .ci/instructions target/{{ profile }}/ironbus-bench

# Breaks the code on purpose, once for each property, and checks that a test notices.
mutants *word:
    mutants/run.sh {{ word }}

# The figures of docs/BENCHMARKS.md, taken anew in one run (`--quick` for a short one; names choose some).
bench *args:
    cargo run --release -p ironbus-bench -- {{ args }}

# Builds what `just bench stores` drives the stores of others with: SQLite through sqlx and UmaDB come with it, and
# PostgreSQL, Redis and NATS are measured where their servers are installed (NATS 2.10 or later: an earlier one can't sync
# each message). Needs protoc (on Debian `apt-get install protobuf-compiler`), for UmaDB.
[doc('Builds what `just bench stores` drives the stores of others with.')]
peers:
    cargo build --release --manifest-path peers/Cargo.toml --target-dir target/peers

# 18,000 SSE clients on one node, and 100,000 over six edge nodes, each with a pattern of its own, while a real log flows;
# every client is checked (a process needs 20,000 open files).
[doc('18,000 SSE clients on one node and 100,000 over six, each checked, while a real log flows.')]
crowd:
    cargo build --release -p ironbus-cli -p ironbus-bench
    target/release/ironbus-bench crowd --clients 18000 --edges 0 --rate 3000
    target/release/ironbus-bench crowd

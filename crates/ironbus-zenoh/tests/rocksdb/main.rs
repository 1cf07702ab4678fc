//! The log in RocksDB: the contract of event stores, starts, kills, damage, and a full disk.

mod contract;
mod damage;
mod full_disk;
mod kill;
mod opens;
mod power_cut;
mod support;

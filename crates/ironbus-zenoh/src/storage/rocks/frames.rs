//! The frames in which RocksDB writes its log of writes and its manifest: a checksum (4 bytes), a length (2) and a
//! type (1) before each piece, in blocks of 32 KiB.
//!
//! A start looks at them before RocksDB does, for one thing: where it finds a piece of a file that was used again,
//! in one that wasn't, RocksDB 10.4 reads that piece for ever. One flipped bit makes one. None of our files is used
//! again, so such a piece is damage. And whoever looks for a batch in them needs to know that it may go on in the next
//! block, behind a header.

use std::io::ErrorKind;
use std::path::Path;

use super::error::RocksOpenError;

const BLOCK: usize = 32 << 10;
const HEADER: usize = 7;

/// The types that pieces of a file have which is used again.
const USED_AGAIN: [u8; 6] = [5, 6, 7, 8, 11, 131];

/// Refuses a database that RocksDB would never have read to its end.
pub(super) fn check(folder: &Path, database: &Path) -> Result<(), RocksOpenError> {
    let failed = |source| RocksOpenError::io(database, source);
    let entries = match std::fs::read_dir(database) {
        // It was there before the mark was.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let reason = format!("{} is gone", database.display());
            return Err(RocksOpenError::Damaged { path: folder.to_owned(), reason });
        }
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("MANIFEST-") && !name.ends_with(".log") {
            continue;
        }
        if let Some(at) = used_again(&std::fs::read(entry.path()).map_err(failed)?) {
            let reason = format!("db/{name} is of a kind at byte {at} that it can't be");
            return Err(RocksOpenError::Damaged { path: folder.to_owned(), reason });
        }
    }
    Ok(())
}

/// What is in the blocks of a file, so that what goes on from one block into the next stands together: without the header
/// that each block begins with.
pub(super) fn joined(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(BLOCK).flat_map(|block| block.get(HEADER..).unwrap_or_default()).copied().collect()
}

/// Where the first piece is that RocksDB would take for one of a file that is used again.
fn used_again(bytes: &[u8]) -> Option<usize> {
    bytes.chunks(BLOCK).zip((0..).step_by(BLOCK)).find_map(|(block, start)| Some(start + in_block(block)?))
}

/// As RocksDB reads a block: up to the first piece that isn't whole.
fn in_block(block: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let header = block.get(at..at + HEADER)?;
        let kind = header[6];
        if USED_AGAIN.contains(&kind) {
            return Some(at);
        }
        let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
        let checked = block.get(at + 6..at + HEADER + length)?;
        let checksum = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        if masked(crc32c(checked)) != checksum {
            return None;
        }
        at += HEADER + length;
    }
}

/// Checksums are kept turned and moved, so that one of bytes with checksums in them isn't weaker.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C, of each byte by a table.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(kind: u8, content: &[u8]) -> Vec<u8> {
        let checked = [&[kind], content].concat();
        let length = u16::try_from(content.len()).expect("short").to_le_bytes();
        [masked(crc32c(&checked)).to_le_bytes().as_slice(), &length, &checked].concat()
    }

    #[test]
    fn the_checksum_is_that_of_its_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_batch_that_goes_on_in_the_next_block_is_found_wherever_it_is_cut() {
        use ironbus::event::{Epoch, Position, StoreId};
        use ironbus::store::{EpochStart, Lineage};

        use crate::storage::batch::{Batch, Record, last_begun};
        use crate::storage::log::Slot;

        let start = EpochStart { epoch: Epoch(1), after: Position::START };
        let batch = Batch {
            slot: Slot(7),
            store_id: StoreId(uuid::Uuid::from_u128(7)),
            epoch: Epoch(1),
            writer: uuid::Uuid::from_u128(1),
            record: Record::Created { lineage: Lineage::new(vec![start]).expect("one"), copy: false },
        }
        .encode();
        for before in 0..batch.len() {
            let filled = BLOCK - HEADER - before;
            let first = [&vec![b'x'; filled], &batch[..before]].concat();
            let bytes = [piece(2, &first), piece(4, &batch[before..])].concat();
            assert_eq!(last_begun(&batch, &joined(&bytes)), Some(Slot(7)), "cut after {before} bytes");
        }
    }

    #[test]
    fn a_piece_of_a_file_that_is_used_again_is_found_where_it_is_read() {
        let sound = [piece(2, &[b'x'; BLOCK - 2 * HEADER]), piece(1, b""), piece(4, b"y")].concat();
        assert_eq!(used_again(&sound), None);
        let used = [sound.clone(), piece(5, b"z")].concat();
        assert_eq!(used_again(&used), Some(sound.len()));
        // Behind a piece that isn't whole RocksDB reads nothing of the block, whatever is there.
        let mut torn = used;
        torn[BLOCK + HEADER] ^= 1;
        assert_eq!(used_again(&torn), None);
        torn.truncate(BLOCK + 3);
        assert_eq!(used_again(&torn), None);
    }
}

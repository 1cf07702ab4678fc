//! What `ironbus bench` measures, as a library, so that the figures of the repository's own benchmark are taken by
//! the same code. The program itself is the binary `ironbus`; nothing else of it is here.

pub mod bench;

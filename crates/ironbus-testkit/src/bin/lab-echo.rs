//! A process for the tests of the lab: gives back over TCP what it gets, at the address that it is given.

use std::io;
use std::net::TcpListener;

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).ok_or_else(|| io::Error::other("usage: lab-echo ADDRESS:PORT"))?;
    let listener = TcpListener::bind(&address)?;
    println!("listening on {}", listener.local_addr()?);
    for client in listener.incoming() {
        let client = client?;
        std::thread::spawn(move || {
            // A client that goes away ends its own connection only.
            if let Err(error) = io::copy(&mut &client, &mut &client) {
                eprintln!("a client is gone: {error}");
            }
        });
    }
    Ok(())
}

//! nginx with the module nchan, where both are installed (Debian: `apt-get install nginx libnginx-mod-nchan`): a
//! publisher posts each event to it over one connection, and it keeps what subscribers have to get.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::peers::Server;
use super::server::{data, resident_of};

const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

fn program() -> Option<PathBuf> {
    ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().map(PathBuf::from).find(|path| path.is_file())
}

pub(super) fn is_there() -> bool {
    program().is_some() && Path::new(MODULE).is_file()
}

pub(super) struct Nchan {
    main: Child,
    folder: PathBuf,
    publisher: BufReader<TcpStream>,
    published: u64,
}

impl Nchan {
    /// Starts it with one worker, and gives where it listens.
    pub(super) fn start(folder: &Path) -> (SocketAddr, Self) {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let (place, file) = (folder.to_str().expect("UTF-8"), folder.join("nginx.conf"));
        let configuration = format!(
            "load_module {MODULE};
             daemon off;
             worker_processes 1;
             worker_rlimit_nofile 20000;
             pid {place}/pid;
             error_log {place}/error.log;
             events {{ worker_connections 19000; }}
             http {{
                 access_log off;
                 keepalive_requests 100000000;
                 client_body_temp_path {place}/body;
                 proxy_temp_path {place}/proxy;
                 fastcgi_temp_path {place}/fastcgi;
                 uwsgi_temp_path {place}/uwsgi;
                 scgi_temp_path {place}/scgi;
                 server {{
                     listen {address};
                     location = /publish {{
                         nchan_publisher;
                         nchan_channel_id bench;
                         nchan_message_buffer_length 1000;
                     }}
                     location / {{
                         nchan_subscriber eventsource;
                         nchan_channel_id bench;
                         nchan_subscriber_first_message newest;
                     }}
                 }}
             }}"
        );
        std::fs::write(&file, configuration).expect("written");
        let mut command = Command::new(program().expect("it is installed"));
        command.arg("-p").arg(folder).arg("-c").arg(&file).stdin(Stdio::null());
        let main = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().expect("starts");
        let began = Instant::now();
        let publisher = loop {
            match TcpStream::connect(address) {
                Ok(publisher) => break publisher,
                Err(error) if began.elapsed() > Duration::from_secs(20) => panic!("nginx: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        publisher.set_nodelay(true).expect("set");
        let publisher = BufReader::new(publisher);
        (address, Self { main, folder: folder.to_owned(), publisher, published: 0 })
    }

    fn read_answer(&mut self) {
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            self.publisher.read_line(&mut line).expect("readable");
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            assert!(!line.starts_with("http/1.1 4") && !line.starts_with("http/1.1 5"), "{line}");
            if line.is_empty() {
                break;
            }
        }
        std::io::copy(&mut self.publisher.by_ref().take(length), &mut std::io::sink()).expect("readable");
    }
}

impl Server for Nchan {
    fn publish(&mut self, count: u64) {
        /// So many are sent before their answers are read.
        const UNDER_WAY: u64 = 64;
        let mut left = count;
        while left > 0 {
            let some = left.min(UNDER_WAY);
            let mut requests = Vec::new();
            for _ in 0..some {
                self.published += 1;
                let event = data(self.published);
                let head = format!(
                    "POST /publish HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
                    event.len()
                );
                requests.extend_from_slice(head.as_bytes());
                requests.extend_from_slice(event.as_bytes());
            }
            self.publisher.get_mut().write_all(&requests).expect("written");
            (0..some).for_each(|_| self.read_answer());
            left -= some;
        }
    }

    fn resident(&self) -> u64 {
        // Its worker's: the main process only watches it.
        let main = std::fs::read_to_string(self.folder.join("pid")).expect("it runs");
        let children = format!("/proc/{0}/task/{0}/children", main.trim());
        let children = std::fs::read_to_string(children).expect("Linux");
        children.split_whitespace().map(resident_of).sum()
    }
}

impl Drop for Nchan {
    fn drop(&mut self) {
        // Its worker ends with it only if it is told so.
        let _ = Command::new("kill").arg(self.main.id().to_string()).status();
        let _ = self.main.wait();
    }
}

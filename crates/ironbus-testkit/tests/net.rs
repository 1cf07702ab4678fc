//! The lab: hosts talk through it, every impairment is seen to bite, and nothing is left behind.

#![cfg(target_os = "linux")]

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ironbus_testkit::PATIENCE;
use ironbus_testkit::net::{Lab, LabOptions, Link};

/// How long nothing has to arrive before a test believes that nothing does.
const SILENCE: Duration = Duration::from_millis(400);

/// Whether the machine can't have a lab; a line says why. For tests that make theirs by themselves.
fn skipped() -> bool {
    Lab::or_skip(&[]).is_none()
}

/// Starts the echo in a host and waits until it listens.
fn echo(lab: &Lab, host: &str) -> (Child, SocketAddr) {
    let mut child = lab
        .command(host, env!("CARGO_BIN_EXE_lab-echo"))
        .arg(format!("{}:0", lab.address(host)))
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
    let address = line.trim().strip_prefix("listening on ").expect("it says where it listens");
    (child, address.parse().expect("an address"))
}

/// A connection that doesn't hang: a test that it fails ends.
fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

fn connect(lab: &Lab, host: &str, to: SocketAddr) -> TcpStream {
    patient(lab.inside(host, || TcpStream::connect(to)).expect("the other host is reached"))
}

/// A connection from one host to another, both ends.
fn pair(lab: &Lab, from: &str, to: &str) -> (TcpStream, TcpStream) {
    let listener = lab.inside(to, || TcpListener::bind((lab.address(to), 0))).expect("a free port");
    let client = connect(lab, from, listener.local_addr().expect("bound"));
    let (server, _) = listener.accept().expect("it was connected");
    (client, patient(server))
}

fn udp(lab: &Lab, host: &str) -> UdpSocket {
    let socket = lab.inside(host, || UdpSocket::bind((lab.address(host), 0))).expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    socket
}

/// The next datagram, and who sent it.
fn receive<const N: usize>(socket: &UdpSocket) -> ([u8; N], SocketAddr) {
    let mut datagram = [0; N];
    loop {
        match socket.recv_from(&mut datagram) {
            // With a time-out, any signal to the process ends the wait.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return (datagram, other.expect("it arrives").1),
        }
    }
}

/// Bytes of which a missing, repeated or moved piece is noticed.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 251 + n) as u8).collect()
}

/// Sends so many bytes through a connection, and says how long it took until all had arrived intact.
fn transfer((mut from, mut to): (TcpStream, TcpStream), length: usize) -> Duration {
    let sent = pattern(length);
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| from.write_all(&sent).expect("sent"));
        let mut got = vec![0; length];
        to.read_exact(&mut got).expect("it arrives");
        assert!(got == sent, "it arrives as it was sent");
    });
    began.elapsed()
}

fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[test]
fn processes_in_different_hosts_talk_over_tcp_and_reach_nobody_else() {
    let Some(lab) = Lab::or_skip(&["a", "b", "c"]) else { return };
    let (_server, address) = echo(&lab, "b");
    assert_eq!(address.ip(), lab.address("b"));
    let client = connect(&lab, "a", address);
    let again = client.try_clone().expect("a second handle");
    transfer((client, again), 1_000_000);
    let (there, back) = (lab.counters("a", "b"), lab.counters("b", "a"));
    assert!(there.bytes > 1_000_000 && back.bytes > 1_000_000, "{there:?}, {back:?}");
    assert_eq!(there.offered + back.offered, there.delivered + back.delivered, "{there:?}, {back:?}");
    assert_eq!(lab.counters("a", "c").offered + lab.counters("b", "c").offered, 0);
    let loopback = lab.inside("c", || TcpListener::bind("127.0.0.1:0")).expect("loopback is up");
    let loopback = loopback.local_addr().expect("bound");
    lab.inside("c", || TcpStream::connect(loopback)).expect("loopback leads to itself");
    lab.inside("a", || TcpStream::connect(loopback)).expect_err("each host has a loopback of its own");
    let outside = lab.inside("a", || TcpStream::connect("192.0.2.1:9"));
    assert_eq!(outside.expect_err("no way out").kind(), io::ErrorKind::NetworkUnreachable);
}

#[test]
fn a_one_way_cut_lets_data_through_and_stops_its_acknowledgements() {
    let Some(lab) = Lab::or_skip(&["a", "b"]) else { return };
    let (mut client, mut server) = pair(&lab, "a", "b");
    let sent = pattern(1_000_000);
    lab.cut("a", "b");
    std::thread::scope(|scope| {
        scope.spawn(|| server.write_all(&sent).expect("sent"));
        client.set_read_timeout(Some(SILENCE)).expect("a time-out");
        let mut got = Vec::new();
        let stopped = client.read_to_end(&mut got).expect_err("the sender may not go on");
        assert!(timed_out(&stopped), "{stopped}");
        assert!(!got.is_empty() && got.len() < sent.len(), "{} bytes", got.len());
        let (acknowledgements, data) = (lab.counters("a", "b"), lab.counters("b", "a"));
        assert!(acknowledgements.cut > 0 && data.cut == 0, "{acknowledgements:?}, {data:?}");
        lab.rejoin();
        client.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let mut rest = vec![0; sent.len() - got.len()];
        client.read_exact(&mut rest).expect("it goes on");
        got.extend(rest);
        assert!(got == sent, "nothing is missing, repeated or moved");
    });
}

#[test]
fn a_tenth_that_is_lost_is_sent_again_and_nothing_of_what_arrives_changes() {
    const BYTES: usize = 500_000;
    let Some(lab) = Lab::or_skip(&["a", "b"]) else { return };
    let clean = transfer(pair(&lab, "a", "b"), BYTES);
    let before = lab.counters("a", "b");
    assert_eq!(before.dropped(), 0, "{before:?}");
    lab.impair(Link { loss: 0.1, ..Link::default() });
    let lossy = transfer(pair(&lab, "a", "b"), BYTES);
    println!("500 KB: {clean:?} without loss, {lossy:?} with a tenth lost");
    let after = lab.counters("a", "b");
    let offered = after.offered - before.offered;
    let share = after.lost as f64 / offered as f64;
    assert!((0.04..0.2).contains(&share), "{share}: {after:?}");
    // Not the time: the system mends losses faster than a busy machine switches between processes. A packet
    // of 1,500 bytes carries at most 1,460; of the lost, a few carried none.
    assert!(offered + 5 > BYTES as u64 / 1_460 + after.lost, "{before:?}, {after:?}");
}

#[test]
fn repeated_and_overtaken_datagrams_arrive_as_often_and_as_late_as_the_counters_say() {
    let Some(lab) = Lab::or_skip(&["a", "b"]) else { return };
    lab.set_link("a", "b", Link { duplicate: 0.2, reorder: 0.2, ..Link::default() });
    let (from, to) = (udp(&lab, "a"), udp(&lab, "b"));
    let address = to.local_addr().expect("bound");
    let (mut seen, mut received, mut repeated, mut overtaken, mut last) = (HashSet::new(), 0, 0, 0, 0);
    for batch in 0..20_u32 {
        // So few that the receiver's buffer has room for all of them, twice.
        for number in batch * 100..(batch + 1) * 100 {
            from.send_to(&number.to_be_bytes(), address).expect("sent");
        }
        let outstanding = |received| {
            let counters = lab.counters("a", "b");
            counters.offered < u64::from(batch + 1) * 100 || counters.waiting + counters.delivered > received
        };
        while outstanding(received) {
            let number = u32::from_be_bytes(receive(&to).0);
            received += 1;
            repeated += u64::from(!seen.insert(number));
            overtaken += u64::from(number < last);
            last = number;
        }
    }
    let counters = lab.counters("a", "b");
    println!("{overtaken} overtaken, {repeated} repeated: {counters:?}");
    assert_eq!((seen.len(), counters.offered, counters.dropped()), (2_000, 2_000, 0));
    assert_eq!(repeated, counters.duplicated);
    assert!((300..500).contains(&counters.duplicated) && (300..500).contains(&counters.reordered));
    assert!(overtaken > 100, "{overtaken} of {} held back were overtaken", counters.reordered);
    transfer(pair(&lab, "a", "b"), 500_000);
}

#[test]
fn a_partition_stops_both_ways_spares_the_others_and_heals() {
    let Some(lab) = Lab::or_skip(&["a", "b", "c"]) else { return };
    let (_at_b, b) = echo(&lab, "b");
    let (_at_c, c) = echo(&lab, "c");
    let mut to_b = connect(&lab, "a", b);
    lab.partition(&["a", "c"], &["b"]);
    assert!(lab.link("a", "c").up && !lab.link("a", "b").up && !lab.link("b", "c").up);
    let there = lab.counters("a", "b").delivered;
    to_b.write_all(b"hello").expect("the system takes it");
    to_b.set_read_timeout(Some(SILENCE)).expect("a time-out");
    let mut answer = [0; 5];
    let silent = to_b.read_exact(&mut answer).expect_err("nobody hears it");
    assert!(timed_out(&silent), "{silent}");
    let counters = lab.counters("a", "b");
    assert!(counters.cut > 0 && counters.delivered == there, "{counters:?}");
    let to_c = connect(&lab, "a", c);
    let again = to_c.try_clone().expect("a second handle");
    transfer((to_c, again), 100_000);
    lab.heal();
    to_b.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    to_b.read_exact(&mut answer).expect("it arrives after all");
    assert_eq!(&answer, b"hello");
}

#[test]
fn a_delay_is_kept_in_order_and_what_the_link_cannot_hold_is_dropped() {
    if skipped() {
        return;
    }
    let options = LabOptions { queue: 10, ..LabOptions::default() };
    let lab = Lab::with(&["a", "b"], options).expect("a lab");
    let delay = Duration::from_millis(30);
    lab.impair(Link { delay, ..Link::default() });
    let (from, to) = (udp(&lab, "a"), udp(&lab, "b"));
    let began = Instant::now();
    from.send_to(&[0], to.local_addr().expect("bound")).expect("sent");
    let ([number], back) = receive(&to);
    to.send_to(&[number], back).expect("sent");
    assert_eq!(receive(&from).0, [0]);
    assert!(began.elapsed() >= 2 * delay);
    for number in 0..10 {
        from.send_to(&[number], to.local_addr().expect("bound")).expect("sent");
    }
    let order: Vec<u8> = (0..10).map(|_| receive::<1>(&to).0[0]).collect();
    assert!(order.is_sorted(), "{order:?} have the same delay");
    lab.set_link("a", "b", Link { delay: PATIENCE, ..Link::default() });
    for number in 0..50 {
        from.send_to(&[number], to.local_addr().expect("bound")).expect("sent");
    }
    let began = Instant::now();
    while lab.counters("a", "b").offered < 61 {
        assert!(began.elapsed() < PATIENCE, "{:?}", lab.counters("a", "b"));
        std::thread::yield_now();
    }
    let counters = lab.counters("a", "b");
    assert_eq!((counters.waiting, counters.overflowed), (10, 40), "{counters:?}");
}

#[test]
fn an_unimpaired_link_loses_nothing_at_full_speed() {
    const BYTES: u64 = 100_000_000;
    let Some(lab) = Lab::or_skip(&["a", "b"]) else { return };
    let (mut from, mut to) = pair(&lab, "a", "b");
    let began = Instant::now();
    let sender = std::thread::spawn(move || {
        let piece = vec![1; 64 * 1024];
        let mut left = BYTES;
        while left > 0 {
            let length = left.min(piece.len() as u64) as usize;
            from.write_all(&piece[..length]).expect("sent");
            left -= length as u64;
        }
    });
    assert_eq!(io::copy(&mut to, &mut io::sink()).expect("it arrives"), BYTES);
    let seconds = began.elapsed().as_secs_f64();
    sender.join().expect("it sent all");
    let (there, back) = (lab.counters("a", "b"), lab.counters("b", "a"));
    let packets = (there.delivered + back.delivered) as f64 / seconds;
    println!(
        "{:.0} MB/s, {packets:.0} packets/s both ways, {} dropped by the sender's device",
        BYTES as f64 / 1e6 / seconds,
        lab.host_drops("a"),
    );
    assert_eq!(there.dropped() + back.dropped(), 0, "{there:?}, {back:?}");
}

#[test]
fn what_a_host_sends_faster_than_it_is_forwarded_is_dropped_and_counted() {
    if skipped() {
        return;
    }
    let options = LabOptions { device_queue: 10, ..LabOptions::default() };
    let lab = Lab::with(&["a", "b"], options).expect("a lab");
    let (from, to) = (udp(&lab, "a"), udp(&lab, "b"));
    let address = to.local_addr().expect("bound");
    let began = Instant::now();
    let mut sent = 0;
    while lab.host_drops("a") == 0 {
        assert!(began.elapsed() < PATIENCE, "nothing overflows");
        for _ in 0..1_000 {
            from.send_to(&[0; 100], address).expect("the system takes it");
            sent += 1;
        }
    }
    while lab.counters("a", "b").offered + lab.host_drops("a") < sent {
        assert!(began.elapsed() < PATIENCE, "{sent} sent, {:?}", lab.counters("a", "b"));
    }
    assert_eq!(lab.counters("a", "b").offered + lab.host_drops("a"), sent);
}

/// Whether a process runs; one that has ended but wasn't waited for doesn't.
fn runs(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn exists(namespace: &str) -> bool {
    Path::new("/run/netns").join(namespace).exists()
}

#[test]
fn nothing_is_left_of_a_lab_also_after_a_panic() {
    if skipped() {
        return;
    }
    for panics in [false, true] {
        let mut left = None;
        let end = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let lab = Lab::new(&["a", "b"]).expect("a lab");
            let (server, _) = echo(&lab, "a");
            // What it starts is in the host as well.
            let shell = lab.command("b", "sh").args(["-c", "sleep 60; true"]).spawn().expect("it starts");
            let names = ["a", "b"].map(|host| lab.namespace(host).to_owned());
            assert!(runs(server.id()) && names.iter().all(|name| exists(name)));
            left = Some((names, [server, shell]));
            assert!(!panics, "as it should");
        }));
        assert_eq!(end.is_err(), panics);
        let (names, children) = left.expect("it came so far");
        assert!(names.iter().all(|name| !exists(name)), "{names:?}");
        for mut child in children {
            assert!(!runs(child.id()));
            assert!(!child.wait().expect("it has ended").success());
        }
    }
}

#[test]
#[ignore = "the process that the next test kills"]
fn a_lab_that_waits_to_be_killed() {
    let lab = Lab::new(&["a"]).expect("a lab");
    let mut sleeper = lab.command("a", "sleep").arg("60").spawn().expect("it starts");
    println!("\nleft: {} {}", lab.namespace("a"), sleeper.id());
    sleeper.wait().expect("it sleeps for longer than this lives");
}

#[test]
fn what_a_killed_run_left_behind_is_removed_by_the_next() {
    if skipped() {
        return;
    }
    let mut run = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "a_lab_that_waits_to_be_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let lines = BufReader::new(run.stdout.take().expect("piped")).lines();
    let left = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("left: ").map(str::to_owned));
    run.kill().expect("it still runs");
    run.wait().expect("it ends");
    let left = left.expect("it says what it will leave");
    let (namespace, sleeper) = left.split_once(' ').expect("a namespace and a process");
    let _lab = Lab::new(&["a"]).expect("a lab");
    assert!(!exists(namespace) && !runs(sleeper.parse().expect("a process id")));
}

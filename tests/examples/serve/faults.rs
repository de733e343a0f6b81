//! Clients that leave, say nothing, or say it slowly.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::errors::ends;
use super::http::{events, open};
use super::server::{JSON, Server, chat, with};

/// A chat that goes on for as long as the context lasts.
fn endless(server: &Server) -> serde_json::Value {
    let more = json!({"logit_bias": ends(server), "temperature": 0, "stream": true});
    chat("Go on.", more)
}

#[test]
fn a_client_that_leaves_frees_its_slots() {
    let server = Server::start(&["--slots", "2", "--ctx", "200000"]);
    let body = endless(&server);
    for stream in [true, false] {
        let body = with(body.clone(), json!({"n": 2, "stream": stream}));
        if stream {
            let mut exchange = server.open("/v1/chat/completions", &body);
            for _ in 0..8 {
                exchange.chunk().unwrap().unwrap();
            }
        } else {
            // Without a stream there is nothing to read before the end.
            let mut connection = TcpStream::connect(server.address).unwrap();
            let body = body.to_string();
            let head = format!(
                "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            connection.write_all(head.as_bytes()).unwrap();
            let start = Instant::now();
            while server.metric("slots_busy") < 2.0 {
                assert!(start.elapsed() < Duration::from_secs(10));
            }
        }
        server.wait_until_idle();
    }
    assert_eq!(server.metric("requests_total{outcome=\"cancelled\"}"), 2.0);
    server.chat("Hello", json!({"max_tokens": 1})).ok();
}

#[test]
fn others_go_on_when_one_leaves() {
    let server = Server::start(&["--ctx", "200000"]);
    let body = endless(&server);
    let more = json!({"logit_bias": ends(&server), "max_tokens": 200, "stream": true,
        "stream_options": {"include_usage": true}});
    let others: Vec<_> = thread::scope(|scope| {
        let others: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| events(&server.chat(super::QUESTION, more.clone()))))
            .collect();
        let mut leaves = server.open("/v1/chat/completions", &body);
        leaves.chunk().unwrap().unwrap();
        drop(leaves);
        others
            .into_iter()
            .map(|other| other.join().unwrap())
            .collect()
    });
    for events in others {
        assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], 200);
    }
    server.wait_until_idle();
}

/// Connections that a test, and a server that it starts then, can hold beside what else is open:
/// a thousand, if the system lets this process have as many.
#[cfg(unix)]
fn many_connections() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    const ENOUGH: u64 = 4096;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let most = maximum.unwrap_or(ENOUGH).min(ENOUGH);
    let mut open = current.unwrap_or(ENOUGH);
    if open < most {
        let current = Some(most);
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).expect("less than the maximum");
        open = most;
    }
    // Other tests run at the same time.
    let n = usize::try_from(open.saturating_sub(500))
        .expect("it is small")
        .min(1000);
    assert!(n >= 200, "{open} open files are too few for this test");
    if n < 1000 {
        eprintln!("with {n} connections: no more than {open} files can be open");
    }
    n
}

#[cfg(not(unix))]
fn many_connections() -> usize {
    1000
}

#[test]
fn connections_that_say_nothing_keep_nobody_out_and_are_closed() {
    let n = many_connections();
    let server = Server::start(&[]);
    let mut silent: Vec<TcpStream> = (0..n)
        .map(|_| TcpStream::connect(server.address).unwrap())
        .collect();
    // Half of a head is not much more.
    for stream in &mut silent[..20] {
        stream
            .write_all(b"POST /v1/chat/completions HTTP/1.1\r\nHos")
            .unwrap();
    }
    server.chat("Hello", json!({"max_tokens": 1})).ok();
    for stream in &mut silent {
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        // At the end nothing or the error that the protocol has for this.
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            // What came of the head was not all read.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the connection is still open: {error}"),
        }
        assert!(
            rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"),
            "{rest:?}"
        );
    }
}

#[test]
fn a_client_that_reads_nothing_is_given_up() {
    let server = Server::start(&["--ctx", "200000"]);
    // An answer that goes on, of more bytes than the system keeps for a client.
    let more = json!({"n": 2, "logprobs": true, "top_logprobs": 20});
    let body = with(endless(&server), more).to_string();
    let path = "/v1/chat/completions";
    let endless = open(server.address, "POST", path, &[JSON], body.as_bytes()).unwrap();
    while server.metric("slots_busy") < 2.0 {
        thread::sleep(Duration::from_millis(10));
    }
    // More answers than it keeps.
    let length = server.get("/placement.svg").body.len();
    let n = (32 << 20) / length + 1;
    let mut stream = TcpStream::connect(server.address).unwrap();
    let patience = Some(Duration::from_secs(60));
    stream.set_write_timeout(patience).unwrap();
    stream.set_read_timeout(patience).unwrap();
    let requests = "GET /placement.svg HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(n);
    stream.write_all(requests.as_bytes()).unwrap();
    // Others do not notice.
    server.chat("Hello", json!({"max_tokens": 1})).ok();
    thread::sleep(Duration::from_secs(40));
    let start = Instant::now();
    while server.metric("requests_total{outcome=\"cancelled\"}") < 1.0 {
        let patience = Duration::from_secs(60);
        assert!(start.elapsed() < patience, "the answer goes on");
        thread::sleep(Duration::from_millis(100));
    }
    server.wait_until_idle();
    drop(endless);
    let mut answers = Vec::new();
    match stream.read_to_end(&mut answers) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection is still open: {error}"),
    }
    assert!(answers.len() < n * length, "all was kept for the client");
}

#[test]
fn what_is_no_http_is_refused() {
    let server = Server::start(&[]);
    for bytes in [
        &b"\x16\x03\x01\x02\x00nonsense\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(bytes).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the connection is still open: {error}"),
        }
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"),
            "{answer:?}"
        );
    }
    // A body that breaks off.
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream
        .write_all(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
              Content-Length: 1000\r\n\r\n{",
        )
        .unwrap();
    drop(stream);
    let large = "a".repeat(1 << 20);
    let mut stream = TcpStream::connect(server.address).unwrap();
    let _ = stream.write_all(format!("GET / HTTP/1.1\r\nLong: {large}\r\n\r\n").as_bytes());
    drop(stream);
    server.chat("Hello", json!({"max_tokens": 1})).ok();
}

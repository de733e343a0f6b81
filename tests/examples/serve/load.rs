//! Many clients at a time, and the end in the midst of them.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::QUESTION;
use super::http::events;
use super::server::Server;

#[test]
fn two_hundred_requests_on_four_slots() {
    let server = Server::start(&["--slots", "4", "--queue", "200"]);
    thread::scope(|scope| {
        let server = &server;
        for number in 0..200 {
            scope.spawn(move || {
                if number % 2 == 0 {
                    // Beside others, nothing but this is said for certain.
                    let text = format!("Request {number} of 200.");
                    assert_eq!(server.say(&text, 1), [text]);
                } else {
                    let more = json!({"temperature": 0, "max_tokens": 24});
                    let answer = server.chat(QUESTION, more).ok();
                    assert_eq!(answer["choices"][0]["finish_reason"], "length");
                    assert_eq!(answer["usage"]["completion_tokens"], 24);
                }
            });
        }
    });
    assert_eq!(server.metric("requests_total{outcome=\"done\"}"), 200.0);
    server.wait_until_idle();
}

#[test]
fn a_full_queue_asks_to_come_back() {
    let server = Server::start(&["--slots", "1", "--queue", "1"]);
    let outcomes = thread::scope(|scope| {
        let clients = (0..24).map(|_| {
            scope.spawn(|| {
                let response = server.chat(QUESTION, json!({"temperature": 0}));
                if response.status == 503 {
                    assert_eq!(response.headers["retry-after"], "1");
                    assert_eq!(response.error(503)["code"], "queue_full");
                } else {
                    response.ok();
                }
                response.status
            })
        });
        let clients: Vec<_> = clients.collect();
        let mut outcomes = BTreeMap::<u16, usize>::new();
        for client in clients {
            *outcomes.entry(client.join().unwrap()).or_default() += 1;
        }
        outcomes
    });
    assert!(
        outcomes[&200] >= 2 && outcomes.contains_key(&503),
        "{outcomes:?}"
    );
    server.wait_until_idle();
}

#[test]
#[cfg(unix)]
fn a_signal_lets_running_streams_finish() {
    for signal in ["-TERM", "-INT"] {
        let server = Server::start(&["--slots", "2"]);
        let more = json!({"logit_bias": super::errors::ends(&server), "max_tokens": 400,
            "stream": true, "stream_options": {"include_usage": true}});
        let body = super::server::chat(QUESTION, more);
        // Two that run, six that wait, and some that say nothing.
        let running: Vec<_> = (0..8)
            .map(|_| server.open("/v1/chat/completions", &body))
            .collect();
        let silent: Vec<_> = (0..20)
            .map(|_| TcpStream::connect(server.address).unwrap())
            .collect();
        assert_eq!(server.metric("slots_busy"), 2.0);
        assert!(server.metric("requests_queued") > 0.0);
        server.signal(signal);
        for exchange in running {
            let events = events(&exchange.finish().unwrap());
            assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], 400);
        }
        let address = server.address;
        let (status, stderr) = server.wait(Duration::from_secs(10));
        assert!(status.success(), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert!(TcpStream::connect(address).is_err());
        drop(silent);
    }
}

#[test]
#[cfg(unix)]
fn a_second_signal_ends_at_once() {
    let server = Server::start(&["--ctx", "200000"]);
    let more = json!({"logit_bias": super::errors::ends(&server), "stream": true});
    let mut endless = server.open("/v1/chat/completions", &super::server::chat("Go on.", more));
    endless.chunk().unwrap().unwrap();
    server.signal("-TERM");
    thread::sleep(Duration::from_millis(300));
    endless.chunk().unwrap().unwrap();
    server.signal("-TERM");
    let (status, stderr) = server.wait(Duration::from_secs(10));
    assert!(status.success(), "{stderr}");
}

#[test]
#[cfg(all(unix, feature = "rpc"))]
fn a_device_that_hangs_does_not_keep_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let worker = crate::rpc::Worker::start(&dir.path().join("cache"));
    let server = Server::start(&["--ctx", "20000", "--rpc", &worker.endpoint]);
    let more = json!({"logit_bias": super::errors::ends(&server), "stream": true});
    let mut endless = server.open("/v1/chat/completions", &super::server::chat("Go on.", more));
    endless.chunk().unwrap().unwrap();
    super::server::signal(worker.id(), "-STOP");
    server.signal("-TERM");
    thread::sleep(Duration::from_millis(300));
    server.signal("-TERM");
    let (status, stderr) = server.wait(Duration::from_secs(20));
    assert!(status.success(), "{stderr}");
    assert!(stderr.contains("the engine does not end"), "{stderr}");
}

#[test]
#[cfg(unix)]
fn answers_that_do_not_end_have_so_long_after_a_signal() {
    let server = Server::start(&["--ctx", "200000", "--grace", "1"]);
    let more = json!({"logit_bias": super::errors::ends(&server), "stream": true});
    let mut endless = server.open("/v1/chat/completions", &super::server::chat("Go on.", more));
    endless.chunk().unwrap().unwrap();
    server.signal("-TERM");
    let (status, stderr) = server.wait(Duration::from_secs(30));
    assert!(status.success(), "{stderr}");
    assert!(stderr.contains("--grace"), "{stderr}");
}

#[test]
#[cfg(unix)]
fn nobody_has_to_read_what_the_server_says() {
    let server = Server::start_unheard(&[]);
    let body = super::server::chat(QUESTION, json!({"temperature": 0, "stream": true}));
    let mut running = server.open("/v1/chat/completions", &body);
    running.chunk().unwrap().unwrap();
    server.signal("-TERM");
    let text = running.finish().unwrap().text();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let (status, _) = server.wait(Duration::from_secs(30));
    assert!(status.success());
}

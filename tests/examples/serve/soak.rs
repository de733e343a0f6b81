//! Clients that come, ask for anything, and leave, for a while.
//!
//! `LLAMA_MOE_SOAK_SECONDS` says for how long; ten minutes are 600.

use std::io;
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use serde_json::json;

use super::http::{Exchange, events, open};
use super::server::{JSON, Server, chat, with};

const SECONDS: u64 = 10;
const CLIENTS: u64 = 12;
/// Bytes of memory that the second half may take more than the first: of a pool, not of a
/// request, of which there are a hundred a second.
const MAX_GROWTH: u64 = 4 << 20;

#[test]
fn clients_that_come_and_leave() {
    let seconds = match env::var("LLAMA_MOE_SOAK_SECONDS") {
        Ok(seconds) => seconds.parse().expect("a number of seconds"),
        Err(_) => SECONDS,
    };
    let server = Server::start(&["--slots", "4", "--ctx", "512"]);
    let end = Instant::now() + Duration::from_secs(seconds);
    let (memory, requests) = thread::scope(|scope| {
        let server = &server;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|seed| scope.spawn(move || client(server, Random(seed), end)))
            .collect();
        let mut memory = Vec::new();
        while Instant::now() < end {
            memory.extend(resident(server.id()));
            thread::sleep(Duration::from_millis(200));
        }
        let requests: Vec<u64> = clients
            .into_iter()
            .map(|client| client.join().expect("what a client saw is right"))
            .collect();
        (memory, requests)
    });
    println!("requests of each client: {requests:?}");
    assert!(requests.iter().all(|&n| n > 0), "{requests:?}");

    server.wait_until_idle();
    assert_eq!(server.metric("requests_running"), 0.0);
    assert_eq!(server.metric("requests_total{outcome=\"failed\"}"), 0.0);
    assert_eq!(server.metric("requests_total{outcome=\"refused\"}"), 0.0);
    assert!(server.metric("requests_total{outcome=\"cancelled\"}") > 0.0);
    // All of them can be had at a time.
    let text = "All four slots.";
    assert_eq!(server.say(text, 4), [text; 4]);

    // Empty where the system does not tell.
    let (first, second) = memory.split_at(memory.len() / 2);
    let most = |half: &[u64]| half.iter().copied().max().unwrap_or(0);
    let (first, second) = (most(first), most(second));
    println!("memory: {first} bytes at most in the first half, {second} in the second");
    assert!(
        second <= first + MAX_GROWTH,
        "{first} bytes at most in the first half, {second} in the second"
    );
}

/// Asks one thing after another, and returns how many.
fn client(server: &Server, mut random: Random, end: Instant) -> u64 {
    let mut n = 0;
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(random.below(30)));
        ask(server, &mut random);
        n += 1;
    }
    n
}

fn ask(server: &Server, random: &mut Random) {
    let text = "The experts are many. ".repeat(1 + random.below(40) as usize);
    let text = format!("{} {text}", random.below(50));
    let more = json!({"max_tokens": 1 + random.below(100), "seed": random.below(1000)});
    let streamed = with(more.clone(), json!({"stream": true}));
    match random.below(10) {
        0 => {
            let text = format!("It is {}.", random.below(1000));
            assert_eq!(server.say(&text, 1), [text]);
        }
        1 => {
            let body = with(more, json!({"prompt": text, "n": 1 + random.below(3)}));
            server.post("/v1/completions", &body).ok();
        }
        2 => {
            let embedded = server.post("/v1/embeddings", &json!({"input": [text, "experts"]}));
            assert_eq!(embedded.ok()["data"].as_array().unwrap().len(), 2);
        }
        3 => {
            events(&server.chat(&text, streamed));
        }
        4 => {
            server.chat(&"far too much ".repeat(1000), more).error(400);
        }
        5 => {
            let path = "/v1/chat/completions";
            let body = b"{\"messages\": [";
            server.request("POST", path, &[JSON], body).error(400);
        }
        6 => {
            // Sent, and not waited for.
            let connection = open(
                server.address,
                "POST",
                "/v1/chat/completions",
                &[JSON],
                chat(&text, more).to_string().as_bytes(),
            );
            thread::sleep(Duration::from_millis(random.below(20)));
            // It may have been answered and closed by now.
            let _ = connection.and_then(|connection| connection.shutdown(Shutdown::Both));
        }
        // Most leave in the midst of an answer.
        _ => {
            let body = chat(&text, streamed);
            let exchange = server.open("/v1/chat/completions", &body);
            leave_after(exchange, random.below(30)).expect("pieces, or the end");
        }
    }
}

/// Reads so many pieces of an answer, if it has them, and closes the connection.
fn leave_after(mut exchange: Exchange, pieces: u64) -> io::Result<()> {
    assert_eq!(exchange.status, 200);
    for _ in 0..pieces {
        if exchange.chunk()?.is_none() {
            break;
        }
    }
    Ok(())
}

/// Bytes that a process has in memory of its own, if the system tells.
fn resident(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: u64 = line?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

/// A linear congruential generator: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

//! A server that answers as the hub does, on loopback.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What is wrong with the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Every connection breaks after the first half of a file.
    Broken,
    /// Half a file is sent as if it were the whole.
    Short,
}

/// One repository, `owner/repo`, served until the test process ends.
pub struct HubServer {
    pub endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
}

struct Repository {
    files: BTreeMap<String, Vec<u8>>,
    fault: Fault,
}

impl HubServer {
    pub fn start(files: &[(&str, &[u8])], fault: Fault) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        let address = listener.local_addr().expect("its address");
        let repository = Repository {
            files: files
                .iter()
                .map(|&(name, bytes)| (name.to_owned(), bytes.to_vec()))
                .collect(),
            fault,
        };
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that leaves early is not the server's failure.
                let _ = repository.answer(stream, &seen);
            }
        });
        Self {
            endpoint: format!("http://{address}"),
            requests,
        }
    }

    /// Paths below `/cdn/` that were asked for, and from which byte, since the last call.
    pub fn downloads(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").drain(..).collect()
    }
}

impl Repository {
    fn answer(&self, stream: TcpStream, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
        let mut lines = BufReader::new(&stream).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut range = None;
        for line in lines {
            let line = line?.to_ascii_lowercase();
            if let Some(bytes) = line.strip_prefix("range: bytes=") {
                range = Some(bytes.to_owned());
            }
            if line.is_empty() {
                break;
            }
        }

        if path.starts_with("/api/models/owner/repo/") {
            let siblings: Vec<_> = self
                .files
                .keys()
                .map(|name| serde_json::json!({ "rfilename": name }))
                .collect();
            let body = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
            return respond(&stream, "200 OK", &[], body.as_bytes(), body.len());
        }
        if let Some(name) = path.strip_prefix(&format!("/owner/repo/resolve/{COMMIT}/"))
            && self.files.contains_key(name)
        {
            // Large files are elsewhere, as on the hub.
            let headers = [
                ("Location", format!("/cdn/{name}")),
                ("X-Repo-Commit", COMMIT.to_owned()),
                ("X-Linked-Etag", format!("\"{}\"", name.replace('/', "-"))),
            ];
            let host = stream.local_addr()?;
            let mut headers = headers.to_vec();
            headers[0].1 = format!("http://{host}{}", headers[0].1);
            return respond(&stream, "302 Found", &headers, b"", 0);
        }
        if let Some(name) = path.strip_prefix("/cdn/")
            && let Some(bytes) = self.files.get(name)
        {
            return self.send(&stream, name, bytes, range.as_deref(), seen);
        }
        respond(&stream, "404 Not Found", &[], b"", 0)
    }

    fn send(
        &self,
        stream: &TcpStream,
        name: &str,
        bytes: &[u8],
        range: Option<&str>,
        seen: &Mutex<Vec<String>>,
    ) -> std::io::Result<()> {
        let (from, to) = range
            .and_then(|range| range.split_once('-'))
            .unwrap_or_default();
        let from: usize = from.parse().unwrap_or(0);
        let to = to.parse().map_or(bytes.len(), |to: usize| to + 1);
        let content_range = format!("bytes {from}-{}/{}", to.saturating_sub(1), bytes.len());
        let headers = [("Content-Range", content_range)];
        let body = &bytes[from..to];
        // A single byte is how a client asks for the size.
        if body.len() <= 1 {
            return respond(stream, "206 Partial Content", &headers, body, body.len());
        }
        seen.lock()
            .expect("no panic")
            .push(format!("{name}@{from}"));
        let half = &body[..body.len() / 2];
        let (body, announced) = match self.fault {
            Fault::None => (body, body.len()),
            Fault::Broken => (half, body.len()),
            Fault::Short => (half, half.len()),
        };
        respond(stream, "206 Partial Content", &headers, body, announced)
    }
}

fn respond(
    mut stream: &TcpStream,
    status: &str,
    headers: &[(&str, String)],
    body: &[u8],
    announced: usize,
) -> std::io::Result<()> {
    let mut head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {announced}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"\r\n")?;
    stream.write_all(body)?;
    stream.flush()
}

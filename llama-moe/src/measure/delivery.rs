//! A reply on its way to a reader, as a stream or as a whole.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::MeasureError;
use super::run::{Length, generate_each};
use super::seconds;
use crate::context::Context;
use crate::error::Result;
use crate::model::Token;
use crate::sampler::Sampler;

/// How a reply is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Each token's text as soon as it is there, as a [`Detokenizer`](crate::Detokenizer)
    /// settles it.
    Streaming,
    /// All of the text when it is complete.
    Whole,
}

/// A reply as its reader got it. Times count from when the prompt was handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Delivered {
    /// The tokens that were generated.
    pub tokens: Vec<Token>,
    /// The text that arrived, control tokens written out.
    pub text: String,
    /// How many pieces it was sent in; 0 for a reply without text.
    pub n_pieces: usize,
    /// When the first piece was there, in seconds. Of a reply without text: its end.
    #[serde(with = "seconds")]
    pub first: Duration,
    /// When the last was, in seconds.
    #[serde(with = "seconds")]
    pub last: Duration,
}

/// Generates as [`generate`](super::generate) does, and sends the text to a reader: a thread at
/// the other end of a TCP connection over loopback, which takes the time of what arrives. What a
/// client of a server on this machine would see, without the protocol.
///
/// Either way the same tokens are computed, and the text is the same: a caller can tell by
/// [`Delivered::tokens`] and [`Delivered::text`].
///
/// # Errors
/// As [`generate`](super::generate) and [`Detokenizer::push`](crate::Detokenizer::push);
/// [`MeasureError::Delivery`] without a connection, and [`MeasureError::NoThread`].
pub fn deliver(
    context: &mut Context,
    sampler: &mut Sampler,
    prompt: &[Token],
    length: Length,
    way: Way,
) -> Result<Delivered> {
    let vocab = context.model().vocab();
    let mut link = Link::new()?;
    let (start, tokens) = match way {
        Way::Streaming => {
            let mut text = vocab.detokenizer().with_special(true);
            let (start, run) = generate_each(context, sampler, prompt, length, |token| {
                let piece = text.push(token)?;
                Ok(link.send(&piece)?)
            })?;
            link.send(&text.finish()?)?;
            (start, run.tokens)
        }
        Way::Whole => {
            let (start, run) = generate_each(context, sampler, prompt, length, |_| Ok(()))?;
            link.send(&vocab.detokenize_lossy(&run.tokens, false, true)?)?;
            (start, run.tokens)
        }
    };
    let n_pieces = link.n_pieces;
    let arrived = link.finish()?;
    Ok(Delivered {
        tokens,
        text: String::from_utf8_lossy(&arrived.bytes).into_owned(),
        n_pieces,
        first: arrived.first.saturating_duration_since(start),
        last: arrived.last.saturating_duration_since(start),
    })
}

/// A connection, and the thread that reads at its other end until this one is closed.
struct Link {
    sender: TcpStream,
    n_pieces: usize,
    reader: Option<JoinHandle<io::Result<Arrived>>>,
}

/// What a reader got.
struct Arrived {
    bytes: Vec<u8>,
    first: Instant,
    last: Instant,
}

impl Link {
    fn new() -> Result<Self, MeasureError> {
        let (sender, receiver) = connect().map_err(failed)?;
        let reader = thread::Builder::new().name("reader".to_owned());
        let reader =
            reader
                .spawn(move || read(receiver))
                .map_err(|error| MeasureError::NoThread {
                    reason: error.to_string(),
                })?;
        Ok(Self {
            sender,
            n_pieces: 0,
            reader: Some(reader),
        })
    }

    fn send(&mut self, piece: &str) -> Result<(), MeasureError> {
        if piece.is_empty() {
            return Ok(());
        }
        self.n_pieces += 1;
        self.sender.write_all(piece.as_bytes()).map_err(failed)
    }

    fn finish(mut self) -> Result<Arrived, MeasureError> {
        self.sender.shutdown(Shutdown::Write).map_err(failed)?;
        match self.reader.take().map(JoinHandle::join) {
            Some(Ok(arrived)) => arrived.map_err(failed),
            _ => Err(MeasureError::Delivery {
                reason: "its reader is gone".to_owned(),
            }),
        }
    }
}

/// A link that is given up leaves no thread behind.
impl Drop for Link {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take()
            && self.sender.shutdown(Shutdown::Both).is_ok()
        {
            // What it read is of no interest any more.
            drop(reader.join());
        }
    }
}

/// Both ends of a connection.
fn connect() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let sender = TcpStream::connect(listener.local_addr()?)?;
    // Otherwise small pieces wait for each other.
    sender.set_nodelay(true)?;
    let ours = sender.local_addr()?;
    loop {
        // Any program of this machine could be the first to connect.
        let (receiver, peer) = listener.accept()?;
        if peer == ours {
            return Ok((sender, receiver));
        }
    }
}

fn read(mut receiver: TcpStream) -> io::Result<Arrived> {
    let mut buffer = [0; 4096];
    let (mut bytes, mut times) = (Vec::new(), None);
    loop {
        let n_read = match receiver.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let now = Instant::now();
        if n_read == 0 {
            let (first, last) = times.unwrap_or((now, now));
            return Ok(Arrived { bytes, first, last });
        }
        bytes.extend_from_slice(&buffer[..n_read]);
        let (first, _) = times.unwrap_or((now, now));
        times = Some((first, now));
    }
}

fn failed(error: io::Error) -> MeasureError {
    MeasureError::Delivery {
        reason: error.to_string(),
    }
}

//! One reply.

use std::io::{self, Write};

use common::{Interrupt, Result};
use llama_moe::{Chat, ReplyStats};

/// Asks, and prints the reply as it comes.
pub fn stream(chat: &mut Chat, text: &str, interrupt: &Interrupt) -> Result<()> {
    let mut stdout = io::stdout().lock();
    ask(chat, text, interrupt, |piece| {
        write!(stdout, "{piece}")?;
        stdout.flush()
    })?;
    Ok(writeln!(stdout)?)
}

/// Asks, and returns the whole reply.
pub fn collect(chat: &mut Chat, text: &str, interrupt: &Interrupt) -> Result<(String, ReplyStats)> {
    let mut reply = String::new();
    let stats = ask(chat, text, interrupt, |piece| {
        reply += piece;
        Ok(())
    })?;
    Ok((reply, stats))
}

fn ask(
    chat: &mut Chat,
    text: &str,
    interrupt: &Interrupt,
    mut show: impl FnMut(&str) -> io::Result<()>,
) -> Result<ReplyStats> {
    interrupt.guard(|| {
        let mut reply = chat.say(text)?;
        for piece in reply.by_ref() {
            show(&piece?)?;
        }
        Ok(reply.stats().clone())
    })
}

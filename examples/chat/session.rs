//! A conversation in the terminal.

use std::io::{self, Write};

use common::{Interrupt, Result, describe_moe_cache, is_broken_pipe};
use llama_moe::{Chat, MoeCacheStats};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::command::{Command, HELP};
use crate::{reply, stats};

/// Talks until the user leaves or the input ends. What goes wrong with one question is
/// said, and the next can be asked. Lines are remembered for as long as this lasts.
pub fn run(chat: &mut Chat, interrupt: &Interrupt) -> Result<()> {
    let mut editor = DefaultEditor::new()?;
    // What the cache of experts had done before the last reply.
    let mut before = MoeCacheStats::default();
    say(&format!(
        "{}; /help lists the commands",
        chat.model().description()
    ))?;
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        editor.add_history_entry(line)?;
        let done = if line.starts_with('/') {
            match Command::parse(line) {
                Some(Command::Quit) => return Ok(()),
                Some(command) => execute(command, chat, &before),
                None => say(&format!("there is no command {line}; /help lists them")),
            }
        } else {
            if let Ok(Some(stats)) = chat.context_mut().moe_cache_stats() {
                before = stats;
            }
            reply::stream(chat, line, interrupt)
        };
        match done {
            Err(error) if is_broken_pipe(error.as_ref()) => return Err(error),
            Err(error) => writeln!(io::stderr(), "error: {error}")?,
            Ok(()) => {}
        }
    }
}

fn execute(command: Command, chat: &mut Chat, before: &MoeCacheStats) -> Result<()> {
    match command {
        Command::Help => say(HELP),
        Command::Reset => {
            chat.reset();
            Ok(())
        }
        Command::Stats => {
            let Some(last) = chat.stats() else {
                return say("no reply yet");
            };
            say(&stats::table(last))?;
            match chat.context_mut().moe_cache_stats()? {
                Some(now) => say(&stats::moe_cache(&now, before)),
                None => Ok(()),
            }
        }
        Command::Placement => {
            say(&chat.model().placement()?.to_string())?;
            match chat.context().moe_cache() {
                Some(layout) => say(&describe_moe_cache(layout, chat.model())),
                None => Ok(()),
            }
        }
        Command::Quit => Ok(()),
    }
}

fn say(text: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{text}")?)
}

//! A conversation in the terminal.

use std::io::{self, Write};

use common::{Interrupt, Result, is_broken_pipe};
use llama_moe::{Chat, Model};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::command::{Command, HELP};
use crate::{reply, stats};

/// Talks until the user leaves or the input ends. What goes wrong with one question is
/// said, and the next can be asked. Lines are remembered for as long as this lasts.
pub fn run(model: &Model, chat: &mut Chat, interrupt: &Interrupt) -> Result<()> {
    let mut editor = DefaultEditor::new()?;
    say(&format!(
        "{}; /help lists the commands",
        model.description()
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
                Some(command) => execute(command, model, chat),
                None => say(&format!("there is no command {line}; /help lists them")),
            }
        } else {
            reply::stream(chat, line, interrupt)
        };
        match done {
            Err(error) if is_broken_pipe(error.as_ref()) => return Err(error),
            Err(error) => writeln!(io::stderr(), "error: {error}")?,
            Ok(()) => {}
        }
    }
}

fn execute(command: Command, model: &Model, chat: &mut Chat) -> Result<()> {
    match command {
        Command::Help => say(HELP),
        Command::Reset => {
            chat.reset();
            Ok(())
        }
        Command::Stats => match chat.stats() {
            Some(last) => say(&stats::table(last)),
            None => say("no reply yet"),
        },
        Command::Placement => say(&model.placement()?.to_string()),
        Command::Quit => Ok(()),
    }
}

fn say(text: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{text}")?)
}

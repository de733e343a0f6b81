//! llama.cpp's log on stderr.

use std::env;
use std::io::{self, IsTerminal};

use clap::Args;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::Result;

/// How much is logged.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// Show llama.cpp's log on stderr
    ///
    /// The variable RUST_LOG chooses more finely: RUST_LOG=llama.cpp=info.
    #[arg(short, long)]
    verbose: bool,
}

impl LogArgs {
    /// Shows the log from now on, if that was asked for.
    ///
    /// # Errors
    /// If RUST_LOG cannot be understood.
    pub fn init(&self) -> Result<()> {
        let filter = match env::var("RUST_LOG") {
            Ok(filter) => filter
                .parse::<Targets>()
                .map_err(|error| format!("RUST_LOG={filter}: {error}"))?,
            Err(_) if self.verbose => Targets::new().with_default(LevelFilter::DEBUG),
            Err(_) => return Ok(()),
        };
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr);
        tracing_subscriber::registry()
            .with(lines)
            .with(filter)
            .init();
        Ok(())
    }
}

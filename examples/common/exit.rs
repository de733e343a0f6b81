//! How the programs end.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

/// The result of an example: its errors are only shown.
pub type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Says on stderr what went wrong, if anything did, and gives the code to end with: 0 or 1.
/// A reader of stdout that has seen enough (`| head`) is no error.
pub fn exit_code(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where stderr is gone as well there is nobody to tell.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether an error only says that the reader of stdout has left.
#[must_use]
pub fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

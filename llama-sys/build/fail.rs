//! How the build stops: one sentence that says what is wrong and what to do.

/// A reason to stop the build, in one sentence.
pub struct Failure(pub String);

/// Shorthand for `Err(Failure(..))`.
pub fn fail<T>(message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure(message.into()))
}

/// Shows `failure` as Cargo shows its own errors, and ends the build script.
pub fn stop(failure: &Failure) -> ! {
    println!("cargo::error={}", failure.0.replace('\n', " "));
    std::process::exit(1);
}

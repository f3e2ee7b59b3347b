//! The adapter to the terminal: what is attached to the standard streams, notes to a person, questions.

use std::fs::File;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;

/// Writes one note to standard error. A standard error that is gone is nobody's to tell, so failure is ignored.
pub fn note(text: &str) {
    let mut stderr = io::stderr().lock();
    let _nobody_listens = writeln!(stderr, "{}", text.trim_end());
}

/// Like [`note`], without touching the text.
pub fn note_plain(text: &str) {
    note(text);
}

/// True when a person watches standard error.
pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// True when a person reads standard output.
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// True when a person types on standard input.
pub fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// The size of standard input when it is a regular file, so that progress can name an end.
pub fn stdin_file_bytes() -> Option<u64> {
    let file = File::from(io::stdin().as_fd().try_clone_to_owned().ok()?);
    let metadata = file.metadata().ok()?;
    metadata.is_file().then_some(metadata.len())
}

/// Standard input without the standard library's line buffer, for readers that buffer themselves.
pub fn stdin_unbuffered() -> io::Result<File> {
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Asks a yes-or-no question on the terminal; anything but `y` or `yes` is no.
pub fn ask(question: &str) -> bool {
    let mut stderr = io::stderr().lock();
    let _nobody_listens = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    match io::stdin().lock().read_line(&mut answer) {
        Ok(_) => matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"),
        Err(_) => false,
    }
}

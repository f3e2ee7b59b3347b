//! What to type into a shell to run this program: its name where a shell finds one, else its own path.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// What the program is called once it is installed.
const NAME: &str = "streambus";

/// The word to begin a command line with, as things stand for this process.
pub fn word() -> String {
    word_for(std::env::current_exe().ok().as_deref(), std::env::var_os("PATH").as_deref(), is_executable)
}

/// `own` is where this program lies, `path` the folders that a shell looks through. A program whose place is not known is
/// called by its name.
fn word_for(own: Option<&Path>, path: Option<&OsStr>, is_executable: impl Fn(&Path) -> bool) -> String {
    let is_found = path.is_some_and(|path| std::env::split_paths(path).any(|folder| is_executable(&folder.join(NAME))));
    match own.and_then(Path::to_str) {
        Some(own) if !is_found => quoted(own),
        _ => NAME.to_owned(),
    }
}

/// `word` so that a shell takes it as one word and changes nothing in it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word_on(path: &str, installed: &str) -> String {
        let own = Path::new("/src/target/release/streambus");
        word_for(Some(own), Some(OsStr::new(path)), |file| file == Path::new(installed))
    }

    /// Catches lines to try that answer "command not found".
    #[test]
    fn the_name_where_a_shell_finds_it_and_the_path_elsewhere() {
        assert_eq!(word_on("/usr/bin:/home/a/.local/bin", "/home/a/.local/bin/streambus"), "streambus");
        assert_eq!(word_on("/usr/bin:/bin", "/home/a/.local/bin/streambus"), "/src/target/release/streambus");
        let own = Path::new("/src/target/release/streambus");
        assert_eq!(word_for(Some(own), None, |_| true), "/src/target/release/streambus");
        assert_eq!(word_for(None, None, |_| false), "streambus");
    }

    #[test]
    fn a_path_with_blanks_and_quotes_is_one_word() {
        let own = Path::new("/my code/it's/streambus");
        assert_eq!(word_for(Some(own), None, |_| false), r"'/my code/it'\''s/streambus'");
    }

    /// Catches a folder, or a file that nobody may run, taken for the program.
    #[test]
    fn only_a_file_that_may_be_run_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let (own, path) = (Path::new("/x/streambus"), Some(folder.path().as_os_str()));
        let file = folder.path().join(NAME);
        std::fs::create_dir(&file).unwrap();
        assert_eq!(word_for(Some(own), path, is_executable), "/x/streambus");
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(word_for(Some(own), path, is_executable), "/x/streambus");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(word_for(Some(own), path, is_executable), "streambus");
    }
}

//! Whose data directory this is: a small checksummed text file, written once when the directory is formatted and once
//! when a broker claims it.
//!
//! ```text
//! streambus-data-directory
//! format = 1
//! directory = 0190...      drawn at formatting; every journal segment names it
//! created-by = 0.1.0
//! broker = 3               after the first claim
//! cluster = 5f1c...        after the first claim
//! crc32c = 1a2b3c4d        over every byte before this line
//! ```
//! It is text so that a human at a broken machine can read it. The title, the format line and the checksum line are part of
//! every format, so that a flipped bit of the format's number is damage and not the work of a newer version.

use std::fmt::Write as _;

use streambus_protocol::ids::{BrokerId, ClusterId, DirectoryId};

/// Name of the identity file.
pub const IDENTITY_FILE: &str = "identity";
/// The directory format this version reads and writes.
pub const DIRECTORY_FORMAT: u32 = 1;
/// First line of the file.
const TITLE: &str = "streambus-data-directory";
/// Larger files are not identities.
const IDENTITY_BYTES_MAX: usize = 4096;

/// Who uses a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The broker.
    pub broker: BrokerId,
    /// Its cluster.
    pub cluster: ClusterId,
}

/// The content of the identity file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The directory's own id.
    pub directory: DirectoryId,
    /// Version of the program that formatted it.
    pub created_by: String,
    /// Who uses it, once somebody does.
    pub claim: Option<Claim>,
}

/// Why a directory may not be used. Every text names the file, what was found, what was expected and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Written by a newer version.
    #[error(
        "'{IDENTITY_FILE}' has directory format {found}, this version reads up to {DIRECTORY_FORMAT}: start the \
         version that wrote it, or a newer one"
    )]
    NewerFormat {
        /// The format found.
        found: u32,
    },
    /// Not an identity file, or a damaged one.
    #[error(
        "'{IDENTITY_FILE}' is damaged ({problem}); expected a checksummed StreamBus identity: restore the file from a \
         backup of this directory, or start the broker on an empty directory and let it refill from its peers"
    )]
    Damaged {
        /// What is wrong.
        problem: String,
    },
    /// Files of something else.
    #[error(
        "the data directory holds '{found}' and no '{IDENTITY_FILE}'; expected an empty directory or a StreamBus data \
         directory: choose another directory, or move these files away"
    )]
    Foreign {
        /// A file found there.
        found: String,
    },
    /// The directory of another broker or cluster.
    #[error(
        "'{IDENTITY_FILE}' says broker {found_broker} of cluster {found_cluster}; expected broker {expected_broker} of \
         cluster {expected_cluster}: mount the directory of this broker, or start the one it belongs to"
    )]
    WrongOwner {
        /// The broker in the file.
        found_broker: BrokerId,
        /// The cluster in the file.
        found_cluster: ClusterId,
        /// This broker.
        expected_broker: BrokerId,
        /// Its cluster.
        expected_cluster: ClusterId,
    },
    /// The path is a file.
    #[error("'{path}' is no directory: give a directory, or remove the file and let the broker create it")]
    NotADirectory {
        /// The path.
        path: String,
    },
    /// The process may not use the directory.
    #[error(
        "'{path}' cannot be {operation}: permission denied; expected a directory that this user may read and write: \
         change its owner, or run as the user that owns it"
    )]
    NoPermission {
        /// The path.
        path: String,
        /// What was tried.
        operation: &'static str,
    },
}

impl Identity {
    /// The identity of a fresh directory.
    pub fn new(directory: DirectoryId) -> Self {
        Self { directory, created_by: env!("CARGO_PKG_VERSION").to_owned(), claim: None }
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = format!(
            "{TITLE}\nformat = {DIRECTORY_FORMAT}\ndirectory = {}\ncreated-by = {}\n",
            self.directory, self.created_by
        );
        if let Some(claim) = self.claim {
            // Writing to a String cannot fail.
            let _ = write!(text, "broker = {}\ncluster = {}\n", claim.broker, claim.cluster);
        }
        let checksum = crc32c::crc32c(text.as_bytes());
        let _ = writeln!(text, "crc32c = {checksum:08x}");
        text.into_bytes()
    }

    /// Reads the file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, IdentityError> {
        let damaged = |problem: &str| IdentityError::Damaged { problem: problem.to_owned() };
        if bytes.len() > IDENTITY_BYTES_MAX {
            return Err(damaged("it is too long"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is no text"))?;
        let mut lines = text.split_inclusive('\n');
        if lines.next().map(str::trim_end) != Some(TITLE) {
            return Err(damaged("the first line is not the expected one"));
        }
        let (checked, last) = text.split_at(text.rfind("crc32c = ").ok_or_else(|| damaged("it has no checksum"))?);
        let stored = last.strip_prefix("crc32c = ").and_then(|hex| hex.strip_suffix('\n'));
        // Compared as text: a parse would accept other spellings of the same number.
        if stored != Some(format!("{:08x}", crc32c::crc32c(checked.as_bytes())).as_str()) {
            return Err(damaged("the checksum differs"));
        }
        let format = value_of(checked, "format").and_then(|value| value.parse::<u32>().ok());
        match format {
            Some(DIRECTORY_FORMAT) => {}
            Some(found) if found > DIRECTORY_FORMAT => return Err(IdentityError::NewerFormat { found }),
            _ => return Err(damaged("the format line is missing or wrong")),
        }
        let directory: DirectoryId =
            value_of(checked, "directory").and_then(|v| v.parse().ok()).ok_or_else(|| damaged("no directory id"))?;
        let created_by = value_of(checked, "created-by").ok_or_else(|| damaged("no version"))?.to_owned();
        let claim = match (value_of(checked, "broker"), value_of(checked, "cluster")) {
            (None, None) => None,
            (Some(broker), Some(cluster)) => Some(Claim {
                broker: BrokerId::new(broker.parse().map_err(|_| damaged("the broker id is no number"))?),
                cluster: cluster.parse().map_err(|_| damaged("the cluster id is none"))?,
            }),
            _ => return Err(damaged("half a claim")),
        };
        Ok(Self { directory, created_by, claim })
    }

    /// The identity claimed by `claim`, or the refusal when it belongs to somebody else.
    pub fn claimed_by(&self, claim: Claim) -> Result<Self, IdentityError> {
        match self.claim {
            Some(found) if found != claim => Err(IdentityError::WrongOwner {
                found_broker: found.broker,
                found_cluster: found.cluster,
                expected_broker: claim.broker,
                expected_cluster: claim.cluster,
            }),
            _ => Ok(Self { claim: Some(claim), ..self.clone() }),
        }
    }
}

fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let claim = Claim { broker: BrokerId::new(3), cluster: ClusterId::from_bytes([7; 16]) };
        Identity { claim: Some(claim), ..Identity::new(DirectoryId::from_bytes([9; 16])) }
    }

    // Catches a flipped bit that passes unnoticed, or for the work of a newer version that is then looked for.
    #[test]
    fn survives_and_every_flipped_bit_is_refused() {
        let bytes = identity().encode();
        assert_eq!(Identity::decode(&bytes), Ok(identity()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let refused = Identity::decode(&flipped).expect_err("not noticed");
            assert!(matches!(refused, IdentityError::Damaged { .. }), "bit {bit}: {refused}");
        }
        for length in 0..bytes.len() {
            assert!(Identity::decode(&bytes[..length]).is_err(), "a file cut to {length} bytes was accepted");
        }
    }

    // Catches a refusal that tells the operator nothing: it must name file, found, expected and remedy.
    #[test]
    fn refusals_name_file_found_expected_and_remedy() {
        let written = String::from_utf8(identity().encode()).expect("text");
        let (checked, _) = written.split_once("crc32c = ").expect("a checksum");
        let newer = checked.replace("format = 1", "format = 9");
        let newer = format!("{newer}crc32c = {:08x}\n", crc32c::crc32c(newer.as_bytes()));
        let text = Identity::decode(newer.as_bytes()).expect_err("newer").to_string();
        for part in ["identity", "format 9", "up to 1", "start the version"] {
            assert!(text.contains(part), "{text}");
        }
        let other = Claim { broker: BrokerId::new(4), cluster: ClusterId::from_bytes([7; 16]) };
        let text = identity().claimed_by(other).expect_err("another broker").to_string();
        for part in ["identity", "broker 3", "broker 4", "mount"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

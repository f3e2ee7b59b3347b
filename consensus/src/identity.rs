//! Who this data directory is (adapter: it owns a file).
//!
//! A Raft node is a disk. If a node came back with an empty or exchanged log under its old id, it could vote twice
//! in one term, and a quorum would mean nothing. So the identity is stored twice: in a file of its own and inside
//! the database, and the two must agree before Raft starts. The file says `Formatting` until the database has its
//! copy; until then nothing was ever promised and formatting may simply be done again. A disk that joins a cluster that
//! exists is `Joining` before, because its Raft id comes from the cluster.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use streambus_protocol::ids::{BrokerId, ClusterId, DirectoryId};

use crate::encoding::{DecodeError, Decoder, Encoder, Seal, seal, unseal};
use crate::limits::IDENTITY_BYTES_MAX;
use crate::snapshot::read_small_file;
use crate::types::RaftId;

const FILE: &str = "identity";
const PARTIAL: &str = "identity.partial";
const PLACE: &[u8] = b"identity";
/// The key of the directory's id in the database.
pub(crate) const MARK: &[u8] = b"directory";
const VERSION: u8 = 1;

/// The identity of one data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster_id: ClusterId,
    /// The broker it serves.
    pub broker_id: BrokerId,
    /// Its Raft node, never used by another disk.
    pub raft_id: RaftId,
    /// The directory itself, drawn when it was formatted.
    pub directory_id: DirectoryId,
}

/// How far formatting got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The database may not have its copy; nothing was promised yet.
    Formatting,
    /// The database has its copy.
    Formatted,
    /// An empty disk asks its cluster for a Raft id; the file remembers as which directory, so that it gets one only.
    Joining,
}

impl Phase {
    const fn to_wire(self) -> u8 {
        match self {
            Self::Formatting => 0,
            Self::Formatted => 1,
            Self::Joining => 2,
        }
    }

    fn from_wire(phase: u8) -> Result<Self, DecodeError> {
        match phase {
            0 => Ok(Self::Formatting),
            1 => Ok(Self::Formatted),
            2 => Ok(Self::Joining),
            other => Err(DecodeError::Invalid { what: "identity phase", found: other.to_string() }),
        }
    }
}

/// Why the identity of a data directory is refused. Each message names the file, what was found, what was expected,
/// and what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("{file}: {source}")]
    Io {
        /// The identity file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file's bytes are not an identity.
    #[error(
        "{file} is damaged: {source}; restore this one file from a backup, or remove this node from the cluster \
             and join it again with an empty directory"
    )]
    Damaged {
        /// The identity file.
        file: PathBuf,
        /// What is wrong.
        source: DecodeError,
    },
    /// The directory belongs to another broker.
    #[error(
        "{file} says broker {found}, the configuration says broker {expected}: \
             start this broker with its own data directory, or correct the broker id"
    )]
    OtherBroker {
        /// The identity file.
        file: PathBuf,
        /// The broker in the file.
        found: BrokerId,
        /// The configured one.
        expected: BrokerId,
    },
    /// The directory belongs to another cluster.
    #[error(
        "{file} says cluster {found}, expected is cluster {expected}: \
             this directory holds another cluster's data; give this broker an empty directory or its own"
    )]
    OtherCluster {
        /// The identity file.
        file: PathBuf,
        /// The cluster in the file.
        found: ClusterId,
        /// The one expected.
        expected: ClusterId,
    },
    /// The configured Raft id is not the directory's.
    #[error(
        "{file} says raft node {found}, the configuration says {expected}: raft ids belong to disks; \
             remove the old node from the cluster and join this disk as a new one"
    )]
    OtherRaftNode {
        /// The identity file.
        file: PathBuf,
        /// The node in the file.
        found: RaftId,
        /// The one configured.
        expected: RaftId,
    },
    /// There is a database, but no identity file.
    #[error(
        "{file} is missing, yet the metadata database beside it belongs to directory {found}: \
             restore the file, or move the whole metadata directory away to start as a new node"
    )]
    FileMissing {
        /// The identity file.
        file: PathBuf,
        /// The directory named in the database.
        found: DirectoryId,
    },
    /// There is an identity file, but its database is empty or another one.
    #[error(
        "{file} is of directory {expected}, but the metadata database beside it is {found}: its log is lost, and \
             it must not vote under its old id; restore the database, or remove this node from the cluster, empty \
             the directory and join it again"
    )]
    DatabaseExchanged {
        /// The identity file.
        file: PathBuf,
        /// The directory in the file.
        expected: DirectoryId,
        /// What the database says.
        found: String,
    },
}

impl Identity {
    /// The identity file inside a metadata directory.
    pub fn file(directory: &Path) -> PathBuf {
        directory.join(FILE)
    }

    /// Reads the identity of `directory`; none when it has no identity file.
    pub(crate) fn read(directory: &Path) -> Result<Option<(Self, Phase)>, IdentityError> {
        let file = Self::file(directory);
        let sealed = match read_small_file(&file, IDENTITY_BYTES_MAX) {
            Ok(sealed) => sealed,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::Io { file, source }),
        };
        decode(&sealed).map(Some).map_err(|source| IdentityError::Damaged { file, source })
    }

    /// Writes the identity durably: a crash leaves the old file or the new one, never a part.
    pub(crate) fn write(&self, directory: &Path, phase: Phase) -> Result<(), IdentityError> {
        let write = || {
            let partial = directory.join(PARTIAL);
            let mut file = File::create(&partial)?;
            file.write_all(&self.encode(phase))?;
            file.sync_all()?;
            fs::rename(&partial, Self::file(directory))?;
            File::open(directory)?.sync_all()
        };
        write().map_err(|source| IdentityError::Io { file: Self::file(directory), source })
    }

    /// Refuses an identity that is not of this broker and, if they are given, this cluster and Raft node.
    pub(crate) fn check(
        &self,
        directory: &Path,
        broker: BrokerId,
        cluster: Option<ClusterId>,
        raft: Option<RaftId>,
    ) -> Result<(), IdentityError> {
        let file = Self::file(directory);
        if self.broker_id != broker {
            return Err(IdentityError::OtherBroker { file, found: self.broker_id, expected: broker });
        }
        if let Some(expected) = cluster.filter(|expected| *expected != self.cluster_id) {
            return Err(IdentityError::OtherCluster { file, found: self.cluster_id, expected });
        }
        if let Some(expected) = raft.filter(|expected| *expected != self.raft_id) {
            return Err(IdentityError::OtherRaftNode { file, found: self.raft_id, expected });
        }
        Ok(())
    }

    fn encode(&self, phase: Phase) -> Vec<u8> {
        let mut out = Encoder::new();
        out.u8(VERSION);
        out.u8(phase.to_wire());
        out.raw(self.cluster_id.as_bytes());
        out.u32(self.broker_id.get());
        out.u64(self.raft_id.get());
        out.raw(self.directory_id.as_bytes());
        seal(Seal::Identity, PLACE, &out.finish())
    }
}

/// What is stored under [`MARK`] in the database of directory `id`.
pub(crate) fn seal_mark(id: DirectoryId) -> Vec<u8> {
    seal(Seal::Directory, MARK, id.as_bytes())
}

/// The directory's id as its database has it.
pub(crate) fn unseal_mark(sealed: &[u8]) -> Result<DirectoryId, DecodeError> {
    let mut input = Decoder::new(unseal(Seal::Directory, MARK, sealed)?);
    let id = DirectoryId::from_bytes(input.array()?);
    input.finish().map(|()| id)
}

fn decode(sealed: &[u8]) -> Result<(Identity, Phase), DecodeError> {
    let mut input = Decoder::new(unseal(Seal::Identity, PLACE, sealed)?);
    let version = input.u8()?;
    if version != VERSION {
        return Err(DecodeError::NewerVersion { what: "identity file", found: version, newest: VERSION });
    }
    let phase = Phase::from_wire(input.u8()?)?;
    let identity = Identity {
        cluster_id: ClusterId::from_bytes(input.array()?),
        broker_id: BrokerId::new(input.u32()?),
        raft_id: RaftId::new(input.u64()?),
        directory_id: DirectoryId::from_bytes(input.array()?),
    };
    input.finish()?;
    Ok((identity, phase))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster_id: ClusterId::from_bytes([1; 16]),
            broker_id: BrokerId::new(2),
            raft_id: RaftId::new(3),
            directory_id: DirectoryId::from_bytes([4; 16]),
        }
    }

    /// Catches: an identity that does not survive a restart, or a phase that is lost.
    #[test]
    fn written_identity_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Identity::read(directory.path()).unwrap(), None);
        for phase in [Phase::Joining, Phase::Formatting, Phase::Formatted] {
            identity().write(directory.path(), phase).unwrap();
            assert_eq!(Identity::read(directory.path()).unwrap(), Some((identity(), phase)));
        }
    }

    /// Catches: a damaged or empty identity file taken for an unformatted directory.
    #[test]
    fn damaged_identity_is_refused_and_the_file_named() {
        let directory = tempfile::tempdir().unwrap();
        identity().write(directory.path(), Phase::Formatted).unwrap();
        let file = Identity::file(directory.path());
        let good = fs::read(&file).unwrap();
        for bit in (0..good.len() * 8).step_by(7) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, bad).unwrap();
            let error = Identity::read(directory.path()).unwrap_err();
            assert!(matches!(error, IdentityError::Damaged { .. }), "bit {bit}: {error}");
            assert!(error.to_string().contains(&file.display().to_string()), "{error}");
        }
        fs::write(&file, b"").unwrap();
        assert!(matches!(Identity::read(directory.path()), Err(IdentityError::Damaged { .. })));
    }

    /// Catches: starting a broker on another broker's disk, in another cluster, or under another raft id.
    #[test]
    fn mismatch_names_found_expected_and_remedy() {
        let directory = Path::new("/data/metadata");
        let check = |broker, cluster, raft| identity().check(directory, BrokerId::new(broker), cluster, raft);
        check(2, None, None).unwrap();
        check(2, Some(ClusterId::from_bytes([1; 16])), Some(RaftId::new(3))).unwrap();
        let text = check(7, None, None).unwrap_err().to_string();
        for part in ["/data/metadata/identity", "broker 2", "broker 7", "own data directory"] {
            assert!(text.contains(part), "{text}");
        }
        let other = Some(ClusterId::from_bytes([9; 16]));
        assert!(matches!(check(2, other, None), Err(IdentityError::OtherCluster { .. })));
        assert!(matches!(check(2, None, Some(RaftId::new(8))), Err(IdentityError::OtherRaftNode { .. })));
    }
}

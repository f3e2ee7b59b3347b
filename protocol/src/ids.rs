//! Names and numbers that identify things. Each is its own type, so that mixing two does not compile.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::TOPIC_NAME_BYTES_MAX;

macro_rules! number_id {
    ($(#[$meta:meta])* $name:ident, $repr:ty) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($repr);

        impl $name {
            /// Wraps a plain number.
            pub const fn new(value: $repr) -> Self {
                Self(value)
            }

            /// The plain number.
            pub const fn get(self) -> $repr {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id! {
    /// A broker's stable number (a StatefulSet ordinal). It survives a disk; a Raft node id does not.
    BrokerId, u32
}
number_id! {
    /// A partition's number within its topic, from zero.
    PartitionIndex, u32
}
number_id! {
    /// An idempotent producer, unique in the cluster (KIP-98). Never negative; -1 on the wire means none.
    ProducerId, i64
}
number_id! {
    /// A producer's incarnation (KIP-98); a newer one fences the older. -1 on the wire means none.
    ProducerEpoch, i16
}
number_id! {
    /// A batch's first sequence number for its producer and partition (KIP-98); wraps from `i32::MAX` to 0.
    Sequence, i32
}
number_id! {
    /// Pairs a response with its request on one connection; chosen by the client.
    CorrelationId, u32
}

macro_rules! uuid_id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Wraps 16 bytes, as the wire and the disk carry them.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// True for the all-zero id, which never names anything.
            pub fn is_zero(&self) -> bool {
                self.0 == [0; 16]
            }
        }

        /// Lower-case hexadecimal in the grouping of RFC 9562.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (i, byte) in self.0.iter().enumerate() {
                    if matches!(i, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let hex: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
                if hex.len() != 32 {
                    return Err(IdError::NotAUuid(text.chars().take(64).collect()));
                }
                let mut bytes = [0; 16];
                let (pairs, _) = hex.as_chunks::<2>();
                for (slot, [high, low]) in bytes.iter_mut().zip(pairs) {
                    let digit = |b: &u8| (*b as char).to_digit(16);
                    let (Some(high), Some(low)) = (digit(high), digit(low)) else {
                        return Err(IdError::NotAUuid(text.chars().take(64).collect()));
                    };
                    *slot = (high * 16 + low) as u8;
                }
                Ok(Self(bytes))
            }
        }
    };
}

uuid_id! {
    /// A topic's identity: new each time a topic is created, also under a name used before.
    TopicId
}
uuid_id! {
    /// A cluster's identity, drawn once when it is initialised.
    ClusterId
}
uuid_id! {
    /// One data directory's identity, drawn when it is formatted. An emptied disk gets a new one.
    DirectoryId
}

/// A topic's name: 1 to 249 of `a-z A-Z 0-9 . _ -`, neither `.` nor `..` (Kafka's rule). Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Checks and wraps `name`.
    pub fn new(name: &str) -> Result<Self, IdError> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty() {
            return Err(IdError::EmptyTopicName);
        }
        if name.len() > TOPIC_NAME_BYTES_MAX {
            return Err(IdError::TopicNameTooLong { bytes: name.len() });
        }
        if name == "." || name == ".." || !name.bytes().all(legal) {
            return Err(IdError::IllegalTopicName(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// One partition of one topic, by id: what data requests and storage use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    /// The topic's identity.
    pub topic: TopicId,
    /// The partition's number within it.
    pub partition: PartitionIndex,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Why a text is no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// A topic name with no character.
    #[error("a topic name must have at least one character")]
    EmptyTopicName,
    /// A topic name over the limit.
    #[error("a topic name may have at most {TOPIC_NAME_BYTES_MAX} bytes, this one has {bytes}")]
    TopicNameTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A topic name with a character outside the set, or `.` or `..`.
    #[error("'{0}' is no topic name: use letters, digits, '.', '_' and '-', and neither '.' nor '..' alone")]
    IllegalTopicName(String),
    /// Not 32 hexadecimal digits.
    #[error("'{0}' is no identity: 32 hexadecimal digits are expected")]
    NotAUuid(String),
}

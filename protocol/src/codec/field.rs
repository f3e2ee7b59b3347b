//! One encoding per type, so that a message is the list of its fields in order.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{DecodeError, Reader, Writer};
use crate::api::session::{ErrorBody, LeaderHint};
use crate::epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch};
use crate::error_code::ErrorCode;
use crate::ids::{BrokerId, ClusterId, PartitionId, PartitionIndex, ProducerEpoch, ProducerId, TopicId, TopicName};
use crate::limits::{ARRAY_ELEMENTS_MAX, CONFIG_ENTRIES_MAX, FRAME_BODY_BYTES_MAX, PARTITIONS_PER_REQUEST_MAX};
use crate::offset::Offset;
use crate::timestamp::Timestamp;

/// A type with one encoding wherever it stands in a body.
pub(crate) trait Field: Sized {
    /// The fewest bytes a value takes; bounds what an array's count may claim.
    const BYTES_MIN: usize;
    /// The most values one array may hold.
    const COUNT_MAX: usize = ARRAY_ELEMENTS_MAX;

    fn write(&self, w: &mut Writer<'_>);
    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

/// Declares a structure whose encoding is its fields, in the order they are declared.
macro_rules! field_struct {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty),* $(,)?
    } $(count_max = $count_max:expr;)?) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $crate::codec::Field for $name {
            const BYTES_MIN: usize = 0 $(+ <$type as $crate::codec::Field>::BYTES_MIN)*;
            $(const COUNT_MAX: usize = $count_max;)?

            #[inline]
            fn write(&self, _w: &mut $crate::codec::Writer<'_>) {
                $($crate::codec::Field::write(&self.$field, _w);)*
            }

            #[inline]
            fn read(_r: &mut $crate::codec::Reader<'_>) -> Result<Self, $crate::codec::DecodeError> {
                Ok(Self { $($field: $crate::codec::Field::read(_r)?,)* })
            }
        }
    };
}
pub(crate) use field_struct;

macro_rules! integer_fields {
    ($($type:ident),*) => {
        $(impl Field for $type {
            const BYTES_MIN: usize = size_of::<$type>();

            #[inline]
            fn write(&self, w: &mut Writer<'_>) {
                w.$type(*self);
            }

            #[inline]
            fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                r.$type()
            }
        })*
    };
}
integer_fields!(u8, u16, u32, u64, i64);

macro_rules! number_fields {
    ($($type:ident: $repr:ident),*) => {
        $(impl Field for $type {
            const BYTES_MIN: usize = size_of::<$repr>();

            #[inline]
            fn write(&self, w: &mut Writer<'_>) {
                w.$repr(self.get());
            }

            #[inline]
            fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                r.$repr().map(Self::new)
            }
        })*
    };
}
number_fields!(
    BrokerId: u32, PartitionIndex: u32, ProducerId: i64, ProducerEpoch: i16, LeaderEpoch: u32, PartitionEpoch: u32,
    BrokerEpoch: u64
);

macro_rules! uuid_fields {
    ($($type:ident),*) => {
        $(impl Field for $type {
            const BYTES_MIN: usize = 16;

            #[inline]
            fn write(&self, w: &mut Writer<'_>) {
                w.bytes(self.as_bytes());
            }

            #[inline]
            fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                r.fixed().map(|bytes| Self::from_bytes(*bytes))
            }
        })*
    };
}
uuid_fields!(TopicId, ClusterId);

impl Field for bool {
    const BYTES_MIN: usize = 1;

    fn write(&self, w: &mut Writer<'_>) {
        w.bool(*self);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.bool()
    }
}

impl Field for Offset {
    const BYTES_MIN: usize = 8;

    #[inline]
    fn write(&self, w: &mut Writer<'_>) {
        w.u64(self.get());
    }

    #[inline]
    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let value = r.u64()?;
        Self::new(value).ok_or(DecodeError::Invalid { field: "offset", value })
    }
}

impl Field for Timestamp {
    const BYTES_MIN: usize = 8;

    #[inline]
    fn write(&self, w: &mut Writer<'_>) {
        w.i64(self.as_millis());
    }

    #[inline]
    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.i64().map(Self::from_millis)
    }
}

impl Field for String {
    const BYTES_MIN: usize = 2;

    fn write(&self, w: &mut Writer<'_>) {
        w.string(self);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.string()
    }
}

/// Unlike other optional fields, an absent string is a length of 0xFFFF.
impl Field for Option<String> {
    const BYTES_MIN: usize = 2;

    #[inline]
    fn write(&self, w: &mut Writer<'_>) {
        w.opt_string(self.as_deref());
    }

    #[inline]
    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.opt_string()
    }
}

impl Field for TopicName {
    const BYTES_MIN: usize = 3;

    fn write(&self, w: &mut Writer<'_>) {
        w.string(self.as_str());
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.topic_name()
    }
}

macro_rules! option_fields {
    ($($type:ty),*) => {
        $(/// One byte, 0 or 1, then the value if it is 1.
        impl Field for Option<$type> {
            const BYTES_MIN: usize = 1;

            fn write(&self, w: &mut Writer<'_>) {
                w.bool(self.is_some());
                if let Some(value) = self {
                    value.write(w);
                }
            }

            fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                if r.bool()? { Field::read(r).map(Some) } else { Ok(None) }
            }
        })*
    };
}
option_fields!(
    u64,
    BrokerId,
    BrokerEpoch,
    LeaderEpoch,
    ClusterId,
    Vec<TopicName>,
    Vec<BrokerId>,
    (ProducerId, ProducerEpoch),
    (LeaderEpoch, Offset)
);

impl Field for PartitionId {
    const BYTES_MIN: usize = TopicId::BYTES_MIN + PartitionIndex::BYTES_MIN;
    const COUNT_MAX: usize = PARTITIONS_PER_REQUEST_MAX;

    fn write(&self, w: &mut Writer<'_>) {
        self.topic.write(w);
        self.partition.write(w);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { topic: Field::read(r)?, partition: Field::read(r)? })
    }
}

/// A `u32` length and that many bytes, which mean nothing to this layer.
impl Field for Bytes {
    const BYTES_MIN: usize = 4;

    fn write(&self, w: &mut Writer<'_>) {
        w.length(self.len());
        w.bytes(self);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let length = r.array_len(1, FRAME_BODY_BYTES_MAX)?;
        r.bytes(length).map(Self::copy_from_slice)
    }
}

impl<T: Field> Field for Vec<T> {
    const BYTES_MIN: usize = 4;

    #[inline]
    fn write(&self, w: &mut Writer<'_>) {
        w.array_len(self.len());
        for element in self {
            element.write(w);
        }
    }

    #[inline]
    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = r.array_len(T::BYTES_MIN, T::COUNT_MAX)?;
        let mut elements = r.vec_for(count);
        for _ in 0..count {
            elements.push(T::read(r)?);
        }
        Ok(elements)
    }
}

/// An array of key and value in strictly ascending order of the keys, so that one map has one encoding.
impl Field for BTreeMap<String, String> {
    const BYTES_MIN: usize = 4;

    fn write(&self, w: &mut Writer<'_>) {
        w.array_len(self.len());
        for (key, value) in self {
            w.string(key);
            w.string(value);
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut map = Self::new();
        for _ in 0..r.array_len(2 * String::BYTES_MIN, CONFIG_ENTRIES_MAX)? {
            let key = r.string()?;
            if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(DecodeError::UnorderedKeys);
            }
            map.insert(key, r.string()?);
        }
        Ok(map)
    }
}

impl<A: Field, B: Field> Field for (A, B) {
    const BYTES_MIN: usize = A::BYTES_MIN + B::BYTES_MIN;

    fn write(&self, w: &mut Writer<'_>) {
        self.0.write(w);
        self.1.write(w);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok((A::read(r)?, B::read(r)?))
    }
}

impl<A: Field, B: Field, C: Field> Field for (A, B, C) {
    const BYTES_MIN: usize = A::BYTES_MIN + B::BYTES_MIN + C::BYTES_MIN;

    fn write(&self, w: &mut Writer<'_>) {
        self.0.write(w);
        self.1.write(w);
        self.2.write(w);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok((A::read(r)?, B::read(r)?, C::read(r)?))
    }
}

impl Field for ErrorBody {
    const BYTES_MIN: usize = 4;

    fn write(&self, w: &mut Writer<'_>) {
        w.u16(self.code.to_wire());
        w.prose(&self.message);
        if self.code.names_leader() {
            let (broker, epoch) = match self.leader {
                Some(hint) => (hint.leader, hint.leader_epoch),
                None => (NO_BROKER, LeaderEpoch::UNKNOWN),
            };
            broker.write(w);
            epoch.write(w);
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u16()? {
            0 => Err(DecodeError::Invalid { field: "error code", value: 0 }),
            code => read_error(code, r),
        }
    }
}

/// In place of a leader that is not known.
const NO_BROKER: BrokerId = BrokerId::new(u32::MAX);

/// A code of zero and the value, or an error's code and its message.
impl<T: Field> Field for Result<T, ErrorBody> {
    const BYTES_MIN: usize = 2;

    #[inline]
    fn write(&self, w: &mut Writer<'_>) {
        match self {
            Ok(value) => {
                w.u16(0);
                value.write(w);
            }
            Err(error) => error.write(w),
        }
    }

    #[inline]
    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u16()? {
            0 => T::read(r).map(Ok),
            code => read_error(code, r).map(Err),
        }
    }
}

/// A code that a newer broker invented is read as `INTERNAL`, whose answers are the cautious ones: do not repeat
/// blindly, and the outcome is unknown. The message keeps the number.
#[cold]
fn read_error(code: u16, r: &mut Reader<'_>) -> Result<ErrorBody, DecodeError> {
    let message = r.string()?;
    Ok(match ErrorCode::from_wire(code) {
        Some(code) if code.names_leader() => ErrorBody { code, message, leader: read_leader(r)? },
        Some(code) => ErrorBody::new(code, message),
        None => ErrorBody::new(ErrorCode::Internal, format!("unknown error code {code}: {message}")),
    })
}

fn read_leader(r: &mut Reader<'_>) -> Result<Option<LeaderHint>, DecodeError> {
    let (leader, leader_epoch) = (BrokerId::read(r)?, LeaderEpoch::read(r)?);
    match (leader, leader_epoch) {
        (NO_BROKER, LeaderEpoch::UNKNOWN) => Ok(None),
        (NO_BROKER, epoch) => Err(DecodeError::Invalid { field: "epoch of no leader", value: u64::from(epoch.get()) }),
        _ => Ok(Some(LeaderHint { leader, leader_epoch })),
    }
}

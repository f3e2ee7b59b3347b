//! Where reading begins, and where it goes on after a seek.

use streambus_protocol::api::offsets::OffsetQuery;
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

use crate::admin::valid_offset;
use crate::engine::Engine;
use crate::error::{Error, TopicPartition};
use crate::op::Scope;

/// Where a consumer begins in each of its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Start {
    /// The first record still there.
    Earliest,
    /// What is written from now on.
    #[default]
    Latest,
    /// This offset.
    Offset(u64),
    /// The first record at or after this time.
    Time(Timestamp),
    /// So many records before the end, or the first one when there are fewer.
    Tail(u64),
}

/// Where a consumer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Seek {
    /// The first record still there.
    Beginning,
    /// What is written from now on.
    End,
    /// This offset.
    Offset(u64),
    /// The first record at or after this time.
    Time(Timestamp),
}

/// What a consumer does when the offset it is at is not in the log: retention has deleted it, or an unclean election has
/// lost it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OutOfRange {
    /// Returns [`Error::OffsetOutOfRange`], once; the partition rests until a seek.
    #[default]
    Fail,
    /// Goes on at the first record still there.
    Earliest,
    /// Goes on with what is written from then on.
    Latest,
}

impl From<Seek> for Start {
    fn from(seek: Seek) -> Self {
        match seek {
            Seek::Beginning => Self::Earliest,
            Seek::End => Self::Latest,
            Seek::Offset(offset) => Self::Offset(offset),
            Seek::Time(at) => Self::Time(at),
        }
    }
}

/// The offset that `start` means in each of `partitions`, in order.
pub(crate) async fn resolve(
    engine: &Engine,
    scope: &Scope,
    start: Start,
    partitions: &[TopicPartition],
) -> Result<Vec<Offset>, Error> {
    let query = match start {
        Start::Offset(offset) => {
            let offset = valid_offset(offset)?;
            return Ok(vec![offset; partitions.len()]);
        }
        Start::Earliest => OffsetQuery::Earliest,
        Start::Latest | Start::Tail(_) => OffsetQuery::Latest,
        Start::Time(at) => OffsetQuery::At(at),
    };
    let found = ask(engine, scope, query, partitions).await?;
    let Start::Tail(count) = start else { return Ok(found) };
    let earliest = ask(engine, scope, OffsetQuery::Earliest, partitions).await?;
    let back = |end: &Offset, first: &Offset| Offset::new(end.get().saturating_sub(count)).unwrap_or(*end).max(*first);
    Ok(found.iter().zip(&earliest).map(|(end, first)| back(end, first)).collect())
}

/// One offset in each partition.
pub(crate) async fn ask(
    engine: &Engine,
    scope: &Scope,
    query: OffsetQuery,
    partitions: &[TopicPartition],
) -> Result<Vec<Offset>, Error> {
    let wanted: Vec<_> = partitions.iter().map(|at| (at.clone(), query)).collect();
    Ok(engine.list_offsets(scope, &wanted).await?.into_iter().map(|found| found.offset).collect())
}

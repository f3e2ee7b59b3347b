//! Bounded reading and plain writing of the native protocol's primitives: little-endian integers, strings, arrays.
//!
//! Reading never trusts a count or a length: a string is a slice of bytes that are there, an array's declared count is
//! compared with the bytes that remain before anything is reserved. Writing is total: what breaks a limit is written
//! as it is and refused by the receiver, so that nothing is ever cut silently.

mod field;
mod fixed;
mod reader;
mod writer;

pub(crate) use field::{Field, field_struct};
pub(crate) use fixed::Fixed;
pub use reader::{DecodeError, Reader};
pub use writer::Writer;

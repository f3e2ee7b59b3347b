//! The format language of `consume -f` and `produce -f`: one template, read in both directions.
//!
//! A template is literal text with fields in it, in the vocabulary that kcat and rpk made common:
//!
//! | field | means |
//! | --- | --- |
//! | `%k` `%v` | key, value (`%s` is another name of `%v`) |
//! | `%t` `%p` `%o` | topic, partition, offset |
//! | `%T` (or `%d`) | timestamp in milliseconds; `%T{iso}` as RFC 3339 |
//! | `%h` `%h{name}` | all headers as `a=1,b=2`; one header's value |
//! | `%K` `%V` `%H` | length of key, length of value, number of headers (`%S` is another name of `%V`) |
//! | `%%` | a per cent sign |
//!
//! `%k` and `%v` take a modifier: `%v{hex}`, `%v{base64}`. Escapes: `\n` `\t` `\r` `\0` `\\` `\xHH`.
//!
//! This module is pure: bytes in, bytes out. It must never know a terminal, a connection or a clock.

pub mod input;
pub mod plan;
pub mod print;
pub mod template;

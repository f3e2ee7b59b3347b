//! The query string: each parameter at most once, known by name, checked for range.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::problem::Problem;
use crate::config::suggestion::nearest;

/// Parameters in one request.
const PARAMETERS_MAX: usize = 32;

/// A request's parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c=d` and refuses every name that is not in `known`.
    pub(super) fn parse(text: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut parameters: Vec<(String, String)> = Vec::new();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = |text: &str| percent_decoded(&text.replace('+', " "));
            let (Some(name), Some(value)) = (decoded(name), decoded(value)) else {
                return Err(Problem::invalid(format!("the parameter '{pair}' is not UTF-8 with percent encoding")));
            };
            if !known.contains(&name.as_str()) {
                let hint = match nearest(&name, known.iter().copied()) {
                    Some(meant) => format!("did you mean '{meant}'?"),
                    None if known.is_empty() => "none is known here".to_owned(),
                    None => format!("known here: {}", known.join(", ")),
                };
                return Err(Problem::invalid(format!("no parameter '{name}': {hint}")).at(name));
            }
            if parameters.iter().any(|(other, _)| *other == name) || parameters.len() == PARAMETERS_MAX {
                return Err(Problem::invalid(format!("the parameter '{name}' stands there twice")).at(name));
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    /// The value of `name`, if it was given.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The number `name`, if it was given.
    pub(super) fn number<T>(&self, name: &str, range: RangeInclusive<T>) -> Result<Option<T>, Problem>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse().ok().filter(|number| range.contains(number)).map(Some).ok_or_else(|| {
            let (low, high) = (range.start(), range.end());
            Problem::invalid(format!("'{name}' is '{text}', it must be a number from {low} to {high}")).at(name)
        })
    }

    /// The switch `name`: `true`, `false`, or there without a value.
    pub(super) fn switch(&self, name: &str) -> Result<bool, Problem> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(other) => Err(Problem::invalid(format!("'{name}' is '{other}', it must be true or false")).at(name)),
        }
    }
}

/// Undoes percent encoding (RFC 3986); `None` when the result is not UTF-8 or an escape is cut or not hexadecimal.
pub(super) fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_ranged() {
        let query = Query::parse(Some("search=a%2Bb+c&limit=10&dry"), &["search", "limit", "dry"]).expect("legal");
        assert_eq!(query.get("search"), Some("a+b c"));
        assert_eq!(query.number("limit", 1..=1000_u32), Ok(Some(10)));
        assert_eq!(query.switch("dry"), Ok(true));
        assert_eq!(query.number::<u32>("other", 1..=2), Ok(None));
        assert!(query.number("limit", 11..=1000_u32).is_err());
        assert_eq!(Query::parse(None, &[]), Ok(Query::default()));
    }

    #[test]
    fn unknown_doubled_and_broken_parameters_are_refused() {
        for (text, detail) in [
            ("limt=1", "did you mean 'limit'?"),
            ("zzzzzzz=1", "known here: limit"),
            ("limit=1&limit=2", "stands there twice"),
            ("limit=%f", "is not UTF-8"),
            ("limit=%ff", "is not UTF-8"),
        ] {
            let problem = Query::parse(Some(text), &["limit"]).expect_err(text);
            assert!(problem.detail.contains(detail), "{}", problem.detail);
        }
        let range = Query::parse(Some("limit=-1"), &["limit"]).expect("legal").number("limit", 1..=9_u64);
        assert!(range.expect_err("out of range").detail.contains("from 1 to 9"));
    }
}

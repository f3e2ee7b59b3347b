//! `host:port` as people write it in a configuration. Resolving the host is the listener's work, not this module's.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::Serialize;

/// A host name or IP address, and a TCP port. IPv6 addresses are written in brackets: `[::1]:9092`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct HostPort {
    /// The host without brackets.
    pub host: String,
    /// The port; 0 asks for any free one.
    pub port: u16,
}

impl HostPort {
    /// This machine alone, over IPv4.
    pub fn loopback(port: u16) -> Self {
        Self { host: Ipv4Addr::LOCALHOST.to_string(), port }
    }

    /// True for an address that means "every interface": one can listen there, nobody can connect to it.
    pub fn is_unspecified(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }

    /// True when only this machine can connect.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// True when both cannot be listened on at the same time.
    pub fn collides_with(&self, other: &Self) -> bool {
        self.port != 0
            && self.port == other.port
            && (self.host == other.host || self.is_unspecified() || other.is_unspecified())
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The text is no `host:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a host and a port")]
pub struct NotHostPort;

impl FromStr for HostPort {
    type Err = NotHostPort;

    fn from_str(text: &str) -> Result<Self, NotHostPort> {
        let (host, port) = text.rsplit_once(':').ok_or(NotHostPort)?;
        let port = port.parse().map_err(|_| NotHostPort)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or(NotHostPort)?;
                inner.parse::<std::net::Ipv6Addr>().map_err(|_| NotHostPort)?;
                inner
            }
            None => host,
        };
        let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let is_ipv6 = host.parse::<std::net::Ipv6Addr>().is_ok() && text.starts_with('[');
        if host.is_empty() || host.len() > 253 || !(is_ipv6 || host.bytes().all(is_name)) {
            return Err(NotHostPort);
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_survives_parsing_and_printing() {
        for text in ["127.0.0.1:9092", "localhost:0", "streambus-0.streambus:9092", "[::1]:8080", "0.0.0.0:1"] {
            assert_eq!(text.parse::<HostPort>().map(|a| a.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_cannot_be_listened_on_is_refused() {
        for text in
            ["", ":9092", "localhost", "localhost:", "localhost:65536", "::1:9092", "[::1:9092", "a b:1", "[x]:1"]
        {
            assert_eq!(text.parse::<HostPort>(), Err(NotHostPort), "{text}");
        }
    }

    #[test]
    fn every_interface_collides_with_one_interface() {
        let all: HostPort = HostPort { host: "0.0.0.0".to_owned(), port: 80 };
        assert!(all.collides_with(&HostPort::loopback(80)));
        assert!(!all.collides_with(&HostPort::loopback(81)));
        assert!(!HostPort::loopback(0).collides_with(&HostPort::loopback(0)), "port 0 is another port each time");
    }
}

//! Which process a loopback connection comes from. Every broker of a cluster dials the same addresses, so the address
//! cannot tell links apart; the kernel's tables can, for processes of the same user and without any privilege.

use std::fs;
use std::net::SocketAddr;

/// The first of `candidates` (process ids) that holds the socket whose own address is `socket`, connected to `peer`.
pub(super) fn owner(socket: SocketAddr, peer: SocketAddr, candidates: &[u32]) -> Option<u32> {
    let table = fs::read_to_string("/proc/net/tcp").expect("links are told apart by the kernel's table: Linux only");
    let inode = inode(&table, socket, peer)?;
    let wanted = format!("socket:[{inode}]");
    candidates.iter().copied().find(|pid| {
        // A process that ended meanwhile has no folder.
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        descriptors.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == &*wanted))
    })
}

/// Field 10 of proc(5)'s `net/tcp`, of the line with these two addresses.
fn inode(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let (local, remote) = (as_in_table(local)?, as_in_table(remote)?);
    let line = table.lines().find(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(&local) && fields.next() == Some(&remote)
    })?;
    line.split_whitespace().nth(9)?.parse().ok().filter(|inode| *inode != 0)
}

/// The table writes the address as a number of this machine's byte order, in hexadecimal.
fn as_in_table(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    let number = u32::from_ne_bytes(address.ip().octets());
    Some(format!("{number:08X}:{:04X}", address.port()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_of_this_process_is_found_and_nobody_elses() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
        let (accepted, from) = listener.accept().expect("accepted");
        let (socket, peer) = (stream.local_addr().expect("bound"), stream.peer_addr().expect("connected"));
        assert_eq!(from, socket);
        assert_eq!(owner(socket, peer, &[1, std::process::id()]), Some(std::process::id()));
        assert_eq!(owner(socket, peer, &[]), None);
        drop(accepted);
        let nobody = "127.0.0.1:1".parse().expect("an address");
        assert_eq!(owner(nobody, peer, &[std::process::id()]), None);
    }
}

//! Which process a loopback connection comes from. Every broker of a cluster dials the same addresses, so the address
//! cannot tell links apart; the kernel's tables can, for processes of the same user and without any privilege.
//!
//! The kernel writes its whole table anew for each reader, and with thousands of closed connections in it that takes
//! longer than brokers dial apart. So one look answers everybody who waits, beside what the links carry: otherwise a
//! dialler would give up before it is known, dial again, and be one more to wait for.

use std::fs;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;

/// Tells origins, with a thread of its own that ends with it.
#[derive(Debug)]
pub(super) struct Origins {
    asked: mpsc::Sender<Question>,
}

/// Which of `candidates` (process ids) holds the socket whose own address is `socket`, connected to `peer`.
#[derive(Debug)]
struct Question {
    socket: SocketAddr,
    peer: SocketAddr,
    candidates: Vec<u32>,
    answer: oneshot::Sender<Option<u32>>,
}

impl Origins {
    #[expect(clippy::disallowed_methods, reason = "it ends by itself with the channel, when the links do")]
    pub(super) fn new() -> Self {
        let (asked, questions) = mpsc::channel::<Question>();
        thread::spawn(move || {
            while let Ok(first) = questions.recv() {
                let waiting: Vec<Question> = std::iter::once(first).chain(questions.try_iter()).collect();
                // After they have asked: each socket is in it, unless it is closed by now.
                let table =
                    fs::read_to_string("/proc/net/tcp").expect("the kernel's table tells links apart: Linux only");
                for Question { socket, peer, candidates, answer } in waiting {
                    // Who does not wait any more is not told.
                    let _told = answer.send(owner(&table, socket, peer, &candidates));
                }
            }
        });
        Self { asked }
    }

    /// The first of `candidates` (process ids) that holds the socket whose own address is `socket`, connected to `peer`.
    pub(super) async fn owner(&self, socket: SocketAddr, peer: SocketAddr, candidates: Vec<u32>) -> Option<u32> {
        let (answer, told) = oneshot::channel();
        self.asked.send(Question { socket, peer, candidates, answer }).expect("the thread lasts as long as this");
        told.await.expect("every question is answered")
    }
}

fn owner(table: &str, socket: SocketAddr, peer: SocketAddr, candidates: &[u32]) -> Option<u32> {
    let inode = inode(table, socket, peer)?;
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

    #[tokio::test]
    async fn a_connection_of_this_process_is_found_and_nobody_elses() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
        let (accepted, from) = listener.accept().expect("accepted");
        let (socket, peer) = (stream.local_addr().expect("bound"), stream.peer_addr().expect("connected"));
        assert_eq!(from, socket);
        let origins = Origins::new();
        // All at once, so that one look answers several.
        let (ours, again, nobodys) = tokio::join!(
            origins.owner(socket, peer, vec![1, std::process::id()]),
            origins.owner(socket, peer, vec![std::process::id()]),
            origins.owner(socket, peer, Vec::new())
        );
        assert_eq!((ours, again, nobodys), (Some(std::process::id()), Some(std::process::id()), None));
        drop(accepted);
        let nobody = "127.0.0.1:1".parse().expect("an address");
        assert_eq!(origins.owner(nobody, peer, vec![std::process::id()]).await, None);
    }
}

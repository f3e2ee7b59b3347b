//! The adapter to the kernel's TUN devices: a network interface whose packets this process reads and writes.

use std::ffi::c_short;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use tokio::io::unix::AsyncFd;

/// Creates the interface `name` in this process's own network namespace; it is gone when the file is closed. One read is
/// one IP packet, one write sends one. It may be moved to another namespace and is still carried through this file.
///
/// # Errors
///
/// What the kernel says, most often that there is no `/dev/net/tun` or no permission.
pub(super) fn open(name: &str) -> std::io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: (libc::IFF_TUN | libc::IFF_NO_PI) as c_short },
    };
    if name.len() >= request.ifr_name.len() {
        return Err(std::io::Error::other(format!("{name} is too long for the name of an interface")));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    create(&file, &mut request)?;
    Ok(file)
}

#[expect(unsafe_code, reason = "no safe wrapper of this request exists")]
fn create(file: &File, request: &mut libc::ifreq) -> std::io::Result<()> {
    // SAFETY: TUNSETIFF takes an open TUN file and a pointer to one initialised ifreq, which lives through the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, std::ptr::from_mut(request)) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Lets the runtime of this context wait for a device.
///
/// # Errors
///
/// What the kernel says.
#[expect(unsafe_code, reason = "the safe way to register a descriptor is deprecated for not asking this")]
pub(super) fn watched(device: File) -> std::io::Result<AsyncFd<File>> {
    // SAFETY: the file owns its descriptor, and nothing replaces or closes it before the registration ends.
    unsafe { Ok(AsyncFd::register(device)?) }
}

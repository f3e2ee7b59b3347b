//! The randomness of a simulated run: on the simulation's thread the system's source is replaced by one that its seed
//! fixes. Everything that draws by itself is reached that way: the hash maps' keys, the order in which tokio polls, the
//! election timeouts.

#![allow(unsafe_code, reason = "replaces a function of the C library, which is what everything draws from at last")]

use std::cell::Cell;
use std::ffi::{c_uint, c_void};

thread_local! {
    /// The state of this thread's source; `None` = the system's.
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on this thread draws from `seed`.
pub(crate) fn fix_on_this_thread(seed: u64) {
    STATE.set(Some(seed));
}

/// One word of SplitMix64 (Steele, Lea, Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// Stands in front of the C library's function of this name.
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    let Some(mut state) = STATE.get() else {
        // SAFETY: the arguments are the caller's, for the system call of this very name.
        let filled = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) };
        return isize::try_from(filled).unwrap_or(-1);
    };
    let mut filled = 0;
    while filled < length {
        let word = next(&mut state).to_le_bytes();
        let count = word.len().min(length - filled);
        // SAFETY: the caller owns `length` bytes from `buffer` on, and `filled + count <= length`.
        unsafe { std::ptr::copy_nonoverlapping(word.as_ptr(), buffer.cast::<u8>().add(filled), count) };
        filled += count;
    }
    STATE.set(Some(state));
    isize::try_from(length).unwrap_or(-1)
}

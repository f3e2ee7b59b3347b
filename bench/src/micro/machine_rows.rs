//! The machine's own limits that need no disk: copying, checksumming, and the loopback.

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use super::MicroError;
use super::sampler::{Sampler, nanos};
use crate::stopwatch::Stopwatch;

/// Sizes of memory rows.
const SIZES: [(usize, &str); 4] = [(100, "100B"), (1 << 10, "1KiB"), (64 << 10, "64KiB"), (1 << 20, "1MiB")];
/// A message there and back between two threads.
pub const PING_PONG_ROW: &str = "machine/loopback ping-pong 64B";
/// Bytes through the loopback, as fast as one connection takes them.
pub const STREAM_ROW: &str = "machine/loopback stream 64KiB";
/// Copying what no cache near the processor holds.
pub const MEMCPY_ROW: &str = "machine/memcpy 1MiB";
const PING_BYTES: usize = 64;
const STREAM_WRITE_BYTES: usize = 64 << 10;
const STREAM_WRITES_A_SAMPLE: usize = 256;

/// Measures copy, checksum and loopback.
pub fn measure(sampler: &mut Sampler<'_>) -> Result<(), MicroError> {
    for (size, name) in SIZES {
        let from = vec![7_u8; size];
        let mut to = vec![0_u8; size];
        let bytes = u64::try_from(size).unwrap_or(0);
        sampler.compute(&format!("machine/memcpy {name}"), bytes, None, |times| {
            for _ in 0..times {
                to.copy_from_slice(black_box(&from));
                black_box(&mut to);
            }
        });
        sampler.compute(&format!("machine/crc32c {name}"), bytes, None, |times| {
            for _ in 0..times {
                black_box(crc32c::crc32c(black_box(&from)));
            }
        });
    }
    ping_pong(sampler).map_err(MicroError::io(PING_PONG_ROW))?;
    stream(sampler).map_err(MicroError::io(STREAM_ROW))
}

fn connected_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

fn ping_pong(sampler: &mut Sampler<'_>) -> io::Result<()> {
    if !sampler.wants(PING_PONG_ROW) {
        return Ok(());
    }
    let (mut near, mut far) = connected_pair()?;
    let operations = sampler.operations() * 2;
    let samples = std::thread::scope(|scope| {
        let echo = scope.spawn(move || -> io::Result<()> {
            let mut message = [0; PING_BYTES];
            // The near side hangs up when it is done.
            while far.read_exact(&mut message).is_ok() {
                far.write_all(&message)?;
            }
            Ok(())
        });
        let mut message = [1; PING_BYTES];
        let mut samples = Vec::with_capacity(operations);
        for _ in 0..operations {
            let watch = Stopwatch::start();
            near.write_all(&message)?;
            near.read_exact(&mut message)?;
            samples.push(nanos(watch.elapsed()));
        }
        drop(near);
        echo.join().unwrap_or(Ok(()))?;
        Ok::<_, io::Error>(samples)
    })?;
    sampler.add(PING_PONG_ROW, 0, None, samples);
    Ok(())
}

fn stream(sampler: &mut Sampler<'_>) -> io::Result<()> {
    if !sampler.wants(STREAM_ROW) {
        return Ok(());
    }
    let (mut near, mut far) = connected_pair()?;
    let count = sampler.operations() / 20;
    let samples = std::thread::scope(|scope| {
        let sink = scope.spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            while far.read(&mut buffer).is_ok_and(|read| read > 0) {}
        });
        let block = vec![1; STREAM_WRITE_BYTES];
        let mut samples = Vec::with_capacity(count);
        for _ in 0..count {
            let watch = Stopwatch::start();
            for _ in 0..STREAM_WRITES_A_SAMPLE {
                near.write_all(&block)?;
            }
            samples.push(nanos(watch.elapsed()) / STREAM_WRITES_A_SAMPLE as f64);
        }
        drop(near);
        // The sink ends when the stream does; it has no result.
        let _ended = sink.join();
        Ok::<_, io::Error>(samples)
    })?;
    sampler.add(STREAM_ROW, STREAM_WRITE_BYTES as u64, None, samples);
    Ok(())
}

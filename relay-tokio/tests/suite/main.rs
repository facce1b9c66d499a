//! Relaying seen from both ends.

mod certificates;
mod chunks;
mod plain;
mod scripted;
mod sockets;
mod timers;
mod tls;

use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Against hanging for ever.
const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes that tell where they belong.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = |_| {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (state >> 56) as u8
    };
    (0..len).map(next).collect()
}

async fn patient<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes to an end")
}

/// Writes all of `bytes` and its end, reads to the end, at the same time.
async fn exchange(stream: &mut DuplexStream, bytes: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        writer.write_all(bytes).await.expect("written");
        writer.shutdown().await.expect("shut down");
    };
    let mut got = Vec::new();
    let read = async { reader.read_to_end(&mut got).await.expect("read") };
    tokio::join!(write, read);
    got
}
